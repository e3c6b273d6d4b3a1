"""What the measurements in the documentation are made with: scripts, and the statistics that only they need.

Each script runs from the project's root as ``python -m studies.NAME``; `README.md` says which page it is for.
"""

import sys


def arguments(usage: str | None, least: int) -> list[str]:
    """What was given on the command line; the usage, and an end, where that is too little or help was asked for."""
    given = sys.argv[1:]
    wants_help = "--help" in given
    if wants_help or len(given) < least:
        print(usage)
        raise SystemExit(0 if wants_help else 2)
    return given
