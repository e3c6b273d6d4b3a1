"""What tables say of stars beside their spectra: G flux, labels and which of them to trust, columns of gaia_source."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from jaxtyping import Int64

from scattervae.arrays import SourceIds, StarArray, StarMask
from scattervae.gaia.facts import G_FLUX_NAME, G_MAG_NAMES, LABEL_COLUMNS, NO_LABEL, g_flux_of
from scattervae.gaia.files.cells import integers
from scattervae.gaia.files.columns import Columns
from scattervae.spectra.star_tables import POSITION_COLUMNS, SOURCE_COLUMNS, SourceColumns, StellarLabels

logger = logging.getLogger(__name__)

_ANY_BIT = -1
_POSITION_LIMITS = {"ra": (0.0, 360.0), "dec": (-90.0, 90.0)}


def read_g_flux(columns: Columns) -> StarArray:
    """Mean G flux [electron/s]: the column of it, else from a magnitude, else NaN; never from coefficients.

    Magnitudes are not used where the release's zero point is not known.
    """
    flux, zero_point = columns.numbers(G_FLUX_NAME), columns.release.g_zero_point
    for name in G_MAG_NAMES:
        if name in columns and zero_point is not None:
            from_mag = g_flux_of(columns.numbers(name), zero_point=zero_point)
            flux = np.where(np.isfinite(flux) & (flux > 0), flux, from_mag)
    return flux


def read_labels(columns: Columns, source_id: SourceIds, *, rows: Int64[np.ndarray, " used"]) -> StellarLabels:
    """Labels of these rows, no row where the file has no column of labels."""
    if not any(name in columns for name, _ in LABEL_COLUMNS):
        rows = rows[:0]
    values, errors = (
        np.stack([_label(columns, name)[rows] for name in names], axis=1)
        for names in zip(*LABEL_COLUMNS, strict=True)
    )
    missing = np.isnan(values)
    return StellarLabels(source_id[rows], values, np.where(missing, np.nan, errors))


def _label(columns: Columns, name: str) -> StarArray:
    values = columns.numbers(name)
    return np.where(np.isfinite(values) & (values > NO_LABEL), values, np.nan)


def read_source_columns(
    columns: Columns, source_id: SourceIds, *, rows: Int64[np.ndarray, " used"]
) -> SourceColumns:
    """What the file has of ``gaia_source`` for these rows, nothing where it lacks ra or dec."""
    if not all(name in columns for name in POSITION_COLUMNS):
        return SourceColumns.empty()
    values = {name: columns.numbers(name)[rows] for name in SOURCE_COLUMNS if name in columns}
    for name, (low, high) in _POSITION_LIMITS.items():
        values[name] = np.where((values[name] >= low) & (values[name] <= high), values[name], np.nan)
    return SourceColumns(source_id[rows], values)


def joined_sources(tables: Sequence[SourceColumns]) -> SourceColumns:
    """The rows of all tables, NaN where one lacks a column that another has."""
    if not tables:
        return SourceColumns.empty()
    values = {
        name: np.concatenate([table.values.get(name, np.full(len(table), np.nan)) for table in tables])
        for name in SOURCE_COLUMNS
        if any(name in table.values for table in tables)
    }
    return SourceColumns(np.concatenate([table.source_id for table in tables]), values)


def filled_sources(tables: Sequence[SourceColumns]) -> SourceColumns:
    """A row of each star that any of the tables has; each value from the first that has it."""
    if not tables:
        return SourceColumns.empty()
    stars = np.unique(np.concatenate([table.source_id for table in tables]))
    rows = [joined_sources([table.aligned_to(stars)]).values for table in tables]
    values = {
        name: reduce(lambda first, other: np.where(np.isnan(first), other, first), columns)
        for name in SOURCE_COLUMNS
        if (columns := [row[name] for row in rows if name in row])
    }
    return SourceColumns(stars, values)


@dataclass(frozen=True)
class Cut:
    """A reason not to trust a row's labels: bits that are set, or an error that is too large or missing."""

    name: str  # what the log calls it
    column: str  # the column it looks at, in lower case
    bits: int = 0  # bits of which none may be set
    limit: float | None = None  # what the value may not exceed; without one where `bits` are given

    def drops(self, columns: Columns) -> StarMask:
        """True for the rows that it drops; none where the table lacks the column."""
        if self.column not in columns:
            return np.zeros(len(columns), dtype=bool)
        if self.limit is not None:
            return ~(columns.numbers(self.column) <= self.limit)
        return np.asarray((integers(columns.cells[self.column]).values & self.bits) != 0)


@dataclass(frozen=True)
class AllStar:
    """A kind of table with a row for each star that APOGEE observed, some stars more than once."""

    name: str
    own_columns: frozenset[str]  # in lower case, which no other table of labels has together
    cuts: tuple[Cut, ...]  # what its makers leave out
    best: str  # of a star's rows that with the highest value of this column is used; the lowest after a minus

    def trusted(self, columns: Columns) -> StarMask:
        """True for rows that pass all cuts and have a label; how many others there are goes to the log."""
        trusted = np.ones(len(columns), dtype=bool)
        counts = []
        for cut in self.cuts:
            dropped = cut.drops(columns) & trusted
            counts.append(f"{cut.name} {int(dropped.sum()):,}")
            trusted &= ~dropped
        labelled = np.any([columns.numbers(name) > NO_LABEL for name, _ in LABEL_COLUMNS], axis=0)
        counts.append(f"no label {int((trusted & ~labelled).sum()):,}")
        logger.info("%s: %s rows; left out: %s", self.name, f"{len(columns):,}", ", ".join(counts))
        return np.asarray(trusted & labelled)

    def worth(self, columns: Columns) -> StarArray:
        """How good each row is beside others of the same star."""
        name = self.best.removeprefix("-")
        values = columns.numbers(name)
        return np.asarray(np.nan_to_num(-values if self.best.startswith("-") else values, nan=-np.inf))


ALLSTARS = (
    AllStar(
        name="APOGEE allStar",
        own_columns=frozenset({"aspcapflag", "starflag", "teff"}),
        cuts=(
            Cut("STAR_BAD", "aspcapflag", bits=2**23),
            Cut("M_H_BAD", "aspcapflag", bits=2**19),
            Cut("STARFLAG", "starflag", bits=_ANY_BIT),
        ),
        best="snr",
    ),
    AllStar(
        name="astroNN's APOGEE catalogue",
        own_columns=frozenset({"apogee_id", "nn_parallax", "teff"}),
        cuts=(
            Cut("TEFF_ERR above 100 K", "teff_err", limit=100.0),
            Cut("LOGG_ERR above 0.2 dex", "logg_err", limit=0.2),
            Cut("FE_H_ERR above 0.2 dex", "fe_h_err", limit=0.2),
        ),
        best="-logg_err",
    ),
)
"""SDSS DR17's ``allStar`` (also ``allStarLite``) and astroNN's value-added catalogue ``apogee_astroNN-DR17.fits``.

The rows that allStar marks as repeats of a star (bit 4 of ``EXTRATARG``) are not left out by that mark: it spares
the row with the highest SNR, which may be the one that a cut drops.

Source:
    allStar: the cuts are those of Leung & Bovy (2024), arXiv:2308.10944, github.com/henrysky/astroNN_stars_foundation,
    Dataset_Reduction.ipynb; the bits those of sdss4.org/dr17/irspec/apogee-bitmasks; the mark that of
    github.com/sdss/apogee, ``add_extratarg``. astroNN: the cuts of its makers' own diagnostic figures,
    github.com/henrysky/astroNN_APOGEE_VAC, 6_diagnostic_plots.py; columns by 5_compile_vac.py there.
"""


def allstar_of(names: Sequence[str]) -> AllStar | None:
    """Which of APOGEE's tables has these columns, if any."""
    lower = {name.strip().lower() for name in names}
    return next((table for table in ALLSTARS if table.own_columns <= lower), None)


def label_flags() -> frozenset[str]:
    """The columns, in lower case, that any cut looks at."""
    return frozenset(cut.column for table in ALLSTARS for cut in table.cuts)
