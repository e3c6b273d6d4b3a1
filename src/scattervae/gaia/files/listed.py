"""Lists of stars: source_ids one a line."""

import re
from pathlib import Path

import numpy as np

from scattervae.arrays import SourceIds
from scattervae.errors import DataError

_LINE = re.compile(rb"(?:Gaia\s+E?DR\d\s+)?(\d{1,19})")


def listed_ids(path: Path) -> SourceIds | None:
    """The source_ids of a file with one a line, in its order; None where it is another kind of file.

    That is told from the first line that is neither empty nor a comment (``#``). A line may also read as the
    archive's designation does: ``Gaia DR3 5853498713190525696``.

    Raises:
        DataError: A line further on is no source_id.
    """
    if not path.is_file():
        return None
    with path.open("rb") as file:
        lines = (line.strip() for line in file)
        if _LINE.fullmatch(next((line for line in lines if _counts(line)), b"")) is None:
            return None
        file.seek(0)
        return np.array(
            [
                _source_id(line.strip(), number)
                for number, line in enumerate(file, 1)
                if _counts(line.strip())
            ],
            dtype=np.int64,
        )


def _counts(line: bytes) -> bool:
    return bool(line) and not line.startswith(b"#")


def _source_id(line: bytes, number: int) -> int:
    found = _LINE.fullmatch(line)
    if found is None or not 0 < int(found[1]) < 2**63:
        text = str(line[:40], "utf-8", errors="replace")
        raise DataError(f"line {number}: {text} is no source_id; expected one a line")
    return int(found[1])
