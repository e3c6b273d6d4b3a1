"""Stars on disk: a folder of parquet parts, one an ingested file, and what became of each file.

Columns carry the archive's names, with units and descriptions in the schema; coefficients are float32.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from scattervae.arrays import SourceIds
from scattervae.errors import StoreError
from scattervae.folders import write_json, written_aside
from scattervae.spectra.chunks import rechunk
from scattervae.spectra.columns import label_columns, labels_from, spectra_from, table_of
from scattervae.spectra.spectra import Basis, Flag, Spectra, StellarLabels

_FORMAT = 1
_MANIFEST = "manifest.json"
_ROWS_A_GROUP = 16384
DEFAULT_CHUNK = 65536


@dataclass(frozen=True)
class FileEntry:
    """What became of one ingested file.

    Attributes:
        name: The file, as the user named it.
        digest: SHA-256 of its bytes.
        kind: What it was recognised as; None where it could not be read.
        part: Its part of the store; None where nothing of it was kept.
        n_rows: Rows read, skipped ones included.
        n_kept: Stars written.
        n_duplicates: Rows left out because another row of the same source_id was kept.
        flags: Stars kept with each flag, by the flag's name.
        skipped: Rows left out, each with its reason.
        error: Why the whole file was left out.
    """

    name: str
    digest: str
    kind: str | None = None
    part: str | None = None
    n_rows: int = 0
    n_kept: int = 0
    n_duplicates: int = 0
    flags: dict[str, int] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()
    error: str | None = None


class SpectrumStore:
    """Stars in a folder, opened to be read.

    Args:
        path: The folder that ``scattervae ingest`` wrote.

    Raises:
        StoreError: There is no store, or one of another make, or it holds no star.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        basis, self.entries = _read_manifest(self.path)
        self._parts = [self.path / entry.part for entry in self.entries if entry.part is not None]
        if basis is None or not self._parts:
            raise StoreError(f"{self.path}: holds no star; its {_MANIFEST} says why each file was left out")
        self.basis = basis
        missing = [part.name for part in self._parts if not part.is_file()]
        if missing:
            raise StoreError(f"{self.path}: {', '.join(missing)} is gone; ingest again")

    def __len__(self) -> int:
        return sum(entry.n_kept for entry in self.entries)

    @staticmethod
    def is_store(path: str | Path) -> bool:
        """True where `path` is a folder with a store's manifest."""
        return (Path(path) / _MANIFEST).is_file()

    def chunks(self, rows: int = DEFAULT_CHUNK) -> Iterator[Spectra]:
        """All stars in the store's order, `rows` at a time."""
        return rechunk(self._groups(), rows)

    def read(self) -> Spectra:
        """All stars in memory."""
        return Spectra.concatenate(list(self._groups()))

    def labels(self) -> StellarLabels:
        """The labels of all stars in the store's order, NaN where a star has none."""
        tables = [pq.read_table(part, columns=["source_id", *label_columns()]) for part in self._parts]
        return labels_from(pa.concat_tables(tables))

    def _groups(self) -> Iterator[Spectra]:
        for part in self._parts:
            with pq.ParquetFile(part) as file:
                for batch in file.iter_batches(_ROWS_A_GROUP):
                    yield spectra_from(pa.Table.from_batches([batch]), self.basis)


class StoreWriter:
    """A store being written, file by file; stopped at any moment, it goes on with the next file.

    Args:
        path: The store's folder, new or left by an earlier run.

    Raises:
        StoreError: The folder holds something else.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.basis: Basis | None = None
        self.entries: tuple[FileEntry, ...] = ()
        if SpectrumStore.is_store(self.path):
            self.basis, self.entries = _read_manifest(self.path)
        elif self.path.exists() and any(self.path.iterdir()):
            raise StoreError(f"{self.path}: exists and is no store; give another --out")
        self.path.mkdir(parents=True, exist_ok=True)
        parts = [self.path / entry.part for entry in self.entries if entry.part is not None]
        ids = [pq.read_table(part, columns=["source_id"])["source_id"].to_numpy() for part in parts]
        self._source_ids: SourceIds = np.concatenate(ids) if ids else np.empty(0, dtype=np.int64)

    def __contains__(self, digest: str) -> bool:
        """True where a file of this digest was read before, whatever its name."""
        return any(entry.digest == digest and entry.error is None for entry in self.entries)

    def add(self, entry: FileEntry, spectra: Spectra, labels: StellarLabels) -> FileEntry:
        """Write the stars of one file; rows flagged as duplicates, or already in the store, are left out.

        Args:
            entry: Name, digest, kind, rows and skipped rows of the file.
            spectra: Its stars, flagged.
            labels: Labels of any stars; joined by source_id.

        Returns:
            The entry with what was kept, as the manifest has it.

        Raises:
            StoreError: The store holds stars of another basis.
        """
        if self.basis is None:
            self.basis = spectra.basis
        elif not self.basis.agrees_with(spectra.basis):
            raise StoreError(
                f"{entry.name}: {spectra.basis}, but {self.path} holds {self.basis}; "
                "ingest it into a store of its own"
            )
        known = np.isin(spectra.source_id, self._source_ids)
        repeated = known | ((spectra.flags & np.uint16(Flag.DUPLICATE)) > 0)
        kept = spectra.take(~repeated)
        used = [e.part for e in self.entries if e.part is not None]
        part = f"part-{int(used[-1][5:10]) + 1 if used else 0:05d}.parquet"
        with written_aside(self.path / part) as partial:
            pq.write_table(
                table_of(kept, labels.aligned_to(kept.source_id)),
                partial,
                row_group_size=_ROWS_A_GROUP,
                compression="zstd",
            )
        self._source_ids = np.concatenate([self._source_ids, kept.source_id])
        counts = {str(f.name): int(((kept.flags & np.uint16(f)) > 0).sum()) for f in Flag}
        return self._record(
            FileEntry(
                **{
                    **asdict(entry),
                    "part": part,
                    "n_kept": len(kept),
                    "n_duplicates": int(repeated.sum()),
                    "flags": {name: n for name, n in counts.items() if n},
                }
            )
        )

    def leave_out(self, entry: FileEntry) -> FileEntry:
        """Note a file that could not be read; its `error` says why."""
        return self._record(entry)

    def _record(self, entry: FileEntry) -> FileEntry:
        others = tuple(e for e in self.entries if not (e.error is not None and e.name == entry.name))
        self.entries = (*others, entry)
        manifest = {
            "format": _FORMAT,
            "basis": None if self.basis is None else vars(self.basis),
            "files": [asdict(e) for e in self.entries],
            "credit": "ESA/Gaia/DPAC",
        }
        write_json(self.path / _MANIFEST, manifest)
        return entry


def remove_store(path: Path) -> None:
    """Delete a store; refuses a folder that is none.

    Raises:
        StoreError: The folder holds something else.
    """
    if path.exists() and not SpectrumStore.is_store(path) and any(path.iterdir()):
        raise StoreError(f"{path}: exists and is no store; nothing was removed")
    shutil.rmtree(path, ignore_errors=True)


def _read_manifest(path: Path) -> tuple[Basis | None, tuple[FileEntry, ...]]:
    file = path / _MANIFEST
    if not file.is_file():
        raise StoreError(
            f"{path}: no {_MANIFEST}; not a store. `scattervae ingest FILES --out STORE` makes one"
        )
    try:
        manifest: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{file}: not readable as JSON ({error}); ingest again") from error
    if manifest.get("format") != _FORMAT:
        raise StoreError(
            f"{file}: format {manifest.get('format')}, this version reads {_FORMAT}; ingest again"
        )
    basis = manifest["basis"]
    entries = tuple(FileEntry(**{**e, "skipped": tuple(e["skipped"])}) for e in manifest["files"])
    return None if basis is None else Basis(**basis), entries
