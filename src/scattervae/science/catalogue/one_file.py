"""A catalogue as one file, in the stars' order; a run that is stopped resumes where it was."""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64

from scattervae.errors import DISK_FULL, DataError, StoreError
from scattervae.files import sole_writer, write_json, written_file
from scattervae.model.checkpoint import BATCH, Checkpoint
from scattervae.parallel import reading_threads
from scattervae.science.catalogue.encoding import (
    CatalogueSummary,
    Chunk,
    catalogue_schema,
    chunks_of,
    once_each,
    rows_of,
)
from scattervae.spectra.columns import StoredSpectra
from scattervae.spectra.hats import parquet_writer, read_table
from scattervae.spectra.spectra import Spectra
from scattervae.spectra.store import SpectrumStore
from scattervae.spectra.tables import require_form, written_table

logger = logging.getLogger(__name__)

ROWS_A_GROUP = 16 * BATCH
IDENTITY = "identity.json"
_DONE = "part-*.parquet"


def write_catalogue(
    checkpoint: Checkpoint,
    stars: SpectrumStore | Iterable[Spectra],
    out: str | Path,
    *,
    stars_digest: str = "",
    progress: Callable[[int], None] | None = None,
) -> CatalogueSummary:
    """Write the catalogue of any number of stars to one file: parquet, FITS, VOTable, ECSV or csv by its suffix.

    The bytes of the file do not depend on how the stars arrived. A run that is stopped leaves ``OUT.parts/``;
    the same call again, of stars that are identified, resumes where it was. Of several
    rows of a star all but the first are flagged ``DUPLICATE``.

    Args:
        stars: A store, which is read by several threads, or the stars chunk by chunk.
        stars_digest: What identifies the stars: a partial catalogue of others is not gone on with. A store
            brings its own; without it a stopped run begins again.
        progress: Called with the number of stars done so far.

    Raises:
        DataError: The spectra are of another basis than the model's, or `out` has another suffix.
        StoreError: The disk is full, or the store cannot be read.
        BusyError: Another run writes to `out`.

    Example:
        >>> import scattervae as sv
        >>> store = sv.SpectrumStore("store")
        >>> summary = sv.write_catalogue(sv.load_model("model"), store, "catalogue.parquet")
        >>> summary.n_stars, summary.n_encoded
        (220, 220)
    """
    chunks = chunks_of(checkpoint, stars)
    if isinstance(stars, SpectrumStore):
        stars_digest = stars_digest or stars.digest
    else:
        chunks = once_each(chunks)
    return write_chunks(checkpoint, chunks, out, stars_digest=stars_digest, progress=progress)


def write_chunks(
    checkpoint: Checkpoint,
    chunks: Iterable[Chunk],
    out: str | Path,
    *,
    stars_digest: str = "",
    progress: Callable[[int], None] | None = None,
) -> CatalogueSummary:
    """The same as `write_catalogue`, of chunks that are read when they are encoded."""
    out = Path(out)
    require_form(out)
    schema = catalogue_schema(checkpoint)
    identity = identity_of(checkpoint, schema, stars_digest)
    with resumable(out, identity if stars_digest else None, _DONE) as unfinished:
        n_done = _n_done(unfinished)
        rest = _after(chunks, n_done * ROWS_A_GROUP)
        rows = (batch for _, batch in rows_of(checkpoint, rest, threads=reading_threads()))
        for index, group in enumerate(_groups(rows, schema), start=n_done):
            with written_file(unfinished / f"part-{index:05d}.parquet") as partial_file:
                write_rows(partial_file, group)
            if progress is not None:
                progress(index * ROWS_A_GROUP + len(group))
        summary = _join(sorted(unfinished.glob(_DONE)), schema, out, n_resumed=n_done * ROWS_A_GROUP)
        shutil.rmtree(unfinished, ignore_errors=True)
    return summary


def write_rows(path: Path, table: pa.Table) -> None:
    """Write rows of a catalogue; the bytes do not depend on the chunks that the table was put together from."""
    with parquet_writer(path, table.schema) as writer:
        writer.write_table(table.combine_chunks(), row_group_size=ROWS_A_GROUP)


@contextmanager
def resumable(out: Path, identity: dict[str, str] | None, done: str) -> Iterator[Path]:
    """The folder ``OUT.parts`` of an output on its way, with what an earlier run of the same left; no other run writes.

    On an error the folder stays where a file that `done` matches is finished, and the input was not at fault.

    Args:
        identity: What it is made from and how; one without is always begun afresh.
        done: Pattern of the names of finished files.

    Raises:
        StoreError: The disk is full.
        BusyError: Another run writes to `out`.
    """
    folder = out.with_name(out.name + ".parts")
    note = folder / IDENTITY
    with sole_writer(out):
        try:
            begun = note.is_file() and json.loads(note.read_text(encoding="utf-8"))
            if identity is None or begun != identity:
                if begun:
                    logger.warning("%s: was begun with another model or other stars; started afresh", folder)
                shutil.rmtree(folder, ignore_errors=True)
                write_json(note, identity)
            begins = (
                "begins" if next(folder.glob(done), None) is None else f"resumes from what is in {folder}"
            )
            model = f", model {identity['model']}" if identity else ""
            logger.info("%s: %s%s", out, begins, model)
            yield folder
            logger.info("%s: whole", out)
        except BaseException as error:
            if isinstance(error, DataError) or next(folder.glob(done), None) is None:
                shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, OSError) and error.errno in DISK_FULL:
                raise StoreError(
                    f"{folder}: the disk is full; what is written is kept: free some space, and the same command "
                    "resumes"
                ) from error
            raise


def identity_of(checkpoint: Checkpoint, schema: pa.Schema, stars_digest: str) -> dict[str, str]:
    """What an unfinished catalogue is of: model, stars, and columns with the versions of the software."""
    columns = hashlib.sha256(schema.serialize()).hexdigest()
    return {"model": checkpoint.digest, "stars": stars_digest, "columns": columns}


def _n_done(unfinished: Path) -> int:
    """How many whole groups are there already; what is not whole goes."""
    done = sorted(unfinished.glob(_DONE))
    whole = [group for group in done if pq.read_metadata(group).num_rows == ROWS_A_GROUP]
    for group in done[len(whole) :]:
        group.unlink()
    return len(whole)


def _after(chunks: Iterable[Chunk], n_rows: int) -> Iterator[Chunk]:
    """The chunks without their first rows; what is not needed of a store is not read."""
    for chunk in chunks:
        n_left = min(max(chunk.n_rows - n_rows, 0), chunk.n_rows)
        n_rows -= chunk.n_rows - n_left
        if n_left == chunk.n_rows:
            yield chunk
        elif n_left:
            rows = np.arange(chunk.n_rows - n_left, chunk.n_rows)
            yield chunk._replace(n_rows=n_left, read=partial(_taken, chunk.read, rows))


def _taken(read: Callable[[], StoredSpectra], rows: Int64[np.ndarray, " row"]) -> StoredSpectra:
    return read().take(rows)


def _groups(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.Table]:
    """The same rows, `ROWS_A_GROUP` at a time; the last group holds what is left."""
    waiting = schema.empty_table()
    for batch in batches:
        waiting = pa.concat_tables([waiting, pa.Table.from_batches([batch])])
        while len(waiting) >= ROWS_A_GROUP:
            yield waiting.slice(0, ROWS_A_GROUP)
            waiting = waiting.slice(ROWS_A_GROUP)
    if len(waiting):
        yield waiting


def _join(groups: list[Path], schema: pa.Schema, out: Path, *, n_resumed: int) -> CatalogueSummary:
    """Copy the row groups into one file, a row group each, counting stars and flags on the way."""
    with written_table(out) as partial_file, parquet_writer(partial_file, schema) as writer:

        def copied() -> Iterator[pa.Table]:
            for group in groups:
                table = read_table(group)
                writer.write_table(table, row_group_size=ROWS_A_GROUP)
                yield table

        return CatalogueSummary.of(out, copied(), n_resumed=n_resumed)
