"""What Gaia's source table says of stars: a few of the 152 columns of its bulk files, streamed."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from scattervae.arrays import SourceIds, StarArray
from scattervae.errors import DataError, counted
from scattervae.gaia.bulk.blocks import BrokenFileError, read_texts
from scattervae.gaia.bulk.table import Header, lacking_columns, read_header
from scattervae.gaia.facts import SOURCE_ID_NAMES
from scattervae.gaia.files.assemble import assemble_sources
from scattervae.gaia.files.cells import floats
from scattervae.gaia.files.columns import Columns, pick
from scattervae.gaia.files.rows import identifiers
from scattervae.spectra.star_tables import POSITION_COLUMNS, SOURCE_COLUMNS, SourceColumns

logger = logging.getLogger(__name__)

_BLOCK_BYTES = 2**23  # must hold the comments before the header, which are 0.1 MB in Gaia's files
_NULLS = ["", "null", "NULL", "nan", "NaN", "None", "--"]


def is_bulk_sources(path: str | Path) -> bool:
    """True for a text file, gzipped or not, with Gaia's identifier, ra and dec in columns divided by commas."""
    try:
        header, _ = read_header(Path(path))
    except DataError:
        return False
    return not lacking_columns(_picked(header), POSITION_COLUMNS)


def read_sources(path: str | Path) -> SourceColumns:
    """The `SOURCE_COLUMNS` that a bulk file of ``gaia_source`` has, in the order of the file, one row a star.

    A cell that is no number becomes NaN. Rows without an identifier are left out, and so are those with more
    or fewer cells than the header; the log says how many.

    Raises:
        DataError: The file cannot be opened, is cut off or damaged, or has no identifiers or positions.
    """
    path = Path(path)
    header, _ = read_header(path)
    picked = _picked(header)
    header.require(picked, POSITION_COLUMNS, f"{path}: is no gaia_source file")
    parts = [_cells(batch) for batch in _batches(path, header, picked)]
    cells = {
        name: np.concatenate([part[name] for part in parts]) if parts else np.empty(0, dtype=np.int64)
        for name in picked
    }
    return assemble_sources(Columns.of("gaia_source csv", cells, header.names))


def _picked(header: Header) -> dict[str, int]:
    """Columns to read, with their places: the best identifier first, under whatever name it has."""
    own = pick(header.names, frozenset((*SOURCE_ID_NAMES, *SOURCE_COLUMNS)))
    identifiers = [name for name in SOURCE_ID_NAMES if name in own]
    names = (*identifiers[:1], *SOURCE_COLUMNS)
    return {name: header.names.index(own[name]) for name in names if name in own}


def _batches(path: Path, header: Header, picked: Mapping[str, int]) -> Iterator[pa.RecordBatch]:
    """The columns as text, some thousand rows at a time."""
    n_rows, n_dropped = 0, 0

    def leave_out(_: csv.InvalidRow) -> str:
        nonlocal n_dropped
        n_dropped += 1
        return "skip"

    columns = [f"column {index}" for index in range(len(header.names))]
    wanted = [columns[index] for index in picked.values()]
    try:
        reader = csv.open_csv(
            pa.PythonFile(_Stream(read_texts(path)), mode="r"),
            read_options=csv.ReadOptions(
                use_threads=False,
                block_size=_BLOCK_BYTES,
                skip_rows=header.n_before + 1,
                column_names=columns,
            ),
            parse_options=csv.ParseOptions(invalid_row_handler=leave_out),
            convert_options=csv.ConvertOptions(
                include_columns=wanted,
                column_types=dict.fromkeys(wanted, pa.string()),
                null_values=_NULLS,
                strings_can_be_null=True,
            ),
        )
        for batch in reader:
            n_rows += batch.num_rows
            yield batch.rename_columns(list(picked))
    except BrokenFileError as error:
        raise error.after(n_rows) from error.__cause__
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: cannot be read ({' '.join(str(error).split())[:200]})") from error
    if n_dropped:
        logger.warning("%s: %s left out: not %d cells", path, counted(n_dropped, "row"), len(columns))


class _Stream:
    """The text of a file as arrow reads files."""

    closed = False

    def __init__(self, texts: Iterator[bytes]) -> None:
        self._texts = texts
        self._rest = b""

    def read(self, size: int) -> bytes:
        """So many bytes, fewer only at the end."""
        read = [self._rest]
        missing = size - len(self._rest)
        while missing > 0 and (text := next(self._texts, b"")):
            read.append(text)
            missing -= len(text)
        whole = b"".join(read)
        self._rest = whole[size:]
        return whole[:size]


def _cells(batch: pa.RecordBatch) -> dict[str, np.ndarray]:
    """The columns as numbers, of all rows that have an identifier."""
    identifier, *others = batch.column_names
    source_id = _integers(batch[identifier])
    cells = {identifier: source_id, **{name: _floats(batch[name]) for name in others}}
    return {name: column[source_id > 0] for name, column in cells.items()}


def _integers(cells: pa.StringArray) -> SourceIds:
    """The integers in the cells, 0 where there is none."""
    try:
        return np.asarray(pc.cast(cells, pa.int64()).fill_null(0).to_numpy(zero_copy_only=False))
    except pa.ArrowInvalid:
        return identifiers(cells.to_numpy(zero_copy_only=False)).values


def _floats(cells: pa.StringArray) -> StarArray:
    """The numbers in the cells, NaN where there is none."""
    try:
        return np.asarray(pc.cast(cells, pa.float64()).to_numpy(zero_copy_only=False))
    except pa.ArrowInvalid:
        return floats(cells.to_numpy(zero_copy_only=False))
