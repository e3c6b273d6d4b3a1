"""Work in several processes or threads: in order, on one core each, and none that outlives its caller."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scattervae.parallel import WorkerDied, in_processes, in_threads, n_cpus


@dataclass(frozen=True)
class Shift:
    """A task with something of its own, as the stage of an ingest is."""

    by: int

    def __call__(self, job):
        if isinstance(job, float):
            time.sleep(job)
            job = int(100 * job)
        return job + self.by, os.getpid()


def say(job):
    logging.getLogger("scattervae.toy").warning("job %d", job)
    logging.getLogger("scattervae.toy").debug("job %d in detail", job)
    return job


def fail(job):
    if job == 3:
        raise OSError(28, "No space left on device", "/a/disk")
    return job


def die(job):
    if job == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return job


def threads(job):
    import numpy as np  # whose library of matrices another process loads only now
    from threadpoolctl import threadpool_info

    np.ones((2, 2)) @ np.ones((2, 2))
    return [library["num_threads"] for library in threadpool_info()]


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_of_the_jobs(workers):
    jobs = [0.3, 1, 2, 0.1, *range(5, 30)]
    got = list(in_processes(Shift(by=10), jobs, workers=workers))
    assert [job for job, _ in got] == jobs
    assert [value for _, (value, _) in got] == [40, 11, 12, 20, *range(15, 40)]
    processes = {pid for _, (_, pid) in got}
    assert (processes == {os.getpid()}) == (workers == 1)
    assert len(processes) <= workers


def test_jobs_are_taken_only_a_few_ahead():
    taken = []
    results = in_processes(Shift(by=0), (taken.append(job) or job for job in range(1000)), workers=2)
    next(results)
    assert len(taken) <= 10
    results.close()


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_logged_is_logged_here_in_order(workers, caplog):
    with caplog.at_level(logging.WARNING):
        assert [job for job, _ in in_processes(say, range(6), workers=workers)] == list(range(6))
    assert [record.getMessage() for record in caplog.records] == [f"job {job}" for job in range(6)]
    assert {record.name for record in caplog.records} == {"scattervae.toy"}


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_keeps_what_it_says(workers):
    got = []
    with pytest.raises(OSError, match="No space left") as caught:
        got.extend(job for job, _ in in_processes(fail, range(30), workers=workers))
    assert (caught.value.errno, caught.value.filename) == (28, "/a/disk")


def test_a_killed_process_is_named():
    got = []
    with pytest.raises(WorkerDied):
        got.extend(job for job, _ in in_processes(die, range(30), workers=2))
    assert got == list(range(len(got)))
    assert len(got) <= 3


@pytest.mark.parametrize("workers", [1, 2])
def test_a_task_computes_with_one_thread(workers):
    ((_, found),) = in_processes(threads, [0], workers=workers)
    assert found
    assert set(found) == {1}


def test_cpus_are_those_of_this_process():
    assert 1 <= n_cpus() <= os.cpu_count()


SCRIPT = """
import signal, sys, time
sys.path.insert(0, {tests!r})
from test_parallel import Shift
from scattervae.parallel import in_processes

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell in the background ignores
    for job, (value, pid) in in_processes(Shift(by=0), [0.01, 0.01, 60.0, 60.0], workers=2):
        print(pid, flush=True)
"""


def children_of(pid: int) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == pid:
            found += [int(folder.name), *children_of(int(folder.name))]
    return found


def is_running(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize(
    "how",
    [signal.SIGKILL, *(pytest.param(how, marks=pytest.mark.slow) for how in (signal.SIGTERM, signal.SIGINT))],
)
def test_no_process_outlives_its_parent(tmp_path, how):
    script = tmp_path / "busy.py"
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parent)))
    with subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout.readline().strip().isdigit()
        family = children_of(parent.pid)
        assert len(family) >= 2
        parent.send_signal(how)
        parent.wait(timeout=30)
        for _ in range(300):
            if not any(map(is_running, family)):
                break
            time.sleep(0.1)
        assert not any(map(is_running, family))
        said = parent.stderr.read()
    assert said.count("Traceback") == (how is signal.SIGINT)  # the parent's own; its processes say nothing


@given(st.lists(st.integers()), st.integers(1, 4))
def test_each_item_comes_with_its_result_in_order(items, threads):
    assert list(in_threads(lambda n: n * n, items, threads=threads)) == [(n, n * n) for n in items]


def test_slow_items_hold_back_no_work_and_change_no_order():
    def wait(seconds: float) -> int:
        time.sleep(seconds)
        return threading.get_ident()

    done = list(in_threads(wait, [0.2, 0.0, 0.0, 0.0], threads=2))
    assert [item for item, _ in done] == [0.2, 0.0, 0.0, 0.0]
    slow, *others = [ident for _, ident in done]
    assert slow not in others


def test_items_are_taken_only_a_few_ahead():
    taken = []

    def items():
        for n in range(100):
            taken.append(n)
            yield n

    results = in_threads(lambda n: n, items(), threads=2)
    next(results)
    assert len(taken) < 10
    results.close()
    assert len(taken) < 10


def test_an_error_in_a_thread_is_the_callers():
    def fail(n: int) -> int:
        raise RuntimeError(f"item {n}")

    with pytest.raises(RuntimeError, match="item 3"):
        list(in_threads(fail, [3, 4], threads=2))


def test_each_thread_computes_with_one_core_and_the_process_keeps_its_own():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert [n for _, n in in_threads(lambda _: torch.get_num_threads(), range(8), threads=2)] == [1] * 8
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_no_thread_outlives_its_caller():
    before = threading.active_count()
    results = in_threads(lambda n: n, range(100), threads=3)
    next(results)
    results.close()
    assert threading.active_count() == before
