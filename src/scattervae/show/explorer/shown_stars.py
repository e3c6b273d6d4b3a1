"""The stars of a page: rows of a catalogue, all of them or a sample that keeps rare places, with their columns.

A catalogue is read as a stream, a row group at a time, once for each of four passes: moments of the latents, stars a
cell of the latent space, the sample, its columns.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Float64, Int64, Shaped

from scattervae.arrays import SourceIds
from scattervae.errors import DataError
from scattervae.science.lists import ROW, read_list
from scattervae.seeds import numpy_stream
from scattervae.spectra.columns import unit_and_description
from scattervae.spectra.hats import open_parquet, read_groups
from scattervae.spectra.spectra import FLAGS, Flag
from scattervae.spectra.tables import CATALOGUE_NOTE, SUFFIXES, notes_of

Latents = Float64[np.ndarray, "star latent"]
# principal components, cells along each, their reach in standard deviations
_CELL_AXES, _CELLS, _REACH = 3, 24, 4.0
FEW = 12
"""Integers of so few different values are names of kinds, not numbers."""


@dataclass(frozen=True)
class Column:
    """Values of all stars."""

    name: str  # as the catalogue has it
    values: Shaped[np.ndarray, " star"]  # float64 with NaN where missing, or text with "" where missing
    unit: str = ""  # of the values; empty for pure numbers
    description: str = ""  # what it is

    @property
    def is_text(self) -> bool:
        return self.values.dtype.kind == "U"


class Sample(NamedTuple):
    """Which rows of a catalogue a page shows."""

    # in the order of a weighted draw: the first n are a sample of n themselves
    rows: Int64[np.ndarray, " star"]
    weights: Float64[np.ndarray, " star"]  # how many stars of the catalogue each stands for
    n_all: int  # rows of the catalogue
    # principal axes of the latents, the longest first, one a row
    components: Float64[np.ndarray, "axis latent"]
    centre: Float64[np.ndarray, " latent"]  # mean of the latents

    def take(self, order: Int64[np.ndarray, " star"]) -> "Sample":
        """The same stars in another order."""
        return self._replace(rows=self.rows[order], weights=self.weights[order])

    def embedded(self, latents: Latents) -> Float64[np.ndarray, "star axis"]:
        """Latents along the first two principal axes, or along one where there is one."""
        along: Float64[np.ndarray, "star axis"] = (latents - self.centre) @ self.components[:2].T
        return along


def tables_of(path: Path, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The scalar columns of a catalogue in any form, or those named, some thousand rows at a time.

    Raises:
        DataError: It cannot be read, or lacks a column.
    """
    try:
        if path.is_dir() or path.suffix == ".parquet":
            for file in _parquet_files(path):
                yield from _row_groups(file, columns)
        else:
            if path.suffix not in SUFFIXES:
                raise DataError(
                    f"{path}: no catalogue is called so; expected {', '.join(SUFFIXES)} or a folder"
                )
            table = read_list(path).table.drop_columns([ROW])
            names = table.column_names if columns is None else list(columns)
            _require(names, table.column_names, path)
            yield table.select(names)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as a catalogue: {error}") from error


def _parquet_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    files = sorted(file for file in (path / "dataset").rglob("*.parquet") if not file.name.startswith("_"))
    if not files:
        raise DataError(
            f"{path}: a folder without dataset/*.parquet; give a catalogue that `scattervae encode` wrote"
        )
    return files


def _row_groups(file: Path, columns: Sequence[str] | None) -> Iterator[pa.Table]:
    with open_parquet(file) as source:
        schema = source.schema_arrow
        names = (
            [f.name for f in schema if not pa.types.is_nested(f.type)] if columns is None else list(columns)
        )
        _require(names, schema.names, file)
        for group in range(source.num_row_groups):
            yield read_groups(source, names, groups=[group])
        if source.num_row_groups == 0:
            yield schema.empty_table().select(names)


def _require(names: Sequence[str], there: Sequence[str], path: Path) -> None:
    """Refuse a catalogue without one of these columns."""
    if missing := [name for name in names if name not in there]:
        raise DataError(
            f"{path}: no column {missing[0]}; give a catalogue that `scattervae encode` wrote with this model"
        )


def model_of(path: Path) -> str | None:
    """The digest of the model that a parquet catalogue says it was made with; None where nothing says so."""
    if not (path.is_dir() or path.suffix == ".parquet"):
        return None
    for file in _parquet_files(path)[:1]:
        with open_parquet(file) as source:
            note = notes_of(source.schema_arrow).get(CATALOGUE_NOTE)
            return None if note is None else str(note.get("model"))
    return None


def sample_of(path: Path, n_latent: int, n: int) -> Sample:
    r"""A sample of at most `n` stars in which rare places of the latent space are shown.

    A star in a cell of m stars is drawn in proportion to :math:`1 / \sqrt{m}`: sequential Poisson sampling keeps the n
    smallest of :math:`u_i \sqrt{m_i}`, with u uniform, and a star stands for :math:`\sum_j m_j^{-1/2} / (n m_i^{-1/2})`
    others.

    Raises:
        DataError: It cannot be read, or has no latents of this model.

    Source:
        Ohlsson (1998), Journal of Official Statistics 14, 149.
    """
    names = [f"latent_{k}_mean" for k in range(1, n_latent + 1)]
    n_all, centre, covariance = _moments(path, names)
    variances, vectors = np.linalg.eigh(covariance)
    order = np.argsort(-variances)
    components = vectors.T[order]
    components *= np.sign(components[np.arange(n_latent), np.abs(components).argmax(axis=1)])[:, None]
    axes = components[:_CELL_AXES] / np.sqrt(np.maximum(variances[order][:_CELL_AXES], 1e-12))[:, None]
    cells = [_cells_of(z, centre, axes) for z in _latents(path, names)]
    cell = np.concatenate(cells) if cells else np.empty(0, dtype=np.int64)
    _, where, counts = np.unique(cell, return_inverse=True, return_counts=True)
    wish = 1.0 / np.sqrt(counts[where])
    keys = numpy_stream(0, "explorer").random(len(cell)) / wish
    rows = np.argsort(keys)[:n]
    weights = np.ones(len(rows)) if n >= n_all else np.maximum(wish.sum() / (n * wish[rows]), 1.0)
    weights *= n_all / max(weights.sum(), 1.0)
    return Sample(rows, weights, n_all, components, centre)


def _latents(path: Path, names: Sequence[str]) -> Iterator[Latents]:
    for table in tables_of(path, names):
        yield np.stack([_floats(table[name]) for name in names], axis=1)


def _moments(path: Path, names: Sequence[str]) -> tuple[int, np.ndarray, np.ndarray]:
    """Rows, mean and covariance of the latents of stars that have them."""
    n_all, n, total, squares = 0, 0, np.zeros(len(names)), np.zeros((len(names), len(names)))
    for z in _latents(path, names):
        known = z[np.isfinite(z).all(axis=1)]
        n_all, n = n_all + len(z), n + len(known)
        total += known.sum(axis=0)
        squares += known.T @ known
    centre = total / max(n, 1)
    return n_all, centre, squares / max(n, 1) - np.outer(centre, centre)


def _cells_of(z: Latents, centre: np.ndarray, axes: np.ndarray) -> Int64[np.ndarray, " star"]:
    """Which cell along the first principal components each star lies in; -1 for stars without latents."""
    along = (z - centre) @ axes.T
    missing = ~np.isfinite(along).all(axis=1)
    step = np.clip((np.where(missing[:, None], 0.0, along) / _REACH + 1) * _CELLS / 2, 0, _CELLS - 1).astype(
        np.int64
    )
    cell: Int64[np.ndarray, " star"] = np.zeros(len(z), dtype=np.int64)
    for axis in step.T:
        cell = cell * _CELLS + axis
    cell[missing] = -1
    return cell


def columns_of(path: Path, rows: Int64[np.ndarray, " star"]) -> tuple[SourceIds, list[Column]]:
    """Source_ids and all scalar columns of these rows, in their order.

    Raises:
        DataError: It cannot be read, or has no column source_id of integers.
    """
    order = np.argsort(rows)
    wanted, kept, start = rows[order], [], 0
    for table in tables_of(path):
        here = wanted[np.searchsorted(wanted, start) : np.searchsorted(wanted, start + len(table))] - start
        kept.append(table.take(here))
        start += len(table)
    table = pa.concat_tables(kept, promote_options="permissive").take(np.argsort(order))
    _require(["source_id"], table.column_names, path)
    try:
        source_id = table["source_id"].cast(pa.int64()).to_numpy()
    except pa.ArrowException as error:
        raise DataError(f"{path}: source_id holds no integers: {error}") from error
    return source_id, [
        column_of(field, table[field.name]) for field in table.schema if field.name != "source_id"
    ]


def column_of(field: pa.Field, values: pa.ChunkedArray) -> Column:
    """An arrow column as the page has it: numbers in float64, all else, flags and codes too, as text."""
    integers = pa.types.is_integer(field.type)
    few = integers and len(values.unique()) <= FEW
    if field.name == FLAGS and integers:
        found = _texts(
            [
                None if bits is None else " + ".join(str(f.name) for f in Flag if bits & f) or "none"
                for bits in values.to_pylist()
            ]
        )
    elif (integers and not few) or pa.types.is_floating(field.type):
        found = _floats(values)
    elif pa.types.is_boolean(field.type):
        found = _texts([None if v is None else "yes" if v else "no" for v in values.to_pylist()])
    else:
        found = _texts(values.to_pylist())
    return Column(field.name, found, **unit_and_description(field))


def _texts(values: list[object]) -> np.ndarray:
    return np.array(["" if value is None else str(value) for value in values], dtype=np.str_)


def _floats(values: pa.ChunkedArray) -> Float64[np.ndarray, " star"]:
    numbers: Float64[np.ndarray, " star"] = values.cast(pa.float64(), safe=False).fill_null(np.nan).to_numpy()
    return np.where(np.isfinite(numbers), numbers, np.nan)
