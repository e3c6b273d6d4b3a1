"""Sampled spectra: flux on the wavelengths that a file states, else the archive's; a row a star or a wavelength."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scattervae.arrays import FluxArray, SourceIds, StarArray, StarFlags, Wavelengths
from scattervae.errors import DataError, counted
from scattervae.gaia.facts import MEDIAN_FLUX_NAME, SAMPLED_GRID_NM
from scattervae.gaia.files.cells import arrays, floats, identifiers
from scattervae.gaia.files.columns import SAMPLED_COLUMNS, Columns, Skips, object_array, read_g_flux
from scattervae.spectra.spectra import Flag

_NAMES = ("sampling", "pos", "wavelength")  # as GaiaXPy's writers, its file beside, and people name it


@dataclass(frozen=True)
class SampledSpectra:
    """Stars as flux on a common wavelength grid.

    Source:
        Gaia archive, table ``gaiadr3.xp_sampled_mean_spectrum``.
    """

    source_id: SourceIds  # Gaia's identifier
    flux: FluxArray  # externally calibrated flux [W m^-2 nm^-1], NaN where missing
    errors: FluxArray  # one standard deviation of each, same units
    grid_nm: Wavelengths  # wavelengths [nm]
    g_flux: StarArray  # mean flux in the G band [electron/s], NaN where the table has none
    flags: StarFlags  # Bits of `Flag`; a star without a complete spectrum has `Flag.BAD_COEFFS`

    def __len__(self) -> int:
        return len(self.source_id)

    def take(self, rows: np.ndarray | slice) -> "SampledSpectra":
        """The stars of these rows: a mask, indices or a slice."""
        per_star: dict[str, Any] = {n: v[rows] for n, v in vars(self).items() if n != "grid_nm"}
        return replace(self, **per_star)


def stated_grid(metadata: Mapping[str, object]) -> Wavelengths | None:
    """The wavelengths [nm] in a table's metadata, None where there are none.

    Source:
        GaiaXPy, ``output.sampled_spectra_data``: ``sampling`` in ECSV and VOTable, ``SAMPLING`` in FITS.
    """
    by_name = {str(key).strip().lower(): value for key, value in metadata.items()}
    return next((grid_of(by_name[name]) for name in _NAMES if name in by_name), None)


def grid_beside(path: Path) -> Wavelengths | None:
    """The wavelengths in ``NAME_sampling.csv`` beside a file, as GaiaXPy writes it; None where there is none."""
    beside = path.with_name(f"{path.name.split('.')[0]}_sampling.csv")
    if not beside.is_file() or beside == path:
        return None
    lines = beside.read_text(encoding="utf-8", errors="replace").splitlines()
    grid = grid_of(lines[1].strip().strip('"')) if len(lines) == 2 else None
    if grid is None and len(lines) > 2:  # a wavelength a line, below a name
        grid = grid_of(f"[{','.join(line.strip() for line in lines[1:])}]")
    if grid is None:
        raise DataError(f"{beside.name} beside it holds no list of wavelengths [nm]; mend it or take it away")
    return grid


def column_grid(columns: Columns) -> Wavelengths | None:
    """The wavelengths in a column of arrays, the same in all rows; None where there is no such column."""
    if "wavelength" not in columns:
        return None
    read = arrays(columns.cells["wavelength"])
    present = np.flatnonzero(read.lengths > 0)
    if len(present) == 0:
        return None
    first = np.asarray(read.rows[int(present[0])])
    for row in present[1:].tolist():
        if not np.array_equal(first, np.asarray(read.rows[row])):
            numbers = " and ".join(str(columns.row_numbers[one]) for one in (present[0], row))
            raise DataError(
                f"rows {numbers} have other wavelengths; pass stars of different sampling as files of their own"
            )
    grid = grid_of(first)
    if grid is None:
        raise DataError("column wavelength holds no rising list of wavelengths [nm]")
    return grid


def grid_of(value: object) -> Wavelengths | None:
    """Rising, finite wavelengths from an array, a list or its text; None from anything else."""
    cell = value if isinstance(value, str) else np.asarray(value)
    grid = arrays(object_array([cell])).rows[0]
    rising = grid is not None and len(grid) > 1 and np.isfinite(grid).all() and (np.diff(grid) > 0).all()
    return np.asarray(grid, dtype=np.float64) if rising else None


WAVELENGTH = "wavelength"
_NAMED = re.compile(r"Gaia E?DR3 (\d{1,19})")


def with_id_of_name(columns: Columns, name: str) -> Columns:
    """The same rows with the source_id in the name of a single download, where no column has it.

    Source:
        Gaia archive, DataLink with ``DATA_STRUCTURE=INDIVIDUAL``: ``XP_SAMPLED-Gaia DR3 5853498713190525696.csv``.
    """
    found = _NAMED.search(name)
    if columns.source_id_name or WAVELENGTH not in columns or found is None:
        return columns
    ids = np.full(len(columns), int(found[1]), dtype=np.int64)
    return replace(columns, cells={"source_id": ids, **columns.cells})


def one_row_per_star(columns: Columns) -> Columns:
    """The same spectra with arrays of wavelengths, flux and errors; unchanged where rows have arrays already.

    Stars keep their order, and of their other columns the first value. A row without identifier or wavelength is
    skipped, and all rows of a star that has other wavelengths than most.
    """
    name = columns.source_id_name
    if WAVELENGTH not in columns or not columns.holds_flux or columns.holds_coeffs or name is None:
        return columns
    if (arrays(columns.cells[WAVELENGTH][:1]).lengths > 0).any():
        return columns
    read, wavelength = identifiers(columns.cells[name]), floats(columns.cells[WAVELENGTH])
    skips = Skips(len(columns))
    skips.add_unreadable(name, read)
    skips.add(~read.known, f"no {name}")
    skips.add(~np.isfinite(wavelength), "wavelength is no number: {}", columns.cells[WAVELENGTH])
    stars = _alike(_stars(read.values, wavelength, skips), wavelength, skips)
    first = np.array([rows.min() for rows in stars], dtype=np.int64)
    cells = {other: column[first] for other, column in columns.cells.items()}
    for other in (WAVELENGTH, *SAMPLED_COLUMNS):
        values = floats(columns.cells[other])
        cells[other] = object_array([values[rows] for rows in stars])
    return replace(columns, cells=cells, row_numbers=columns.row_numbers[first], skipped=skips.named(columns))


def _stars(source_id: SourceIds, wavelength: StarArray, skips: Skips) -> list[np.ndarray]:
    """The rows of each star by rising wavelength; of a star that is there twice, those of each copy."""
    frame = pd.DataFrame({"star": source_id, "nm": wavelength})[skips.kept]
    frame["copy"] = frame.groupby(["star", "nm"]).cumcount()
    groups = frame.sort_values("nm", kind="stable").groupby(["star", "copy"], sort=False).groups
    return sorted((rows.to_numpy() for rows in groups.values()), key=np.min)


def _alike(stars: list[np.ndarray], wavelength: StarArray, skips: Skips) -> list[np.ndarray]:
    """Those with the wavelengths that most stars have; the others are skipped, each by its first row."""
    grids = [tuple(wavelength[rows].tolist()) for rows in stars]
    usual, _ = next(iter(Counter(grids).most_common(1)), ((), 0))
    for rows, grid in zip(stars, grids, strict=True):
        if grid != usual:
            skips.add(
                np.arange(len(wavelength)) == rows.min(),
                f"a star of {counted(len(grid), 'wavelength')}; most have {len(usual)}, or others",
            )
    return [rows for rows, grid in zip(stars, grids, strict=True) if grid == usual]


def read_sampled(columns: Columns, source_id: SourceIds, skips: Skips) -> SampledSpectra:
    """Sampled spectra of all rows that can be used.

    Where the table gives the median flux by which flux and errors were divided, it is multiplied back.
    """
    if "xp" in columns:
        raise DataError(
            "holds internally calibrated sampled spectra (column xp, pseudo-wavelengths), which have no "
            "wavelengths; pass the continuous spectra that they were made from"
        )
    grid_nm = column_grid(columns)
    grid_nm = columns.grid_nm if grid_nm is None else grid_nm
    if grid_nm is None or (grid_nm.shape == SAMPLED_GRID_NM.shape and np.allclose(grid_nm, SAMPLED_GRID_NM)):
        grid_nm = SAMPLED_GRID_NM  # the archive's files state none
    flux, errors = (_on_grid(columns, name, skips, grid_nm) for name in ("flux", "flux_error"))
    if MEDIAN_FLUX_NAME in columns:
        median = floats(columns.cells[MEDIAN_FLUX_NAME])[:, None]
        median = np.where(median > 0, median, np.nan)
        with np.errstate(over="ignore", invalid="ignore"):
            flux, errors = flux * median, errors * median
    good = np.isfinite(flux) & np.isfinite(errors) & (errors > 0)
    flags = np.where(good.all(axis=1), 0, Flag.BAD_COEFFS).astype(np.uint16)
    g_flux = read_g_flux(columns)
    g_flux = np.where(g_flux > 0, g_flux, np.nan)
    stars = SampledSpectra(source_id, flux, errors, grid_nm=grid_nm, g_flux=g_flux, flags=flags)
    return stars.take(skips.kept)


def _on_grid(columns: Columns, name: str, skips: Skips, grid_nm: Wavelengths) -> FluxArray:
    read = arrays(columns.cells[name])
    skips.add_unreadable(name, read)
    lengths = read.lengths[read.lengths > 0]
    n_grid = len(grid_nm)
    if len(lengths) and not (lengths == n_grid).any():
        raise DataError(
            f"column {name} holds {counted(lengths[0], 'value')} per star; expected {n_grid} "
            f"({grid_nm[0]:g} to {grid_nm[-1]:g} nm); give the wavelengths of another grid in a column wavelength, in "
            "the metadata as sampling, or in NAME_sampling.csv beside the file"
        )
    return read.matrix(n_grid)
