"""A store's catalogue as a HATS catalogue: its rows, its places on the sky, and what survives a stop."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from scattervae.errors import BusyError, DataError, StoreError
from scattervae.science.catalogue import hats_folder
from scattervae.science.catalogue.encoding import catalogue
from scattervae.science.catalogue.hats_folder import (
    Encoding,
    SkyColumns,
    encode_store,
    write_partition,
)
from scattervae.spectra.hats import HatsFolder, Partition, Positions, partition_path
from scattervae.spectra.spectra import Basis, Flag
from scattervae.spectra.store import SpectrumStore
from science.catalogues import bytes_of, check_same, elsewhere, rows_of, stop_after
from spectra.stores import all_bytes, scattered, write_store
from toy import spoiled, toy_sky, untrained_model

SKY = toy_sky(300)
MODEL = untrained_model(SKY.spectra)
STARS = spoiled(SKY.spectra).take(np.delete(np.arange(300), 6))  # without the duplicate


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("stores") / "store"
    write_store(path, STARS, sources=scattered(STARS.source_id), rows_a_partition=40)
    return SpectrumStore(path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, store):
    """The store's catalogue, which no test may change."""
    path = tmp_path_factory.mktemp("catalogues") / "latents"
    encode_store(MODEL, store, path)
    return path


def test_it_has_the_partitions_positions_and_order_of_the_store(store, whole):
    hats = HatsFolder.read(whole)
    assert hats.partitions == store.partitions
    assert hats.positions is Positions.MEASURED
    assert hats.properties["obs_collection"] == "latents"
    rows, stars = rows_of(whole), rows_of(store.path)
    for name in ("_healpix_29", "source_id", "ra", "dec", "quality_flags"):
        assert rows[name].to_pylist() == stars[name].to_pylist(), name
    assert rows.schema.field("ra").metadata == stars.schema.field("ra").metadata
    assert [path.name for path in whole.parent.iterdir()] == ["latents"]
    assert {path.name for path in whole.iterdir()} == {
        "dataset",
        "digests.json",
        "hats.properties",
        "partition_info.csv",
    }


def test_its_rows_are_those_of_stars_in_memory(whole):
    expected = catalogue(MODEL, STARS).sort_by("source_id")
    found = rows_of(whole).sort_by("source_id")
    check_same(found.select(expected.column_names), expected)


def test_its_schema_says_what_it_is(whole):
    schema = HatsFolder.read(whole).schema
    assert all(field.metadata[b"description"] for field in schema)
    assert MODEL.digest.encode() in schema.metadata[b"scattervae.catalogue"]


def test_summary_counts_stars_and_flags(tmp_path, store):
    seen = []
    summary = encode_store(MODEL, store, tmp_path / "c", progress=seen.append)
    assert (summary.path, summary.n_stars, summary.n_encoded) == (tmp_path / "c", 299, 294)
    assert summary.flags == {
        "MISSING_BP": 1,
        "MISSING_RP": 1,
        "BAD_COEFFS": 1,
        "BAD_ERRORS": 1,
        "NO_G_FLUX": 1,
    }
    assert seen == np.cumsum([partition.n_rows for partition in store.partitions]).tolist()


def test_approximate_positions_stay_approximate(tmp_path):
    write_store(tmp_path / "store", SKY.spectra)
    encode_store(MODEL, SpectrumStore(tmp_path / "store"), tmp_path / "c")
    hats = HatsFolder.read(tmp_path / "c")
    assert hats.positions is Positions.PIXEL_CENTRES
    assert b"approximate" in hats.schema.field("ra").metadata[b"description"]


@pytest.mark.parametrize("index", [True, False])
def test_a_catalogue_of_somebody_else_becomes_one_too(tmp_path, store, whole, index):
    other = elsewhere(tmp_path / "other", store, index=index)
    summary = encode_store(MODEL, other, tmp_path / "c")
    rows = rows_of(tmp_path / "c")
    assert summary.flags["DUPLICATE"] == len(store.partitions)  # found across row groups
    single = rows.filter((rows["quality_flags"].to_numpy() & np.uint16(Flag.DUPLICATE)) == 0)
    check_same(single, rows_of(whole))


def test_a_stopped_run_goes_on_and_gives_the_same_bytes(tmp_path, store, whole):
    out = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        encode_store(MODEL, store, out, progress=stop_after(100))
    assert not out.exists()
    done = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("Npix=*.parquet")}
    (next(iter(done)).parent / "Npix=0.parquet.0.partial").write_text("left by a killed run")
    seen = []
    summary = encode_store(MODEL, store, out, progress=seen.append)
    assert summary.n_resumed == sum(p.n_rows for p in store.partitions[: len(done)]) >= 100
    assert seen[0] > summary.n_resumed
    assert bytes_of(out) == bytes_of(whole)
    assert {path.name for path in tmp_path.iterdir()} == {"stopped"}


def test_one_begun_with_another_model_is_started_afresh(tmp_path, store, whole, caplog):
    out = tmp_path / "c"
    with pytest.raises(KeyboardInterrupt):
        encode_store(untrained_model(STARS), store, out, progress=stop_after(100))
    assert encode_store(MODEL, store, out).n_resumed == 0
    assert "begun with another model or other stars; started afresh" in caplog.text
    assert bytes_of(out) == bytes_of(whole)


def test_a_catalogue_is_replaced_when_the_new_one_is_whole(tmp_path, store, whole):
    out = tmp_path / "c"
    encode_store(untrained_model(STARS), store, out)
    before = all_bytes(out)
    with pytest.raises(KeyboardInterrupt):
        encode_store(MODEL, store, out, progress=stop_after(100))
    assert all_bytes(out) == before
    encode_store(MODEL, store, out)
    assert bytes_of(out) == bytes_of(whole)


def test_two_runs_do_not_write_one_catalogue(tmp_path, store, whole):
    met = []

    def second(_):
        with pytest.raises(BusyError, match="/c: another run is writing to it"):
            encode_store(MODEL, store, tmp_path / "c")
        met.append(True)

    encode_store(MODEL, store, tmp_path / "c", progress=second)
    assert met
    assert bytes_of(tmp_path / "c") == bytes_of(whole)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full to play a full disk")
def test_a_full_disk_is_said_in_one_line_and_the_run_goes_on(tmp_path, store, whole, monkeypatch):
    out, third = tmp_path / "c", store.partitions[2]
    path = partition_path(tmp_path / "c.parts", third.order, third.pixel)
    with pytest.raises(KeyboardInterrupt):
        encode_store(MODEL, store, out, progress=stop_after(1))
    path.with_name(path.name + ".x.partial").symlink_to("/dev/full")
    with monkeypatch.context() as patch:
        patch.setattr(hats_folder.uuid, "uuid4", lambda: SimpleNamespace(hex="x"))
        with pytest.raises(StoreError, match=r"c\.parts: the disk is full; .* the same command resumes"):
            encode_store(MODEL, store, out)
    assert not path.exists()
    encode_store(MODEL, store, out)
    assert bytes_of(out) == bytes_of(whole)


def test_a_broken_partition_of_the_store_is_named(tmp_path, store):
    write_store(tmp_path / "store", STARS, rows_a_partition=40)
    broken = SpectrumStore(tmp_path / "store")
    path = broken.path_of(broken.partitions[1])
    row_groups = broken.row_groups  # the footers are read before the file breaks
    path.write_bytes(path.read_bytes()[:1000])
    assert row_groups
    with pytest.raises(StoreError, match=path.name):
        encode_store(MODEL, broken, tmp_path / "c")


def test_stars_of_another_basis_are_refused(tmp_path):
    write_store(tmp_path / "store", toy_sky(20, basis=Basis(7, 5)).spectra)
    with pytest.raises(DataError, match="7 BP"):
        encode_store(MODEL, SpectrumStore(tmp_path / "store"), tmp_path / "c")
    assert {path.name for path in tmp_path.iterdir()} == {"store"}


def test_a_worker_that_does_not_see_the_folder_says_so(tmp_path, store):
    encoding = Encoding(MODEL, store.path, store.positions, tmp_path / "elsewhere")
    rows = catalogue(MODEL, STARS.take([0]))
    with pytest.raises(StoreError, match="a file system that all machines share"):
        write_partition(encoding, Partition(0, 0, 1), rows, {})
    assert list(tmp_path.iterdir()) == []


def test_positions_are_found_by_the_properties(tmp_path, store):
    assert SkyColumns.of(HatsFolder.read(store.path)) == SkyColumns("ra", "dec", "_healpix_29")
    other = elsewhere(tmp_path / "other", store, index=False)
    assert SkyColumns.of(HatsFolder.read(other.path)) == SkyColumns("RA", "DE", None)
