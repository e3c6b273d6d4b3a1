"""Columns by name as numpy and JSON keep them: npz and npy, JSON lines, lists of records, lists by column."""

import json
from io import BufferedIOBase
from typing import Any

import numpy as np

from scattervae.errors import DataError
from scattervae.gaia.files.columns import Columns, SkippedRow, object_array, pick
from scattervae.gaia.files.text import text_lines
from scattervae.opening import budget_of

_CELL_BYTES = 8
_GROWTH = 12  # of JSON in memory


def read_numpy(stream: BufferedIOBase, wanted: frozenset[str]) -> Columns:
    """The arrays of an npz file by their names, or the fields of one structured array.

    Raises:
        DataError: The arrays have no names, or not one length.
    """
    content = np.load(stream, allow_pickle=False)
    names = content.dtype.names if isinstance(content, np.ndarray) else content.files
    if not names:
        raise DataError("is one array of numpy's without names; write columns by name, as np.savez does")
    picked = pick(names, wanted)
    if not isinstance(content, np.ndarray):
        members = {info.filename.removesuffix(".npy"): info.file_size for info in content.zip.infolist()}
        budget_of(stream).spend(2 * sum(members[own] for own in picked.values()))
    cells = {name: np.asarray(content[own]) for name, own in picked.items()}
    budget_of(stream).spend(_CELL_BYTES * sum(column.size for column in cells.values()))
    lengths = {name: np.shape(column)[:1] for name, column in cells.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} {length[0] if length else 'one'}" for name, length in lengths.items())
        raise DataError(f"holds arrays of different lengths: {found}; expected a row a star in each")
    return Columns.of("numpy arrays", cells, names)


def read_json(stream: BufferedIOBase, wanted: frozenset[str]) -> Columns:
    """A record a line, a list of records, or columns by name as pandas writes them; lines that are none are named.

    Raises:
        DataError: It is of another form.
    """
    budget, lines = budget_of(stream), []
    for number, line in text_lines(stream):
        budget.spend(_GROWTH * len(line))
        lines.append((number, _value(line), line))
    records = {number: value for number, value, _ in lines if isinstance(value, dict)}
    skipped = [SkippedRow(number, "is no JSON record") for number, *_ in lines if number not in records]
    if not records or not isinstance(lines[0][1], dict):
        whole = json.loads("\n".join(line for *_, line in lines))
        found = whole if isinstance(whole, list) else [whole]
        records = {row: value for row, value in enumerate(found, start=1) if isinstance(value, dict)}
        skipped = [
            SkippedRow(row, "is no JSON record") for row in range(1, len(found) + 1) if row not in records
        ]
    only = next(iter(records.values()), {})
    if len(records) == 1 and only and all(isinstance(value, dict | list) for value in only.values()):
        columns = {
            name: [*value.values()] if isinstance(value, dict) else value for name, value in only.items()
        }
        rows = zip(*columns.values(), strict=True)
        records = {row: dict(zip(columns, values, strict=True)) for row, values in enumerate(rows, start=1)}
    names = [*dict.fromkeys(name for record in records.values() for name in record)]
    cells = {
        name: object_array([record.get(own) for record in records.values()])
        for name, own in pick(names, wanted).items()
    }
    numbers = np.array([*records], dtype=np.int64)
    return Columns.of("JSON", cells, names, row_numbers=numbers, skipped=skipped)


def _value(line: str) -> Any:
    """What a line holds, None where it is no JSON."""
    try:
        return json.loads(line)
    except ValueError:
        return None
