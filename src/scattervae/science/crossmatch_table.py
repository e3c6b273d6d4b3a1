"""The answer of a crossmatch: stars beside rows of a list, with units, as a parquet file or a HATS catalogue."""

import json
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from scattervae.errors import DataError
from scattervae.files import write_digests, written_file
from scattervae.science.lists import ROW, SEPARATION, SkyList
from scattervae.spectra.columns import described
from scattervae.spectra.hats import SPATIAL_INDEX, HatsFolder, read_table
from scattervae.spectra.tables import written_table

if TYPE_CHECKING:
    from lsdb.catalog.catalog import Catalog

NOTE = "scattervae.crossmatch"
_OWN_PROPERTIES = "scattervae_"


def carried(stars: HatsFolder) -> list[str]:
    """The catalogue's columns that go into the answer: one value a star, none that the answer adds."""
    added = (SPATIAL_INDEX, ROW, SEPARATION)
    return [f.name for f in stars.schema if f.name not in added and not pa.types.is_nested(f.type)]


def list_suffix(stars: HatsFolder, rows: SkyList) -> str:
    """What goes behind a name of the list that the catalogue has too: ``_list``, or ``_list2`` where that is taken."""
    own, theirs = set(carried(stars)), set(rows.table.column_names)
    suffixes = chain(("_list",), (f"_list{n}" for n in count(2)))
    return next(s for s in suffixes if not {name + s for name in own & theirs} & (own | theirs))


def answer_schema(
    stars: HatsFolder, rows: SkyList, about: Mapping[str, Any], *, hidden: Collection[str], separation: bool
) -> pa.Schema:
    """The star's columns, then the list's, with `list_suffix` behind a name that both have, then the separation.

    Args:
        stars: The catalogue.
        rows: The list.
        about: How the answer came about, for the metadata.
        hidden: Columns of the list that stay behind.
        separation: The answer has the angle of each pair.
    """
    suffix = list_suffix(stars, rows)
    own = carried(stars)
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
    return pa.schema(fields, metadata={NOTE: json.dumps({**origin, **about}), **notes})


def write_answer(pairs: "Catalog", schema: pa.Schema, out: Path) -> pa.ChunkedArray:
    """Compute the pairs and write them; gives which row of the list each is of.

    Args:
        pairs: LSDB's answer, not computed yet.
        schema: Its columns as they are to be written.
        out: A file of the form that its suffix says; without one, the folder of a HATS catalogue.

    Raises:
        DataError: There is no pair; nothing is written.
    """
    with no_pair_named(out):
        if out.suffix:
            return _write_file(pairs, schema, out)
        return _write_folder(pairs, schema, out)


@contextmanager
def no_pair_named(out: Path) -> Iterator[None]:
    """Say in one line that there is no pair, be it found at once, as where the two share no sky, or at the end."""
    try:
        yield
    except (_NothingError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "do not overlap" not in str(error):
            raise
        raise DataError(f"{out}: not written, since no star of the catalogue is in the list") from error


class _NothingError(Exception):
    """There is no pair."""


def _write_file(pairs: "Catalog", schema: pa.Schema, out: Path) -> pa.ChunkedArray:
    """One file; the answer is held in memory."""
    frame = pairs.compute(progress_bar=False)
    if len(frame) == 0:
        raise _NothingError
    table = pa.Table.from_pandas(frame[schema.names], preserve_index=False).cast(schema)
    with written_table(out) as partial:
        pq.write_table(table, partial, compression="zstd", write_page_checksum=True)
    return table[ROW]


def _write_folder(pairs: "Catalog", schema: pa.Schema, out: Path) -> pa.ChunkedArray:
    """A HATS catalogue by LSDB's own writer, partition by partition; units go to the file of its schema."""
    with written_file(out) as partial:
        shutil.rmtree(partial, ignore_errors=True)
        notes = {key.decode(): value.decode() for key, value in schema.metadata.items()}
        try:
            pairs[schema.names].write_catalog(
                partial,
                catalog_name=out.name,
                as_collection=False,
                progress_bar=False,
                addl_hats_properties=notes,
            )
        except RuntimeError as error:  # LSDB's word for a catalogue without rows
            shutil.rmtree(partial, ignore_errors=True)
            raise _NothingError from error
        file = partial / "dataset" / "_common_metadata"
        written = pq.read_schema(file)
        fields = [schema.field(f.name) if f.name in schema.names else f for f in written]
        pq.write_metadata(pa.schema(fields, metadata=schema.metadata), file)
        write_digests(partial, [file for file in partial.rglob("*") if file.is_file()])
    files = sorted((out / "dataset").glob("Norder=*/Dir=*/Npix=*"))
    return pa.chunked_array([chunk for f in files for chunk in read_table(f, [ROW])[ROW].chunks])
