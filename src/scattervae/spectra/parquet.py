"""How tables of stars are written to parquet: encodings that compress them, row groups that suit shuffled reading."""

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


def _leaf(field: pa.Field) -> str:
    return f"{field.name}.list.element" if pa.types.is_list(field.type) else field.name


def write_sorted(path: Path, table: pa.Table) -> None:
    """Write a table in row groups of `ROWS_A_GROUP`."""
    with parquet_writer(path, table.schema) as writer:
        writer.write_table(table, row_group_size=ROWS_A_GROUP)
