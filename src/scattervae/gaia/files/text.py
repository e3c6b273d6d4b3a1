"""csv and ECSV: one star a line, arrays as quoted text."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedIOBase

import numpy as np

from scattervae.errors import DataError
from scattervae.gaia.files.columns import Columns, SkippedRow, object_array, pick

_LARGEST_CELL = 2**27  # correlations of a band are 30 kB of text; csv stops at 128 kB unless told


@dataclass
class _Comments:
    """What the lines starting with ``#`` say."""

    ecsv: bool = False
    delimiter: str = ","
    published: bool = False

    def read(self, line: str) -> None:
        text = line.lstrip("#").strip()
        if text.startswith("%ECSV"):
            self.ecsv, self.delimiter = True, " "  # a space unless the header names another
        elif text.startswith("delimiter:"):
            self.delimiter = text.removeprefix("delimiter:").strip().strip("'\"") or " "
        elif "TABLE: xp_" in text:
            self.published = True

    @property
    def form(self) -> str:
        if self.ecsv:
            return "bulk csv" if self.published else "archive ecsv"
        return "archive csv"


def read_text(stream: BufferedIOBase, wanted: frozenset[str]) -> Columns:
    """All lines that have as many cells as the header; the others are named.

    Arrays stay text here. A quoted cell never goes on in the next line, so a stray quote costs one line.

    Source:
        ECSV: Astropy Proposal for Enhancement 6, version 1.0. Bulk files: their own header.

    Raises:
        DataError: There is no header.
    """
    csv.field_size_limit(_LARGEST_CELL)
    comments = _Comments()
    lines = _data_lines(stream, comments)
    header = _header(lines, comments)
    picked = pick(header, wanted)
    index = [header.index(name) for name in picked.values()]
    rows: list[list[str]] = []
    numbers: list[int] = []
    skipped: list[SkippedRow] = []
    for number, line in lines:
        cells = _split(line, comments.delimiter)
        if cells is None:
            skipped.append(SkippedRow(number, "a quote is opened and not closed"))
        elif len(cells) != len(header):
            skipped.append(SkippedRow(number, f"{len(cells)} cells where the header has {len(header)}"))
        else:
            rows.append([cells[i] for i in index])
            numbers.append(number)
    return Columns(
        form=comments.form,
        cells={name: object_array([row[i] for row in rows]) for i, name in enumerate(picked)},
        names=tuple(header),
        row_numbers=np.array(numbers, dtype=np.int64),
        skipped=tuple(skipped),
    )


def _data_lines(stream: BufferedIOBase, comments: _Comments) -> Iterator[tuple[int, str]]:
    """Line numbers from 1, and lines that are neither empty nor a comment."""
    for number, raw in enumerate(stream, start=1):
        line = raw.decode(errors="replace").removeprefix("\ufeff").rstrip("\r\n")
        if line.startswith("#"):
            comments.read(line)
        elif line.strip():
            yield number, line


def _header(lines: Iterator[tuple[int, str]], comments: _Comments) -> list[str]:
    _, line = next(lines, (0, ""))
    header = _split(line, comments.delimiter)
    if not header:
        raise DataError("holds no header line; download it again")
    return [name.strip() for name in header]


def _split(line: str, delimiter: str) -> list[str] | None:
    """The cells of a line, None where its quotes do not match."""
    try:
        return next(csv.reader([line], delimiter=delimiter, strict=True), [])
    except csv.Error:
        return None
