"""Hostile files at their full size, and real files with bytes changed, each read in a process of its own."""

import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
SECONDS, MEGABYTES = 20.0, 2000.0
FORMATS = ROOT.parent / "shared" / "data" / "formats"


class Outcome(NamedTuple):
    """What became of one file: a line of the table's counts."""

    what: str
    ending: str
    seconds: float
    megabytes: float


def read_one(path: str) -> None:
    """Read a file, and print how that ended."""
    from scattervae.errors import ScatterVaeError
    from scattervae.gaia.reading import load

    resource.setrlimit(resource.RLIMIT_AS, (8 * 2**30, 8 * 2**30))
    before, clock = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    try:
        ending = f"read {len(load(path).spectra)}"
    except ScatterVaeError as error:
        ending = "refused" if "\n" not in str(error) else "several lines"
    except Exception as error:  # noqa: BLE001 - to be counted
        ending = f"traceback {type(error).__name__}"
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    sys.stdout.write(json.dumps([ending, time.perf_counter() - clock, grown]))


def outcome(what: str, path: Path) -> Outcome:
    """How reading a file in a process of its own ends."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "torture.readers", str(path)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=6 * SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Outcome(what, "hang", 6 * SECONDS, 0.0)
    if done.returncode:
        return Outcome(what, f"code {done.returncode}", 0.0, 0.0)
    return Outcome(what, *json.loads(done.stdout.splitlines()[-1]))


def mutated(content: bytes, chance: random.Random) -> bytes:
    """The same bytes with a few changed, a piece cut, doubled, or moved."""
    changed = bytearray(content)
    for _ in range(chance.randint(1, 6)):
        start = chance.randrange(len(changed))
        piece = slice(start, start + chance.randint(1, 64))
        change = chance.choice(("flip", "cut", "double", "large"))
        if change == "flip":
            changed[start] ^= 1 << chance.randrange(8)
        elif change == "cut" and len(changed) > 200:
            del changed[piece]
        elif change == "double":
            changed[start:start] = changed[piece]
        else:
            changed[start : start + 1] = (
                b"\xff" * chance.choice((1, 4, 8)) if chance.random() < 0.5 else b"9" * 400
            )
    return bytes(changed)


def outcomes(n_mutated: int, *, seed: int = 0) -> Iterator[Outcome]:
    """Every hostile file, then so many mutations of each real one."""
    sys.path.insert(0, str(ROOT / "tests" / "gaia"))
    from hostile_files import MAKERS

    with tempfile.TemporaryDirectory() as folder:
        for name, (make, _) in MAKERS.items():
            path = Path(folder) / f"hostile {len(list(Path(folder).iterdir()))}"
            make(path, 1.0)
            yield outcome(name, path)
        chance = random.Random(seed)
        for real in sorted(FORMATS.iterdir()) if FORMATS.is_dir() else []:
            for number in range(n_mutated):
                path = Path(folder) / "mutated"
                path.write_bytes(mutated(real.read_bytes(), chance))
                yield outcome(f"{real.name} mutated ({number})", path)


def table(found: list[Outcome]) -> str:
    """The counts; each is to be 0 but the first two."""
    counts = {
        "files": len(found),
        "refused or read": sum(o.ending.split()[0] in ("refused", "read") for o in found),
        "tracebacks": sum(o.ending.startswith(("traceback", "several")) for o in found),
        "crashes": sum(o.ending.startswith("code") for o in found),
        f"longer than {SECONDS:.0f} s": sum(o.seconds > SECONDS for o in found),
        f"more than {MEGABYTES:.0f} MB": sum(o.megabytes > MEGABYTES for o in found),
    }
    lines = [
        "| readers | number |",
        "|---|---|",
        *(f"| {name} | {count} |" for name, count in counts.items()),
    ]
    bad = [o for o in found if o.ending.split()[0] not in ("refused", "read") or o.seconds > SECONDS]
    return "\n".join(
        [*lines, *(f"\n{o.what}: {o.ending}, {o.seconds:.1f} s, {o.megabytes:.0f} MB" for o in bad)]
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        read_one(sys.argv[1])
    else:
        sys.stdout.write(table(list(outcomes(20))) + "\n")
