"""The rows of one file by the archive's column names, before anything about them is checked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from scattervae.gaia.facts import (
    BANDS,
    G_FLUX_NAME,
    G_MAG_NAMES,
    JOINED_COLUMNS,
    LABEL_COLUMNS,
    MEDIAN_FLUX_NAME,
    SNR_NAME,
    SOURCE_ID_NAMES,
)
from scattervae.spectra.sources import SOURCE_COLUMNS

_BAND_COLUMNS = (
    "coefficients",
    "coefficient_errors",
    "n_parameters",
    "basis_function_id",
    "n_relevant_bases",
)
_SCALARS = (G_FLUX_NAME, *G_MAG_NAMES, MEDIAN_FLUX_NAME, SNR_NAME, "flux", "flux_error", "xp")


@dataclass(frozen=True)
class SkippedRow:
    """A row that could not be used, and why.

    Attributes:
        row: In text files the line as an editor counts it; elsewhere the row counted from 1, through all
            groups or tables of the file in their order.
        reason: Why the row could not be used, without the row number.
    """

    row: int
    reason: str


@dataclass(frozen=True)
class Columns:
    """What a reader of one kind hands over: cells as the file has them.

    Attributes:
        form: Name of the kind of file, for people.
        cells: Wanted columns by their name in lower case: one entry a row, numbers, text or arrays, masked or
            not, or a row of a two-dimensional array.
        names: All columns of the file as the file calls them, wanted or not.
        row_numbers: What `SkippedRow.row` says of each row.
        skipped: Rows that could not be split into cells.
    """

    form: str
    cells: Mapping[str, np.ndarray]
    names: tuple[str, ...]
    row_numbers: Int64[np.ndarray, " row"]
    skipped: tuple[SkippedRow, ...] = ()

    @classmethod
    def of(cls, form: str, cells: Mapping[str, np.ndarray], names: Sequence[str]) -> "Columns":
        """Columns of a file whose rows are simply counted from 1."""
        n = len(next(iter(cells.values()))) if cells else 0
        return cls(form, cells, tuple(str(name) for name in names), np.arange(1, n + 1, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.row_numbers)

    def __contains__(self, name: str) -> bool:
        return name in self.cells

    @property
    def source_id_name(self) -> str | None:
        """The column with Gaia's identifier."""
        return next((name for name in SOURCE_ID_NAMES if name in self.cells), None)

    @property
    def holds_coeffs(self) -> bool:
        """True where no column of a continuous spectrum is absent, be its bands apart or in one array."""
        joined = any(a in self.cells and b in self.cells for a, b in JOINED_COLUMNS.items())
        return joined or all(name in self.cells for name in CONTINUOUS_COLUMNS)

    @property
    def holds_flux(self) -> bool:
        """True where no column of a sampled spectrum is absent."""
        return all(name in self.cells for name in SAMPLED_COLUMNS)


CONTINUOUS_COLUMNS = tuple(f"{band}_{name}" for band in BANDS for name in _BAND_COLUMNS[:2])
SAMPLED_COLUMNS = ("flux", "flux_error")


def wanted_columns(*, correlations: bool) -> frozenset[str]:
    """Names, in lower case, of all columns that any kind of file may hold and that we use."""
    of_bands = _BAND_COLUMNS + (("coefficient_correlations",) if correlations else ())
    labels = (name for pair in LABEL_COLUMNS for name in pair)
    joined = (name for pair in JOINED_COLUMNS.items() for name in pair)
    bands = (f"{band}_{name}" for band in BANDS for name in of_bands)
    return frozenset((*SOURCE_ID_NAMES, *SOURCE_COLUMNS, *bands, *joined, *labels, *_SCALARS))


def pick(names: Sequence[str], wanted: frozenset[str]) -> dict[str, str]:
    """Which of a file's columns to read: name in lower case to the file's own name, the first of equals."""
    picked: dict[str, str] = {}
    for name in names:
        if name.strip().lower() in wanted:
            picked.setdefault(name.strip().lower(), name)
    return picked


def with_spectra(tables: Sequence[Columns]) -> Sequence[Columns]:
    """Those of a file's tables that hold coefficients, else those with sampled flux, else the first."""
    named = [table for table in tables if table.source_id_name]
    continuous = [table for table in named if table.holds_coeffs]
    sampled = [table for table in named if table.holds_flux]
    return continuous or sampled or tables[:1]


def join(form: str, parts: Sequence[Columns]) -> Columns:
    """One `Columns` from the tables or groups of a file, with the columns that all of them have."""
    if len(parts) == 1:
        return parts[0]
    shared = [name for name in parts[0].cells if all(name in part for part in parts)]
    cells = {name: _stack([part.cells[name] for part in parts]) for name in shared}
    return Columns.of(form, cells, parts[0].names)


def _stack(cells: Sequence[np.ndarray]) -> np.ndarray:
    masked = any(isinstance(part, np.ma.MaskedArray) for part in cells)
    if not masked and len({part.shape[1:] for part in cells}) == 1:
        return np.concatenate(cells)
    return object_array([cell for part in cells for cell in part])


def object_array(cells: Sequence[object]) -> np.ndarray:
    """A one-dimensional array of these cells, whatever they are."""
    array = np.empty(len(cells), dtype=object)
    for row, cell in enumerate(cells):
        array[row] = cell
    return array
