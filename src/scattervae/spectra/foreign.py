"""HATS catalogues of XP spectra that somebody else made: which of their columns hold what.

Lists go by the archive's names, or BP and RP follow each other in one list as in the MultimodalUniverse; a field of a
nested column goes by its own name.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float64, Int64

from scattervae.arrays import StarArray, StarMask
from scattervae.errors import StoreError
from scattervae.spectra.bases import StatedBand, sort_by_basis
from scattervae.spectra.columns import BANDS, label_columns
from scattervae.spectra.flags import Flag
from scattervae.spectra.labels import LABEL_NAMES, StellarLabels
from scattervae.spectra.nested import flattened, leaves
from scattervae.spectra.spectra import Basis, Spectra

_DR3_SIZES = Basis(55, 55)  # Gaia DR3 documentation, sect. 20.4.1: the only joined lists there are, so far
_SOURCE_IDS = ("source_id", "object_id")
_G_FLUXES = ("phot_g_mean_flux", "g_flux")
_APART = tuple(f"{band}_{name}" for band in BANDS for name in ("coefficients", "coefficient_errors"))
_JOINED = ("coeff", "coeff_error")  # github.com/MultimodalUniverse/MultimodalUniverse, scripts/gaia/gaia.py
_OPTIONAL = tuple(f"{band}_{name}" for band in BANDS for name in ("n_relevant_bases", "basis_function_id"))


@dataclass(frozen=True)
class ForeignColumns:
    """Where a catalogue's columns are.

    Attributes:
        source_id: The column of identifiers; numbers, or text as the MultimodalUniverse has it.
        g_flux: The column of mean G flux [electron/s].
        joined: True where one list holds BP and RP.
        places: Dotted place in the schema of every column that is read, by its own name.
    """

    source_id: str
    g_flux: str
    joined: bool
    places: Mapping[str, str]

    @staticmethod
    def of(schema: pa.Schema, where: Path) -> "ForeignColumns":
        """The columns of a catalogue.

        Raises:
            StoreError: A column is missing; names what was found.
        """
        places: dict[str, str] = {}
        for place in leaves(schema):
            places.setdefault(place.rpartition(".")[2], place)
        joined = not all(name in places for name in _APART) and all(name in places for name in _JOINED)
        source_id = next((name for name in _SOURCE_IDS if name in places), None)
        g_flux = next((name for name in _G_FLUXES if name in places), None)
        lacking = [] if joined else [name for name in _APART if name not in places]
        if lacking:
            lacking = [f"{', '.join(lacking)} (or {' and '.join(_JOINED)})"]
        lacking += [" or ".join(_SOURCE_IDS)] * (source_id is None) + [" or ".join(_G_FLUXES)] * (
            g_flux is None
        )
        if source_id is None or g_flux is None or lacking:
            raise StoreError(
                f"{where}: a HATS catalogue with columns {_shortened(schema.names)}, but without "
                f"{' and '.join(lacking)}; `scattervae ingest` its parquet files where the G flux is to be inferred"
            )
        wanted = {source_id, g_flux, *(_JOINED if joined else _APART), *_OPTIONAL, *label_columns()}
        used = {name: place for name, place in places.items() if name in wanted}
        return ForeignColumns(source_id, g_flux, joined, used)

    @property
    def columns(self) -> list[str]:
        """Where `spectra` finds what it reads."""
        return [place for name, place in self.places.items() if name not in label_columns()]

    @property
    def label_columns(self) -> list[str]:
        """Where `labels` finds what it reads."""
        names = (self.source_id, *label_columns())
        return [place for name, place in self.places.items() if name in names]

    def basis(self, tables: Iterable[pa.Table]) -> Basis | None:
        """The basis of most stars of the first table with both bands; None where there is none."""
        if self.joined:
            return _DR3_SIZES
        for table in map(flattened, tables):
            found = sort_by_basis(self._stated(table, "bp"), self._stated(table, "rp"))
            if found and found[0].basis.n_bp and found[0].basis.n_rp:
                return found[0].basis
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
            np.hstack([one.values for one in coeffs]),
            np.hstack([one.values for one in errors]),
            basis=basis,
            g_flux=self._numbers(table, self.g_flux),
            n_relevant_bases=np.nan_to_num(np.stack(n_relevant, axis=1), nan=-1.0).astype(np.int16),
        )
        wrong = np.any([one.wrong for one in (*coeffs, *errors)], axis=0)
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
        return table[self.places[name]]

    def _numbers(self, table: pa.Table, name: str) -> StarArray:
        if name not in self.places:
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


@dataclass(frozen=True)
class _Matrix:
    """Lists as rows, NaN where there is none; and which lists had another length."""

    values: Float64[np.ndarray, "star element"]
    wrong: StarMask


def _matrix(column: pa.ChunkedArray, width: int) -> _Matrix:
    lengths = pc.list_value_length(column).fill_null(0).to_numpy()
    whole = lengths == width
    values = np.full((len(column), width), np.nan)
    flat = pc.list_flatten(column.filter(pa.array(whole))).cast(pa.float64()).fill_null(np.nan)
    values[whole] = flat.to_numpy().reshape(-1, width)
    return _Matrix(values, ~whole & (lengths > 0))


def _shortened(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
