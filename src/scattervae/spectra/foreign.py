"""HATS catalogues of XP spectra that somebody else made: which of their columns hold what.

Lists go by the archive's names, or BP and RP follow each other in one list as in the MultimodalUniverse; a field of a
nested column goes by its own name.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Float64, Int64

from scattervae.arrays import StarArray, StarMask
from scattervae.errors import DataError, StoreError, shortened
from scattervae.opening import Budget, require_file
from scattervae.spectra.columns import (
    BANDS,
    QUALITY_COLUMNS,
    flattened,
    holds_all_columns,
    is_approximate,
    label_columns,
    labels_from,
    leaves,
    spectra_columns,
    spectra_from,
)
from scattervae.spectra.hats import UNREADABLE, read_table
from scattervae.spectra.spectra import Basis, Flag, Spectra
from scattervae.spectra.star_tables import (
    LABEL_NAMES,
    POSITION_COLUMNS,
    SourceColumns,
    StatedBand,
    StellarLabels,
    sort_by_basis,
)

_DR3_SIZES = Basis(55, 55)  # Gaia DR3 documentation, sect. 20.4.1: the only joined lists there are, so far
_SOURCE_IDS = ("source_id", "object_id")
_G_FLUXES = ("phot_g_mean_flux", "g_flux")
_APART = tuple(f"{band}_{name}" for band in BANDS for name in ("coefficients", "coefficient_errors"))
_JOINED = ("coeff", "coeff_error")  # github.com/MultimodalUniverse/MultimodalUniverse, scripts/gaia/gaia.py
_OPTIONAL = tuple(f"{band}_{name}" for band in BANDS for name in ("n_relevant_bases", "basis_function_id"))


@dataclass(frozen=True)
class ForeignColumns:
    """Where a catalogue's columns are."""

    source_id: str  # the column of identifiers; numbers, or text as the MultimodalUniverse has it
    g_flux: str  # the column of mean G flux [electron/s]
    joined: bool  # true where one list holds BP and RP
    leaf_of: Mapping[str, str]  # dotted name in the schema of every column that is read, by its own name

    @staticmethod
    def of(schema: pa.Schema, where: Path) -> "ForeignColumns":
        """The columns of a catalogue."""
        leaf_of: dict[str, str] = {}
        for leaf in leaves(schema):
            leaf_of.setdefault(leaf.rpartition(".")[2], leaf)
        joined = not all(name in leaf_of for name in _APART) and all(name in leaf_of for name in _JOINED)
        source_id = next((name for name in _SOURCE_IDS if name in leaf_of), None)
        g_flux = next((name for name in _G_FLUXES if name in leaf_of), None)
        lacking = [] if joined else [name for name in _APART if name not in leaf_of]
        if lacking:
            lacking = [f"{', '.join(lacking)} (or {' and '.join(_JOINED)})"]
        lacking += [" or ".join(_SOURCE_IDS)] * (source_id is None) + [" or ".join(_G_FLUXES)] * (
            g_flux is None
        )
        if source_id is None or g_flux is None or lacking:
            raise StoreError(
                f"{where}: a HATS catalogue with columns {shortened(schema.names)}, but without "
                f"{' and '.join(lacking)}; `scattervae ingest` its parquet files where the G flux is to be inferred"
            )
        wanted = {source_id, g_flux, *(_JOINED if joined else _APART), *_OPTIONAL, *label_columns()}
        used = {name: leaf for name, leaf in leaf_of.items() if name in wanted}
        return ForeignColumns(source_id, g_flux, joined, used)

    @property
    def columns(self) -> list[str]:
        """Where `spectra` finds what it reads."""
        return [leaf for name, leaf in self.leaf_of.items() if name not in label_columns()]

    @property
    def label_columns(self) -> list[str]:
        """Where `labels` finds what it reads."""
        names = (self.source_id, *label_columns())
        return [leaf for name, leaf in self.leaf_of.items() if name in names]

    def basis(self, tables: Iterable[pa.Table], where: Path | None = None) -> Basis | None:
        """The basis of most stars of the first table with both bands; None where there is none.

        Raises:
            StoreError: BP and RP are in one list, and it is not as long as those of DR3, so that nobody can say where
                BP ends.
        """
        if self.joined:
            return self._joined_basis(tables, where)
        for table in map(flattened, tables):
            found = sort_by_basis(self._stated(table, "bp"), self._stated(table, "rp"))
            if found and found[0].basis.n_bp and found[0].basis.n_rp:
                return found[0].basis
        return None

    def _joined_basis(self, tables: Iterable[pa.Table], where: Path | None) -> Basis | None:
        for table in map(flattened, tables):
            sizes = pc.list_value_length(self._column(table, _JOINED[0])).drop_null()
            if len(sizes) and (size := pc.mode(sizes)[0]["mode"].as_py()):
                if size == _DR3_SIZES.n_coeffs:
                    return _DR3_SIZES
                known = _DR3_SIZES.n_coeffs
                raise StoreError(
                    f"{where or 'catalogue'}: {size} coefficients in one list of BP and RP; only {known}, those of "
                    "DR3, can be divided; give a catalogue that has them apart (bp_coefficients, rp_coefficients)"
                )
        return None

    def spectra(self, table: pa.Table, basis: Basis) -> Spectra:
        """The stars of a table, flagged; those of other sizes or ids than the basis has as ``BAD_COEFFS``."""
        table = flattened(table)
        widths = [basis.n_coeffs] if self.joined else [basis.n_bp, basis.n_rp]
        names = _JOINED[:1] if self.joined else _APART[::2]
        coeffs = [_matrix(self._column(table, n), w) for n, w in zip(names, widths, strict=True)]
        names = _JOINED[1:] if self.joined else _APART[1::2]
        errors = [_matrix(self._column(table, n), w) for n, w in zip(names, widths, strict=True)]
        n_relevant = [self._numbers(table, f"{band}_n_relevant_bases") for band in BANDS]
        spectra = Spectra.of(
            self._column(table, self.source_id).cast(pa.int64()).to_numpy(),
            np.hstack([values for values, _ in coeffs]),
            np.hstack([values for values, _ in errors]),
            basis=basis,
            g_flux=self._numbers(table, self.g_flux),
            n_relevant_bases=np.nan_to_num(np.stack(n_relevant, axis=1), nan=-1.0).astype(np.int16),
        )
        wrong = np.any([other for _, other in (*coeffs, *errors)], axis=0)
        for band, own in zip(BANDS, (basis.bp_id, basis.rp_id), strict=True):
            ids = self._ids(table, band)
            wrong |= (ids >= 0) & (ids != (ids if own is None else own))
        return spectra.with_flags(np.where(wrong, Flag.BAD_COEFFS, 0).astype(np.uint16))

    def labels(self, table: pa.Table) -> StellarLabels:
        """The labels of a table's stars, where it has columns of our names."""
        table = flattened(table)
        values, errors = (
            np.stack([self._numbers(table, name + end) for name in LABEL_NAMES], axis=1)
            for end in ("", "_err")
        )
        source_id = self._column(table, self.source_id).cast(pa.int64()).to_numpy()
        return StellarLabels(source_id=source_id, values=values, errors=errors)

    def _column(self, table: pa.Table, name: str) -> pa.ChunkedArray:
        return table[self.leaf_of[name]]

    def _numbers(self, table: pa.Table, name: str) -> StarArray:
        if name not in self.leaf_of:
            return np.full(len(table), np.nan)
        values: StarArray = self._column(table, name).cast(pa.float64()).fill_null(np.nan).to_numpy()
        return values

    def _stated(self, table: pa.Table, band: str) -> StatedBand:
        sizes = pc.list_value_length(self._column(table, f"{band}_coefficients")).fill_null(0)
        return StatedBand(sizes.to_numpy().astype(np.int64), self._ids(table, band))

    def _ids(self, table: pa.Table, band: str) -> Int64[np.ndarray, " star"]:
        """Which basis functions each star names, -1 where none."""
        ids: Int64[np.ndarray, " star"] = np.nan_to_num(
            self._numbers(table, f"{band}_basis_function_id"), nan=-1.0
        ).astype(np.int64)
        return ids


def _matrix(column: pa.ChunkedArray, width: int) -> tuple[Float64[np.ndarray, "star element"], StarMask]:
    """Lists as rows, NaN where there is none; and which lists had another length."""
    lengths = pc.list_value_length(column).fill_null(0).to_numpy()
    whole = lengths == width
    values = np.full((len(column), width), np.nan)
    flat = pc.list_flatten(column.filter(pa.array(whole))).cast(pa.float64()).fill_null(np.nan)
    values[whole] = flat.to_numpy().reshape(-1, width)
    return values, ~whole & (lengths > 0)


_MAGIC = b"PAR1"


class PartitionFile(NamedTuple):
    """The stars of a partition, in its order."""

    spectra: Spectra  # with their flags and the sources of their G fluxes
    labels: StellarLabels
    sources: SourceColumns  # positions and quality columns; empty where the positions are centres of pixels


def is_partition_file(path: Path) -> bool:
    """True for a parquet file with all columns of a store."""
    try:
        with path.open("rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                return False
        return holds_all_columns(pq.read_schema(path))
    except UNREADABLE:
        return False


def read_partition_file(path: Path, *, correlations: bool = False) -> PartitionFile:
    """The stars of a file that `is_partition_file`."""
    try:
        table = read_table(path, budget=Budget(require_file(path)))
    except UNREADABLE as error:
        raise StoreError(f"{path}: cannot be read: {error}") from error
    except DataError as error:
        raise StoreError(f"{path}: {error}") from None
    basis = ForeignColumns.of(table.schema, path).basis([table], path)
    if basis is None:
        raise StoreError(f"{path}: no star has coefficients of both bands")
    columns = [name for name in spectra_columns(correlations=correlations) if name in table.column_names]
    sources = SourceColumns.empty()
    if not is_approximate(table.schema):
        named = [name for name in (*POSITION_COLUMNS, *QUALITY_COLUMNS) if name in table.column_names]
        values = {name: table[name].cast(pa.float64()).fill_null(float("nan")).to_numpy() for name in named}
        sources = SourceColumns(table["source_id"].to_numpy(), values)
    return PartitionFile(spectra_from(table.select(columns), basis), labels_from(table), sources)
