"""Stars on disk: a folder of parquet parts, one an ingested file, and what became of each file.

Columns carry the archive's names, with units and descriptions in the schema; coefficients are float32.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from scattervae.arrays import SourceIds, StarMask
from scattervae.errors import StoreError
from scattervae.folders import file_digest, write_json, written_aside
from scattervae.spectra.chunks import rechunk
from scattervae.spectra.columns import label_columns, labels_from, spectra_from, store_schema, table_of
from scattervae.spectra.flags import Flag, flag_counts
from scattervae.spectra.labels import StellarLabels
from scattervae.spectra.spectra import Basis, Spectra

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
        note: How its coefficients came about, where they are not the published ones.
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
    note: str | None = None
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
        if basis is None or len(self) == 0:
            raise StoreError(f"{self.path}: holds no star; its {_MANIFEST} says why each file was left out")
        self.basis = basis
        self._parts = _parts(self.path, self.entries)

    def __len__(self) -> int:
        return sum(entry.n_kept for entry in self.entries)

    @property
    def digest(self) -> str:
        """What identifies the stars: the digest of the manifest, which names the digest of every file."""
        return file_digest(self.path / _MANIFEST)

    @property
    def flags(self) -> dict[str, int]:
        """Stars with each flag, by the flag's name."""
        counts: Counter[str] = Counter()
        for entry in self.entries:
            counts.update(entry.flags)
        return dict(counts)

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
        elif _holds_something(self.path):
            raise StoreError(f"{self.path}: exists and is no store; give another --out")
        self.path.mkdir(parents=True, exist_ok=True)
        self._source_ids: list[SourceIds] = []  # of each part that holds a star, sorted
        for part in _parts(self.path, self.entries):
            self._remember(pq.read_table(part, columns=["source_id"])["source_id"].to_numpy())
        self._write_manifest()  # a run stopped within its first file finds its own folder again

    def entry_of(self, digest: str) -> FileEntry | None:
        """What became of a file of this digest that was read before, whatever its name then."""
        return next((e for e in self.entries if e.digest == digest and e.error is None), None)

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
        else:
            self.basis = self.basis.completed_by(spectra.basis)
        repeated = self._known(spectra.source_id) | ((spectra.flags & np.uint16(Flag.DUPLICATE)) > 0)
        kept = spectra.take(~repeated)
        used = [e.part for e in self.entries if e.part is not None]
        part = f"part-{int(used[-1][5:10]) + 1 if used else 0:05d}.parquet"
        with written_aside(self.path / part) as partial:
            _write_part(partial, kept, labels.aligned_to(kept.source_id))
        self._remember(kept.source_id)
        return self._record(
            FileEntry(
                **{
                    **asdict(entry),
                    "part": part,
                    "n_kept": len(kept),
                    "n_duplicates": int(repeated.sum()),
                    "flags": flag_counts(kept.flags),
                }
            )
        )

    def leave_out(self, entry: FileEntry) -> FileEntry:
        """Note a file that could not be read; its `error` says why."""
        return self._record(entry)

    def _remember(self, source_id: SourceIds) -> None:
        if len(source_id):
            self._source_ids.append(np.sort(source_id))

    def _known(self, source_id: SourceIds) -> StarMask:
        """Stars that a part holds; bulk files share no range of source_ids, so few parts are searched."""
        known = np.zeros(len(source_id), dtype=bool)
        if len(source_id):
            low, high = source_id.min(), source_id.max()
            for ids in self._source_ids:
                if ids[0] <= high and ids[-1] >= low:
                    known |= np.isin(source_id, ids)
        return known

    def _record(self, entry: FileEntry) -> FileEntry:
        earlier = [e for e in self.entries if e.error is not None and e.name == entry.name]
        if earlier and entry.error is not None:  # broken as before: it keeps its place
            self.entries = tuple(entry if e is earlier[0] else e for e in self.entries)
        else:
            self.entries = (*(e for e in self.entries if e not in earlier), entry)
        self._write_manifest()
        return entry

    def _write_manifest(self) -> None:
        manifest = {
            "format": _FORMAT,
            "basis": None if self.basis is None else vars(self.basis),
            "files": [asdict(e) for e in self.entries],
            "credit": "ESA/Gaia/DPAC",
        }
        write_json(self.path / _MANIFEST, manifest)


def _write_part(path: Path, spectra: Spectra, labels: StellarLabels) -> None:
    """Write stars a row group at a time, so that no list column outgrows arrow's 32-bit offsets."""
    schema = store_schema(correlations=spectra.correlations is not None)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for start in range(0, len(spectra), _ROWS_A_GROUP):
            rows = slice(start, start + _ROWS_A_GROUP)
            writer.write_table(table_of(spectra.take(rows), labels.take(rows)))


def _holds_something(path: Path) -> bool:
    return path.exists() and (not path.is_dir() or any(path.iterdir()))


def _parts(path: Path, entries: tuple[FileEntry, ...]) -> list[Path]:
    """The files of a store's stars in order, all of them there."""
    parts = [path / entry.part for entry in entries if entry.part is not None]
    missing = [part.name for part in parts if not part.is_file()]
    if missing:
        raise StoreError(f"{path}: {', '.join(missing)} is gone; ingest again")
    return parts


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
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if found != _FORMAT:
        raise StoreError(f"{file}: format {found}, this version reads {_FORMAT}; ingest again")
    try:
        basis = None if manifest["basis"] is None else Basis(**manifest["basis"])
        entries = tuple(FileEntry(**{**e, "skipped": tuple(e["skipped"])}) for e in manifest["files"])
    except (KeyError, TypeError) as error:
        raise StoreError(f"{file}: not what a store's manifest holds ({error!r}); ingest again") from error
    return basis, entries
