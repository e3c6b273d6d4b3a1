"""Commands killed at random moments and run again, and their bytes held against those of an undisturbed run."""

import hashlib
import itertools
import json
import random
import shutil
import signal
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from torture import Row, in_time, is_chosen, row_of
from torture.forks import Ended, Kill, command, learn_modules

TIMES = ("seconds", "stars_per_second")
_EARLIEST = 0.02  # of the time that an undisturbed run takes
_DRAWS = 40  # of the moment, until it falls before the end of the run


@dataclass(frozen=True)
class Killed:
    """A command to kill.

    Attributes:
        name: What the table calls it.
        arguments: Of the command, where `run` is a folder of this run alone.
        again: What the second run is given as well.
        inputs: Copied into the folder of the run, since the command writes into them.
        code: With which it ends.
        ready: A part of a message of the second run that is as good as success: nothing was left to do.
    """

    name: str
    arguments: Callable[[Path], list[object]]
    again: tuple[str, ...] = ()
    inputs: tuple[Path, ...] = ()
    ready: str = ""
    code: int = 0


def contents(folder: Path) -> dict[str, str]:
    """Digests of all that is in a folder, without what holds how long something took."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.name == "ingest.log.jsonl":
            continue
        content = path.read_bytes()
        if path.name == "provenance.json":
            values = json.loads(content)
            values["training"] = {k: v for k, v in values["training"].items() if k not in TIMES}
            content = json.dumps(values).encode()
        elif path.name == "digests.json":
            digests = {k: v for k, v in json.loads(content).items() if k != "provenance.json"}
            content = json.dumps(digests).encode()
        found[str(path.relative_to(folder))] = hashlib.sha256(content).hexdigest()
    return found


def fresh(killed: Killed, folder: Path) -> Path:
    """A folder for one run, with its inputs."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in killed.inputs:
        shutil.copytree(path, folder / path.name)
    return folder


def undisturbed(killed: Killed, work: Path) -> tuple[dict[str, str], Ended]:
    """What a run that nobody kills leaves, the second of two: the first learns what is to be imported."""
    learn_modules(killed.arguments(fresh(killed, work / "run")), work / "first.log")
    ended = command(killed.arguments(fresh(killed, work / "run")), work / "first.log")
    return contents(work / "run"), ended


def kills(killed: Killed, work: Path, *, n: int, minutes: float, seed: int = 0) -> Row:
    """Kill it so many times, or as there is time for, half of them with all processes that it has started."""
    work.mkdir(parents=True, exist_ok=True)
    expected, whole = undisturbed(killed, work)
    if whole.code != killed.code or not expected:
        return row_of("kills", killed.name, [f"undisturbed: code {whole.code}, {whole.line}"])
    moments = _moments(whole, random.Random(f"{seed} {killed.name}"))
    endings = [_ending(killed, work, (expected, whole), moments) for _ in in_time(range(n), minutes)]
    return row_of("kills", f"{killed.name} ({whole.seconds:.1f} s)", endings)


def _moments(whole: Ended, chance: random.Random) -> Iterator[Kill]:
    """When to kill: by the clock, by the work done and by the files changed; all processes and the first alone."""
    for number, by in enumerate(itertools.cycle(get_args(Kill.__annotations__["by"]))):
        share = chance.uniform(_EARLIEST, 1.0)
        yield Kill(share * getattr(whole, by), by, group=number % 2 == 0)


def _ending(
    killed: Killed, work: Path, expected: tuple[dict[str, str], Ended], moments: Iterator[Kill]
) -> str | None:
    """What is wrong after a kill and a second run; None where nothing is."""
    left, whole = expected
    for kill in itertools.islice(moments, _DRAWS):
        folder = fresh(killed, work / "run")
        if command(killed.arguments(folder), work / "killed.log", kill).code == -signal.SIGKILL:
            break
    else:
        return f"ended {_DRAWS} times before it could be killed"
    begun = sorted(contents(folder))
    second = command([*killed.arguments(folder), *killed.again], work / "again.log")
    found = contents(folder)
    if second.code != whole.code and not (killed.ready and killed.ready in second.text):
        return f"{kill}: then code {second.code}: {second.line} (there were {', '.join(begun)})"
    if found != left:
        differing = sorted(name for name in found.keys() | left.keys() if found.get(name) != left.get(name))
        return f"{kill}: other bytes in {', '.join(differing)}"
    return None


def outcomes(work: Path, given: Namespace) -> Iterator[Row]:
    """A row for every command."""
    from torture.toys import commands

    for number, killed in enumerate(commands(work)):
        if is_chosen(killed.name, given.only):
            yield kills(killed, work / f"kill{number}", n=given.kills, minutes=given.minutes, seed=given.seed)
