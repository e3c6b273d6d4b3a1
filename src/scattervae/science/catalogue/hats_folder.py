"""The catalogue of a whole store as a HATS catalogue, partition by partition, on this machine or on others.

It has the partitions and the positions of the store's stars, so that LSDB opens both and joins them.
"""

import socket
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa

from scattervae.errors import StoreError
from scattervae.files import replace_folder, restored
from scattervae.model.checkpoint import Checkpoint
from scattervae.parallel import in_threads, reading_threads
from scattervae.science.catalogue.encoding import (
    COUNTED,
    CatalogueSummary,
    catalogue_schema,
    encode_chunk,
)
from scattervae.science.catalogue.one_file import IDENTITY, identity_of, resumable, write_rows
from scattervae.science.catalogue.training_flags import file_flags
from scattervae.spectra.columns import RowGroup, store_schema
from scattervae.spectra.hats import (
    SPATIAL_INDEX,
    SPATIAL_ORDER,
    HatsFolder,
    Partition,
    Positions,
    finish_catalogue,
    partition_path,
    read_table,
    spatial_index,
)
from scattervae.spectra.spectra import FLAGS, Flag, repeats
from scattervae.spectra.star_tables import POSITION_COLUMNS
from scattervae.spectra.store import SpectrumStore
from scattervae.spectra.tables import CATALOGUE_NOTE, result_schema


class Encoding(NamedTuple):
    """A catalogue on its way."""

    checkpoint: Checkpoint  # the model
    store: Path  # the folder of the stars
    positions: Positions  # where their ra and dec come from
    folder: Path  # where partitions are written
    shared: int = 0  # bits of `TrainingFlag` that all stars have


Engine: TypeAlias = Callable[[Encoding, Sequence[Partition]], Iterator[Partition]]
"""Writes these partitions with `write_partition` and names each when it is done, in any order."""


def encode_store(
    checkpoint: Checkpoint,
    store: SpectrumStore,
    out: str | Path,
    *,
    engine: Engine | None = None,
    progress: Callable[[int], None] | None = None,
) -> CatalogueSummary:
    """Write the catalogue of a store to a folder, as a HATS catalogue with the store's partitions.

    A run that is stopped leaves ``OUT.parts/``; the same call again, by any engine, resumes where it was. One of
    another model or store is started afresh. Every engine writes the same bytes.

    Args:
        store: The stars: a store of ours, or a HATS catalogue of spectra.
        out: The folder; a catalogue that is there is replaced when the new one is whole.
        engine: Who does the work; `encode_here` where None.
        progress: Called with the number of stars done so far.

    Raises:
        DataError: The spectra are of another basis than the model's.
        StoreError: The disk is full, the store cannot be read, or partitions could not be encoded.
        BusyError: Another run writes to `out`.

    Example:
        >>> import scattervae as sv
        >>> store = sv.SpectrumStore("store")
        >>> sv.encode_store(sv.load_model("model"), store, "latents").n_encoded
        220
    """
    checkpoint.normalization.require_basis(store.basis)
    out = restored(Path(out))
    partitions = [partition for partition in store.partitions if partition.n_rows]
    done = "dataset/Norder=*/Dir=*/Npix=*.parquet"
    with resumable(out, identity_of(checkpoint, catalogue_schema(checkpoint), store.digest), done) as folder:
        to_do = [p for p in partitions if not partition_path(folder, p.order, p.pixel).is_file()]
        n_done = n_resumed = sum(p.n_rows for p in partitions) - sum(p.n_rows for p in to_do)
        shared = file_flags(checkpoint, store.basis, store.release)
        encoding = Encoding(checkpoint, store.path.resolve(), store.positions, folder.resolve(), shared)
        for partition in (engine or encode_here)(encoding, to_do):
            n_done += partition.n_rows
            if progress is not None:
                progress(n_done)
        files = [partition_path(folder, p.order, p.pixel) for p in partitions]
        counted = (read_table(file, COUNTED) for file in files)
        summary = CatalogueSummary.of(out, counted, n_resumed=n_resumed)
        finish_catalogue(
            folder,
            name=out.name,
            schema=partition_schema(checkpoint, store.positions),
            partitions=partitions,
            positions=store.positions,
            notes=store.release.properties if store.release else {},
        )
        for left in folder.glob("dataset/**/*.partial"):
            left.unlink()
        replace_folder(out, folder)
        (out / IDENTITY).unlink()
    return summary


def encode_here(encoding: Encoding, partitions: Sequence[Partition]) -> Iterator[Partition]:
    """The engine of this machine: threads read and encode row groups, a few ahead of what is written."""
    checkpoint = encoding.checkpoint
    schema = catalogue_schema(checkpoint)
    store, hats = SpectrumStore(encoding.store), HatsFolder.read(encoding.store)
    sky = SkyColumns.of(hats)
    row_groups: dict[Path, list[RowGroup]] = {}
    for row_group in store.row_groups:
        row_groups.setdefault(row_group.path, []).append(row_group)
    steps = [
        (p, row_group) for p in partitions for file in hats.files_of(p) for row_group in row_groups[file]
    ]

    def encode(step: tuple[Partition, RowGroup]) -> pa.RecordBatch:
        return encode_chunk(checkpoint, store.read_row_group(step[1]), schema, shared=encoding.shared)

    encoded = in_threads(encode, steps, threads=reading_threads())
    for partition, done in groupby(encoded, key=lambda item: item[0][0]):
        rows = pa.Table.from_batches([rows for _, rows in done], schema)
        sky_tables = [read_table(f, sky.names) for f in hats.files_of(partition)]
        write_partition(encoding, partition, rows, sky.of_rows(pa.concat_tables(sky_tables)))
        yield partition


@dataclass(frozen=True)
class SkyColumns:
    """Which columns of a HATS catalogue say where its rows are."""

    ra: str  # right ascension [deg]
    dec: str  # declination [deg]
    index: str | None  # HEALPix pixel of order 29; None where the catalogue has no such column

    @staticmethod
    def of(hats: HatsFolder) -> "SkyColumns":
        """Those that a catalogue's properties name."""
        index = hats.properties.get("hats_col_healpix", SPATIAL_INDEX)
        order = hats.properties.get("hats_col_healpix_order", str(SPATIAL_ORDER))
        known = index in hats.schema.names and order == str(SPATIAL_ORDER)
        ra, dec = (hats.properties.get(f"hats_col_{name}", name) for name in POSITION_COLUMNS)
        return SkyColumns(ra, dec, index if known else None)

    @property
    def names(self) -> list[str]:
        """The columns to read."""
        return [self.ra, self.dec, *([] if self.index is None else [self.index])]

    def of_rows(self, table: pa.Table) -> dict[str, pa.ChunkedArray | np.ndarray]:
        """The columns of a catalogue of ours that say where these rows are."""
        ra, dec = (table[name].cast(pa.float64()) for name in (self.ra, self.dec))
        if self.index is not None:
            index = table[self.index].cast(pa.int64())
        else:
            index = spatial_index(ra.to_numpy(), dec.to_numpy())
        return {SPATIAL_INDEX: index, "ra": ra, "dec": dec}


def partition_schema(checkpoint: Checkpoint, positions: Positions) -> pa.Schema:
    """The columns of a catalogue's partitions: where each star is, then those of `catalogue_schema`."""
    own = catalogue_schema(checkpoint)
    store = store_schema(correlations=False, positions=positions)
    position_fields = [store.field(name) for name in (SPATIAL_INDEX, "source_id", *POSITION_COLUMNS)]
    fields = [*position_fields, *(field for field in own if field.name != "source_id")]
    return result_schema(fields, {CATALOGUE_NOTE: own.metadata[CATALOGUE_NOTE.encode()].decode()})


def write_partition(
    encoding: Encoding,
    partition: Partition,
    rows: pa.Table,
    sky_columns: Mapping[str, pa.ChunkedArray | np.ndarray],
) -> None:
    """Write one partition, whole or not at all, whoever else may be writing it too.

    Raises:
        StoreError: The folder cannot be seen from this machine.
    """
    if not (encoding.folder / IDENTITY).is_file():
        raise StoreError(
            f"{encoding.folder}: cannot be seen from {socket.gethostname()}; the catalogue must lie on a file "
            "system that all machines share"
        )
    again = repeats(rows["source_id"].to_numpy())  # over the partition, whatever row groups it was read in
    flags = rows[FLAGS].to_numpy() | np.where(again, Flag.DUPLICATE, 0).astype(np.int32)
    schema = partition_schema(encoding.checkpoint, encoding.positions)
    columns = {**{name: rows[name] for name in rows.column_names}, **sky_columns, FLAGS: flags}
    table = pa.table([columns[field.name] for field in schema], schema=schema)
    path = partition_path(encoding.folder, partition.order, partition.pixel)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        write_rows(partial, table)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
