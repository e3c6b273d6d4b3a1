"""Which stars of a catalogue are in a list, by position or by source_id: LSDB's answer, described and written.

LSDB reads only those partitions of the catalogue that the list reaches, one by one, here or on a cluster. The answer
has stars beside rows of the list, with units, as one file or a HATS catalogue.
"""

import json
import shutil
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from scattervae.errors import DataError, RecipeError, StoreError, counted
from scattervae.files import CREDIT, sole_writer, write_digests, written_file
from scattervae.science.catalogue.dask import dask_client
from scattervae.science.lists import ROW, SEPARATION, SkyList, read_list
from scattervae.spectra.columns import described
from scattervae.spectra.hats import SPATIAL_INDEX, HatsFolder, Positions, pixel_centres, read_table
from scattervae.spectra.star_tables import ids_hold_pixels
from scattervae.spectra.tables import require_form, result_schema, write_table

if TYPE_CHECKING:
    from lsdb.catalog.catalog import Catalog

NOTE = "scattervae.crossmatch"
_OWN_PROPERTIES = "scattervae_"
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
_POSITION = ("_list_ra", "_list_dec")  # where source_ids say that the rows of a list are
_DISTANCE = "_dist_arcsec"  # LSDB's name for the separation
_ROWS_A_PARTITION = 200_000
_HIGHEST_ORDER = 5


@dataclass(frozen=True)
class ByPosition:
    """Each star gets the nearest row of the list within the radius."""

    radius: float = 1.0  # in arcsec, above 0 and up to `LARGEST_RADIUS`
    ra: str | None = None  # the list's column of right ascension [deg]; guessed where None
    dec: str | None = None  # the list's column of declination [deg]; guessed where None


@dataclass(frozen=True)
class ById:
    """Each star gets every row of the list with its source_id."""

    column: str = _KEY  # the list's column of Gaia source_ids


@dataclass(frozen=True)
class Crossmatch:
    """What was found, and written to a file or HATS folder."""

    path: Path  # of that
    n_list: int  # rows of the list with a position or source_id
    n_without: int  # rows of the list without one
    n_pairs: int  # rows written, each a star with a row of the list
    n_matched: int  # rows of the list that some star was paired with
    n_shared: int  # those of them that several stars were paired with
    dropped_columns: tuple[str, ...]  # columns of the list that stayed behind, such as arrays


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
        rows, position = _placed_by_id(everything, how), _POSITION
        margin, hidden = ID_MARGIN, {*_POSITION, _KEY}
    else:
        position = everything.positions(how.ra, how.dec)
        margin, hidden = max(how.radius, _LEAST_MARGIN), set()
        rows = everything.with_positions(*position)
    if len(rows) == 0:
        raise DataError(
            f"{rows.path}: none of its {counted(len(everything), 'row')} can be placed on the sky"
        )
    with sole_writer(out), _lsdb_on(scheduler) as lsdb:
        about = {"by": vars(how), "lsdb": lsdb.__version__, "credit": CREDIT}
        schema = _answer_schema(stars, rows, about, hidden=hidden, separation=isinstance(how, ByPosition))
        left = lsdb.open_catalog(str(stars.path), columns=_carried(stars))
        right = _laid_out(lsdb, rows, position, margin=margin)
        try:
            pairs = _pairs(left, right, how, suffix=_list_suffix(stars, rows))
            row = _write_file(pairs, schema, out) if out.suffix else _write_folder(pairs, schema, out)
        except RuntimeError as error:
            if "do not overlap" not in str(error):
                raise
            raise _no_pair(out) from error
    _, times = np.unique(row.to_numpy(), return_counts=True)
    return Crossmatch(
        path=out,
        n_list=len(rows),
        n_without=len(everything) - len(rows),
        n_pairs=len(row),
        n_matched=len(times),
        n_shared=int((times > 1).sum()),
        dropped_columns=rows.dropped_columns,
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
    for name, centre in zip(_POSITION, pixel_centres(table[how.column].to_numpy()), strict=True):
        table = table.append_column(name, pa.array(centre))
    return SkyList(rows.path, table, rows.dropped_columns)


@contextmanager
def _lsdb_on(scheduler: str | None) -> Iterator[ModuleType]:
    """LSDB, computing on this scheduler, or on threads of this process; its warnings are for those who call it."""
    try:
        import dask
        import lsdb
    except ImportError as error:
        raise RecipeError(
            "a crossmatch needs LSDB; in the checkout of scattervae: pip install '.[cluster]'"
        ) from error
    on = dask.config.set(scheduler="threads") if scheduler is None else dask_client(scheduler, workers=0)
    with warnings.catch_warnings(), on:
        warnings.simplefilter("ignore")
        yield lsdb


def _laid_out(lsdb: ModuleType, rows: SkyList, position: tuple[str, str], *, margin: float) -> "Catalog":
    """The list as a catalogue of LSDB's; every partition also has the rows within `margin` arcsec of it."""
    import pandas as pd

    catalogue: Catalog = lsdb.from_dataframe(
        rows.table.to_pandas(types_mapper=pd.ArrowDtype),
        ra_column=position[0],
        dec_column=position[1],
        highest_order=_HIGHEST_ORDER,
        partition_rows=_ROWS_A_PARTITION,
        margin_threshold=margin,
        catalog_name="list",
    )
    return catalogue


def _pairs(left: "Catalog", right: "Catalog", how: ByPosition | ById, *, suffix: str) -> "Catalog":
    naming: dict[str, Any] = {"suffixes": ("", suffix), "suffix_method": "overlapping_columns"}
    naming["log_changes"] = False
    if isinstance(how, ById):
        return left.join(right, left_on=_KEY, right_on=how.column, **naming)
    matched = left.crossmatch(
        right, n_neighbors=1, radius_arcsec=how.radius, require_right_margin=True, **naming
    )
    return matched.rename({_DISTANCE: SEPARATION})


def _carried(stars: HatsFolder) -> list[str]:
    """The catalogue's columns that go into the answer: one value a star, none that the answer adds."""
    added = (SPATIAL_INDEX, ROW, SEPARATION)
    return [f.name for f in stars.schema if f.name not in added and not pa.types.is_nested(f.type)]


def _list_suffix(stars: HatsFolder, rows: SkyList) -> str:
    """What goes behind a name of the list that the catalogue has too: ``_list``, or ``_list2`` where that is taken."""
    own, theirs = set(_carried(stars)), set(rows.table.column_names)
    suffixes = chain(("_list",), (f"_list{n}" for n in count(2)))
    return next(s for s in suffixes if not {name + s for name in own & theirs} & (own | theirs))


def _answer_schema(
    stars: HatsFolder, rows: SkyList, about: Mapping[str, Any], *, hidden: Collection[str], separation: bool
) -> pa.Schema:
    """The star's columns, then the list's but the `hidden`, with `_list_suffix` behind a name that both have."""
    suffix = _list_suffix(stars, rows)
    own = _carried(stars)
    theirs = [field for field in rows.table.schema if field.name not in hidden]
    fields = [
        *(stars.schema.field(name) for name in own),
        *(f.with_name(f.name + suffix) if f.name in own else f for f in theirs),
    ]
    if separation:
        text = "angle between the star and the row of the list"
        fields.append(described(SEPARATION, pa.float64(), "arcsec", text))
    origin = {"catalogue": stars.properties.get("obs_collection", stars.path.name), "list": rows.path.name}
    notes = {key: value for key, value in stars.properties.items() if key.startswith(_OWN_PROPERTIES)}
    return result_schema(fields, {NOTE: json.dumps({**origin, **about}), **notes})


def _no_pair(out: Path) -> DataError:
    return DataError(f"{out}: not written, since no star of the catalogue is in the list")


def _write_file(pairs: "Catalog", schema: pa.Schema, out: Path) -> pa.ChunkedArray:
    """One file, made in memory; gives which row of the list each pair is of."""
    frame = pairs.compute(progress_bar=False)
    if len(frame) == 0:
        raise _no_pair(out)
    table = pa.Table.from_pandas(frame[schema.names], preserve_index=False).cast(schema)
    write_table(table, out)
    return table[ROW]


def _write_folder(pairs: "Catalog", schema: pa.Schema, out: Path) -> pa.ChunkedArray:
    """A HATS catalogue by LSDB's own writer, partition by partition; units go to the file of its schema."""
    with written_file(out) as partial:
        shutil.rmtree(partial, ignore_errors=True)
        notes = {key.decode(): value.decode() for key, value in schema.metadata.items()}
        try:
            options: dict[str, Any] = {"as_collection": False, "progress_bar": False}
            options["addl_hats_properties"] = notes
            pairs[schema.names].write_catalog(partial, catalog_name=out.name, **options)
        except RuntimeError as error:  # LSDB's word for a catalogue without rows
            shutil.rmtree(partial, ignore_errors=True)
            raise _no_pair(out) from error
        file = partial / "dataset" / "_common_metadata"
        written = pq.read_schema(file)
        fields = [schema.field(f.name) if f.name in schema.names else f for f in written]
        pq.write_metadata(pa.schema(fields, metadata=schema.metadata), file)
        write_digests(partial, [file for file in partial.rglob("*") if file.is_file()])
    files = sorted((out / "dataset").glob("Norder=*/Dir=*/Npix=*"))
    return pa.chunked_array([chunk for f in files for chunk in read_table(f, [ROW])[ROW].chunks])
