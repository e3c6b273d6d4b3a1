"""Work shared out to processes: one task for many jobs, results in the jobs' order, no process left behind."""

import logging
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from threading import Thread, current_thread, main_thread
from typing import Any, TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")

_AHEAD = 4  # jobs handed out for each worker before the first of them is done: none of them waits for work
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_PACKAGE = "scattervae"
_UNGUARDED = "since each runs the program that asks for it first"
_GUARD = "put its main part below if __name__ == '__main__': or ask for one worker"


class WorkerDied(RuntimeError):  # noqa: N818
    """Processes ended before their work was done.

    Attributes:
        why: The reason.
        way_out: What helps.
    """

    def __init__(
        self,
        found: str,
        why: str = "mostly for lack of memory",
        way_out: str = "run the same command again with fewer workers",
    ) -> None:
        super().__init__(found)
        self.why, self.way_out = why, way_out


def results_in_order(
    task: Callable[[Job], Result], jobs: Iterable[Job], *, workers: int
) -> Iterator[tuple[Job, Result]]:
    """Each job with what the task makes of it, in the order of the jobs, however many processes work at them.

    A process computes with one thread, so that its results do not depend on the machine. Its log records are
    logged here. When the caller stops, by an error or by its own death, the processes end at once.

    Args:
        task: Called with a job; with its attributes it is sent to each process once, so it must be picklable.
        jobs: Taken a few ahead of the results.
        workers: Processes; with 1 the work is done in this one.

    Raises:
        WorkerDied: A process was killed, or none could begin.
    """
    leave_unguarded_main()
    if workers == 1:
        for job in jobs:
            yield job, _with_one_thread(task, job)
        return
    context = _context(task.__module__)
    ears, mouth = context.Pipe(duplex=False)
    begun, begin = context.Pipe(duplex=False)
    level = logging.getLogger(_PACKAGE).getEffectiveLevel()
    executor = ProcessPoolExecutor(
        workers, mp_context=context, initializer=_begin, initargs=(task, ears, begin, level)
    )
    waiting: deque[tuple[Job, Future[tuple[Any, list[logging.LogRecord]]]]] = deque()
    try:
        for job in jobs:
            with _interrupts_held():
                waiting.append((job, executor.submit(_work, job)))
            if len(waiting) == _AHEAD * workers:
                yield _finished(*waiting.popleft())
        while waiting:
            yield _finished(*waiting.popleft())
        executor.shutdown()
    except BrokenProcessPool:
        if not begun.poll():
            raise WorkerDied("no process could begin", _UNGUARDED, _GUARD) from None
        raise WorkerDied("a process was killed at its work") from None
    finally:
        mouth.close()  # which every process hears
        executor.shutdown(cancel_futures=True)
        _close(ears, begun, begin)


def _close(*ends: Connection) -> None:
    for end in ends:
        end.close()


def leave_unguarded_main() -> None:
    """End the process if it runs a program's main part only to import it, as each that a pool starts does first.

    Source:
        CPython, Lib/multiprocessing/spawn.py, ``_check_not_importing_main``.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise SystemExit(1)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Processes that start here never hear of interrupts, which the keyboard sends to all; this one does after.

    An interrupt in the middle would leave a process that nobody knows of.
    """
    if not hasattr(signal, "pthread_sigmask") or current_thread() is not main_thread():
        yield
        return
    heard: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, _: heard.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which processes inherit
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler or signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if heard:  # by another thread of this process
            signal.raise_signal(signal.SIGINT)


def _context(module: str) -> BaseContext:
    """Processes that share no state with this one; where it is safe, forked from one that has imported the module."""
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([module])
    return context


def _finished(job: Job, future: "Future[tuple[Any, list[logging.LogRecord]]]") -> tuple[Job, Any]:
    result, records = future.result()
    for record in records:
        logger = logging.getLogger(record.name)
        if logger.isEnabledFor(record.levelno):
            logger.handle(record)
    return job, result


def _with_one_thread(task: Callable[[Job], Result], job: Job) -> Result:
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1):
        return task(job)


_task: Callable[[Any], Any] | None = None


def _begin(task: Callable[[Any], Any], ears: Connection, begin: Connection, level: int) -> None:
    """What a process does first: take the task, leave interrupts to its parent, and listen for its end."""
    global _task  # noqa: PLW0603
    _task = task
    with suppress(OSError):  # the parent has gone; the thread below sees to the end
        begin.send_bytes(b"1")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update(dict.fromkeys(_THREADS, "1"))  # for libraries that are loaded later
    logger = logging.getLogger(_PACKAGE)
    logger.setLevel(level)
    logger.propagate = False
    Thread(target=_end_with_parent, args=(ears,), daemon=True).start()


def _end_with_parent(ears: Connection) -> None:
    parent = multiprocessing.parent_process()
    wait([ears] if parent is None else [ears, parent.sentinel])
    os._exit(1)


def _work(job: Any) -> tuple[Any, list[logging.LogRecord]]:
    assert _task is not None, "set when the process began"
    heard = _Heard()
    logger = logging.getLogger(_PACKAGE)
    logger.addHandler(heard)
    try:
        return _with_one_thread(_task, job), heard.records
    finally:
        logger.removeHandler(heard)


class _Heard(logging.Handler):
    """Keeps records in a form that another process can log."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        record.msg, record.args = record.getMessage(), None
        record.exc_info = None
        self.records.append(record)


def n_cpus() -> int:
    """How many CPUs this process may use, as a batch system allots them."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
