"""Correlations of a band's coefficients in any recognisable form, as the archive's strict lower triangle."""

import numpy as np
from jaxtyping import Bool, Float32, Float64

from scattervae.arrays import CoeffArray, StarMask
from scattervae.gaia.files.cells import UNREADABLE, Arrays, arrays
from scattervae.gaia.files.columns import Columns, object_array
from scattervae.gaia.files.skips import Skips

Pairs = Float64[np.ndarray, "row pair"]
Elements = Float64[np.ndarray, "row element"]
Matrices = Float64[np.ndarray, "row coeff coeff"]

_SAME = 1e-3
"""So far may a diagonal be from 1, or from a multiple of the squared errors, and two triangles from each other: they
are published in float32."""
_LIFT = 1e-6  # added to a diagonal before it is asked whether a matrix is positive definite; float32 again
_SAMPLE = 8
_FEWEST_TO_TELL = 10  # coefficients: of fewer, the wrong triangle can make a correlation matrix by chance


def read_correlations(
    columns: Columns, band: str, *, errors: CoeffArray, present: StarMask, skips: Skips
) -> Float32[np.ndarray, "star pair"] | None:
    """The correlations of all rows, NaN where a row has none; None where the file has no such column.

    Read are the strict triangle, lower or upper, that with the diagonal, and whole matrices or one half of them, each
    of correlations, or of covariances whose diagonal is a multiple of the squared errors. A row with the band and
    anything else is skipped.

    Args:
        columns: Rows of the file.
        band: ``bp`` or ``rp``.
        errors: Errors of the band's coefficients.
        present: True where a row has the band.
        skips: Takes the rows that cannot be used.

    Source:
        The archive's form: ``np.tril_indices(n, -1)``, Gaia DR3 data model, xp_continuous_mean_spectrum. Matrices:
        what GaiaXPy's readers make of it, ``input_reader.dataframe_reader``.
    """
    name = f"{band}_coefficient_correlations"
    if name not in columns:
        return None
    read = arrays(_flat(columns.cells[name]))
    n = errors.shape[1]
    forms = {n * (n - 1) // 2: _strict, n * (n + 1) // 2: _with_diagonal, n * n: _whole}
    unknown = present & (read.lengths != 0) & ~np.isin(read.lengths, list(forms))
    skips.add(
        unknown & (read.lengths != UNREADABLE),
        f"{{}} {name}; expected a triangle of {n * (n - 1) // 2} or a {n} x {n} matrix",
        read.lengths,
    )
    skips.add(unknown, f"{name} is no list of numbers")
    pairs = np.full((len(errors), n * (n - 1) // 2), np.nan)
    for length, form in forms.items():
        rows = np.flatnonzero(present & (read.lengths == length) & (read.lengths > 0))
        if len(rows):
            pairs[rows] = form(_taken(read, rows), errors[rows])
    written = present & (read.lengths > 0) & np.isin(read.lengths, list(forms))
    unclear = written & np.isnan(pairs).all(axis=1)
    skips.add(unclear, f"{name} is no matrix of correlations or covariances of these errors")
    with np.errstate(over="ignore"):
        return pairs.astype(np.float32)


def _flat(cells: np.ndarray) -> np.ndarray:
    """The cells with matrices laid out as one array, row after row."""
    if cells.ndim == 3:
        return cells.reshape(len(cells), -1)
    return (
        cells if cells.ndim != 1 or cells.dtype.kind != "O" else object_array([_flat_cell(c) for c in cells])
    )


def _flat_cell(cell: object) -> object:
    if isinstance(cell, str):
        text = cell.strip()
        nested = text[:1] in "[(" and text[1:].lstrip()[:1] in ("[", "(")
        return f"[{text.translate(str.maketrans('', '', '[]()'))}]" if nested else cell
    if isinstance(cell, list | tuple | np.ndarray) and len(cell) and np.ndim(cell[0]) == 1:
        return np.concatenate([np.asarray(row, dtype=np.float64) for row in cell])
    return cell


def _taken(read: Arrays, rows: np.ndarray) -> Elements:
    return np.stack([np.asarray(read.rows[row]) for row in rows.tolist()])


def _strict(values: Elements, errors: CoeffArray) -> Pairs:
    """A strict triangle: the lower one row by row, unless only the upper one makes correlation matrices."""
    n = errors.shape[1]
    row, column = np.triu_indices(n, 1)
    order = np.argsort(column * n + row)  # from the upper one, row by row, to the lower one
    sample = values[np.isfinite(values).all(axis=1)][:_SAMPLE]
    if (
        n >= _FEWEST_TO_TELL
        and len(sample)
        and not _are_definite(sample, n).any()
        and _are_definite(sample[:, order], n).all()
    ):
        return values[:, order]
    return values


def _with_diagonal(values: Elements, errors: CoeffArray) -> Pairs:
    """A triangle with the diagonal, lower or upper: whichever has a diagonal of the right kind."""
    n = errors.shape[1]
    made = []
    for row, column in (np.tril_indices(n), np.triu_indices(n)):
        matrices = np.zeros((len(values), n, n))
        matrices[:, row, column] = matrices[:, column, row] = values
        made.append(_of_matrices(matrices, errors))
    return np.where(np.isnan(made[0]).all(axis=1, keepdims=True), made[1], made[0])


def _whole(values: Elements, errors: CoeffArray) -> Pairs:
    """Whole matrices, of which one half may be zero."""
    n = errors.shape[1]
    return _of_matrices(values.reshape(-1, n, n), errors)


def _of_matrices(matrices: Matrices, errors: CoeffArray) -> Pairs:
    """The strict lower triangle of correlations, NaN where the diagonal is of neither kind or the halves differ."""
    row, column = np.tril_indices(errors.shape[1], -1)
    lower, upper = matrices[:, row, column], matrices[:, column, row]
    lower = np.where((lower == 0).all(axis=1, keepdims=True), upper, lower)
    upper = np.where((upper == 0).all(axis=1, keepdims=True), lower, upper)
    diagonal = np.diagonal(matrices, axis1=1, axis2=2)
    left_out = (diagonal == 0).all(axis=1, keepdims=True)
    with np.errstate(all="ignore"):
        multiple = diagonal / np.square(errors)
        correlations = left_out[:, 0] | (np.abs(diagonal - 1) < _SAME).all(axis=1)
        covariances = (multiple > 0).all(axis=1) & (
            multiple.max(axis=1) < (1 + 2 * _SAME) * multiple.min(axis=1)
        )
        root = np.sqrt(np.where(correlations[:, None], 1.0, diagonal))
        pairs, other = (half / (root[:, row] * root[:, column]) for half in (lower, upper))
        good = (correlations | covariances) & (np.abs(pairs - other) < _SAME).all(axis=1)
    return np.where(good[:, None], pairs, np.nan)


def _are_definite(pairs: Pairs, n: int) -> Bool[np.ndarray, " row"]:
    row, column = np.tril_indices(n, -1)
    matrices = np.broadcast_to((1 + _LIFT) * np.eye(n), (len(pairs), n, n)).copy()
    matrices[:, row, column] = matrices[:, column, row] = pairs
    definite: Bool[np.ndarray, " row"] = np.linalg.eigvalsh(matrices)[:, 0] > 0
    return definite
