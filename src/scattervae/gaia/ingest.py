"""Thousands of files to one store: a process a file, one order, nothing lost to a broken file or a broken run."""

import logging
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from scattervae.errors import DISK_FULL, DataError, ScatterVaeError, StoreError, counted, located
from scattervae.files import file_digest, sole_writer
from scattervae.gaia.archive.listing import Release, release_of
from scattervae.gaia.basis import GFluxes, known_basis
from scattervae.gaia.files.assemble import bases_of
from scattervae.gaia.reading import Stars, read_stars
from scattervae.gaia.source_join import SourceFiles, place_stars, require_joinable
from scattervae.opening import require_file
from scattervae.parallel import WorkerDied, in_processes, leave_unguarded_main
from scattervae.spectra.manifest import (
    MANIFEST,
    FileEntry,
    FileTimes,
    IngestLog,
    Manifest,
    peak_memory_mb,
    utc_now,
)
from scattervae.spectra.spectra import Basis, Spectra
from scattervae.spectra.staging import StagedStars, stage
from scattervae.spectra.star_tables import BasisIds, SeveralBasesError, SourceColumns, StellarLabels, by_ids
from scattervae.spectra.store import SpectrumStore
from scattervae.spectra.store_writer import StoreWriter

logger = logging.getLogger(__name__)
_SCRATCH = "sources.partial"
_KEPT = "were in it already and keep the labels, source columns and correlations they came with"
# Stored bytes over the file's: of text 40 kB a star with correlations, zipped to 16 kB, 0.7 kB are stored without and
# 11 kB with correlations (measured on 16,000 stars); once staged, once more finished.
_SHARES = {".gz": (0.05, 0.66), ".csv": (0.02, 0.27), ".ecsv": (0.02, 0.27)}


def ingest(  # noqa: PLR0913 - the options of one act, each by its name
    files: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    labels: StellarLabels | None = None,
    sources: str | Path | Sequence[str | Path] = (),
    correlations: bool = False,
    release: str | Release = "DR3",
    basis: BasisIds | None = None,
    strict: bool = False,
    workers: int = 1,
    progress: "Callable[[StagedFile], object]" = lambda _: None,
) -> SpectrumStore:
    """Write the stars of many files to a store; run again, it resumes where it was stopped.

    The store's bytes depend on the files and their order, not on the number of processes, nor on how often
    the run was stopped. A file that was read before (by its digest) is passed over: it keeps the labels and
    source columns it came with. A file that cannot be read, or breaks off, is left out as a whole and noted in
    the manifest with the reason; the others are read all the same. Run again with the file mended, it is added.

    Args:
        files: A file or files of any kind that `load` reads; folders are not searched.
        out: The store's folder, new or left by an earlier run.
        labels: Labels of any stars, joined by source_id; where None, those in the files are taken.
        sources: Files of ``gaia_source``, joined by source_id: positions, G flux and quality columns. A star
            that is not in them is left out and named.
        release: The data release of the files: DR3, DR4, or the path of a .toml file that describes one. Where its
            source_ids are not documented to hold a pixel of the sky, stars without a position are left out and named.
        basis: Ids of the BP and RP basis to take, also for stars whose file names none. Where None, the basis of
            most stars of the first file; stars of others, and files without ids beside files with them, are
            left out, counted in the manifest and named.
        workers: Processes that read files; a program that asks for more than one must be importable, that is
            guard its main block by ``if __name__ == "__main__":``.

    Raises:
        StoreError: `out` is something else or cannot be written to, or no file gave a star.
        FetchError: There is no such release.
        DataError: A file cannot be read, and `strict` is set; or a file of `sources` cannot.
        BusyError: Another run ingests into the store.

    Example:
        >>> import scattervae as sv
        >>> store = sv.ingest("stars.csv.gz", "new_store")
        >>> len(store), store.flags
        (220, {})
    """
    if workers > 1:
        leave_unguarded_main()
    files, sources = ([one] if isinstance(one, str | Path) else one for one in (files, sources))
    if missing := [path for path in sources if not Path(path).is_file()]:
        raise DataError(f"{missing[0]}: no such file; expected a gaia_source file")
    release = release if isinstance(release, Release) else release_of(release)
    release.warn_if_preliminary()
    wanted = _wanted_basis(Path(out), basis)
    with sole_writer(Path(out)):
        writer = StoreWriter(out)
        require_joinable(writer.manifest.positions if sources else None, str(writer.path))
        run = _Run(writer, strict=strict)
        scratch = writer.path / _SCRATCH
        with _stops_in_one_line(run, len(files)):
            try:
                joined = SourceFiles.of(map(Path, sources), scratch, release.meaning) if sources else None
                done_files = frozenset(
                    entry.digest for entry in writer.manifest.entries if entry.error is None
                )
                if labels is not None:  # quick to search
                    labels = labels.take(np.argsort(labels.source_id, kind="stable"))
                task = StageFile(labels, joined, correlations, done_files, release, wanted)
                _warn_of_space(writer.path, run.jobs(files), done_files, correlations=correlations)
                for job, staged in in_processes(task, run.jobs(files), workers=workers):
                    progress(run.take_in(job, run.in_its_basis(job, staged, task)))
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
            run.finish()
    if run.n_passed_over and (labels is not None or sources or correlations):
        logger.warning("%s: %d of %d files %s", out, run.n_passed_over, len(files), _KEPT)
    _warn_of_other_bases(writer)
    return SpectrumStore(out)


class FileJob(NamedTuple):
    """A file to stage."""

    name: str  # the file, as the user named it
    staged: Path  # where its stars go
    digest: str | None = None  # the digest of its bytes, None where that is yet to be found


@dataclass(frozen=True)
class StagedFile:
    """What became of a file."""

    entry: FileEntry  # what the manifest is to say, as far as it is known before the file is taken into the store
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
    release: Release = field(default_factory=lambda: release_of("DR3"))
    basis: Basis | BasisIds | None = None  # of stars that name none, too; None for that of most of a file

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
        path=os.path.realpath(path),
        size=size,
        modified_ns=modified_ns,
        digest=entry.digest,
        started=started,
        seconds=round(seconds, 3),
        rows_per_second=round(entry.n_rows / max(seconds, 1e-9), 1),
        peak_memory_mb=peak_memory_mb(),
        error=entry.error,
    )


class _Run:
    """The side of an ingest that no process shares: the store, its manifest, the log."""

    def __init__(self, writer: StoreWriter, *, strict: bool) -> None:
        self.writer = writer
        self.n_done = 0
        self.n_passed_over = 0
        self._strict = strict
        self._log = IngestLog(writer.path)

    def jobs(self, files: Sequence[str | Path]) -> Iterator[FileJob]:
        for index, file in enumerate(files):
            yield FileJob(str(file), self.writer.staged_path(index), self._log.digest_of(Path(file)))

    def in_its_basis(self, job: FileJob, staged: StagedFile, task: StageFile) -> StagedFile:
        """The file staged again where the store's basis is not that of most of its stars, but that of some."""
        own = self.writer.manifest.basis
        if own is None or task.basis is not None or own.ids not in staged.entry.other_bases:
            return staged
        if staged.stars is not None:
            staged.stars.path.unlink(missing_ok=True)
        return replace(task, basis=own)(job)

    def take_in(self, job: FileJob, staged: StagedFile) -> StagedFile:
        """Add one file's stars to the store, or note why they are not in it."""
        entry = self._entry(job, staged)
        if staged.times is not None:
            self._log.add(staged.times)
        self.n_done += 1
        return replace(staged, entry=entry)

    def finish(self) -> None:
        """Make the stars of all files a catalogue."""
        clock, started = time.perf_counter(), utc_now()
        self.writer.finish()
        self._log.add_sealing(started, time.perf_counter() - clock)

    def _entry(self, job: FileJob, staged: StagedFile) -> FileEntry:
        before = self.writer.entry_of(staged.entry.digest)
        if before is not None:
            job.staged.unlink(missing_ok=True)  # staged too, where two files of one run are the same
            self.n_passed_over += 1
            logger.info("%s: in the store already", job.name)
            return before
        error = staged.error
        if staged.stars is not None:
            try:
                return self.writer.add(staged.entry, staged.stars)
            except StoreError as reason:
                error = reason
        assert error is not None, "a file has stars or a reason why not"
        if self._strict:
            raise error
        logger.warning("%s", error)
        failed = replace(staged.entry, kind=None, note=None, skipped=(), error=str(error))
        return self.writer.add_failed(failed)


@contextmanager
def _stops_in_one_line(run: _Run, n_files: int) -> Iterator[None]:
    """Print in one line what stopped a run, and how far it came."""
    try:
        yield
    except WorkerDied as error:
        done = f"{run.n_done} of {counted(n_files, 'file')} are in it"
        raise StoreError(f"{run.writer.path}: {error}; {done}; {error.way_out}") from error
    except OSError as error:
        where = error.filename2 or error.filename or run.writer.path
        reason = str(error) if error.errno is None else os.strerror(error.errno)
        done = f"{run.n_done} of {counted(n_files, 'file')} are in {run.writer.path}"
        room = "make room and " if error.errno in DISK_FULL else ""
        raise StoreError(f"{where}: {reason}; {done}; {room}run the same command again to go on") from error


def _wanted_basis(folder: Path, basis: BasisIds | None) -> Basis | BasisIds | None:
    """The basis asked for, with its sizes where they are known; refused where the store has another."""
    own = Manifest.read(folder).basis if (folder / MANIFEST).is_file() else None
    if basis is not None and own is not None and (own.bp_id, own.rp_id) != basis:
        asked = f"--basis {basis[0]}+{basis[1]}"
        raise StoreError(f"{folder}: holds {own}, and {asked} is another; ingest into a new one")
    return None if basis is None else known_basis(basis)


def _warn_of_other_bases(writer: StoreWriter) -> None:
    """Warn of how many stars were left out for being of another basis than the store's, and how to have them."""
    others: Counter[str] = Counter()
    for entry in writer.manifest.entries:
        others.update(entry.other_bases if entry.error is None else {})
    for ids, n in others.items():
        without = f"{counted(n, 'row')} of basis {ids}, for it holds {writer.manifest.basis}"
        way_out = f"--basis {ids} takes them into a store of their own"
        logger.warning("%s: without %s; %s", writer.path, without, way_out)


def _warn_of_space(
    folder: Path, jobs: Iterable[FileJob], done_files: frozenset[str], *, correlations: bool
) -> None:
    """Warn where the disk looks too small for the stars of the files that are not in the store."""
    files = [Path(job.name) for job in jobs if job.digest not in done_files]
    shares = ((file, _SHARES.get(file.suffix, (1.0, 1.0))[correlations]) for file in files if file.is_file())
    stored = sum(file.stat().st_size * share for file, share in shares)
    needed, free = 2 * stored, shutil.disk_usage(folder).free
    if needed > free:
        found = f"{free / 1e9:.1f} GB are free, and about {needed / 1e9:.1f} GB may be needed"
        logger.warning("%s: %s; the run stops where they end, and resumes when there is room", folder, found)
