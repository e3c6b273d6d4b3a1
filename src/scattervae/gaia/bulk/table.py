"""What a bulk file is by its first lines: its columns, its basis, the layout of its lines."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from scattervae.errors import DataError, located
from scattervae.gaia.bulk.blocks import BrokenFileError, Layout, Lines, read_lines, read_texts
from scattervae.gaia.facts import BANDS, DR3_BASIS, SOURCE_ID_NAMES
from scattervae.gaia.files.assemble import ReadRows, assemble_rows
from scattervae.gaia.files.columns import CONTINUOUS_COLUMNS, FIT_COLUMNS, pick
from scattervae.gaia.files.text import Kind, read_text, recognise
from scattervae.spectra.bases import BasisIds
from scattervae.spectra.spectra import Basis

ARRAYS = tuple(f"{band}_{name}" for name in ("coefficients", "coefficient_errors") for band in BANDS)
CORRELATIONS = tuple(f"{band}_coefficient_correlations" for band in BANDS)
STATED = tuple(f"{band}_{name}" for name in ("n_parameters", "basis_function_id") for band in BANDS)
N_RELEVANT = tuple(f"{band}_n_relevant_bases" for band in BANDS)

_VOTERS = 32


class Header(NamedTuple):
    """The line that names the columns, and what stands before it."""

    line: bytes
    form: str  # the kind of text file, as `scattervae.gaia.files` calls it
    names: tuple[str, ...]  # the columns as the file calls them; none where they are not divided by commas
    n_before: int  # number of lines before it

    def require(self, there: Mapping[str, object], names: Sequence[str], refusal: str) -> None:
        """Refuse a file without an identifier or some other column."""
        if lacking := lacking_columns(there, names):
            found = ", ".join(self.names[:8])[:200] or "not divided by commas"
            raise DataError(f"{refusal}: columns {found}; lacks {', '.join(lacking)}")


def lacking_columns(there: Mapping[str, object], names: Sequence[str]) -> list[str]:
    """Which of these columns, and of one with Gaia's identifier, are not there."""
    lacking = [name for name in names if name not in there]
    return lacking if any(name in there for name in SOURCE_ID_NAMES) else [SOURCE_ID_NAMES[0], *lacking]


@dataclass(frozen=True)
class BulkTable:
    """Columns, basis and layout of a file."""

    header: Header
    columns: Mapping[str, str]  # columns to read: name in lower case to the file's own name
    basis: Basis  # sizes and ids of the coefficients
    layout: Layout  # how its regular lines are cut
    is_named: bool  # false where the first lines do not name the ids of the basis

    @property
    def wanted(self) -> frozenset[str]:
        return frozenset(self.columns)

    @property
    def source_id_name(self) -> str:
        """The column with Gaia's identifier, in lower case."""
        return next(name for name in SOURCE_ID_NAMES if name in self.columns)

    @property
    def arrays(self) -> dict[str, int]:
        """The columns of arrays to read, with the length of each: coefficients, errors, then correlations."""
        sizes = (self.basis.n_bp, self.basis.n_rp)
        pairs = (n * (n - 1) // 2 for n in sizes)
        lengths = zip((*ARRAYS, *CORRELATIONS), (*sizes, *sizes, *pairs), strict=True)
        return {name: length for name, length in lengths if name in self.columns}

    def index(self, name: str) -> int:
        """The place among the cells of a line of a column by its name in lower case."""
        return self.header.names.index(self.columns[name])


def bulk_columns(*, correlations: bool) -> frozenset[str]:
    """Names, in lower case, of the columns of a bulk file that are read."""
    names = SOURCE_ID_NAMES + ARRAYS + STATED + N_RELEVANT + FIT_COLUMNS[0] + FIT_COLUMNS[1]
    return frozenset(names + CORRELATIONS if correlations else names)


def open_table(
    path: Path, *, correlations: bool, basis: Basis | BasisIds | None = None
) -> tuple[BulkTable, Iterator[Lines]]:
    """What a file is, and the lines after its header, yet to be read.

    The basis is the one asked for, else that of most of the first 32 lines, or of those of the first lines after
    them that have the band at all.

    Raises:
        DataError: The file cannot be opened or has no columns of spectra.
        BrokenFileError: It is broken before the header ends.
    """
    header, lines = read_header(path)
    columns = pick(header.names, bulk_columns(correlations=correlations))
    header.require(columns, CONTINUOUS_COLUMNS, f"{path}: is no bulk file")
    vote = _vote(lines, header, columns, basis)
    arrays = pick(header.names, frozenset((*ARRAYS, *CORRELATIONS)))
    indices = {name: header.names.index(own) for name, own in arrays.items()}
    wanted = [index for name, index in indices.items() if name in columns]
    layout = Layout.of_lines(len(header.names), indices.values(), wanted, vote.lines)
    return BulkTable(header, columns, vote.basis, layout, vote.is_named), read_header(path)[1]


def read_header(path: Path) -> tuple[Header, Iterator[Lines]]:
    """The header of a text file, and the lines after it.

    Raises:
        DataError: The file cannot be opened or has no header.
        BrokenFileError: It is broken before the header ends.
    """
    _require_text(path)
    before: list[bytes] = []
    blocks = read_lines(path)
    for lines in blocks:
        for row, (start, end) in enumerate(lines.spans):
            line = lines.text[start:end]
            before.append(line)
            text = line.removeprefix(b"\xef\xbb\xbf").strip()
            if text and not text.startswith(b"#"):
                return _header(path, before), chain([lines[row + 1 :]], blocks)
    raise DataError(f"{path}: holds no header line; download it again")


def _require_text(path: Path) -> None:
    """Refuse what is no text, of which a line may never end."""
    head = next(read_texts(path), b"")
    with located(path):
        kind = recognise(BytesIO(head))
        if kind is not Kind.TEXT:
            raise DataError(f"is {kind.value}; expected {Kind.TEXT.value}")


def _header(path: Path, lines: list[bytes]) -> Header:
    with located(path):
        columns = read_text(BytesIO(b"\n".join(lines)), frozenset())
    divided = len(columns.names) == lines[-1].count(b",") + 1
    return Header(lines[-1], columns.form, columns.names if divided else (), len(lines) - 1)


class _Vote(NamedTuple):
    """The basis of a file, the lines that it was found from, and whether they name it."""

    basis: Basis
    lines: list[bytes]
    is_named: bool


def _vote(
    lines: Iterable[Lines], header: Header, columns: Mapping[str, str], wanted: Basis | BasisIds | None
) -> _Vote:
    """The vote of the first lines that have both bands and name their ids, or else of the best before."""
    rows = _rows(lines)
    names = frozenset(columns) - frozenset(CORRELATIONS)
    ids_given = any(f"{band}_basis_function_id" in columns for band in BANDS)
    found = wanted if isinstance(wanted, Basis) else Basis(DR3_BASIS.n_bp, DR3_BASIS.n_rp)
    voters: list[bytes] = []
    best = (-1, False)
    while group := list(islice(rows, _VOTERS)):
        read = read_rows(header.line, group, [0] * len(group), wanted=names, basis=wanted)
        if (read.n_known_bands, read.is_named) > best:
            best = (read.n_known_bands, read.is_named)
            found, voters = read.spectra.basis, group
        if isinstance(wanted, Basis) or best == (len(BANDS), ids_given):
            break
    return _Vote(found, voters, best[1])


def _rows(lines: Iterable[Lines]) -> Iterator[bytes]:
    with suppress(BrokenFileError):  # whoever reads the lines to their end will meet it
        for block in lines:
            for start, end in block.spans:
                yield block.text[start:end]


_COMMENTS = b"# %ECSV 1.0\n# delimiter: ','\n"
_LINES_AHEAD = _COMMENTS.count(b"\n") + 1


def read_rows(
    header: bytes,
    lines: list[bytes],
    numbers: list[int],
    *,
    wanted: frozenset[str],
    basis: Basis | BasisIds | None,
) -> ReadRows:
    """The stars of some lines of a file in this basis, else in that of most, and why the others cannot be used."""
    text = BytesIO(_COMMENTS + b"\n".join((header, *lines)))
    read = assemble_rows(read_text(text, wanted), basis)
    line_of = np.concatenate([np.zeros(_LINES_AHEAD + 1, dtype=np.int64), np.array(numbers, dtype=np.int64)])
    return replace(
        read,
        row_numbers=line_of[read.row_numbers],
        skipped=tuple(replace(skipped, row=int(line_of[skipped.row])) for skipped in read.skipped),
    )
