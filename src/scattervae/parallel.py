"""Work shared out to processes or threads: results in the order of the jobs, and none of them outlives its caller."""

import logging
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from threading import Thread, current_thread, main_thread
from typing import Any, TypeVar

import numpy as np

Job = TypeVar("Job")
Result = TypeVar("Result")
Begun = TypeVar("Begun")

_AHEAD = 4  # jobs handed out for each process before the first of them is done: none of them waits for work
_AHEAD_OF_THREADS = 2  # enough that no thread is idle, few enough to stay small in memory
_LARGE = 31 * 2**20  # bytes; from 32 MiB on, glibc learns nothing
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_PACKAGE = "scattervae"


class WorkerDied(RuntimeError):  # noqa: N818
    """Processes ended before their work was done; `way_out` says what helps."""

    def __init__(self, found: str, way_out: str = "run the same command again with fewer workers") -> None:
        super().__init__(found)
        self.way_out = way_out


def in_threads(
    function: Callable[[Job], Result], jobs: Iterable[Job], *, threads: int
) -> Iterator[tuple[Job, Result]]:
    """Each job with what the function makes of it, in the order of the jobs, computed a few ahead of the caller.

    Each thread computes with one core: the matrices of one batch are too small to be shared, whole batches are not.
    """
    import torch

    keep_memory()
    cores = torch.get_num_threads()
    try:
        with thread_pool(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            begun = ahead(jobs, lambda job: pool.submit(function, job), _AHEAD_OF_THREADS * threads)
            for job, future in begun:
                yield job, future.result()
    finally:
        torch.set_num_threads(cores)  # the pool's threads have set it for the whole process


def ahead(jobs: Iterable[Job], begin: Callable[[Job], Begun], n_ahead: int) -> Iterator[tuple[Job, Begun]]:
    """Each job with what begins it, in the order of the jobs; so many after it have begun when it is handed out."""
    waiting: deque[tuple[Job, Begun]] = deque()
    for job in jobs:
        waiting.append((job, begin(job)))
        if len(waiting) > n_ahead:
            yield waiting.popleft()
    yield from waiting


@contextmanager
def thread_pool(
    threads: int, *, on_error: Callable[[], None] = lambda: None, **options: Any
) -> Iterator[ThreadPoolExecutor]:
    """A pool whose threads finish what they are at and begin nothing new when the block ends.

    Args:
        on_error: Called first where the block fails, as at Ctrl-C, to end what the threads are at.
    """
    pool = ThreadPoolExecutor(threads, **options)
    try:
        yield pool
    except BaseException:
        on_error()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def reading_threads() -> int:
    """How many threads to read and compute with: one waits for the disk while the others have the cores."""
    import torch

    return torch.get_num_threads() + 1


def keep_memory() -> None:
    """Let freed arrays stay with this process, which needs as many again for the next batch or row group.

    glibc's malloc gives memory back to the system at once, and fetching it again costs as much as the arithmetic,
    until it sees a larger piece freed.

    Source:
        mallopt(3), ``M_MMAP_THRESHOLD``: the dynamic threshold, of at most 32 MiB.
    """
    np.empty(_LARGE, dtype=np.uint8)


def n_cpus() -> int:
    """How many CPUs this process may use, as a batch system allots them."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def in_processes(
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
    stopped, running = context.Pipe(duplex=False)  # the one reads its end when the other is closed
    begun, begin = context.Pipe(duplex=False)
    level = logging.getLogger(_PACKAGE).getEffectiveLevel()
    executor = ProcessPoolExecutor(
        workers, mp_context=context, initializer=_begin, initargs=(task, stopped, begin, level)
    )

    def submit(job: Job) -> "Future[tuple[Any, list[logging.LogRecord]]]":
        with _interrupts_held():
            return executor.submit(_work, job)

    with stopped, running, begun, begin:
        try:
            for job, future in ahead(jobs, submit, _AHEAD * workers - 1):
                yield _finished(job, future)
            executor.shutdown()
        except BrokenProcessPool:
            if not begun.poll():
                raise WorkerDied(
                    "no process could begin, since each runs the program that asks for it first",
                    "put its main part below if __name__ == '__main__': or ask for one worker",
                ) from None
            raise WorkerDied("a process was killed at its work, mostly for lack of memory") from None
        finally:
            running.close()
            executor.shutdown(cancel_futures=True)


def leave_unguarded_main() -> None:
    """End the process if it runs a program's main part only to import it, as each that a pool starts does first.

    Source:
        CPython, Lib/multiprocessing/spawn.py, ``_check_not_importing_main``.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise SystemExit(1)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Processes that start here never get interrupts, which the keyboard sends to all; this one does after the block.

    An interrupt in the middle would leave a process that nobody knows of.
    """
    if not hasattr(signal, "pthread_sigmask") or current_thread() is not main_thread():
        yield
        return
    held: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, _: held.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which processes inherit
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler or signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if held:  # by another thread of this process
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


def _begin(task: Callable[[Any], Any], stopped: Connection, begin: Connection, level: int) -> None:
    """What a process does first: take the task, leave interrupts to its parent, and watch for its end."""
    global _task  # noqa: PLW0603
    _task = task
    with suppress(OSError):  # the parent has gone; the thread below sees to the end
        begin.send_bytes(b"1")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update(dict.fromkeys(_THREADS, "1"))  # for libraries that are loaded later
    logger = logging.getLogger(_PACKAGE)
    logger.setLevel(level)
    logger.propagate = False
    Thread(target=_end_with_parent, args=(stopped,), daemon=True).start()


def _end_with_parent(stopped: Connection) -> None:
    parent = multiprocessing.parent_process()
    wait([stopped] if parent is None else [stopped, parent.sentinel])
    os._exit(1)


def _work(job: Any) -> tuple[Any, list[logging.LogRecord]]:
    assert _task is not None, "set when the process began"
    collected = _Records()
    logger = logging.getLogger(_PACKAGE)
    logger.addHandler(collected)
    try:
        return _with_one_thread(_task, job), collected.records
    finally:
        logger.removeHandler(collected)


class _Records(logging.Handler):
    """Keeps records in a form that another process can log."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        record.msg, record.args = record.getMessage(), None
        record.exc_info = None
        self.records.append(record)
