"""``info FILE.parquet`` under load, in processes that end as any does: Arrow's threads are not to abort them.

With pyarrow's own reading, on threads, some abort after the right answer, on a busy machine:
https://github.com/apache/arrow/issues/34314.
"""

import json
import os
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

from torture import ROOT, Row, row_of

_BUSY = 2  # loops that keep the machine busy


def outcomes(work: Path, given: Namespace) -> Iterator[Row]:
    """The row of so many runs."""
    from cli.toys import write_parquet
    from toy import DR3, toy_sky

    work.mkdir(parents=True, exist_ok=True)
    path = write_parquet(work / "stars.parquet", toy_sky(2000, basis=DR3).spectra)
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(_BUSY)]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "torture.aborts", path, str(given.aborts)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            check=True,
        )
    finally:
        for loop in busy:
            loop.kill()
            loop.wait()
    codes = json.loads(done.stdout.splitlines()[-1])
    yield row_of("aborts", f"info under {_BUSY} busy loops", [f"code {c}" if c else None for c in codes])


def main(path: str, n: int) -> None:
    """Fork so many processes, one after the other; each gives its answer and ends as an interpreter does."""
    import pyarrow.parquet
    import torch

    import scattervae.gaia.files
    from scattervae.cli.application import main as command

    del pyarrow, torch, scattervae
    codes = []
    for _ in range(n):
        child = os.fork()
        if child == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            command(["info", path])  # raises SystemExit, and so leaves all that follows
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    sys.stdout.write(json.dumps(codes) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
