"""Thousands of files to one store: a process a file, one order, nothing lost to a broken file or a broken run."""

import errno
import logging
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from scattervae.errors import DataError, StoreError, counted
from scattervae.files import sole_writer
from scattervae.gaia.archive.listing import Release, release_of
from scattervae.gaia.basis import known_basis
from scattervae.gaia.ingest_file import FileJob, FileTimes, IngestLog, StagedFile, StageFile, utc_now
from scattervae.gaia.source_join import SourceFiles, require_joinable
from scattervae.parallel import WorkerDied, in_processes, leave_unguarded_main
from scattervae.spectra.bases import BasisIds
from scattervae.spectra.manifest import MANIFEST, FileEntry, Manifest
from scattervae.spectra.spectra import Basis
from scattervae.spectra.star_tables import StellarLabels
from scattervae.spectra.store import SpectrumStore
from scattervae.spectra.store_writer import StoreWriter

logger = logging.getLogger(__name__)

_SCRATCH = "sources.partial"
_KEPT = "were in it already and keep the labels, source columns and correlations they came with"
# Stored bytes over the file's: of text 40 kB a star with correlations, zipped to 16 kB, 0.7 kB are stored without and
# 11 kB with correlations (measured on 16,000 stars); once staged, once more finished.
_SHARES = {".gz": 0.05, ".csv": 0.02, ".ecsv": 0.02}
_SHARES_WITH_CORRELATIONS = {".gz": 0.66, ".csv": 0.27, ".ecsv": 0.27}


@dataclass(frozen=True)
class IngestedFile:
    """A file that an ingest is done with."""

    entry: FileEntry  # what became of it, as the manifest has it
    times: FileTimes | None  # what reading it took; None where the store had it already


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
    progress: Callable[[IngestedFile], None] | None = None,
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
    files, sources = _listed(files), _listed(sources)
    if missing := [path for path in sources if not Path(path).is_file()]:
        raise DataError(f"{missing[0]}: no such file; expected a gaia_source file")
    release = release if isinstance(release, Release) else release_of(release)
    release.warn_if_preliminary()
    wanted = _wanted_basis(Path(out), basis)
    with sole_writer(Path(out)):
        writer = StoreWriter(out)
        require_joinable(writer.positions if sources else None, str(writer.path))
        run = _Run(writer, strict=strict)
        scratch = writer.path / _SCRATCH
        with _stops_in_one_line(run, len(files)):
            try:
                joined = SourceFiles.of(map(Path, sources), scratch, release.meaning) if sources else None
                done_files = frozenset(entry.digest for entry in writer.entries if entry.error is None)
                task = StageFile(
                    _sorted(labels), joined, correlations, done_files, writer.positions, release, wanted
                )
                _warn_of_space(writer.path, run.jobs(files), done_files, correlations=correlations)
                for job, staged in in_processes(task, run.jobs(files), workers=workers):
                    done = run.take_in(job, run.in_its_basis(job, staged, task))
                    if progress is not None:
                        progress(done)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
            run.finish()
    if run.n_passed_over and (labels is not None or sources or correlations):
        logger.warning("%s: %d of %d files %s", out, run.n_passed_over, len(files), _KEPT)
    _warn_of_other_bases(writer)
    return SpectrumStore(out)


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
        own = self.writer.basis
        if own is None or task.basis is not None or own.ids not in staged.entry.other_bases:
            return staged
        if staged.stars is not None:
            staged.stars.path.unlink(missing_ok=True)
        return replace(task, basis=own)(job)

    def take_in(self, job: FileJob, staged: StagedFile) -> IngestedFile:
        """Add one file's stars to the store, or note why they are not in it."""
        entry = self._entry(job, staged)
        if staged.times is not None:
            self._log.add(staged.times)
        self.n_done += 1
        return IngestedFile(entry, staged.times)

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
        room = "make room and " if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise StoreError(f"{where}: {reason}; {done}; {room}run the same command again to go on") from error


def _sorted(labels: StellarLabels | None) -> StellarLabels | None:
    """The same labels, in the order in which the stars of every chunk are found without sorting them again."""
    return None if labels is None else labels.take(np.argsort(labels.source_id, kind="stable"))


def _listed(files: str | Path | Sequence[str | Path]) -> Sequence[str | Path]:
    """The files, where one alone is no list of its letters."""
    return [files] if isinstance(files, str | Path) else files


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
    for entry in writer.entries:
        others.update(entry.other_bases if entry.error is None else {})
    for ids, n in others.items():
        without = f"{counted(n, 'row')} of basis {ids}, for it holds {writer.basis}"
        logger.warning(
            "%s: without %s; --basis %s takes them into a store of their own", writer.path, without, ids
        )


def _warn_of_space(
    folder: Path, jobs: Iterable[FileJob], done_files: frozenset[str], *, correlations: bool
) -> None:
    """Warn where the disk looks too small for the stars of the files that are not in the store."""
    files = [Path(job.name) for job in jobs if job.digest not in done_files]
    shares = _SHARES_WITH_CORRELATIONS if correlations else _SHARES
    stored = sum(file.stat().st_size * shares.get(file.suffix, 1.0) for file in files if file.is_file())
    needed, free = 2 * stored, shutil.disk_usage(folder).free
    if needed > free:
        found = f"{free / 1e9:.1f} GB are free, and about {needed / 1e9:.1f} GB may be needed"
        logger.warning("%s: %s; the run stops where they end, and resumes when there is room", folder, found)
