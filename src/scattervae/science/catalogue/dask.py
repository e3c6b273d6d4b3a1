"""The catalogue on a cluster: a function for a partition of stars, and the engine that LSDB and Dask run it with."""

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from scattervae.errors import DataError, RecipeError, StoreError
from scattervae.model.checkpoint import Checkpoint
from scattervae.parallel import keep_memory
from scattervae.science.catalogue.encoding import catalogue_schema, encode_chunk
from scattervae.science.catalogue.hats_folder import Encoding, SkyColumns, write_partition
from scattervae.science.catalogue.training_flags import file_flags
from scattervae.spectra.columns import (
    StoredSpectra,
    holds_all_columns,
    stored_columns,
    stored_from,
    stored_of,
)
from scattervae.spectra.foreign import ForeignColumns
from scattervae.spectra.hats import HatsFolder, Partition
from scattervae.spectra.spectra import Basis, Flag, Spectra
from scattervae.spectra.star_tables import POSITION_COLUMNS

logger = logging.getLogger(__name__)

_RETRIES = 2  # of a partition that failed, by another worker where there is one
_MANY = 20  # failed partitions after which the others would fail as well, as they do on a full disk
_NAMED = 5
_BYTES_A_WORKER = 2 * 10**9  # 0.5 for what is imported, 0.7 for a partition of 262,144 stars, and room


def encode_partition(
    partition: pd.DataFrame, checkpoint: Checkpoint, *, keep: Sequence[str] = POSITION_COLUMNS
) -> pd.DataFrame:
    """The catalogue's rows of the stars in a frame, for LSDB's ``map_partitions``.

    ``lsdb.open_catalog(store).map_partitions(encode_partition, checkpoint)`` is the catalogue of a store, or of a
    HATS catalogue of spectra, as a catalogue of LSDB's; each row's bits are those that `encode_store` writes.
    Works on an empty frame, from which LSDB learns the columns.

    Args:
        partition: Stars, one a row, with the columns of a store or those that `SpectrumStore` knows in others'.
        keep: Columns to carry over, where the frame has them; LSDB needs those of the positions.

    Raises:
        DataError: The frame lacks columns, or its spectra are of another basis than the model's.

    Example:
        >>> import pandas as pd
        >>> import scattervae as sv
        >>> partition = pd.read_parquet(sv.SpectrumStore("store").path / "dataset")
        >>> rows = sv.encode_partition(partition, sv.load_model("model"))
        >>> len(rows), "latent_1_mean" in rows
        (220, True)
    """
    rows = pa.Table.from_batches([_rows_of(partition, checkpoint, None)])
    frame: pd.DataFrame = rows.to_pandas(types_mapper=pd.ArrowDtype).set_index(partition.index)
    for name in reversed([name for name in keep if name in partition.columns]):
        frame.insert(0, name, partition[name])
    return frame


@dataclass(frozen=True)
class DaskEngine:
    """Writes partitions on the workers of a Dask cluster; a worker that dies costs the partition it was at.

    LSDB reads the partitions. It does not write them: its ``to_hats`` marks a partition as done after writing it in
    place, takes up whatever it finds in the folder, and encodes bytes in its own way.
    """

    client: Any  # a ``distributed.Client`` of the cluster

    def __call__(self, encoding: Encoding, partitions: Sequence[Partition]) -> Iterator[Partition]:
        if not partitions:
            return
        import lsdb
        from distributed import futures_of
        from hats.pixel_math.healpix_pixel import HealpixPixel

        hats = HatsFolder.read(encoding.store)
        sky = SkyColumns.of(hats)
        catalog = lsdb.open_catalog(encoding.store, columns=_columns_of(hats, sky))  # type: ignore[attr-defined]
        chosen = catalog.partitions[[HealpixPixel(p.order, p.pixel) for p in partitions]]
        written = chosen.map_partitions(
            _write, encoding, sky, include_pixel=True, meta=_written(0, 0).iloc[:0]
        )
        frame = written.to_dask_dataframe(divisions=False)
        futures = futures_of(self.client.persist(frame, retries=_RETRIES))  # type: ignore[no-untyped-call]
        try:
            yield from _as_written(futures, partitions)
        except (CancelledError, OSError) as error:
            raise StoreError(
                f"the Dask scheduler is gone ({_in_one_line(error)}); what is written is kept, and the same "
                "command resumes"
            ) from error
        finally:
            with suppress(OSError):
                self.client.cancel(futures)


def _as_written(futures: Sequence[Any], partitions: Sequence[Partition]) -> Iterator[Partition]:
    """The partitions in the order in which workers finish them.

    Raises:
        StoreError: Some could not be encoded, said when the others are done.
    """
    from distributed import as_completed

    left = {(p.order, p.pixel): p for p in partitions}
    failures: list[BaseException] = []
    for future in as_completed(futures):  # type: ignore[no-untyped-call]
        if future.status == "error":
            failures.append(future.exception())
            logger.info("%s", failures[-1])
        else:
            row = future.result().iloc[0]
            future.release()  # or the death of its worker would have it computed again
            yield left.pop((int(row["order"]), int(row["pixel"])))
        if len(failures) == _MANY:
            break
    if failures:
        raise _not_encoded(list(left.values()), len(partitions), failures[0])


@contextmanager
def dask_client(scheduler: str | None, *, workers: int) -> Iterator[Any]:
    """A ``distributed.Client`` of the cluster at this address, or of one on this machine for the length of the block.

    Where the workers are asked for at a batch system, the work begins with the first that comes.

    Args:
        scheduler: As ``tcp://node17:8786``; a cluster is started on this machine where None.
        workers: Processes of the cluster on this machine, one core each; 0 takes as many as there are cores and
            memory for.

    Raises:
        RecipeError: LSDB or Dask is not installed, or no scheduler answers.
    """
    try:
        import lsdb  # noqa: F401
        from dask.system import CPU_COUNT
        from distributed import Client, LocalCluster
        from distributed.system import MEMORY_LIMIT
    except ImportError as error:
        raise RecipeError(
            "this engine needs LSDB and Dask; in the checkout of scattervae: pip install '.[cluster]'"
        ) from error
    for name in ("distributed", "distributed.client"):  # what goes wrong is said by our errors
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if scheduler is None:
        workers = workers or max(1, min(CPU_COUNT, MEMORY_LIMIT // _BYTES_A_WORKER))
        own = {"dashboard_address": "127.0.0.1:0", "silence_logs": logging.CRITICAL}
        with (
            LocalCluster(n_workers=workers, threads_per_worker=1, **own) as cluster,  # type: ignore[no-untyped-call]
            Client(cluster) as client,  # type: ignore[no-untyped-call]
        ):
            logger.info("Dask's dashboard: %s", client.dashboard_link)
            yield client
        return
    try:
        client = Client(scheduler)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise RecipeError(f"--scheduler {scheduler}: no Dask scheduler answers there ({error})") from error
    with client:
        yield client


def _write(frame: pd.DataFrame, pixel: Any, encoding: Encoding, sky: SkyColumns) -> pd.DataFrame:
    """What a worker does with a partition; says which it was."""
    rows = pa.Table.from_batches([_rows_of(frame, encoding.checkpoint, encoding.shared)])
    sky_table = pa.Table.from_pandas(frame.reset_index()[sky.names], preserve_index=False)
    partition = Partition(int(pixel.order), int(pixel.pixel), len(frame))
    write_partition(encoding, partition, rows, sky.of_rows(sky_table))
    return _written(partition.order, partition.pixel)


def _written(order: int, pixel: int) -> pd.DataFrame:
    return pd.DataFrame({"order": [order], "pixel": [pixel]})


def _rows_of(frame: pd.DataFrame, checkpoint: Checkpoint, shared: int | None) -> pa.RecordBatch:
    """The catalogue's rows; what is known of all stars of the store is asked of the frame's columns where None."""
    keep_memory()
    stars, basis = _chunk_in(frame, checkpoint)
    shared = file_flags(checkpoint, basis) if shared is None else shared
    return encode_chunk(checkpoint, stars, catalogue_schema(checkpoint), shared=shared)


def _chunk_in(frame: pd.DataFrame, checkpoint: Checkpoint) -> tuple[StoredSpectra, Basis]:
    """The stars of a frame with a store's columns, or with those of somebody else's catalogue, and their basis."""
    table = pa.Table.from_pandas(frame, preserve_index=False)
    try:
        columns = ForeignColumns.of(table.schema, Path("partition"))
    except StoreError as error:
        raise DataError(f"{error}; open the catalogue with columns={stored_columns()}") from error
    own = checkpoint.normalization.basis
    if len(table) == 0:  # whose columns made by hand have no type
        nothing = np.empty((0, own.n_coeffs))
        return stored_of(Spectra.of(np.empty(0, np.int64), nothing, nothing, basis=own)), own
    basis = columns.basis([table]) or own
    if set(stored_columns()) <= set(table.column_names):
        checkpoint.normalization.require_basis(basis)
        return stored_from(table, own), basis
    stars = columns.spectra(table, own)
    if (stars.flags & np.uint16(Flag.BAD_COEFFS)).all():  # not a few stars, but all have other sizes
        checkpoint.normalization.require_basis(basis)
    return stored_of(stars), basis


def _columns_of(hats: HatsFolder, sky: SkyColumns) -> list[str]:
    """The columns of a store, or of somebody else's catalogue, that a worker needs; of a nested one, the whole."""
    if holds_all_columns(hats.schema):
        spectra = stored_columns()
    else:
        spectra = [name.partition(".")[0] for name in ForeignColumns.of(hats.schema, hats.path).columns]
    return list(dict.fromkeys([*spectra, *sky.names]))


def _not_encoded(left: Sequence[Partition], n_asked: int, reason: BaseException) -> StoreError:
    names = ", ".join(f"Norder={p.order}/Npix={p.pixel}" for p in left[:_NAMED])
    more = f" and {len(left) - _NAMED} more" if len(left) > _NAMED else ""
    return StoreError(
        f"{len(left)} of {n_asked} partitions could not be encoded ({names}{more}): "
        f"{_in_one_line(reason)}; the others are kept, and the same command resumes"
    )


def _in_one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
