"""``python -m torture``: the table of all parts, or of those that are named; ends with 1 where something broke."""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from torture import Row, failed, table


def _kills(work: Path, given: argparse.Namespace) -> Iterable[Row]:
    from torture.kills import outcomes

    return outcomes(work, given.kills, seed=given.seed, only=given.only)


def _corruption(work: Path, given: argparse.Namespace) -> Iterable[Row]:
    from torture.corruption import outcomes

    return outcomes(work, flips=given.flips, seed=given.seed, only=given.only)


PARTS: dict[str, Callable[[Path, argparse.Namespace], Iterable[Row]]] = {
    "corruption": _corruption,
    "kills": _kills,
}


def main() -> None:
    """Run the parts, print the table, and say by the exit code whether all went well."""
    parser = argparse.ArgumentParser(prog="python -m torture")
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="all where none is named")
    parser.add_argument("--kills", type=int, default=100, help="of each command")
    parser.add_argument("--flips", type=int, default=20, help="of a bit of each file")
    parser.add_argument("--only", default="", help="rows whose name has this word")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in given.parts or PARTS:
            started = time.perf_counter()
            for row in PARTS[name](Path(folder), given):
                rows.append(row)
                sys.stderr.write(f"{row.part}, {row.what}: {row.good} of {row.n}\n")
                sys.stderr.writelines(f"  {miss}\n" for miss in row.misses)
            sys.stderr.write(f"{name}: {time.perf_counter() - started:.0f} s\n")
    sys.stdout.write(table(rows))
    sys.exit(1 if failed(rows) else 0)


if __name__ == "__main__":
    main()
