"""``python -m torture``: the table of all parts, or of those that are named; ends with 1 where something broke."""

import argparse
import importlib
import sys
import tempfile
import time
from pathlib import Path

from torture import Row, failed, table

PARTS = ("readers", "server", "corruption", "aborts", "kills")


def main() -> None:
    """Run the parts, print the table, and say by the exit code whether all went well."""
    parser = argparse.ArgumentParser(prog="python -m torture")
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; all where none is named")
    parser.add_argument("--kills", type=int, default=100, help="of each command")
    parser.add_argument("--flips", type=int, default=20, help="of a bit of each file")
    parser.add_argument(
        "--mutations", type=int, default=20, help="of each readable file, bytes and structure each"
    )
    parser.add_argument("--aborts", type=int, default=300, help="runs of info under load")
    parser.add_argument(
        "--minutes",
        type=float,
        default=1e9,
        help="of a row of kills, and of the readers; what was tried by then counts",
    )
    parser.add_argument("--every", type=int, default=1, help="of lies and files, so manieth only")
    parser.add_argument(
        "--only", default="", help="rows whose name has this word, or one of several: train|label"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="a folder to keep the toys in, for the next time")
    given = parser.parse_args()
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"no part is called {', '.join(unknown)}; choose of {', '.join(PARTS)}")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in given.parts or PARTS:
            started = time.perf_counter()
            for row in importlib.import_module(f"torture.{name}").outcomes(given.work or Path(folder), given):
                rows.append(row)
                sys.stderr.write(f"{row.part}, {row.what}: {row.good} of {row.n}\n")
                sys.stderr.writelines(f"  {miss}\n" for miss in row.misses)
            sys.stderr.write(f"{name}: {time.perf_counter() - started:.0f} s\n")
    sys.stdout.write(table(rows))
    sys.exit(1 if failed(rows) else 0)


if __name__ == "__main__":
    main()
