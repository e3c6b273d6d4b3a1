import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from scattervae.spectra.columns import table_of
from scattervae.spectra.parquet import ROWS_A_GROUP, write_sorted
from scattervae.spectra.sources import SourceColumns
from toy import toy_sky


def written(path, n_stars=30):
    sky = toy_sky(n_stars)
    table = table_of(sky.spectra, sky.labels, SourceColumns.empty())
    write_sorted(path, table)
    return table


def test_a_table_comes_back_as_it_was(tmp_path):
    table = written(tmp_path / "a.parquet")
    back = pq.read_table(tmp_path / "a.parquet")
    assert back.equals(table)
    assert back.schema.equals(table.schema, check_metadata=True)


def test_each_kind_of_column_has_its_encoding(tmp_path):
    written(tmp_path / "a.parquet")
    group = pq.read_metadata(tmp_path / "a.parquet").row_group(0)
    columns = {c.path_in_schema: c for c in (group.column(i) for i in range(group.num_columns))}
    expected = {
        "bp_coefficients.list.element": "BYTE_STREAM_SPLIT",
        "ra": "BYTE_STREAM_SPLIT",
        "source_id": "DELTA_BINARY_PACKED",
        "flags": "RLE_DICTIONARY",
    }
    for name, encoding in expected.items():
        assert encoding in columns[name].encodings
    assert {c.compression for c in columns.values()} == {"ZSTD"}


def test_only_numbers_have_statistics(tmp_path):
    table = written(tmp_path / "a.parquet")
    group = pq.read_metadata(tmp_path / "a.parquet").row_group(0)
    for i in range(group.num_columns):
        column = group.column(i)
        assert column.is_stats_set == ("list" not in column.path_in_schema)
    names = [group.column(i).path_in_schema for i in range(group.num_columns)]
    statistics = group.column(names.index("source_id")).statistics
    ids = table["source_id"].to_pylist()
    assert (statistics.min, statistics.max) == (min(ids), max(ids))


def test_row_groups_have_one_size_but_for_the_last(tmp_path):
    n_rows = 2 * ROWS_A_GROUP + 1
    write_sorted(tmp_path / "a.parquet", pa.table({"n": np.arange(n_rows)}))
    footer = pq.read_metadata(tmp_path / "a.parquet")
    groups = [footer.row_group(i).num_rows for i in range(footer.num_row_groups)]
    assert groups == [ROWS_A_GROUP, ROWS_A_GROUP, 1]
