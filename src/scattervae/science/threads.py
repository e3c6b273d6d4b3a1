"""Work shared out to threads that compute with one core each: results in order, a few items ahead."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

_AHEAD = 2  # items waiting for each thread: enough that none is idle, few enough to stay small in memory
_LARGE = 31 * 2**20  # bytes; from 32 MiB on, glibc learns nothing


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], *, threads: int
) -> Iterator[tuple[Item, Result]]:
    """Each item with what `function` makes of it, in the order of the items, whatever the threads.

    The matrices of one batch are too small to be shared between cores; whole batches are not.
    """
    keep_memory()
    cores = torch.get_num_threads()
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    pool = ThreadPoolExecutor(threads, "encode", initializer=torch.set_num_threads, initargs=(1,))
    try:
        for item in items:
            waiting.append((item, pool.submit(function, item)))
            if len(waiting) > _AHEAD * threads:
                done, future = waiting.popleft()
                yield done, future.result()
        while waiting:
            done, future = waiting.popleft()
            yield done, future.result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(cores)  # the pool's threads have set it for the whole process


def reading_threads() -> int:
    """How many threads to read and compute with: one waits for the disk while the others have the cores."""
    return torch.get_num_threads() + 1


def keep_memory() -> None:
    """Let freed tensors stay with this process, which needs as many again for the next batch.

    glibc's malloc gives memory back to the system at once, and fetching it again costs as much as the
    arithmetic, until it sees a larger piece freed.

    Source:
        mallopt(3), ``M_MMAP_THRESHOLD``: the dynamic threshold.
    """
    torch.empty(_LARGE, dtype=torch.uint8)
