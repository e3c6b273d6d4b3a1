import re
import subprocess
import sys
from pathlib import Path

import astropy.units as u
import cdshealpix.nested
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.coordinates import SkyCoord
from hats.catalog.dataset.table_properties import TableProperties
from hats.catalog.partition_info import PartitionInfo
from hats.io import paths
from hats.pixel_math import HealpixPixel
from hypothesis import given
from hypothesis import strategies as st

import scattervae
from scattervae.errors import StoreError
from scattervae.spectra.columns import table_of
from scattervae.spectra.hats import (
    ROWS_A_GROUP,
    HatsFolder,
    Partition,
    Positions,
    finish_catalogue,
    open_parquet,
    partition_path,
    pixel_centres,
    read_groups,
    read_table,
    spatial_index,
    write_sorted,
)
from scattervae.spectra.star_tables import SourceColumns
from toy import toy_sky

SCHEMA = pa.schema(
    [
        pa.field("_healpix_29", pa.int64()),
        pa.field("ra", pa.float64(), metadata={"unit": "deg", "description": "right ascension"}),
        pa.field("dec", pa.float64()),
    ]
)
PARTITIONS = (Partition(1, 17, 3), Partition(0, 2, 1), Partition(2, 90_000 % 192, 2))


def make(folder, *, positions=Positions.MEASURED, partitions=PARTITIONS, **notes):
    for partition in partitions:
        path = partition_path(folder, partition.order, partition.pixel)
        path.parent.mkdir(parents=True, exist_ok=True)
        columns = [np.arange(partition.n_rows), np.zeros(partition.n_rows), np.zeros(partition.n_rows)]
        pq.write_table(pa.table(columns, schema=SCHEMA), path)
    finish_catalogue(
        folder, name="toy", schema=SCHEMA, partitions=partitions, positions=positions, notes=notes
    )


@given(st.integers(0, 29), st.data())
def test_partitions_lie_where_hats_looks_for_them(order, data):
    pixel = data.draw(st.integers(0, 12 * 4**order - 1))
    expected = paths.pixel_catalog_file("/somewhere", HealpixPixel(order, pixel))
    assert str(partition_path(Path("/somewhere"), order, pixel)) == str(expected)


@given(st.floats(0, 360, exclude_max=True), st.floats(-90, 90))
def test_the_spatial_index_is_the_order_29_pixel(ra, dec):
    (expected,) = cdshealpix.nested.lonlat_to_healpix([ra] * u.deg, [dec] * u.deg, 29)
    assert spatial_index(np.array([ra]), np.array([dec])).tolist() == [int(expected)]


@given(st.integers(0, 12 * 4**12 * 2**35 - 1))
def test_the_centre_of_a_source_ids_pixel_lies_in_it(source_id):
    ra, dec = pixel_centres(np.array([source_id]))
    assert (spatial_index(ra, dec) >> 34).tolist() == [source_id >> 35]


def test_stars_lie_near_the_centre_of_their_pixel():
    """Proxima Centauri and 18 Scorpii at epoch 2016.0; source: table gaiadr3.gaia_source."""
    stars = SkyCoord([217.39232, 243.90529], [-62.67608, -8.36944], unit="deg")
    centres = pixel_centres(np.array([5853498713190525696, 4345775217221821312]))
    assert stars.separation(SkyCoord(*centres, unit="deg")).arcsec.max() < 30


@pytest.mark.parametrize("source_id", [-1, 12 * 4**12 * 2**35, 2**63 - 1])
def test_a_number_that_names_no_pixel_is_refused(source_id):
    with pytest.raises(StoreError, match=f"source_id {source_id} names no pixel"):
        pixel_centres(np.array([5, source_id]))


def test_the_range_of_a_partition_holds_its_pixel_alone():
    partition = Partition(3, 17, 1)
    assert partition.index_range == (17 * 4**26, 18 * 4**26)
    assert Partition(29, 5, 1).index_range == (5, 6)


def test_hats_reads_what_was_written(tmp_path):
    make(tmp_path, obs_ack="somebody")
    properties = TableProperties.read_from_dir(tmp_path)
    assert (properties.catalog_name, properties.catalog_type, properties.total_rows) == ("toy", "object", 6)
    assert (properties.ra_column, properties.dec_column) == ("ra", "dec")
    assert (properties.healpix_column, properties.healpix_order) == ("_healpix_29", 29)
    assert properties.__pydantic_extra__["obs_ack"] == "somebody"
    pixels = PartitionInfo.read_from_dir(tmp_path).get_healpix_pixels()
    assert {(int(p.order), int(p.pixel)) for p in pixels} == {(p.order, p.pixel) for p in PARTITIONS}


@pytest.mark.parametrize("positions", Positions)
def test_a_catalogue_is_read_back(tmp_path, positions):
    make(tmp_path, positions=positions, note="x = y: z")
    folder = HatsFolder.read(tmp_path)
    assert folder.partitions == tuple(sorted(PARTITIONS, key=lambda p: p.index_range))
    assert folder.positions is positions
    assert folder.properties["note"] == "x = y: z"
    assert folder.schema.equals(SCHEMA, check_metadata=True)
    assert all(file.is_file() for p in folder.partitions for file in folder.files_of(p))


def test_the_same_partitions_give_the_same_bytes(tmp_path):
    for name, partitions in (("a", PARTITIONS), ("b", PARTITIONS[::-1])):
        make(tmp_path / name, partitions=partitions)
    for name in ("hats.properties", "partition_info.csv", "dataset/_common_metadata"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_rows_are_counted_where_the_list_of_partitions_does_not(tmp_path):
    make(tmp_path)
    lines = (tmp_path / "partition_info.csv").read_text().split()
    (tmp_path / "partition_info.csv").write_text("\n".join(line.rpartition(",")[0] for line in lines))
    assert sorted(HatsFolder.read(tmp_path).partitions) == sorted(PARTITIONS)


def test_partitions_may_be_folders_of_files(tmp_path):
    make(tmp_path)
    for partition in PARTITIONS:
        path = partition_path(tmp_path, partition.order, partition.pixel)
        path.with_suffix("").mkdir()
        path.rename(path.with_suffix("") / "part0.snappy.parquet")
    file = tmp_path / "hats.properties"
    file.write_text(file.read_text().replace("hats_npix_suffix=.parquet", "hats_npix_suffix=/"))
    (tmp_path / "partition_info.csv").write_text("Norder,Npix\n1,17\n0,2\n2,144\n")
    folder = HatsFolder.read(tmp_path)
    assert sorted(folder.partitions) == sorted(PARTITIONS)
    assert [f.name for p in folder.partitions for f in folder.files_of(p)] == ["part0.snappy.parquet"] * 3


def test_a_collection_is_read_by_its_main_table(tmp_path):
    make(tmp_path / "main")
    (tmp_path / "collection.properties").write_text(
        "#HATS Collection\nobs_collection=all\nhats_primary_table_url=main\n"
    )
    assert HatsFolder.read(tmp_path).path == tmp_path / "main"
    (tmp_path / "collection.properties").write_text("hats_primary_table_url=elsewhere\n")
    with pytest.raises(StoreError, match=r"collection\.properties: main table elsewhere"):
        HatsFolder.read(tmp_path)


def test_no_path_leads_out_of_the_folder(tmp_path):
    make(tmp_path / "elsewhere")
    inside = tmp_path / "folder"
    make(inside)
    for outside in ("../elsewhere", str(tmp_path / "elsewhere")):
        (inside / "collection.properties").write_text(f"hats_primary_table_url={outside}\n")
        with pytest.raises(StoreError, match="is not a folder in it"):
            HatsFolder.read(inside)
    (inside / "collection.properties").unlink()
    file = inside / "hats.properties"
    file.write_text(file.read_text().replace("=.parquet", "=/../../../../../elsewhere/x.parquet"))
    with pytest.raises(StoreError, match="leads to other folders"):
        HatsFolder.read(inside)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("hats.properties", None, "no hats.properties; not a HATS catalogue"),
        ("hats.properties", "dataproduct_type=margin\n", "of type margin; expected object or source"),
        ("hats.properties", "\udcff", "not readable"),
        ("partition_info.csv", None, "not the partitions of a HATS catalogue"),
        ("partition_info.csv", "", "not the partitions"),
        ("partition_info.csv", "Order,Pixel\n1,2\n", "not the partitions"),
        ("partition_info.csv", "Norder,Npix\n1,x\n", "not the partitions"),
        ("partition_info.csv", "Norder,Npix\n5,3\n", "is gone"),
        ("dataset/_common_metadata", "text", "cannot be read as parquet"),
    ],
)
def test_what_is_no_catalogue_is_refused_in_one_line(tmp_path, name, text, message):
    make(tmp_path)
    if text is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(StoreError, match=message) as caught:
        HatsFolder.read(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_schema_comes_from_a_partition_where_nothing_else_has_it(tmp_path):
    make(tmp_path)
    (tmp_path / "dataset" / "_common_metadata").unlink()
    assert HatsFolder.read(tmp_path).schema.names == SCHEMA.names
    for partition in PARTITIONS:
        partition_path(tmp_path, partition.order, partition.pixel).unlink()
    with pytest.raises(StoreError, match="nor a partition is there"):
        HatsFolder.read(tmp_path)


def test_approximate_positions_are_marked_for_other_readers(tmp_path):
    make(tmp_path, positions=Positions.PIXEL_CENTRES)
    assert (
        TableProperties.read_from_dir(tmp_path)
        .__pydantic_extra__["scattervae_positions"]
        .startswith("approximate")
    )


def test_the_corners_of_pixels_are_as_far_as_is_said():
    pixels = np.arange(0, 12 * 4**12, 99_991)
    corners = SkyCoord(*cdshealpix.nested.vertices(pixels, 12))
    centres = SkyCoord(*cdshealpix.nested.healpix_to_lonlat(pixels, 12))
    assert corners.separation(centres[:, None]).arcsec.max() == pytest.approx(53.4, abs=0.1)


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
        "quality_flags": "RLE_DICTIONARY",
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
from scattervae.spectra.hats import read_table

def threads():
    return len(os.listdir("/proc/self/task"))

before = threads()
read_table({str(tmp_path / "a.parquet")!r})
own = threads()
pq.read_table({str(tmp_path / "a.parquet")!r})
print(own - before, threads() - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    found, arrows = map(int, done.stdout.split())
    assert found == 0
    assert arrows > 0  # what the test would see


def test_every_parquet_file_is_read_in_one_place():
    package = Path(scattervae.__file__).parent
    reads = re.compile(r"ParquetFile\(|\bpq\.read_table|pyarrow\.dataset|pd\.read_parquet")
    found = {
        str(file.relative_to(package))
        for file in package.rglob("*.py")
        if any(reads.search(line) for line in file.read_text().splitlines() if ">>> " not in line)
    }
    assert found == {"spectra/hats.py"}
