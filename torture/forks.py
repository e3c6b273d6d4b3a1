"""Commands in processes that are forked from this one, which has imported what they need: none pays for start-up."""

import importlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

LOST = 240.0  # seconds after which a process is taken for one that hangs


class Ended(NamedTuple):
    """How a process ended.

    Attributes:
        code: Its exit code; minus the signal that ended it.
        seconds: How long it ran.
        busy: CPU seconds of its main thread.
        text: What it wrote on stdout and stderr.
    """

    code: int
    seconds: float
    busy: float
    text: str

    @property
    def line(self) -> str:
        """The last line that it wrote."""
        return (self.text.strip().splitlines() or [""])[-1]


class Kill(NamedTuple):
    """When a process is killed.

    Attributes:
        after: Seconds.
        busy: They are CPU seconds of its main thread, whatever else the machine does.
        group: Kill all that it has started at the same moment; else these may outlive it for as long as they do.
    """

    after: float
    busy: bool = False
    group: bool = True


def forked(act: Callable[[], object], log: Path, kill: Kill | None = None) -> Ended:
    """What becomes of a process of its own that does this, with its output in `log`; SystemExit has its code."""
    log.write_text("")
    sys.stdout.flush()
    sys.stderr.flush()
    started = time.perf_counter()
    child = os.fork()
    if child == 0:
        _act(act, log)
    with suppress(OSError):
        os.setpgid(child, child)
    busy = 0.0
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        seconds, busy = time.perf_counter() - started, _busy(child)
        if seconds > LOST or (kill is not None and (busy if kill.busy else seconds) >= kill.after):
            os.killpg(child, signal.SIGKILL) if kill is None or kill.group else os.kill(child, signal.SIGKILL)
            ended = os.waitpid(child, 0)
            break
        time.sleep(0.002)
    seconds = time.perf_counter() - started
    return Ended(os.waitstatus_to_exitcode(ended[1]), seconds, busy, log.read_text(errors="replace"))


def _busy(process: int) -> float:
    """CPU seconds that the main thread of a process has had."""
    try:
        return int(Path(f"/proc/{process}/schedstat").read_text().split()[0]) / 1e9
    except (OSError, IndexError):
        return 0.0


def _act(act: Callable[[], object], log: Path) -> None:
    """Do it, and end this process whatever happens."""
    code = 70
    try:
        os.setpgid(0, 0)
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(file, 1)
        os.dup2(file, 2)
        sys.stdout = sys.stderr = open(1, "w", encoding="utf-8", buffering=1, closefd=False)  # noqa: SIM115
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
