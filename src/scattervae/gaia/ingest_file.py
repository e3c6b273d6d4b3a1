"""One file to a staging file of a store: what each process of an ingest does, and how long it took."""

import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from scattervae.errors import DataError, ScatterVaeError, StoreError, counted, located
from scattervae.files import file_digest
from scattervae.gaia.archive.listing import Release, release_of
from scattervae.gaia.files.assemble import bases_of
from scattervae.gaia.g_flux import GFluxes
from scattervae.gaia.reading import Stars, read_stars
from scattervae.gaia.source_join import SourceFiles, place_stars, require_one_origin
from scattervae.opening import require_file
from scattervae.spectra.bases import BasisIds, SeveralBasesError, by_ids
from scattervae.spectra.hats import Positions
from scattervae.spectra.manifest import FileEntry
from scattervae.spectra.spectra import Basis, Spectra
from scattervae.spectra.staging import StagedStars, stage
from scattervae.spectra.star_tables import SourceColumns, StellarLabels

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
        self._path = folder / LOG_NAME
        self._digests: dict[tuple[str, int, int], str] = {}
        text = self._path.read_text(encoding="utf-8", errors="replace") if self._path.is_file() else ""
        self._start = "" if text.endswith("\n") or not text else "\n"  # after a line left unfinished
        for line in text.splitlines():
            try:
                known = json.loads(line)
                self._digests[known["path"], known["size"], known["modified_ns"]] = known["digest"]
            except (ValueError, KeyError, TypeError):
                continue  # a line that a killed run left unfinished counts for nothing

    def digest_of(self, path: Path) -> str | None:
        """The digest of a file that has not changed since it was read, by its size and time of change."""
        try:
            status = path.stat()
        except OSError:
            return None
        return self._digests.get((str(path.resolve()), status.st_size, status.st_mtime_ns)) or None

    def add(self, times: FileTimes) -> None:
        """Append one file."""
        self._append(asdict(times))

    def add_sealing(self, started: str, seconds: float) -> None:
        """Append how long it took to make a catalogue of all staged stars."""
        peak = peak_memory_mb()
        self._append(
            {"sealing": True, "started": started, "seconds": round(seconds, 3), "peak_memory_mb": peak}
        )

    def _append(self, content: dict[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(self._start + json.dumps(content) + "\n")
        self._start = ""


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


class FileJob(NamedTuple):
    """A file to stage."""

    name: str  # the file, as the user named it
    staged: Path  # where its stars go
    digest: str | None = None  # the digest of its bytes, None where that is yet to be found


@dataclass(frozen=True)
class StagedFile:
    """What became of a file in the process that read it."""

    entry: FileEntry  # what the manifest is to say, as far as it is known before the stars of other files are
    stars: StagedStars | None = None  # its stars; None where they were not read
    times: FileTimes | None = None  # what that took; None where the store has the file already
    error: ScatterVaeError | None = None  # why it could not be read


@dataclass(frozen=True)
class StageFile:
    """Reads files and stages their stars; sent to each process of an ingest once."""

    labels: StellarLabels | None  # of any stars; where None, those in the files are taken
    sources: SourceFiles | None  # where None, what the spectrum files have of ``gaia_source`` is taken
    correlations: bool
    done_files: frozenset[str] = frozenset()  # digests of files that the store has
    positions: Positions | None = None  # of the store's stars; None where there are none yet
    release: Release = field(default_factory=lambda: release_of("DR3"))
    basis: Basis | BasisIds | None = (
        None  # also for stars that name none; None for that of most stars of each file
    )

    def __call__(self, job: FileJob) -> StagedFile:
        """Stage one file."""
        clock, started = time.perf_counter(), utc_now()
        path, digest = Path(job.name), job.digest or ""
        reading = _Reading(self, path)
        stars: StagedStars | None = None
        error: ScatterVaeError | None = None
        try:
            digest = digest or _digest(path)
            if digest in self.done_files:
                return StagedFile(FileEntry(name=job.name, digest=digest))
            stars = stage(
                job.staged,
                reading.chunks(),
                correlations=self.correlations,
                name=job.name,
                release=self.release.meaning,
            )
        except ScatterVaeError as reason:
            error = (StoreError if isinstance(reason, StoreError) else DataError)(str(reason))  # can be sent
        entry = reading.entry(job.name, digest, error)
        times = _times(path, entry, started, time.perf_counter() - clock)
        return StagedFile(entry, stars, times, error)


@dataclass
class _Reading:
    """A file being read: its stars on their way to the staging file, and what is counted meanwhile."""

    task: StageFile
    path: Path
    kind: str | None = None
    note: str | None = None
    n_rows: int = 0
    skipped: list[str] = field(default_factory=list)
    other_bases: Counter[str] = field(default_factory=Counter)

    def chunks(self) -> Iterator[tuple[Spectra, StellarLabels, SourceColumns]]:
        """The stars that can be stored, with their labels and source columns."""
        g_fluxes = GFluxes(str(self.path))
        for stars in self._stars():
            meaning, where = self.task.release.meaning, str(self.path)
            placed = place_stars(
                stars.spectra, stars.sources, self.task.sources, release=meaning, where=where
            )
            self.skipped += placed.skipped
            require_one_origin(placed.sources, self.task.positions, where)
            if len(placed.spectra) == 0:
                continue
            labels = stars.labels if self.task.labels is None else self.task.labels
            yield g_fluxes.of(placed.spectra, placed.sources), labels, placed.sources
        g_fluxes.warn()
        if self.n_rows == len(self.skipped):
            first = f"; the first, {self.skipped[0]}" if self.skipped else ""
            raise DataError(f"{self.path}: none of {counted(self.n_rows, 'row')} can be used{first}")

    def entry(self, name: str, digest: str, error: ScatterVaeError | None) -> FileEntry:
        """What there is to say of the file; of one that could not be read, no more than why and how far."""
        others = dict(self.other_bases)
        entry = FileEntry(name=name, digest=digest, n_rows=self.n_rows, other_bases=others)
        if error is not None:
            return replace(entry, error=str(error))
        return replace(entry, kind=self.kind, note=self.note, skipped=tuple(self.skipped))

    def _stars(self) -> Iterator[Stars]:
        try:
            release = self.task.release
            for stars in read_stars(
                self.path,
                correlations=self.task.correlations,
                release=release.meaning,
                basis=self.task.basis,
            ):
                if stars.note is None:  # the basis is the file's own
                    release.require_own(stars.spectra.basis, where=str(self.path))
                self.kind, self.note = stars.kind, stars.note
                self.n_rows += len(stars.spectra) + len(stars.skipped)
                self.skipped += [f"row {row.row}: {row.reason}" for row in stars.skipped]
                self.other_bases.update(by_ids(bases_of(stars.skipped), stars.spectra.basis))
                yield stars
        except SeveralBasesError as error:
            self.other_bases = Counter(error.counts)
            raise
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read: {error.strerror or error}{self._lost}") from error
        except DataError as error:
            raise DataError(f"{error}{self._lost}") from error

    @property
    def _lost(self) -> str:
        """What else a file loses that cannot be read to its end."""
        are = "is" if self.n_rows == 1 else "are"
        return f"; the {counted(self.n_rows, 'row')} before that {are} left out too" if self.n_rows else ""


def _digest(file: Path) -> str:
    try:
        with located(file):
            require_file(file)
        return file_digest(file)
    except OSError as error:
        raise DataError(f"{file}: cannot be opened: {error.strerror}") from error


def _times(path: Path, entry: FileEntry, started: str, seconds: float) -> FileTimes:
    try:
        status = path.stat()
        size, modified_ns = status.st_size, status.st_mtime_ns
    except OSError:
        size, modified_ns = 0, 0
    return FileTimes(
        name=entry.name,
        path=str(path.resolve()),
        size=size,
        modified_ns=modified_ns,
        digest=entry.digest,
        started=started,
        seconds=round(seconds, 3),
        rows_per_second=round(entry.n_rows / max(seconds, 1e-9), 1),
        peak_memory_mb=peak_memory_mb(),
        error=entry.error,
    )
