"""Small stores, written as an ingest writes them; any test may ``from spectra.stores import write_store``."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from scattervae.files import write_digests
from scattervae.spectra import hats
from scattervae.spectra.manifest import FileEntry
from scattervae.spectra.spectra import Spectra
from scattervae.spectra.staging import stage
from scattervae.spectra.star_tables import SourceColumns, StellarLabels
from scattervae.spectra.store_writer import StoreWriter

NO_LABELS = StellarLabels(
    source_id=np.empty(0, dtype=np.int64), values=np.empty((0, 5)), errors=np.empty((0, 5))
)


def entry(name: str, **more: object) -> FileEntry:
    return FileEntry(name=name, digest=f"digest of {name}", **{"kind": "toy", **more})


def add(
    writer: StoreWriter,
    name: str,
    stars: Spectra,
    *,
    number: int = 0,
    labels: StellarLabels = NO_LABELS,
    sources: SourceColumns | None = None,
    correlations: bool = False,
) -> FileEntry:
    """Stage one file's stars and add them."""
    sources = SourceColumns.empty() if sources is None else sources
    chunks = [(stars, labels, sources)]
    part = stage(writer.staged_path(number), chunks, correlations=correlations, name=name)
    return writer.add(entry(name, n_rows=len(stars)), part)


def write_store(
    path: Path, *files: Spectra, rows_a_partition: int | None = None, **what: object
) -> list[FileEntry]:
    """A finished store of these files' stars, named ``0.csv``, ``1.csv`` and so on."""
    writer = StoreWriter(path, rows_a_partition=rows_a_partition)
    noted = [add(writer, f"{i}.csv", stars, number=i, **what) for i, stars in enumerate(files)]
    writer.finish()
    return noted


def rewrite(folder: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change the columns of every table of a store, and its digests with them."""
    files = [*folder.rglob("*.parquet"), folder / "dataset" / "_common_metadata"]
    for file in files:
        if file.suffix:
            hats.write_sorted(file, change(pq.read_table(file, partitioning=None)))
        else:
            pq.write_metadata(change(pq.read_schema(file).empty_table()).schema, file)
    described = [folder / name for name in hats.DESCRIPTIONS[:2]]
    write_digests(folder, [*files, *described, folder / "manifest.json"])


def scattered(source_id: np.ndarray, *, seed: int = 0, **more: np.ndarray) -> SourceColumns:
    """Measured positions all over the sky, whatever the source_ids say."""
    draws = np.random.default_rng(seed)
    ra = draws.uniform(0.0, 360.0, len(source_id))
    dec = np.degrees(np.arcsin(draws.uniform(-1.0, 1.0, len(source_id))))
    return SourceColumns(source_id, {"ra": ra, "dec": dec, **more})


def all_bytes(folder: Path) -> dict[str, bytes]:
    """Every file below a folder by its path in it; folders too, by a path that ends with a slash."""
    return {
        str(path.relative_to(folder)) + "/" * path.is_dir(): b"" if path.is_dir() else path.read_bytes()
        for path in folder.rglob("*")
    }
