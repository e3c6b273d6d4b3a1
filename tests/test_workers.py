"""Work in several processes: in order, on one thread each, and none that outlives its parent."""

import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from scattervae.workers import WorkerDied, n_cpus, results_in_order


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
    got = list(results_in_order(Shift(by=10), jobs, workers=workers))
    assert [job for job, _ in got] == jobs
    assert [value for _, (value, _) in got] == [40, 11, 12, 20, *range(15, 40)]
    processes = {pid for _, (_, pid) in got}
    assert (processes == {os.getpid()}) == (workers == 1)
    assert len(processes) <= workers


def test_jobs_are_taken_only_a_few_ahead():
    taken = []
    results = results_in_order(Shift(by=0), (taken.append(job) or job for job in range(1000)), workers=2)
    next(results)
    assert len(taken) <= 10
    results.close()


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_logged_is_logged_here_in_order(workers, caplog):
    with caplog.at_level(logging.WARNING):
        assert [job for job, _ in results_in_order(say, range(6), workers=workers)] == list(range(6))
    assert [record.getMessage() for record in caplog.records] == [f"job {job}" for job in range(6)]
    assert {record.name for record in caplog.records} == {"scattervae.toy"}


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_keeps_what_it_says(workers):
    got = []
    with pytest.raises(OSError, match="No space left") as caught:
        got.extend(job for job, _ in results_in_order(fail, range(30), workers=workers))
    assert (caught.value.errno, caught.value.filename) == (28, "/a/disk")


def test_a_killed_process_is_told_of():
    got = []
    with pytest.raises(WorkerDied):
        got.extend(job for job, _ in results_in_order(die, range(30), workers=2))
    assert got == list(range(len(got)))
    assert len(got) <= 3


@pytest.mark.parametrize("workers", [1, 2])
def test_a_task_computes_with_one_thread(workers):
    ((_, found),) = results_in_order(threads, [0], workers=workers)
    assert found
    assert set(found) == {1}


def test_cpus_are_those_of_this_process():
    assert 1 <= n_cpus() <= os.cpu_count()


SCRIPT = """
import signal, sys, time
sys.path.insert(0, {tests!r})
from test_workers import Shift
from scattervae.workers import results_in_order

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell in the background ignores
    for job, (value, pid) in results_in_order(Shift(by=0), [0.01, 0.01, 60.0, 60.0], workers=2):
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
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
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
