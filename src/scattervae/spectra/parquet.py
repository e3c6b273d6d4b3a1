"""Every parquet file, opened and written in one way: read without Arrow's threads, in encodings that compress stars."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

ROWS_A_GROUP = 8192
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
    )


def open_parquet(source: Path | pa.NativeFile, *, memory_map: bool = False) -> pq.ParquetFile:
    """A parquet file to read row groups of, with `read_groups`; closed by ``with``.

    Raises:
        OSError: It cannot be opened.
        pa.ArrowException: It is no parquet file.
    """
    return pq.ParquetFile(source, memory_map=memory_map, pre_buffer=False)


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


def read_table(source: Path | pa.NativeFile, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of a whole file, as `read_groups` reads them.

    Raises:
        OSError: It cannot be opened.
        pa.ArrowException: It is no parquet file.
    """
    with open_parquet(source) as file:
        return read_groups(file, columns)


def _leaf(field: pa.Field) -> str:
    return f"{field.name}.list.element" if pa.types.is_list(field.type) else field.name


def write_sorted(path: Path, table: pa.Table) -> None:
    """Write a table in row groups of `ROWS_A_GROUP`."""
    with parquet_writer(path, table.schema) as writer:
        writer.write_table(table, row_group_size=ROWS_A_GROUP)
