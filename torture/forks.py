"""Commands in processes that are forked from this one, which has imported what they need: none pays for start-up."""

import gc
import importlib
import mmap
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

LOST = 900.0  # seconds after which a process is taken for one that hangs, on a machine however busy
_CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate"}


class Ended(NamedTuple):
    """How a process ended.

    Attributes:
        code: Its exit code; minus the signal that ended it.
        seconds: How long it ran.
        busy: CPU seconds of its main thread.
        files: How many files and folders it opened for writing, made, moved or removed, as Python's audit counts.
        text: What it wrote on stdout and stderr.
    """

    code: int
    seconds: float
    busy: float
    files: int
    text: str

    @property
    def line(self) -> str:
        """The last line that it wrote."""
        return (self.text.strip().splitlines() or [""])[-1]


class Kill(NamedTuple):
    """When a process is killed.

    Attributes:
        after: So much of what `by` says.
        by: What of its `Ended` is looked at: seconds by the clock, CPU seconds whatever else the machine does, or
            changes of files, where it is killed just before so manieth.
        group: Kill all that it has started at the same moment; else these may outlive it for as long as they do.
    """

    after: float
    by: Literal["seconds", "busy", "files"] = "seconds"
    group: bool = True

    def send(self, process: int) -> None:
        """Kill this process, which leads a group."""
        (os.killpg if self.group else os.kill)(process, signal.SIGKILL)


def forked(act: Callable[[], object], log: Path, kill: Kill | None = None) -> Ended:
    """What becomes of a process of its own that does this, with its output in `log`; SystemExit has its code."""
    log.write_text("")
    sys.stdout.flush()
    sys.stderr.flush()
    started = time.perf_counter()
    changes = mmap.mmap(-1, 8)  # which the process shares
    child = os.fork()
    if child == 0:
        _act(act, log, changes, kill)
    with suppress(OSError):
        os.setpgid(child, child)
    busy = 0.0
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        seconds, busy = time.perf_counter() - started, _busy(child)
        now = {"seconds": seconds, "busy": busy}
        if seconds > LOST or (kill is not None and kill.by in now and now[kill.by] >= kill.after):
            (kill or Kill(LOST)).send(child)
            ended = os.waitpid(child, 0)
            break
        time.sleep(0.004)
    seconds, code = time.perf_counter() - started, os.waitstatus_to_exitcode(ended[1])
    return Ended(code, seconds, busy, int.from_bytes(changes[:8], "little"), log.read_text(errors="replace"))


def _busy(process: int) -> float:
    """CPU seconds that the main thread of a process has had."""
    try:
        return int(Path(f"/proc/{process}/schedstat").read_text().split()[0]) / 1e9
    except (OSError, IndexError):
        return 0.0


def _count_changes(changes: mmap.mmap, kill: Kill | None) -> None:
    """Count in shared memory what this process changes of files, and kill it before one of them."""

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            writes = isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        else:
            writes = event in _CHANGES
        if writes and os.getpid() == own:
            n = int.from_bytes(changes[:8], "little") + 1
            if kill is not None and kill.by == "files" and n >= kill.after:
                kill.send(own)
            changes[:8] = n.to_bytes(8, "little")

    own = os.getpid()
    sys.addaudithook(watch)


def _fork_interpreter(_: str, arguments: Sequence[str | bytes], kept: Sequence[int]) -> int:
    """What multiprocessing starts a process with, such as a server of forks or Dask's worker: forked, not executed.

    So it has imported everything too; else it is as a new one: of this process, in its group, and without its files.
    """
    process = os.fork()
    if process:
        return process
    code = 70
    try:
        gc.freeze()  # what others own is never closed here
        nothing = os.open(os.devnull, os.O_RDWR)
        for name in os.listdir("/proc/self/fd"):
            if int(name) > 2 and int(name) not in {*kept, nothing}:
                with suppress(OSError):
                    os.dup2(nothing, int(name), inheritable=False)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        words = [os.fsdecode(word) for word in arguments]
        at = words.index("-c")
        sys.argv = ["-c", *words[at + 2 :]]
        exec(words[at + 1], {"__name__": "__main__"})
        code = 0
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    except BaseException:  # noqa: BLE001 - to be read in the log
        traceback.print_exc()
    finally:
        with suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(code)


def _act(act: Callable[[], object], log: Path, changes: mmap.mmap, kill: Kill | None) -> None:
    """Do it, and end this process whatever happens."""
    from multiprocessing import forkserver, util

    code = 70
    try:
        os.setpgid(0, 0)
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(file, 1)
        os.dup2(file, 2)
        sys.stdout = sys.stderr = open(1, "w", encoding="utf-8", buffering=1, closefd=False)  # noqa: SIM115
        util.spawnv_passfds = _fork_interpreter
        forkserver._forkserver.__init__()  # type: ignore[misc]  # a server of this process, not of its parent
        _count_changes(changes, kill)
        act()
        code = 0
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else 1
    except BaseException:  # noqa: BLE001 - to be read in the log
        traceback.print_exc()
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def run(arguments: Sequence[object]) -> None:
    """One command of scattervae."""
    from scattervae.cli.application import main

    main([str(argument) for argument in arguments])


def command(arguments: Sequence[object], log: Path, kill: Kill | None = None) -> Ended:
    """What becomes of a command."""
    return forked(lambda: run(arguments), log, kill)


def learn_modules(arguments: Sequence[object], log: Path) -> Ended:
    """Run a command, and import here what it imported, so that those that follow start at once."""
    names = log.with_suffix(".modules")

    def act() -> None:
        try:
            run(arguments)
        finally:
            names.write_text(" ".join(sys.modules))

    ended = forked(act, log)
    for name in names.read_text().split():
        if not name.startswith(("__", "torture")):
            with suppress(Exception):
                importlib.import_module(name)
    return ended


def made(arguments: Sequence[object], log: Path) -> None:
    """Run a command that has to succeed; see `learn_modules`."""
    ended = learn_modules(arguments, log)
    if ended.code:
        raise RuntimeError(ended.text)
