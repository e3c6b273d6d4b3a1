"""Many bulk files: what there is to do, whether the disk holds it, and doing it several at a time."""

import logging
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import Future, as_completed
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from scattervae.errors import DISK_FULL, FetchError
from scattervae.files import sole_writer
from scattervae.gaia.archive.listing import BulkFile
from scattervae.gaia.archive.transfer import CheckedFiles, md5_of, partial_path, transfer
from scattervae.gaia.archive.transport import Patience, StoppedError, answered, new_session
from scattervae.parallel import thread_pool

logger = logging.getLogger(__name__)

_SPARE_SHARE = 0.01
_SPARE_BYTES = 100 * 2**20
_SIZE_WORKERS = 16  # a size is one small answer: more of them may be asked for at once than files
_SIZE_TRIES = 3


class Moved(NamedTuple):
    """News of a run."""

    path: str  # the file, below the folder for all
    n_bytes: int  # bytes of it more on the disk; negative where some had to be thrown away
    finished: bool = False  # true where nothing more will be heard of it


Progress = Callable[[Moved], None]


@dataclass(frozen=True)
class Task:
    """One file and what of it is here."""

    file: BulkFile
    n_bytes: int | None  # its size by the server, None where the server does not say
    n_present: int = 0  # bytes that are here
    done: bool = False  # true where it is here and known to be whole


@dataclass(frozen=True)
class Plan:
    """What there is to do."""

    out: Path  # the folder for all
    tasks: tuple[Task, ...]  # one for each file

    @property
    def n_bytes(self) -> int:
        """Size of all files together, as far as it is known."""
        return sum(task.n_bytes or 0 for task in self.tasks)

    @property
    def n_present(self) -> int:
        """Bytes that need not be fetched."""
        return sum(task.n_present for task in self.tasks)

    @property
    def n_done(self) -> int:
        return sum(task.done for task in self.tasks)

    @property
    def n_unknown(self) -> int:
        """Files whose size the server does not say."""
        return sum(task.n_bytes is None for task in self.tasks)

    def check_space(self) -> None:
        """Refuse to begin what cannot be finished: the disk must hold all that is missing and 1 % + 100 MiB."""
        missing = sum(max((task.n_bytes or 0) - task.n_present, 0) for task in self.tasks)
        if not missing:
            return
        needed = int(missing * (1 + _SPARE_SHARE)) + _SPARE_BYTES
        folder = next(
            there for there in (self.out.absolute(), *self.out.absolute().parents) if there.is_dir()
        )
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise FetchError(
                f"{self.out}: {free / 1e9:,.2f} GB are free, but {needed / 1e9:,.2f} GB are needed for what is missing "
                "with something to spare; choose fewer files or another disk"
            )


@dataclass
class Report:
    """What became of a run."""

    fetched: list[str] = field(default_factory=list)  # files, by their path below the folder for all
    kept: list[str] = field(default_factory=list)  # those that were here and whole
    failed: dict[str, str] = field(default_factory=dict)  # those that did not come, each with the reason


def plan(
    files: Sequence[BulkFile],
    out: str | Path,
    *,
    verify: bool = False,
    patience: Patience | None = None,
    progress: Callable[[], None] = lambda: None,
) -> Plan:
    """What of these files is here, and how large the others are; nothing is fetched or written.

    Args:
        verify: Trust no checksum of an earlier run: read every file again.
    """
    out, patience = Path(out), patience or Patience()
    checked = CheckedFiles(out)

    def look(file: BulkFile) -> Task:
        path = out / file.path
        if not verify and checked.knows(file.path, file.md5):
            n_bytes = path.stat().st_size
            return Task(file, n_bytes, n_bytes, done=True)
        candidates = (path, partial_path(path.parent, file))
        here = next((found.stat().st_size for found in candidates if found.is_file()), 0)
        return Task(file, _size(file, patience), here)

    tasks = []
    with thread_pool(_SIZE_WORKERS, on_error=patience.stop.set) as pool:
        for task in pool.map(look, files):
            tasks.append(task)
            progress()
    return Plan(out, tuple(tasks))


def fetch(
    plan: Plan, *, workers: int = 4, patience: Patience | None = None, progress: Progress = lambda _: None
) -> Report:
    """Fetch what is missing, several files at a time; a file that does not come is named and costs no other.

    Run again, it resumes where it was, to the byte.

    Raises:
        FetchError: The disk has no space or cannot be written.
        BusyError: Another run fetches into the folder.
    """
    plan.check_space()
    patience, report, lock = patience or Patience(), Report(), Lock()

    def report_move(news: Moved) -> None:
        with lock:
            progress(news)

    with sole_writer(plan.out):
        plan.out.mkdir(parents=True, exist_ok=True)
        checked = CheckedFiles(plan.out)
        with thread_pool(workers, on_error=patience.stop.set) as pool:
            fetch_one = partial(
                _fetch_one, out=plan.out, checked=checked, patience=patience, moved=report_move
            )
            paths = {pool.submit(fetch_one, task): task.file.path for task in plan.tasks}
            for future in as_completed(paths):
                _note(report, paths[future], future, plan.out)
                report_move(Moved(paths[future], 0, finished=True))
    return report


def _fetch_one(task: Task, out: Path, *, checked: CheckedFiles, patience: Patience, moved: Progress) -> bool:
    """True where the file had to be fetched."""
    file, path = task.file, out / task.file.path
    if task.done:
        return False
    if patience.stop.is_set():
        raise StoppedError
    if path.is_file():
        if md5_of(path, stopped=patience.stop.is_set) == file.md5:
            checked.note(file.path, file.md5)
            return False
        logger.warning("%s: its MD5 is not the one of the archive's list; fetched again", path)
        moved(Moved(file.path, -path.stat().st_size))
        path.unlink()
    transfer(file, path.parent, patience=patience, received=lambda n: moved(Moved(file.path, n)))
    checked.note(file.path, file.md5)
    return True


def _note(report: Report, path: str, future: Future[bool], out: Path) -> None:
    try:
        (report.fetched if future.result() else report.kept).append(path)
    except FetchError as error:
        report.failed[path] = str(error)
        logger.warning("%s", error)
    except OSError as error:
        if error.errno in DISK_FULL:
            why = "the disk is full; free some space, and the same command resumes"
            raise FetchError(f"{out}: {why}") from error
        where = error.filename or out / path
        raise FetchError(f"{where}: cannot be written: {error.strerror or error}") from error


def _size(file: BulkFile, patience: Patience) -> int | None:
    """The size by the server; None where it does not say, also where it has no such file: fetching will show."""

    def ask() -> int | None:
        with new_session() as session, answered(session, "HEAD", file.url) as response:
            length = str(response.headers.get("Content-Length", ""))
        return int(length) if length.isdigit() else None

    try:
        return replace(patience, tries=min(patience.tries, _SIZE_TRIES)).persist(ask)
    except FetchError as error:
        logger.info("%s", error)
        return None
