"""A store is opened as it is by the programs that astronomers have: LSDB, polars, duckdb, pandas, astropy."""

import warnings
from dataclasses import replace

import astropy.units as u
import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pytest
from astropy.coordinates import SkyCoord

from scattervae.spectra.hats import Positions
from scattervae.spectra.spectra import Correlations, Spectra
from scattervae.spectra.store import SpectrumStore
from spectra.stores import scattered, write_store
from toy import spoiled, toy_sky

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "The 'mode.chained_assignment' option")  # set by LSDB for older pandas
    lsdb = pytest.importorskip("lsdb", reason="needs the extra `cluster`")

N_STARS = 300
SKY = toy_sky(N_STARS)
KEPT = np.delete(np.arange(N_STARS), 6)  # the duplicate
pytestmark = [
    pytest.mark.filterwarnings("ignore:The inplace keyword in NestedFrame"),  # nested-pandas under pandas 3
]


def shifted(sources, arcsec):
    """The same stars a little to the north (to the south beyond the middle northern sky)."""
    dec = sources.values["dec"]
    step = np.where(dec > 45, -arcsec, arcsec) / 3600
    return replace(sources, values={**sources.values, "dec": dec + step})


@pytest.fixture(scope="module")
def sources():
    return scattered(SKY.spectra.source_id, ruwe=np.linspace(0.8, 1.4, N_STARS))


@pytest.fixture(scope="module")
def stars():
    pairs = np.random.default_rng(0).uniform(-1, 1, (N_STARS, 25)).astype(np.float32)
    return replace(spoiled(SKY.spectra), correlations=Correlations(bp=pairs[:, :15], rp=pairs[:, 15:]))


@pytest.fixture(scope="module")
def store(tmp_path_factory, stars, sources):
    path = tmp_path_factory.mktemp("elsewhere") / "store"
    write_store(path, stars, labels=SKY.labels, sources=sources, rows_a_partition=15, correlations=True)
    return path


@pytest.fixture(scope="module")
def moved(tmp_path_factory, stars: Spectra, sources):
    """The same stars one arcsecond off, in other partitions."""
    path = tmp_path_factory.mktemp("elsewhere") / "moved"
    write_store(path, stars, sources=shifted(sources, 1.0), rows_a_partition=25)
    return path


def positions(sources):
    return SkyCoord(sources.values["ra"][KEPT] * u.deg, sources.values["dec"][KEPT] * u.deg)


def test_lsdb_opens_it(store, stars):
    catalog = lsdb.open_catalog(store)
    assert catalog.name == "gaia_xp"
    assert len(catalog) == N_STARS - 1
    assert len(catalog.get_healpix_pixels()) > 12
    frame = catalog.compute().set_index("source_id")
    found = frame.loc[int(stars.source_id[20])]
    np.testing.assert_array_equal(found["bp_coefficients"], stars.coeffs[20, :6].astype(np.float32))
    assert found["ruwe"] == pytest.approx(np.linspace(0.8, 1.4, N_STARS)[20])
    assert frame["bp_coefficients"].isna().sum() == 1
    assert not any(
        "correlations" in name for name in frame.columns
    )  # twelve times the rest: read where asked for


def test_lsdb_reads_correlations_where_asked_for(store, stars):
    columns = ["source_id", "bp_coefficient_correlations"]
    frame = lsdb.open_catalog(store, columns=columns).compute().set_index("source_id")
    found = frame.loc[int(stars.source_id[20]), "bp_coefficient_correlations"]
    np.testing.assert_array_equal(found, stars.correlations.bp[20])


@pytest.mark.parametrize(
    ("ra", "dec", "radius"), [(120.0, 35.0, 25.0), (10.0, -88.0, 12.0), (0.3, 2.0, 20.0)]
)
def test_lsdb_finds_the_stars_of_a_cone(store, stars, sources, ra, dec, radius):
    found = lsdb.open_catalog(store).cone_search(ra=ra, dec=dec, radius_arcsec=3600 * radius).compute()
    within = positions(sources).separation(SkyCoord(ra * u.deg, dec * u.deg)).deg < radius
    assert within.sum() > 1
    assert sorted(found["source_id"]) == sorted(stars.source_id[KEPT][within])


@pytest.mark.filterwarnings("ignore:Right catalog does not have a margin cache:RuntimeWarning")
def test_lsdb_matches_stars_to_themselves_elsewhere(store, moved, sources):
    left, right = (lsdb.open_catalog(path, columns=["source_id", "ra", "dec"]) for path in (store, moved))
    matched = left.crossmatch(
        right, radius_arcsec=2.0, suffixes=("", "_moved"), suffix_method="all_columns"
    ).compute()
    assert len(matched) > 0.99 * len(KEPT)  # all but those whose twin lies in another partition
    assert (matched["source_id"] == matched["source_id_moved"]).all()
    np.testing.assert_allclose(matched["_dist_arcsec"], 1.0, rtol=1e-3)
    assert (
        len(
            left.crossmatch(
                right, radius_arcsec=0.9, suffixes=("", "_moved"), suffix_method="all_columns"
            ).compute()
        )
        == 0
    )


def test_what_lsdb_writes_of_it_is_a_store_again(store, tmp_path):
    selection = lsdb.open_catalog(store).cone_search(ra=120.0, dec=35.0, radius_arcsec=3600 * 40)
    selection.write_catalog(tmp_path / "cone", catalog_name="cone")
    cone = SpectrumStore(tmp_path / "cone").read()
    whole = SpectrumStore(store).read()
    rows = np.flatnonzero(np.isin(whole.source_id, cone.source_id))
    assert 5 < len(rows) < N_STARS
    for name in ("source_id", "coeffs", "errors", "flags", "g_flux", "n_relevant_bases"):
        np.testing.assert_array_equal(getattr(cone, name), getattr(whole.take(rows), name))


def test_approximate_positions_stay_marked_in_what_lsdb_writes(tmp_path, stars):
    write_store(tmp_path / "store", stars)
    lsdb.open_catalog(tmp_path / "store").write_catalog(tmp_path / "copy", catalog_name="copy")
    assert SpectrumStore(tmp_path / "copy").positions is Positions.PIXEL_CENTRES


def test_polars_opens_it(store, stars):
    frame = pl.scan_parquet(store / "dataset" / "**" / "*.parquet").sort("source_id").collect()
    order = KEPT[np.argsort(stars.source_id[KEPT])]
    assert frame["source_id"].to_list() == stars.source_id[order].tolist()
    assert frame["bp_coefficients"].null_count() == 1
    expected = stars.coeffs[order, 6:].astype(np.float32)
    found = [np.full(5, np.nan) if row is None else row for row in frame["rp_coefficients"].to_list()]
    np.testing.assert_array_equal(np.array(found, dtype=np.float32), expected)
    bright = (
        pl.scan_parquet(store / "dataset/**/*.parquet").filter(pl.col("phot_g_mean_flux") > 1e5).collect()
    )
    assert len(bright) == (stars.g_flux[KEPT] > 1e5).sum()


def test_duckdb_opens_it(store, stars):
    files = str(store / "dataset" / "**" / "*.parquet")
    query = "select source_id, bp_coefficients[1] from read_parquet(?, hive_partitioning = true) where Norder >= 0"
    found = dict(duckdb.execute(query, [files]).fetchall())
    expected = stars.coeffs[KEPT, 0].astype(np.float32)
    assert found.keys() == set(stars.source_id[KEPT].tolist())
    for star, value in zip(stars.source_id[KEPT].tolist(), expected.tolist(), strict=True):
        assert found[star] == value or (found[star] is None and np.isnan(value))


def test_pandas_opens_it(store, stars):
    frame = pd.read_parquet(store / "dataset").set_index("source_id")
    assert len(frame) == len(KEPT)
    np.testing.assert_array_equal(
        frame.loc[stars.source_id[20], "bp_coefficients"], stars.coeffs[20, :6].astype("f4")
    )
    np.testing.assert_array_equal(frame["phot_g_mean_flux"].loc[stars.source_id[KEPT]], stars.g_flux[KEPT])
    assert frame.loc[stars.source_id[0], "bp_coefficients"] is None


def test_astropy_reads_a_partition(store):
    from astropy.table import Table

    opened = SpectrumStore(store)
    table = Table.read(opened.path_of(opened.partitions[0]))
    np.testing.assert_array_equal(table["source_id"], opened.read().source_id[: opened.partitions[0].n_rows])
