"""Which stars of a catalogue are in a list, by position or by source_id: LSDB's answer, described and written.

LSDB reads only those partitions of the catalogue that the list reaches, one by one, here or on a cluster.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from scattervae.errors import DataError, RecipeError, StoreError, counted
from scattervae.files import sole_writer
from scattervae.science.cluster import dask_client
from scattervae.science.crossmatch_table import (
    answer_schema,
    carried,
    list_suffix,
    no_pair_named,
    write_answer,
)
from scattervae.science.lists import SEPARATION, SkyList, read_list
from scattervae.spectra.hats import HatsFolder, Positions, pixel_centres
from scattervae.spectra.star_tables import ids_hold_pixels
from scattervae.spectra.tables import require_form

if TYPE_CHECKING:
    from lsdb.catalog.catalog import Catalog

LARGEST_RADIUS = 600.0
"""The widest match by position [arcsec]: LSDB's margins must be narrower than its smallest partition."""
ID_MARGIN = 120.0
"""How far [arcsec] a star may lie from the centre of the order-12 pixel in its source_id and be found by it.

The corner of such a pixel is up to 50 arcsec from its centre, and stars have moved since they were given their
source_id, the fastest by 10 arcsec a year.

Source:
    Gaia DR3 documentation, sect. 20.1.1, ``source_id``.
"""
_LEAST_MARGIN = 60.0
"""LSDB walks along the borders of partitions in steps of the margin: one of 1 arcsec would take minutes."""
_KEY = "source_id"
_PLACE = ("_list_ra", "_list_dec")  # where source_ids say that the rows of a list are
_DISTANCE = "_dist_arcsec"  # LSDB's name for the separation
_ROWS_A_PARTITION = 200_000
_HIGHEST_ORDER = 5


@dataclass(frozen=True)
class ByPosition:
    """Each star gets the nearest row of the list within the radius.

    Attributes:
        radius: In arcsec, above 0 and up to `LARGEST_RADIUS`.
        ra: The list's column of right ascension [deg]; guessed where None.
        dec: The list's column of declination [deg]; guessed where None.
    """

    radius: float = 1.0
    ra: str | None = None
    dec: str | None = None


@dataclass(frozen=True)
class ById:
    """Each star gets every row of the list with its source_id.

    Attributes:
        column: The list's column of Gaia source_ids.
    """

    column: str = _KEY


@dataclass(frozen=True)
class Crossmatch:
    """What was found.

    Attributes:
        path: The file or HATS folder written.
        n_list: Rows of the list with a position or source_id.
        n_without: Rows of the list without one.
        n_pairs: Rows written, each a star with a row of the list.
        n_matched: Rows of the list that some star was paired with.
        n_shared: Those of them that several stars were paired with.
        left_out: Columns of the list that stayed behind, such as arrays.
    """

    path: Path
    n_list: int
    n_without: int
    n_pairs: int
    n_matched: int
    n_shared: int
    left_out: tuple[str, ...]


def crossmatch(
    catalogue: str | Path,
    listing: str | Path,
    out: str | Path,
    how: ByPosition | ById,
    *,
    scheduler: str | None = None,
) -> Crossmatch:
    """Write the stars of a catalogue that are in a list, with the list's columns beside theirs.

    By position this is LSDB's ``Catalog.crossmatch`` with one neighbour, the list having a margin as wide as
    the radius at least, so that pairs across the borders of partitions are found. By source_id it is ``Catalog.join``,
    which pairs rows of the same part of the sky only: the list is laid out by the pixels that its source_ids
    name, with a margin of `ID_MARGIN`. (LSDB's ``id_search`` would need an index catalogue beside each store.)
    No motion is applied: positions of list and catalogue are compared as they are.

    Args:
        catalogue: A store or an encoded catalogue, laid out as HATS. Its columns of arrays stay behind.
        listing: A table file or HATS folder; held in memory, so of millions of rows at most.
        out: A file of the form that its suffix says; without one, the folder of a HATS catalogue.
        how: By position or by source_id.
        scheduler: Address of a Dask scheduler; threads of this process where None.

    Raises:
        StoreError: The catalogue is none, or its positions are too coarse for a match by position.
        DataError: The list cannot be read or lacks the columns, or no star is in it; or `out` has another suffix.
        BusyError: Another run writes to `out`.
        RecipeError: LSDB is not installed, the radius is out of range, or no scheduler answers.
    """
    out = Path(out)
    require_form(out, folders=True)
    stars = HatsFolder.read(catalogue)
    _check(stars, how)
    everything = read_list(Path(listing))
    if isinstance(how, ById):
        how = ById(everything.column(how.column, option="--by-id"))
        rows, place, margin, hidden = _placed_by_id(everything, how), _PLACE, ID_MARGIN, {*_PLACE, _KEY}
    else:
        place, margin, hidden = everything.positions(how.ra, how.dec), max(how.radius, _LEAST_MARGIN), set()
        rows = everything.with_positions(*place)
    if len(rows) == 0:
        raise DataError(
            f"{rows.path}: none of its {counted(len(everything), 'row')} can be placed on the sky"
        )
    with sole_writer(out), _lsdb_on(scheduler) as lsdb:
        about = {"by": vars(how), "lsdb": lsdb.__version__, "credit": "ESA/Gaia/DPAC"}
        schema = answer_schema(stars, rows, about, hidden=hidden, separation=isinstance(how, ByPosition))
        left = lsdb.open_catalog(str(stars.path), columns=carried(stars))
        right = _laid_out(lsdb, rows, place, margin=margin)
        with no_pair_named(out):
            pairs = _pairs(left, right, how, suffix=list_suffix(stars, rows))
            row = write_answer(pairs, schema, out)
    _, times = np.unique(row.to_numpy(), return_counts=True)
    return Crossmatch(
        path=out,
        n_list=len(rows),
        n_without=len(everything) - len(rows),
        n_pairs=len(row),
        n_matched=len(times),
        n_shared=int((times > 1).sum()),
        left_out=rows.left_out,
    )


def _check(stars: HatsFolder, how: ByPosition | ById) -> None:
    if isinstance(how, ById):
        if _KEY not in stars.schema.names:
            raise StoreError(f"{stars.path}: has no column {_KEY}; match it by position")
        if not ids_hold_pixels(stars.properties):
            raise StoreError(
                f"{stars.path}: source_ids of its release are not documented to say where a star is, which a match by "
                "them goes by; match by position"
            )
        return
    if stars.positions is not Positions.MEASURED:
        raise StoreError(
            f"{stars.path}: positions are {stars.positions.value}; "
            "ingest with --sources to match by position, or match with --by-id"
        )
    if not 0 < how.radius <= LARGEST_RADIUS:
        raise RecipeError(f"--radius {how.radius:g}: expected arcsec above 0 and up to {LARGEST_RADIUS:g}")


def _placed_by_id(everything: SkyList, how: ById) -> SkyList:
    """The rows that have a source_id, with the position that it says."""
    rows = everything.with_ids(how.column)
    table = rows.table
    for name, centre in zip(_PLACE, pixel_centres(table[how.column].to_numpy()), strict=True):
        table = table.append_column(name, pa.array(centre))
    return SkyList(rows.path, table, rows.left_out)


@contextmanager
def _lsdb_on(scheduler: str | None) -> Iterator[ModuleType]:
    """LSDB, computing on this scheduler, or on threads of this process; its warnings are for those who call it."""
    try:
        import dask
        import lsdb
    except ImportError as error:
        raise RecipeError("a crossmatch needs LSDB; pip install 'scattervae[cluster]'") from error
    on = dask.config.set(scheduler="threads") if scheduler is None else dask_client(scheduler, workers=0)
    with warnings.catch_warnings(), on:
        warnings.simplefilter("ignore")
        yield lsdb


def _laid_out(lsdb: ModuleType, rows: SkyList, place: tuple[str, str], *, margin: float) -> "Catalog":
    """The list as a catalogue of LSDB's; every partition also has the rows within `margin` arcsec of it."""
    import pandas as pd

    catalogue: Catalog = lsdb.from_dataframe(
        rows.table.to_pandas(types_mapper=pd.ArrowDtype),
        ra_column=place[0],
        dec_column=place[1],
        highest_order=_HIGHEST_ORDER,
        partition_rows=_ROWS_A_PARTITION,
        margin_threshold=margin,
        catalog_name="list",
    )
    return catalogue


def _pairs(left: "Catalog", right: "Catalog", how: ByPosition | ById, *, suffix: str) -> "Catalog":
    naming: dict[str, Any] = {
        "suffixes": ("", suffix),
        "suffix_method": "overlapping_columns",
        "log_changes": False,
    }
    if isinstance(how, ById):
        return left.join(right, left_on=_KEY, right_on=how.column, **naming)
    matched = left.crossmatch(
        right, n_neighbors=1, radius_arcsec=how.radius, require_right_margin=True, **naming
    )
    return matched.rename({_DISTANCE: SEPARATION})
