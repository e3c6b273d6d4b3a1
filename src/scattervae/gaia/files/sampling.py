"""The wavelengths of sampled spectra: stated in a file's metadata, in a column, or in a file beside it."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from scattervae.arrays import Wavelengths
from scattervae.errors import DataError
from scattervae.gaia.files.cells import arrays
from scattervae.gaia.files.columns import Columns, object_array

_NAMES = ("sampling", "pos", "wavelength")  # as GaiaXPy's writers, its companion file, and people name it


def stated_grid(metadata: Mapping[str, object]) -> Wavelengths | None:
    """The wavelengths [nm] in a table's metadata, None where there are none.

    Source:
        GaiaXPy, ``output.sampled_spectra_data``: ``sampling`` in ECSV and VOTable, ``SAMPLING`` in FITS.
    """
    by_name = {str(key).strip().lower(): value for key, value in metadata.items()}
    for name in _NAMES:
        if name in by_name:
            return grid_of(by_name[name])
    return None


def companion_grid(path: Path) -> Wavelengths | None:
    """The wavelengths in ``NAME_sampling.csv`` beside a file, as GaiaXPy writes it; None where there is none.

    Raises:
        DataError: It holds no list of wavelengths.
    """
    companion = path.with_name(f"{path.name.split('.')[0]}_sampling.csv")
    if not companion.is_file() or companion == path:
        return None
    lines = companion.read_text(encoding="utf-8", errors="replace").splitlines()
    grid = grid_of(lines[1].strip().strip('"')) if len(lines) == 2 else None
    if grid is None and len(lines) > 2:  # a wavelength a line, below a name
        grid = grid_of(f"[{','.join(line.strip() for line in lines[1:])}]")
    if grid is None:
        raise DataError(
            f"{companion.name} beside it holds no list of wavelengths [nm]; mend it or take it away"
        )
    return grid


def column_grid(columns: Columns) -> Wavelengths | None:
    """The wavelengths in a column of arrays, the same in all rows; None where there is no such column.

    Raises:
        DataError: Rows differ, or hold no rising wavelengths.
    """
    if "wavelength" not in columns:
        return None
    read = arrays(columns.cells["wavelength"])
    present = np.flatnonzero(read.lengths > 0)
    if len(present) == 0:
        return None
    first = np.asarray(read.rows[int(present[0])])
    for row in present[1:].tolist():
        if not np.array_equal(first, np.asarray(read.rows[row])):
            raise DataError(
                f"rows {int(columns.row_numbers[present[0]])} and {int(columns.row_numbers[row])} have other "
                "wavelengths; pass stars of different sampling as files of their own"
            )
    grid = grid_of(first)
    if grid is None:
        raise DataError("column wavelength holds no rising list of wavelengths [nm]")
    return grid


def grid_of(value: object) -> Wavelengths | None:
    """Rising, finite wavelengths from an array, a list or its text; None from anything else."""
    cell = value if isinstance(value, str) else np.asarray(value)
    grid = arrays(object_array([cell])).rows[0]
    if grid is None or grid.ndim != 1 or len(grid) < 2:
        return None
    if not np.isfinite(grid).all() or not (np.diff(grid) > 0).all():
        return None
    return np.asarray(grid, dtype=np.float64)
