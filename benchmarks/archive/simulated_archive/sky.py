"""Where the stars of a bulk file are: a run of HEALPix pixels, source_ids that name them, positions in them."""

from dataclasses import dataclass

import numpy as np
from cdshealpix.nested import healpix_to_lonlat

N_STARS_DR3 = 219_197_643
N_SOURCES_DR3 = 1_811_709_771
N_FILES_DR3 = 3_386
N_PIXELS = 12 * 4**8
"""Rows of Gaia DR3's xp_continuous_mean_spectrum and gaia_source, the files of each, and the order-8 pixels that
they are cut along.

Source:
    Gaia DR3 documentation; the archive's lists of files.
"""
PIXELS_A_FILE = N_PIXELS // N_FILES_DR3
STARS_A_FILE = round(N_STARS_DR3 / N_FILES_DR3)
SOURCES_A_STAR = N_SOURCES_DR3 / N_STARS_DR3

_ORDER_29_IN_8, _ORDER_29_IN_12 = 2 * (29 - 8), 2 * (29 - 12)
_IDS_A_PIXEL = 35  # bits of a source_id below its order-12 pixel
_COMPONENT = 7  # bits of those below the running number


@dataclass(frozen=True)
class FileRange:
    """The order-8 pixels (nested) of one file of each product."""

    first: int
    last: int

    @property
    def stem(self) -> str:
        """The end of the files' names."""
        return f"{self.first:06d}-{self.last:06d}"


@dataclass(frozen=True)
class Placed:
    """Sources in the order of their source_ids."""

    source_id: np.ndarray
    ra: np.ndarray
    dec: np.ndarray

    def __len__(self) -> int:
        return len(self.source_id)

    def take(self, rows: np.ndarray | slice) -> "Placed":
        """The sources of these rows: a mask or a slice."""
        return Placed(self.source_id[rows], self.ra[rows], self.dec[rows])


def file_range(index: int) -> FileRange:
    """The pixels of the file of this number, from the start of the sky at DR3's mean density."""
    first = index * PIXELS_A_FILE
    return FileRange(first, first + PIXELS_A_FILE - 1)


def place(pixels: FileRange, n: int, rng: np.random.Generator) -> Placed:
    """`n` sources, evenly over the pixels; the high bits of a source_id are the order-12 pixel it is in."""
    low, high = (edge << _ORDER_29_IN_8 for edge in (pixels.first, pixels.last + 1))
    index = np.sort(rng.integers(low, high, n))
    ra, dec = healpix_to_lonlat(index, 29)
    number = np.arange(1, n + 1) << _COMPONENT
    source_id = ((index >> _ORDER_29_IN_12) << _IDS_A_PIXEL) | number
    return Placed(source_id, ra.to_value("deg"), dec.to_value("deg"))
