"""The coefficients of both bands, with their correlations, in one basis: that which is wanted, or most rows have."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int16, Int64

from scattervae.arrays import CoeffArray, StarMask
from scattervae.gaia.facts import BANDS, DR3_BASIS
from scattervae.gaia.files.cells import UNREADABLE, Arrays, Integers, arrays
from scattervae.gaia.files.columns import FIT_COLUMNS, Columns, Skips, object_array
from scattervae.spectra.spectra import Basis
from scattervae.spectra.star_tables import BasisIds, OfBasis, StatedBand, sort_by_basis

_FIT_ROUNDING = 1e-3
Numbers = TypeVar("Numbers", float, Float64[np.ndarray, " star"])


@dataclass(frozen=True)
class Band:
    """BP or RP of all rows of a file.

    A row is contradicted where it has other than the stated number of coefficients, or where what the file says of
    their fit cannot be as it was written.
    """

    coeffs: Float64[np.ndarray, "star coeff"]  # NaN where the band is missing or contradicts itself
    errors: Float64[np.ndarray, "star coeff"]
    n_relevant_bases: Int16[np.ndarray, " star"]  # recommended truncation, -1 where not given
    basis_id: int | None  # of the basis functions, None where the file has none
    contradicted: StarMask
    correlations: Float32[np.ndarray, "star pair"] | None  # None where the file has none
    is_known: bool  # true where some row gives the size and the id

    @property
    def size(self) -> int:
        return int(self.coeffs.shape[1])


class Bands(NamedTuple):
    """Both bands, of one basis."""

    bp: Band
    rp: Band
    is_named: bool  # true where some row names an id of its basis


def read_bands(columns: Columns, skips: Skips, wanted: Basis | BasisIds | None = None) -> Bands:
    """Both bands of a file; rows whose coefficients are unreadable or of another basis are skipped.

    Args:
        wanted: The basis to take; where None, that of most rows.
    """
    bands = [_Cells.of(columns, band, skips) for band in BANDS]
    stated = [band.stated(skips.kept) for band in bands]
    found = sort_by_basis(stated[0], stated[1], wanted) or [
        OfBasis(Basis(0, 0), np.zeros(len(columns), dtype=bool))
    ]
    basis, taken = _completed(found[0].basis, bands), found[0].rows
    for other in found[1:]:
        if basis.agrees_with(replace(other.basis, n_bp=basis.n_bp, n_rp=basis.n_rp)):
            for band, size in zip(bands, (basis.n_bp, basis.n_rp), strict=True):
                sizes = band.coeffs.lengths
                reason = f"{{}} {band.name}_coefficients where others have {size}"
                skips.add(other.rows & (sizes != size) & (sizes > 0), reason, sizes, basis=other.basis)
        reason = f"basis {other.basis.ids} where others have {basis.ids}"
        skips.add(other.rows, reason, basis=other.basis)
    bp, rp = (
        band.read(columns, skips, own, is_known=bool((rows.sizes[taken] > 0).any()))
        for band, rows, own in zip(
            bands, stated, ((basis.n_bp, basis.bp_id), (basis.n_rp, basis.rp_id)), strict=True
        )
    )
    return Bands(bp, rp, is_named=any(bool((rows.ids[taken] >= 0).any()) for rows in stated))


@dataclass(frozen=True)
class _Cells:
    """The columns of a band, of which it is not settled yet which rows are used."""

    name: str
    coeffs: Arrays
    errors: Arrays
    ids: Integers
    contradicted: StarMask

    @classmethod
    def of(cls, columns: Columns, band: str, skips: Skips) -> "_Cells":
        stated, ids = (columns.integers(f"{band}_{name}") for name in ("n_parameters", "basis_function_id"))
        sizes = np.where(stated.known, stated.values, getattr(DR3_BASIS, f"n_{band}"))
        coeffs = without_padding(arrays(columns.cells[f"{band}_coefficients"]), sizes)
        errors = without_padding(arrays(columns.cells[f"{band}_coefficient_errors"]), coeffs.lengths)
        skips.add_unreadable(f"{band}_coefficients", coeffs)
        skips.add_unreadable(f"{band}_coefficient_errors", errors)
        present = coeffs.lengths > 0
        skips.add_unreadable(f"{band}_n_parameters", stated, among=present)
        skips.add_unreadable(f"{band}_basis_function_id", ids, among=present)
        contradicted = present & stated.known & (stated.values != coeffs.lengths)
        return cls(band, coeffs, errors, ids, contradicted)

    def stated(self, kept: StarMask) -> StatedBand:
        """What the rows that are used say of the basis."""
        sound = kept & (self.coeffs.lengths > 0) & ~self.contradicted
        return StatedBand(
            np.where(sound, self.coeffs.lengths, 0), np.where(sound & self.ids.known, self.ids.values, -1)
        )

    def read(self, columns: Columns, skips: Skips, own: tuple[int, int | None], *, is_known: bool) -> Band:
        """The band of all rows, NaN where it is missing, contradicts itself, or has another size."""
        size, basis_id = own
        present = self.coeffs.lengths > 0
        sound = present & ~self.contradicted
        coeffs, errors = (
            np.where(sound[:, None], one.matrix(size), np.nan) for one in (self.coeffs, self.errors)
        )
        relevant = columns.integers(f"{self.name}_n_relevant_bases")
        fits = relevant.known & (np.abs(relevant.values) < 2**15)
        with np.errstate(all="ignore"):
            changed = fit_disagrees(*map(columns.numbers, FIT_COLUMNS[BANDS.index(self.name)]))
        return Band(
            coeffs=coeffs,
            errors=errors,
            n_relevant_bases=np.where(fits, relevant.values, -1).astype(np.int16),
            basis_id=basis_id,
            contradicted=self.contradicted | present & changed,
            correlations=read_correlations(columns, self.name, errors=errors, present=sound, skips=skips),
            is_known=is_known,
        )


def _completed(basis: Basis, bands: Sequence[_Cells]) -> Basis:
    """The basis with the size, and id, of a band that no row has.

    They are those of the known basis that has the other band; else the width of an empty matrix, or DR3's size.
    """
    if basis.n_bp and basis.n_rp:
        return basis
    own = {"bp": (basis.n_bp, basis.bp_id), "rp": (basis.n_rp, basis.rp_id)}
    for known in _bases_with(basis):
        both = {"bp": (known.n_bp, known.bp_id), "rp": (known.n_rp, known.rp_id)}
        if all(own[name] in (both[name], (0, None)) for name in BANDS):
            return known
    sizes = [
        own[band.name][0] or _width(band.coeffs) or getattr(DR3_BASIS, f"n_{band.name}") for band in bands
    ]
    return replace(basis, n_bp=sizes[0], n_rp=sizes[1])


def _bases_with(basis: Basis) -> Iterator[Basis]:
    """Bases known to have a band of these ids; GaiaXPy is asked only where DR3 has none."""
    if basis.is_named:
        yield DR3_BASIS
        from scattervae.gaia.basis import known_bases

        yield from known_bases()


def without_padding(read: Arrays, sizes: Int64[np.ndarray, " star"]) -> Arrays:
    """The same arrays without what fills a column of fixed width: zeros or NaN behind the stated size, or throughout.

    An array of nothing else is that of a missing band: no star has a coefficient of exactly zero in all orders.
    """
    if isinstance(read.rows, np.ndarray):
        last = read.rows[:, -1] if read.rows.shape[1] else np.ones(len(read.rows))
    else:
        last = np.array([1.0 if row is None or not len(row) else row[-1] for row in read.rows])
    padded = np.flatnonzero(np.nan_to_num(last) == 0)
    if not len(padded):
        return read
    lengths, rows = read.lengths.copy(), list(read.rows)
    for index in padded.tolist():
        row, size = rows[index], max(int(sizes[index]), 0)
        if not np.nan_to_num(row).any():
            lengths[index], rows[index] = 0, None
        elif not np.nan_to_num(row[size:]).any():
            lengths[index], rows[index] = min(size, len(row)), row[:size]
    return Arrays(lengths, rows, read.why)


def _width(read: Arrays) -> int:
    """The width of a matrix without a single number, 0 for arrays of their own lengths."""
    return int(read.rows.shape[1]) if isinstance(read.rows, np.ndarray) else 0


def fit_disagrees(deviation: Numbers, chi_squared: Numbers, degrees_of_freedom: Numbers) -> StarMask | bool:
    r"""True where :math:`s^2 \ne \chi^2 / n` by more than rounding: one has been changed; False where one is missing.

    Source:
        Gaia DR3 data model, xp_continuous_mean_spectrum, ``bp_standard_deviation``; the archive's files agree to 2e-7.
    """
    expected = deviation * deviation * degrees_of_freedom
    disagrees: StarMask | bool = abs(expected - chi_squared) > _FIT_ROUNDING * abs(chi_squared)
    return disagrees


Pairs = Float64[np.ndarray, "row pair"]
Elements = Float64[np.ndarray, "row element"]
Matrices = Float64[np.ndarray, "row coeff coeff"]

_SAME = 1e-3
"""So far may a diagonal be from 1, or from a multiple of the squared errors, and two triangles from each other: they
are published in float32."""
_LIFT = 1e-6  # added to a diagonal before it is asked whether a matrix is positive definite; float32 again
_SAMPLE = 8
_FEWEST_TO_DECIDE = 10  # coefficients: of fewer, the wrong triangle can make a correlation matrix by chance


def read_correlations(
    columns: Columns, band: str, *, errors: CoeffArray, present: StarMask, skips: Skips
) -> Float32[np.ndarray, "star pair"] | None:
    """The correlations of all rows, NaN where a row has none; None where the file has no such column.

    Read are the strict triangle, lower or upper, that with the diagonal, and whole matrices or one half of them, each
    of correlations, or of covariances whose diagonal is a multiple of the squared errors. A row with the band and
    anything else is skipped.

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
        n >= _FEWEST_TO_DECIDE
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
        made.append(_whole(matrices, errors))
    return np.where(np.isnan(made[0]).all(axis=1, keepdims=True), made[1], made[0])


def _whole(values: Elements | Matrices, errors: CoeffArray) -> Pairs:
    """Whole matrices, of which one half may be zero: the strict lower triangle of their correlations.

    NaN where the diagonal is of neither kind or the halves differ.
    """
    n = errors.shape[1]
    matrices = values.reshape(-1, n, n)
    row, column = np.tril_indices(n, -1)
    lower, upper = matrices[:, row, column], matrices[:, column, row]
    lower = np.where((lower == 0).all(axis=1, keepdims=True), upper, lower)
    upper = np.where((upper == 0).all(axis=1, keepdims=True), lower, upper)
    diagonal = np.diagonal(matrices, axis1=1, axis2=2)
    dropped = (diagonal == 0).all(axis=1, keepdims=True)
    with np.errstate(all="ignore"):
        multiple = diagonal / np.square(errors)
        correlations = dropped[:, 0] | (np.abs(diagonal - 1) < _SAME).all(axis=1)
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
