import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import scattervae
from scattervae.spectra.columns import table_of
from scattervae.spectra.parquet import ROWS_A_GROUP, open_parquet, read_groups, read_table, write_sorted
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


def test_row_groups_and_columns_are_read_as_arrow_reads_them(tmp_path):
    write_sorted(
        tmp_path / "a.parquet", pa.table({"n": np.arange(3 * ROWS_A_GROUP), "m": np.ones(3 * ROWS_A_GROUP)})
    )
    reference = pq.read_table(tmp_path / "a.parquet")
    assert read_table(tmp_path / "a.parquet").equals(reference)
    assert read_table(tmp_path / "a.parquet", ["m"]).equals(reference.select(["m"]))
    with open_parquet(tmp_path / "a.parquet", memory_map=True) as file:
        assert read_groups(file, ["n"], groups=[1]).equals(
            reference.select(["n"]).slice(ROWS_A_GROUP, ROWS_A_GROUP)
        )


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="only Linux shows a process's threads")
def test_no_thread_of_arrow_is_left_to_abort_the_process_at_its_end(tmp_path):
    """Arrow issue 34314: its threads, alive at the process's end on a busy machine, abort it."""
    written(tmp_path / "a.parquet")
    script = f"""
import os, sys
import pyarrow.parquet as pq
from scattervae.spectra.parquet import read_table

def threads():
    return len(os.listdir("/proc/self/task"))

before = threads()
read_table({str(tmp_path / "a.parquet")!r})
ours = threads()
pq.read_table({str(tmp_path / "a.parquet")!r})
print(ours - before, threads() - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    ours, arrows = map(int, done.stdout.split())
    assert ours == 0
    assert arrows > 0  # what the test would see


def test_every_parquet_file_is_read_in_one_place():
    package = Path(scattervae.__file__).parent
    reads = re.compile(r"ParquetFile\(|\bpq\.read_table|\bread_row_group|pyarrow\.dataset|pd\.read_parquet")
    found = {
        str(file.relative_to(package)) for file in package.rglob("*.py") if reads.search(file.read_text())
    }
    assert found == {"spectra/parquet.py"}
