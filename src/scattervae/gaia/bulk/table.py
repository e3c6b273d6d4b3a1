"""What a bulk file is, told from its first lines: its columns, its basis, the layout of its lines."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

from scattervae.errors import DataError
from scattervae.gaia.bulk.blocks import BrokenFileError, Lines, read_lines, read_texts
from scattervae.gaia.bulk.cutting import Layout
from scattervae.gaia.bulk.row_wise import read_rows
from scattervae.gaia.facts import BANDS, DR3_BASIS, SOURCE_ID_NAMES
from scattervae.gaia.files.columns import CONTINUOUS_COLUMNS, FIT_COLUMNS, pick
from scattervae.gaia.files.kinds import Kind, recognise
from scattervae.gaia.files.text import read_text
from scattervae.spectra.spectra import Basis

ARRAYS = tuple(f"{band}_{name}" for name in ("coefficients", "coefficient_errors") for band in BANDS)
CORRELATIONS = tuple(f"{band}_coefficient_correlations" for band in BANDS)
STATED = tuple(f"{band}_{name}" for name in ("n_parameters", "basis_function_id") for band in BANDS)
N_RELEVANT = tuple(f"{band}_n_relevant_bases" for band in BANDS)

_VOTERS = 32


class Header(NamedTuple):
    """The line that names the columns, and what stands before it.

    Attributes:
        line: The line.
        form: The kind of text file, as `scattervae.gaia.files` calls it.
        names: The columns as the file calls them; none where they are not divided by commas.
        n_before: Number of lines before it.
    """

    line: bytes
    form: str
    names: tuple[str, ...]
    n_before: int


@dataclass(frozen=True)
class BulkTable:
    """Columns, basis and layout of a file.

    Attributes:
        header: Its header.
        columns: Columns to read: name in lower case to the file's own name.
        basis: Sizes and ids of the coefficients.
        layout: How its regular lines are cut.
    """

    header: Header
    columns: Mapping[str, str]
    basis: Basis
    layout: Layout

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


def open_table(path: Path, *, correlations: bool) -> tuple[BulkTable, Iterator[Lines]]:
    """What a file is, and the lines after its header, yet to be read.

    The basis is that of most of the first 32 lines, or of those of the first lines after them that have the
    band at all. A band that no line of the file has gets DR3's size.

    Raises:
        DataError: The file cannot be opened or has no columns of spectra.
        BrokenFileError: It is broken before the header ends.
    """
    header, lines = read_header(path)
    columns = pick(header.names, bulk_columns(correlations=correlations))
    lacking = [name for name in CONTINUOUS_COLUMNS if name not in columns]
    if not any(name in columns for name in SOURCE_ID_NAMES):
        lacking.insert(0, SOURCE_ID_NAMES[0])
    if lacking:
        found = ", ".join(header.names[:8])[:200] or "not divided by commas"
        raise DataError(f"{path}: is no bulk file: columns {found}; lacks {', '.join(lacking)}")
    basis, voters = _vote(lines, header, columns)
    arrays = pick(header.names, frozenset((*ARRAYS, *CORRELATIONS)))
    places = {name: header.names.index(own) for name, own in arrays.items()}
    wanted = [place for name, place in places.items() if name in columns]
    layout = Layout.learn(len(header.names), places.values(), wanted, voters)
    return BulkTable(header, columns, basis, layout), read_header(path)[1]


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
    try:
        kind = recognise(BytesIO(head))
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    if kind is not Kind.TEXT:
        raise DataError(f"{path}: is {kind.value}; expected {Kind.TEXT.value}")


def _header(path: Path, lines: list[bytes]) -> Header:
    try:
        columns = read_text(BytesIO(b"\n".join(lines)), frozenset())
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    divided = len(columns.names) == lines[-1].count(b",") + 1
    return Header(lines[-1], columns.form, columns.names if divided else (), len(lines) - 1)


def _vote(lines: Iterable[Lines], header: Header, columns: Mapping[str, str]) -> tuple[Basis, list[bytes]]:
    """The basis of a file, and the lines it was told from."""
    sizes: dict[str, int] = {}
    ids: dict[str, int | None] = {}
    rows = _rows(lines)
    wanted = frozenset(columns) - frozenset(CORRELATIONS)
    voters: list[bytes] = []
    while group := list(islice(rows, _VOTERS)):
        voters = group
        read = read_rows(header.line, group, [0] * len(group), wanted=wanted, basis=None)
        basis = read.spectra.basis
        for band in read.told:
            sizes.setdefault(band, getattr(basis, f"n_{band}"))
            basis_id = getattr(basis, f"{band}_id")
            if basis_id is not None or f"{band}_basis_function_id" not in columns:
                ids.setdefault(band, basis_id)
        if len(ids) == len(BANDS):
            break
    n_bp, n_rp = (sizes.get(band, getattr(DR3_BASIS, f"n_{band}")) for band in BANDS)
    return Basis(n_bp, n_rp, ids.get("bp"), ids.get("rp")), voters


def _rows(lines: Iterable[Lines]) -> Iterator[bytes]:
    with suppress(BrokenFileError):  # whoever reads the lines to their end will meet it
        for block in lines:
            for start, end in block.spans:
                yield block.text[start:end]
