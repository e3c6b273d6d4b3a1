import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hats.pixel_math import generate_alignment
from hypothesis import given
from hypothesis import strategies as st

from scattervae.spectra import staging as finish
from scattervae.spectra.hats import Partition
from scattervae.spectra.staging import choose_partitions, partitions_of, write_partitions

SCHEMA = pa.schema([("_healpix_29", pa.int64()), ("source_id", pa.int64()), ("note", pa.int64())])
ORDER = 3
CELLS = st.dictionaries(st.integers(0, 12 * 4**ORDER - 1), st.integers(1, 9), max_size=60)


def runs(folder, files):
    """Parquet files whose row groups of up to three rows are each in order; rows are (index, source_id)."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, rows in enumerate(files):
        paths.append(folder / f"run-{number}.parquet")
        with pq.ParquetWriter(paths[-1], SCHEMA.remove(2)) as writer:
            for start in range(0, len(rows), 3):
                index, source_id = zip(*sorted(rows[start : start + 3]), strict=True)
                writer.write_table(pa.table([pa.array(index), pa.array(source_id)], schema=SCHEMA.remove(2)))
    return paths


@given(CELLS, st.integers(9, 100))
def test_partitions_are_those_that_hats_chooses(cells, rows_a_partition):
    counts = np.zeros(12 * 4**ORDER, dtype=np.int64)
    counts[list(cells)] = list(cells.values())
    aligned = generate_alignment(counts, highest_order=ORDER, threshold=rows_a_partition)
    expected = {tuple(int(n) for n in one) for one in aligned if one is not None}
    pixels = np.array(sorted(cells), dtype=np.int64)
    found = partitions_of(pixels, counts[pixels], order=ORDER, rows_a_partition=rows_a_partition)
    assert set(found) == expected
    assert list(found) == sorted(found, key=lambda partition: partition.index_range)


def test_a_cell_too_full_for_a_partition_stays_whole():
    found = partitions_of(np.array([5, 6]), np.array([7, 1]), order=1, rows_a_partition=3)
    assert found == (Partition(1, 5, 7), Partition(1, 6, 1))


ROWS = st.lists(st.tuples(st.integers(0, 12 * 4**29 - 1), st.integers(0, 10**6)), max_size=12)


@given(st.lists(ROWS, min_size=1, max_size=4), st.integers(1, 9), st.randoms())
def test_rows_are_sorted_into_partitions_however_they_came(
    tmp_path_factory, files, rows_a_partition, shuffler
):
    rows = list(dict.fromkeys(row for one in files for row in one))
    folder = tmp_path_factory.mktemp("finish")
    written = []
    for attempt in ("a", "b"):
        shuffler.shuffle(rows)
        cut = shuffler.randint(0, len(rows))
        paths = runs(folder / attempt, [rows[:cut], rows[cut:]])
        partitions = choose_partitions(paths, rows_a_partition=rows_a_partition)
        out = folder / attempt / "dataset"
        write_partitions(out, paths, partitions, schema=SCHEMA, unchanged={})
        written.append({p.name: p.read_bytes() for p in out.rglob("*.parquet")})
        found = []
        for partition in partitions:
            path = out / finish.partition_name(partition.order, partition.pixel)
            table = pq.ParquetFile(path).read()
            assert len(table) == partition.n_rows
            low, beyond = partition.index_range
            assert all(low <= index < beyond for index in table["_healpix_29"].to_pylist())
            assert table["note"].null_count == len(table)
            found += list(zip(*(table[name].to_pylist() for name in SCHEMA.names[:2]), strict=True))
        assert found == sorted(rows)
    assert written[0] == written[1]


def test_counts_may_be_added_up_early(tmp_path, monkeypatch):
    rows = [(pixel * 4**29 // 2, pixel) for pixel in range(24)]
    paths = runs(tmp_path, [rows[i::5] for i in range(5)])
    late = choose_partitions(paths, rows_a_partition=3)
    monkeypatch.setattr(finish, "_CELLS_TO_MERGE", 2)
    assert choose_partitions(paths, rows_a_partition=3) == late
    assert [partition.n_rows for partition in late] == [2] * 12


def test_what_is_there_is_left_and_what_is_unchanged_is_linked(tmp_path):
    paths = runs(tmp_path, [[(1, 1)], [(12 * 4**29 - 1, 2)]])
    first, last = choose_partitions(paths, rows_a_partition=1)
    old = tmp_path / "old.parquet"
    old.write_bytes(b"the same rows")
    (tmp_path / "out" / "Norder=0" / "Dir=0").mkdir(parents=True)
    (tmp_path / "out" / "Norder=0" / "Dir=0" / "Npix=0.parquet").write_bytes(b"from before")
    (tmp_path / "out" / "Norder=0" / "Dir=0" / "Npix=11.parquet.partial").write_bytes(b"half")
    write_partitions(tmp_path / "out", paths, [first, last], schema=SCHEMA, unchanged={last: old})
    assert (tmp_path / "out" / "Norder=0" / "Dir=0" / "Npix=0.parquet").read_bytes() == b"from before"
    linked = tmp_path / "out" / "Norder=0" / "Dir=0" / "Npix=11.parquet"
    assert linked.samefile(old)
    assert not list(tmp_path.rglob("*.partial"))


def test_where_there_are_no_links_files_are_copied(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError

    paths = runs(tmp_path, [[(1, 1)]])
    partitions = choose_partitions(paths, rows_a_partition=1)
    (tmp_path / "old.parquet").write_bytes(b"the same rows")
    monkeypatch.setattr(finish.os, "link", refuse)
    unchanged = {partitions[0]: tmp_path / "old.parquet"}
    write_partitions(tmp_path / "out", paths, partitions, schema=SCHEMA, unchanged=unchanged)
    copied = tmp_path / "out" / "Norder=0" / "Dir=0" / "Npix=0.parquet"
    assert copied.read_bytes() == b"the same rows"
    assert not copied.samefile(tmp_path / "old.parquet")


def test_only_row_groups_that_reach_into_a_partition_are_read(tmp_path, monkeypatch):
    rows = [(pixel * 4**29 + i, 100 * pixel + i) for pixel in range(12) for i in range(3)]
    paths = runs(tmp_path, [rows[:18], rows[18:]])
    read = []
    plain = finish.read_groups
    monkeypatch.setattr(
        finish, "read_groups", lambda file, groups: read.extend(groups) or plain(file, groups=groups)
    )
    write_partitions(tmp_path / "out", paths, [Partition(0, 7, 3)], schema=SCHEMA, unchanged={})
    assert read == [1]
