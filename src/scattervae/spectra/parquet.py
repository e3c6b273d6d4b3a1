"""Every parquet file, opened and written in one way: read without Arrow's threads, in encodings that compress stars."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from scattervae.opening import Budget

ROWS_A_GROUP = 8192
_NUMBER_BYTES = 16  # of a value in memory, with what says where lists begin
_LIST_BYTES = 150  # of a list as an array
_COMPRESSION_LEVEL = 1  # higher levels take longer and save less than 0.1 %


def parquet_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """A writer of zstd parquet: floats split into streams of bytes, integers as differences, flags as runs.

    Only columns of numbers get statistics, by which readers pass over row groups; those of lists would fill the
    footers.
    """
    leaves = {name: _leaf(schema.field(name)) for name in schema.names}
    encoding, dictionary, statistics = {}, [], []
    for field in schema:
        leaf = leaves[field.name]
        kind = field.type.value_type if pa.types.is_list(field.type) else field.type
        if not pa.types.is_list(field.type):
            statistics.append(leaf)
        if pa.types.is_floating(kind):
            encoding[leaf] = "BYTE_STREAM_SPLIT"
        elif pa.types.is_int64(kind):
            encoding[leaf] = "DELTA_BINARY_PACKED"
        else:
            dictionary.append(leaf)
    return pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        compression_level=_COMPRESSION_LEVEL,
        column_encoding=encoding,
        use_dictionary=dictionary or False,
        write_statistics=statistics or False,
        write_page_checksum=True,
    )


def open_parquet(source: Path | pa.NativeFile, *, memory_map: bool = False) -> pq.ParquetFile:
    """A parquet file to read row groups of, with `read_groups`; closed by ``with``.

    Raises:
        OSError: It cannot be opened.
        pa.ArrowException: It is no parquet file.
    """
    return pq.ParquetFile(source, memory_map=memory_map, pre_buffer=False, page_checksum_verification=True)


def spend_on(file: pq.ParquetFile, budget: Budget, leaves: Sequence[str] | None = None) -> None:
    """Count what reading columns takes, before it is done: a run of equal values is a few bytes in the file.

    Args:
        file: The open file.
        budget: What reading it may cost.
        leaves: Dotted names of columns, without the parts that parquet puts below lists; all columns where None.

    Raises:
        DataError: It is out of proportion to the size of the file.
    """
    for group in map(file.metadata.row_group, range(file.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            path = column.path_in_schema
            if leaves is None or any(f"{path}.".startswith(f"{leaf}.") for leaf in leaves):
                size = _NUMBER_BYTES * column.num_values + column.total_uncompressed_size
                budget.spend(size + (_LIST_BYTES * group.num_rows if "." in path else 0))


def read_groups(
    file: pq.ParquetFile, columns: Sequence[str] | None = None, *, groups: Sequence[int] | None = None
) -> pa.Table:
    """These row groups of an open file (all where None), computed by this thread alone.

    Arrow's own threads may outlive the reading, and on a busy machine then abort the process at its end, after the
    right answer: 19 of 48 processes did.

    Source:
        https://github.com/apache/arrow/issues/34314, open for pyarrow 10 to 25.
    """
    names = None if columns is None else list(columns)
    if groups is None:
        return file.read(columns=names, use_threads=False)
    return file.read_row_groups(groups, columns=names, use_threads=False)


def read_table(
    source: Path | pa.NativeFile, columns: Sequence[str] | None = None, *, budget: Budget | None = None
) -> pa.Table:
    """The rows of a whole file, as `read_groups` reads them.

    Args:
        source: The file.
        columns: Some of its columns; all where None.
        budget: What reading it may cost, where it is not our own.

    Raises:
        DataError: It costs more.
        OSError: It cannot be opened.
        pa.ArrowException: It is no parquet file.
    """
    with open_parquet(source) as file:
        if budget is not None:
            spend_on(file, budget, columns)
        return read_groups(file, columns)


def _leaf(field: pa.Field) -> str:
    return f"{field.name}.list.element" if pa.types.is_list(field.type) else field.name


def write_sorted(path: Path, table: pa.Table) -> None:
    """Write a table in row groups of `ROWS_A_GROUP`."""
    with parquet_writer(path, table.schema) as writer:
        writer.write_table(table, row_group_size=ROWS_A_GROUP)
