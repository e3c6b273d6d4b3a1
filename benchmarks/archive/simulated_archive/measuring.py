"""A command run in a process of its own: how long it took, on how many cores, with how much memory."""

import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import psutil

_POLL = 0.1


@dataclass
class Stage:
    """What one stage of the way took, added up over its runs.

    Attributes:
        name: What it is called.
        stars: Stars that went through it; an epoch of training counts them once.
        seconds: On the clock.
        cpu_seconds: Of all its processes.
        bytes_in: Read, by the size of files.
        bytes_out: Written, by the size of files.
        peak_process: The most memory that one process had [bytes].
        peak_together: The most memory that all its processes had at a time [bytes].
        runs: The same of each run, for what changes as a store grows.
    """

    name: str
    stars: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    bytes_in: int = 0
    bytes_out: int = 0
    peak_process: int = 0
    peak_together: int = 0
    runs: list[dict[str, Any]] = field(default_factory=list)

    def add(self, run: "Run", *, stars: int, bytes_in: int = 0, bytes_out: int = 0) -> None:
        """One run more."""
        self.stars += stars
        self.seconds += run.seconds
        self.cpu_seconds += run.cpu_seconds
        self.bytes_in += bytes_in
        self.bytes_out += bytes_out
        self.peak_process = max(self.peak_process, run.peak_process)
        self.peak_together = max(self.peak_together, run.peak_together)
        self.runs.append({"stars": stars, **{k: v for k, v in vars(run).items() if k != "out"}})


@dataclass(frozen=True)
class Run:
    """What one run took, and what it printed."""

    seconds: float
    cpu_seconds: float
    peak_process: int
    peak_together: int
    out: str = ""


def command(*arguments: object) -> Run:
    """Run ``scattervae`` with these arguments.

    Raises:
        SystemExit: It failed; its output is shown.
    """
    return measured([sys.executable, "-m", "scattervae", *map(str, arguments)])


def measured(argv: Sequence[str]) -> Run:
    """Run a program and wait for it, watching the time and memory of it and of all its descendants."""
    started, peak_process, peak_together = time.perf_counter(), 0, 0
    cpu: dict[tuple[int, float], float] = {}  # of each process as it was last seen, one poll before its end
    with TemporaryFile("w+") as out, subprocess.Popen(argv, stdout=out, stderr=subprocess.STDOUT) as process:
        while process.poll() is None:
            sizes = [0]
            for each in _family(process.pid):
                with suppress(psutil.NoSuchProcess, psutil.ZombieProcess), each.oneshot():
                    times = each.cpu_times()
                    cpu[each.pid, each.create_time()] = times.user + times.system
                    sizes.append(each.memory_info().rss)
            peak_process, peak_together = max(peak_process, *sizes), max(peak_together, sum(sizes))
            with suppress(subprocess.TimeoutExpired):
                process.wait(_POLL)
        out.seek(0)
        output = out.read()
    if process.returncode:
        sys.exit(f"{' '.join(argv[1:6])} ...: exit {process.returncode}\n{output}")
    return Run(time.perf_counter() - started, sum(cpu.values()), peak_process, peak_together, output)


def n_bytes(*paths: Path) -> int:
    """The size of files and of all files in folders."""
    files = (file for path in paths for file in (path.rglob("*") if path.is_dir() else (path,)))
    return sum(file.stat().st_size for file in files if file.is_file())


def _family(pid: int) -> list[psutil.Process]:
    """A process and its descendants; not all of them are waited for by their parents."""
    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    return []
