"""Sampled spectra with a row for each wavelength, as the archive's single downloads are: to a row for each star."""

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd

from scattervae.arrays import SourceIds, StarArray
from scattervae.gaia.files.cells import arrays, floats
from scattervae.gaia.files.columns import SAMPLED_COLUMNS, Columns, object_array
from scattervae.gaia.files.identifiers import identifiers
from scattervae.gaia.files.skips import Skips

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
                f"a star of {len(grid)} wavelengths; most have {len(usual)}, or others",
            )
    return [rows for rows, grid in zip(stars, grids, strict=True) if grid == usual]
