"""The Dask engine against the local one, with workers that die and partitions that break; LSDB's map_partitions."""

import os
import signal
import sys
import warnings
from functools import partial

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scattervae.errors import DataError, RecipeError, StoreError
from scattervae.science.catalogue.dask import DaskEngine, dask_client, encode_partition
from scattervae.science.catalogue.encoding import catalogue
from scattervae.science.catalogue.hats_folder import encode_store
from scattervae.spectra.spectra import Basis
from scattervae.spectra.store import SpectrumStore
from science.catalogues import bytes_of, check_same, elsewhere, rows_of, stop_after
from spectra.stores import scattered, write_store
from toy import DR3, spoiled, toy_sky, untrained_model

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "The 'mode.chained_assignment' option")  # set by LSDB for older pandas
    lsdb = pytest.importorskip("lsdb", reason="needs the extra `cluster`")

pytestmark = [
    pytest.mark.filterwarnings("ignore:The inplace keyword in NestedFrame"),  # nested-pandas under pandas 3
]

SKY = toy_sky(600)
STARS = spoiled(SKY.spectra).take(np.delete(np.arange(600), 6))  # without the duplicate
MODEL = untrained_model(SKY.spectra)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("stores") / "store"
    write_store(path, STARS, sources=scattered(STARS.source_id), rows_a_partition=100)
    return SpectrumStore(path)


@pytest.fixture(scope="module")
def local(tmp_path_factory, store):
    path = tmp_path_factory.mktemp("catalogues") / "local"
    encode_store(MODEL, store, path)
    return path


@pytest.fixture(scope="module")
def client():
    with dask_client(None, workers=2) as client:
        yield client


def test_both_engines_write_the_same_bytes_though_a_worker_is_killed(tmp_path, store, local, client):
    before = client.run(os.getpid)
    done = []

    def kill_one(n_done):
        if not done:
            os.kill(next(iter(before.values())), signal.SIGKILL)
        done.append(n_done)

    summary = encode_store(MODEL, store, tmp_path / "c", engine=DaskEngine(client), progress=kill_one)
    assert bytes_of(tmp_path / "c") == bytes_of(local)
    assert (summary.n_stars, summary.n_encoded, summary.n_resumed) == (599, 594, 0)
    assert len(lsdb.open_catalog(tmp_path / "c").compute(progress_bar=False)) == 599
    assert len(done) == len(store.partitions)
    assert done[-1] == 599
    client.wait_for_workers(2)
    assert set(client.run(os.getpid).values()) != set(before.values())


def test_one_engine_goes_on_where_the_other_was_stopped(tmp_path, store, local, client):
    engine = DaskEngine(client)
    with pytest.raises(KeyboardInterrupt):
        encode_store(MODEL, store, tmp_path / "c", progress=stop_after(100))
    with pytest.raises(KeyboardInterrupt):
        encode_store(MODEL, store, tmp_path / "c", engine=engine, progress=stop_after(300))
    n_done = sum(pq.read_metadata(path).num_rows for path in tmp_path.rglob("Npix=*.parquet"))
    assert n_done >= 300
    assert encode_store(MODEL, store, tmp_path / "c").n_resumed >= n_done
    assert bytes_of(tmp_path / "c") == bytes_of(local)
    again = encode_store(MODEL, store, tmp_path / "c", engine=engine)
    assert again.n_resumed == 0
    assert bytes_of(tmp_path / "c") == bytes_of(local)


def test_a_broken_partition_is_named_and_costs_the_others_nothing(tmp_path, store, local, client):
    write_store(tmp_path / "store", STARS, sources=scattered(STARS.source_id), rows_a_partition=100)
    broken = SpectrumStore(tmp_path / "store")
    lost = broken.partitions[3]
    path = broken.path_of(lost)
    content = path.read_bytes()
    path.write_bytes(content[:1000])
    name = f"Norder={lost.order}/Npix={lost.pixel}"
    with pytest.raises(StoreError, match=f"^1 of {len(store.partitions)} partitions .*{name}") as caught:
        encode_store(MODEL, broken, tmp_path / "c", engine=DaskEngine(client))
    assert "\n" not in str(caught.value)
    assert "the same command resumes" in str(caught.value)
    path.write_bytes(content)
    summary = encode_store(MODEL, broken, tmp_path / "c", engine=DaskEngine(client))
    assert summary.n_resumed == 599 - lost.n_rows
    assert bytes_of(tmp_path / "c") == bytes_of(local)


def test_both_engines_agree_on_a_catalogue_of_somebody_else(tmp_path, store, client):
    other = elsewhere(tmp_path / "other", store)
    encode_store(MODEL, other, tmp_path / "here")
    encode_store(MODEL, other, tmp_path / "there", engine=DaskEngine(client))
    assert bytes_of(tmp_path / "here") == bytes_of(tmp_path / "there")


def test_no_scheduler_no_lsdb(monkeypatch):
    import dask

    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        pytest.raises(RecipeError, match=r"--scheduler tcp://127.0.0.1:9: no Dask scheduler answers"),
        dask_client("tcp://127.0.0.1:9", workers=1),
    ):
        pass
    monkeypatch.setitem(sys.modules, "distributed", None)
    with (
        pytest.raises(RecipeError, match=r"pip install '\.\[cluster\]'"),
        dask_client(None, workers=1),
    ):
        pass


def test_a_cluster_of_ones_own_is_as_large_as_the_machine(monkeypatch):
    asked = []

    class Cluster:
        def __init__(self, **options):
            asked.append(options["n_workers"])
            raise KeyboardInterrupt

    monkeypatch.setattr("distributed.LocalCluster", Cluster)
    monkeypatch.setattr("dask.system.CPU_COUNT", 8)
    for memory, workers in ((64 * 10**9, 0), (8 * 10**9, 0), (10**9, 0), (10**9, 3)):
        monkeypatch.setattr("distributed.system.MEMORY_LIMIT", memory)
        with pytest.raises(KeyboardInterrupt), dask_client(None, workers=workers):
            pass
    assert asked == [8, 4, 1, 3]


def end(cluster, _n_done):
    cluster.close()


def test_a_scheduler_that_dies_is_said_in_one_line_and_the_run_goes_on(tmp_path, store, local):
    from distributed import LocalCluster

    with (
        LocalCluster(n_workers=1, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        dask_client(cluster.scheduler_address, workers=1) as client,
        pytest.raises(StoreError, match=r"^the Dask scheduler is gone .*the same command resumes$"),
    ):
        encode_store(MODEL, store, tmp_path / "c", engine=DaskEngine(client), progress=partial(end, cluster))
    assert encode_store(MODEL, store, tmp_path / "c").n_resumed > 0
    assert bytes_of(tmp_path / "c") == bytes_of(local)


@pytest.mark.parametrize("how", ["by itself", "with meta", "some columns", "some stars"])
def test_lsdb_maps_the_function_over_a_store(store, local, how):
    columns = ["bp_coefficients", "bp_coefficient_errors", "rp_coefficients", "rp_coefficient_errors"]
    columns += ["phot_g_mean_flux", "phot_g_mean_flux_source", "quality_flags", "source_id", "ra", "dec"]
    catalog = lsdb.open_catalog(store.path, columns=columns if how == "some columns" else None)
    if how == "some stars":  # partitions are empty at the edge of the cone
        catalog = catalog.cone_search(ra=30.0, dec=10.0, radius_arcsec=3600 * 30)
    meta = encode_partition(catalog.meta, MODEL) if how == "with meta" else None
    latents = catalog.map_partitions(encode_partition, MODEL, meta=meta)
    frame = latents.compute(progress_bar=False)
    expected = lsdb.open_catalog(local).compute(progress_bar=False)
    if how == "some stars":
        expected = expected[np.isin(expected["source_id"], catalog.compute(progress_bar=False)["source_id"])]
        assert 0 < len(expected) < 599
    pd.testing.assert_frame_equal(frame[list(expected.columns)], expected, check_exact=True)


def test_what_it_makes_is_a_catalogue_of_lsdbs(store, local, tmp_path):
    latents = lsdb.open_catalog(store.path).map_partitions(encode_partition, MODEL)
    latents.write_catalog(tmp_path / "written", catalog_name="latents", progress_bar=False)
    written, expected = rows_of(tmp_path / "written"), rows_of(local)
    check_same(written.select(expected.column_names), expected)


def frame_of(stars, kind):
    """A frame as somebody would put it together by hand."""
    basis = stars.basis
    columns = {"source_id": stars.source_id, "phot_g_mean_flux": stars.g_flux, "ra": np.arange(len(stars))}
    for name, values in (("coefficients", stars.coeffs), ("coefficient_errors", stars.errors)):
        columns[f"bp_{name}"] = [kind(row) for row in values[:, basis.bp]]
        columns[f"rp_{name}"] = [kind(row) for row in values[:, basis.rp]]
    return pd.DataFrame(columns, index=np.arange(len(stars)) // 2)


@pytest.mark.parametrize("kind", [list, np.array, partial(np.array, dtype=np.float32)])
def test_frames_made_by_hand(kind):
    stars = SKY.spectra.take(slice(0, 50))
    frame = encode_partition(frame_of(stars, kind), MODEL, keep=["ra", "teff"])
    assert frame.columns[:2].tolist() == ["ra", "source_id"]
    assert frame.index.tolist() == [i // 2 for i in range(50)]
    rows = pa.Table.from_pandas(frame.drop(columns="ra"), preserve_index=False)
    check_same(rows, catalogue(MODEL, stars))


def test_a_partition_without_stars_has_the_columns():
    empty = encode_partition(frame_of(SKY.spectra.take(slice(0, 1)), list).iloc[:0], MODEL)
    assert len(empty) == 0
    full = encode_partition(frame_of(SKY.spectra.take(slice(0, 3)), list), MODEL)
    assert empty.dtypes.equals(full.dtypes)


def test_a_frame_that_lacks_columns_is_refused_with_the_way_out():
    frame = frame_of(SKY.spectra.take(slice(0, 3)), list).drop(columns="rp_coefficients")
    with pytest.raises(
        DataError, match=r"without .*rp_coefficients.*open the catalogue with columns=\['source_id'"
    ):
        encode_partition(frame, MODEL)


def test_a_frame_of_another_basis_is_refused(store, tmp_path):
    other = toy_sky(10, basis=Basis(7, 5)).spectra
    write_store(tmp_path / "other", other)
    own = lsdb.open_catalog(tmp_path / "other").compute(progress_bar=False)
    for frame in (frame_of(other, list), own):
        with pytest.raises(DataError, match="7 BP"):
            encode_partition(frame, MODEL)
    with pytest.raises(DataError, match="55 BP"):
        encode_partition(frame_of(toy_sky(4, basis=DR3).spectra, list), MODEL)
