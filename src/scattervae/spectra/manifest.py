"""What became of every ingested file: of a finished store in its ``manifest.json``, of an unfinished one in a journal.

A line a file is added to the journal, so that a stopped run resumes where it was.
"""

import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from scattervae.errors import CheckpointError, StoreError
from scattervae.files import (
    DIGESTS,
    JsonLines,
    digests_in,
    file_digest,
    problems,
    read_json,
    write_json,
    write_text,
    written_file,
)
from scattervae.spectra.hats import Positions
from scattervae.spectra.spectra import Basis
from scattervae.spectra.staging import StagedStars
from scattervae.spectra.star_tables import DataRelease

MANIFEST = "manifest.json"
_FORMAT = 2


@dataclass(frozen=True)
class FileEntry:
    """What became of one ingested file."""

    name: str  # the file, as the user named it
    digest: str  # SHA-256 of its bytes
    kind: str | None = None  # what it was recognised as; None where it could not be read
    note: str | None = None  # how its coefficients came about, where they are not the published ones
    n_rows: int = 0  # rows read, skipped ones included
    n_kept: int = 0  # stars written
    n_duplicates: int = 0  # rows dropped because another row of the same source_id was kept
    flags: Mapping[str, int] = field(default_factory=dict)  # stars kept with each flag, by the flag's name
    skipped: tuple[str, ...] = ()  # rows that could not be read, each with its reason
    error: str | None = None  # why the whole file could not be read
    other_bases: Mapping[str, int] = field(default_factory=dict)  # rows dropped of other bases, by the ids


@dataclass(frozen=True)
class Manifest:
    """The files of a store, and what their stars have in common."""

    # the basis of all stars; like `positions` and `release` None where there is no star
    basis: Basis | None = None
    positions: Positions | None = None  # where their positions come from
    release: DataRelease | None = None  # the data release of all stars; None also where it was not noted
    entries: tuple[FileEntry, ...] = ()  # what became of each file, in the order in which they were given

    @staticmethod
    def read(folder: Path) -> "Manifest":
        """The manifest of a store.

        Raises:
            StoreError: There is none, or it is of another make or version.
        """
        try:
            return read_json(folder / MANIFEST, _checked, formats=(_FORMAT,))
        except CheckpointError as error:
            raise StoreError(f"{error}; or ingest again") from error

    def write(self, folder: Path) -> None:
        """Write ``manifest.json``, whole or not at all, and its digest first, among those of the store's files."""
        content = _SCHEMA.dump_python(self, mode="json")
        files = content.pop("entries")
        content = {"format": _FORMAT, **content, "files": files, "credit": "ESA/Gaia/DPAC"}
        with written_file(folder / MANIFEST) as partial:
            partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
            if digests := digests_in(folder):
                write_json(folder / DIGESTS, {**digests, MANIFEST: file_digest(partial)})

    def recording(self, entry: FileEntry, staged: StagedStars | None = None) -> "Manifest":
        """The manifest with one more entry, and with its stars; an entry of the same file that was broken goes.

        Broken again, the file keeps its row.
        """
        earlier = [e for e in self.entries if e.error is not None and e.name == entry.name]
        if earlier and entry.error is not None:
            entries = tuple(entry if e is earlier[0] else e for e in self.entries)
        else:
            entries = (*(e for e in self.entries if e not in earlier), entry)
        if staged is None or staged.basis is None:
            return replace(self, entries=entries)
        return Manifest(
            basis=staged.basis if self.basis is None else self.basis.completed_by(staged.basis),
            positions=staged.positions,
            release=staged.release or self.release,
            entries=entries,
        )


_SCHEMA = TypeAdapter(Manifest)


def _checked(content: Mapping[str, object]) -> Manifest:
    return _SCHEMA.validate_python({**content, "entries": content.get("files")})


STAGING = "staging"
_JOURNAL = "journal.jsonl"


@dataclass(frozen=True)
class Line:
    """One file's entry, and its staged stars where any was kept."""

    entry: FileEntry
    staged: StagedStars | None


_LINE = TypeAdapter(Line)


class Journal:
    """Entries that the manifest does not have yet, on disk as soon as they are noted.

    Its first line names the manifest it continues: once a newer one is written, the journal is void.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / STAGING / _JOURNAL
        manifest = folder / MANIFEST
        self._header = json.dumps({"follows": file_digest(manifest) if manifest.is_file() else None})
        text = self._file.read_text(encoding="utf-8") if self._file.is_file() else ""
        header, *lines = text.split("\n")[:-1] or [""]  # what follows the last line break was half written
        try:
            self.lines = [self._line(text) for text in lines] if header == self._header else []
        except ValidationError as error:
            raise StoreError(
                f"{self._file}: no journal of an ingest ({problems(error)}); ingest into a new folder"
            ) from error

    @staticmethod
    def is_in(folder: Path) -> bool:
        """True where a run has begun a journal, void or not."""
        return (folder / STAGING / _JOURNAL).is_file()

    @property
    def digest(self) -> str:
        """What identifies the lines and the manifest they go on from."""
        return file_digest(self._file)

    @property
    def n_staged(self) -> int:
        """One more than the highest number of a staged file."""
        paths = [line.staged.path for line in self.lines if line.staged is not None]
        return max((int(path.stem.removeprefix("stars-")) for path in paths), default=-1) + 1

    def staged_path(self, number: int) -> Path:
        """Where the stars of a file go."""
        return self._file.parent / f"stars-{number:05d}.parquet"

    def begin(self) -> None:
        """Make the file hold these lines and no more, and remove staged files that they do not name."""
        named = {line.staged.path for line in self.lines if line.staged is not None}
        for file in self._file.parent.glob("stars-*"):
            if file not in named:
                file.unlink()
        write_text(self._file, "\n".join([self._header, *map(_text, self.lines)]) + "\n")

    def note(self, line: Line) -> None:
        """Add a line."""
        with self._file.open("a", encoding="utf-8") as file:
            file.write(_text(line) + "\n")
        self.lines.append(line)

    def discard(self) -> None:
        """Remove the journal, then the files it named."""
        folder = self._file.parent
        self._file.unlink(missing_ok=True)
        if folder.is_dir():
            for file in (*folder.glob("stars-*"), *folder.glob(f"{_JOURNAL}*")):
                file.unlink()
            with suppress(OSError):  # somebody's own files are in it
                folder.rmdir()

    def _line(self, text: str) -> Line:
        line = _LINE.validate_json(text)
        staged = line.staged and replace(line.staged, path=self._file.parent / line.staged.path)
        return Line(line.entry, staged)


def _text(line: Line) -> str:
    """A line as JSON, with the staged file's name alone: the store may be moved before the next run."""
    staged = line.staged and replace(line.staged, path=Path(line.staged.path.name))
    return _LINE.dump_json(Line(line.entry, staged)).decode()


LOG_NAME = "ingest.log.jsonl"


@dataclass(frozen=True)
class FileTimes:
    """What reading one file took."""

    name: str  # the file, as the user named it
    path: str  # the file from the root of the file system
    size: int
    modified_ns: int  # when it was changed last [ns]
    digest: str  # SHA-256 of its bytes, empty where it could not be read
    started: str  # when reading began, in universal time
    seconds: float  # how long it took until its stars were staged
    rows_per_second: float  # rows read over seconds
    peak_memory_mb: float | None  # the most that the process had used [10^6 bytes]; None where unknown
    error: str | None = None  # why it was left out


class IngestLog:
    """The log in a store's folder, of this run and those before it."""

    def __init__(self, folder: Path) -> None:
        self._lines = JsonLines(folder / LOG_NAME)
        self._digests = {_state(line): str(line.get("digest") or "") for line in self._lines.read}

    def digest_of(self, path: Path) -> str | None:
        """The digest of a file that has not changed since it was read, by its size and time of change."""
        try:
            status = path.stat()
        except OSError:
            return None
        here = {"path": str(path.resolve()), "size": status.st_size, "modified_ns": status.st_mtime_ns}
        return self._digests.get(_state(here)) or None

    def add(self, times: FileTimes) -> None:
        """Append one file."""
        self._lines.add(asdict(times))

    def add_sealing(self, started: str, seconds: float) -> None:
        """Append how long it took to make a catalogue of all staged stars."""
        peak = peak_memory_mb()
        self._lines.add(
            {"sealing": True, "started": started, "seconds": round(seconds, 3), "peak_memory_mb": peak}
        )


def _state(line: Mapping[str, object]) -> str:
    """What changes with a file."""
    return str([line.get(name) for name in ("path", "size", "modified_ns")])


def utc_now() -> str:
    """The time of day in universal time."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def peak_memory_mb() -> float | None:
    """The most memory that this process has used so far [10^6 bytes]; None where the system does not say."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak * (1 if sys.platform == "darwin" else 1024) / 1e6, 1)
