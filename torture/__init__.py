"""What breaks on purpose, counted in one table: `make torture` prints it. Each part yields rows for it."""

import itertools
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

Try = TypeVar("Try")

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "gaia")]  # whose toys and servers it uses
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = "1"  # a process that has started threads cannot be forked safely


class Row(NamedTuple):
    """A line of the table.

    Attributes:
        part: Of the harness.
        what: Was tried.
        n: How often.
        good: How often it ended as it should.
        misses: What became of the others, a line each.
    """

    part: str
    what: str
    n: int
    good: int
    misses: tuple[str, ...] = ()


def row_of(part: str, what: str, endings: Iterable[str | None]) -> Row:
    """The row of these endings, each None where it was as it should be."""
    listed = list(endings)
    misses = tuple(ending for ending in listed if ending is not None)
    return Row(part, what, len(listed), len(listed) - len(misses), misses)


def in_time(tries: Iterable[Try], minutes: float) -> Iterator[Try]:
    """The same, as long as there is time to begin another."""
    end = time.monotonic() + 60.0 * minutes
    return itertools.takewhile(lambda _: time.monotonic() < end, tries)


def is_chosen(name: str, only: str) -> bool:
    """True where one of these words, with bars between them, is in the name of a row."""
    return any(word in name for word in only.split("|"))


def table(rows: Iterable[Row]) -> str:
    """The rows as a table, and below it every miss."""
    listed = list(rows)
    lines = ["| part | what | tried | as it should |", "|---|---|---:|---:|"]
    lines += [f"| {row.part} | {row.what} | {row.n:,} | {row.good:,} |" for row in listed]
    misses = [f"{row.part}, {row.what}: {miss}" for row in listed for miss in row.misses]
    return "\n".join([*lines, *(["", *misses] if misses else [])]) + "\n"


def failed(rows: Iterable[Row]) -> bool:
    """True where a row has a miss, or where there is none."""
    listed = list(rows)
    return not listed or any(row.good < row.n or row.n == 0 for row in listed)
