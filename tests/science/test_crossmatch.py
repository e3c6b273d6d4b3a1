"""Crossmatches against astropy's and pandas's answers, with pairs across the borders of partitions."""

import json
import sys

import astropy.units as u
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.coordinates import SkyCoord, match_coordinates_sky, search_around_sky
from hypothesis import given, settings
from hypothesis import strategies as st

from scattervae.errors import DataError, RecipeError, StoreError
from scattervae.science.crossmatch import ById, ByPosition, crossmatch
from scattervae.spectra.hats import HatsFolder, Positions, spatial_index
from science.sky_toys import corners, everywhere, ids_at, moved, write_hats

pytest.importorskip("lsdb", reason="crossmatches need the extra `cluster`")

pytestmark = [  # LSDB 0.11 and nested-pandas 0.7 use what pandas 3 deprecates
    pytest.mark.filterwarnings("ignore:The inplace keyword in NestedFrame:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The 'mode.chained_assignment' option:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def stars():
    """Stars all over the sky and around every corner of the partitions: ra, dec, source_id."""
    ra, dec = everywhere(300)
    corner_ra, corner_dec = (np.repeat(a, 4) for a in corners())
    around = moved(corner_ra, corner_dec, np.linspace(0.1, 2.0, len(corner_ra)))
    ra, dec = np.concatenate([ra, around[0]]), np.concatenate([dec, around[1]])
    return ra, dec, ids_at(ra, dec)


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory, stars):
    return write_hats(tmp_path_factory.mktemp("sky") / "catalogue", *stars)


def write_list(path, **columns):
    pq.write_table(pa.table(columns), path)
    return path


def coordinates(ra, dec):
    return SkyCoord(ra, dec, unit="deg")


def test_by_position_as_astropy_does(tmp_path, catalogue, stars):
    ra, dec, source_id = stars
    listed = moved(ra[::2], dec[::2], np.linspace(0.0, 3.0, len(ra[::2])), seed=1)
    file = write_list(tmp_path / "list.parquet", RA_ICRS=listed[0], DE_ICRS=listed[1])
    result = crossmatch(catalogue, file, tmp_path / "out.parquet", ByPosition(radius=1.5))
    found = pd.read_parquet(result.path).set_index("source_id").sort_index()

    nearest, angle, _ = match_coordinates_sky(coordinates(ra, dec), coordinates(*listed))
    within = angle.arcsec < 1.5
    expected = pd.Series(nearest[within], index=source_id[within]).sort_index()
    assert found["list_row"].to_dict() == expected.to_dict()
    apart = pd.Series(angle.arcsec[within], index=source_id[within]).sort_index()
    np.testing.assert_allclose(found["separation"], apart, atol=1e-8)
    np.testing.assert_array_equal(found["RA_ICRS"], listed[0][found["list_row"]])

    here, there = (spatial_index(*a) >> 58 for a in ((ra[within], dec[within]), listed))
    assert (here != there[nearest[within]]).sum() > 20  # pairs across borders of partitions
    times = np.unique(nearest[within], return_counts=True)[1]
    assert (result.n_list, result.n_pairs) == (len(listed[0]), within.sum())
    assert (result.n_matched, result.n_shared) == (len(times), (times > 1).sum())


@settings(max_examples=3)
@given(seed=st.integers(0, 2**31), n_stars=st.integers(1, 30), n_list=st.integers(1, 30))
def test_a_crowd_on_a_corner(tmp_path_factory, seed, n_stars, n_list):
    """Each star gets the nearest of all rows within the radius, on which side of a border ever they are."""
    folder = tmp_path_factory.mktemp("crowd")
    rng = np.random.default_rng(seed)
    corner = tuple(a[rng.integers(len(a), size=1)] for a in corners())
    ra, dec = moved(*(np.repeat(a, n_stars) for a in corner), rng.uniform(0, 3, n_stars), seed)
    listed = moved(*(np.repeat(a, n_list) for a in corner), rng.uniform(0, 3, n_list), seed + 1)
    source_id = ids_at(ra, dec)
    there = write_hats(folder / "catalogue", ra, dec, source_id)
    file = write_list(folder / "list.parquet", ra=listed[0], dec=listed[1])
    nearest, angle, _ = match_coordinates_sky(coordinates(ra, dec), coordinates(*listed))
    expected = {int(i): int(n) for i, n, a in zip(source_id, nearest, angle.arcsec, strict=True) if a < 1.0}
    if not expected:
        with pytest.raises(DataError, match="no star of the catalogue is in the list"):
            crossmatch(there, file, folder / "out.parquet", ByPosition(1.0))
        return
    crossmatch(there, file, folder / "out.parquet", ByPosition(1.0))
    found = pd.read_parquet(folder / "out.parquet")
    assert dict(zip(found["source_id"], found["list_row"], strict=True)) == expected
    pairs = search_around_sky(coordinates(*listed), coordinates(ra, dec), 1.0 * u.arcsec)
    assert set(found["source_id"]) == set(source_id[pairs[1]])


def test_by_id_as_pandas_does(tmp_path, stars):
    """Stars that have left the pixel of their source_id, repeated rows, and rows without a source_id."""
    ra, dec, source_id = stars
    there = write_hats(tmp_path / "catalogue", *moved(ra, dec, np.full(len(ra), 60.0)), source_id)
    ids = [*source_id[::3].tolist(), int(source_id[0]), None, 0, -9999, int(source_id.max()) + 1]
    teff = np.arange(len(ids), dtype=np.float32)
    file = write_list(tmp_path / "list.parquet", GaiaEDR3_source_id=ids, teff=teff, ra=teff)
    result = crossmatch(there, file, tmp_path / "out.parquet", ById("gaiaedr3_source_id"))
    found = pd.read_parquet(result.path)
    listed = pd.DataFrame({"source_id": pd.array(ids, dtype="Int64"), "teff": teff}).dropna()
    expected = pd.DataFrame({"source_id": source_id}).merge(listed.astype({"source_id": "int64"}))
    key = ["source_id", "teff"]
    pd.testing.assert_frame_equal(
        found[key].sort_values(key, ignore_index=True), expected.sort_values(key, ignore_index=True)
    )
    assert (result.n_list, result.n_without) == (len(ids) - 3, 3)
    assert (result.n_pairs, result.n_matched) == (len(source_id[::3]) + 1, len(source_id[::3]) + 1)
    assert {"ra", "ra_list", "GaiaEDR3_source_id", "list_row"} <= set(found)
    assert not {"separation", "bp_coefficients", "_list_ra", "_healpix_29"} & set(found)


def test_approximate_positions_are_matched_by_id_only(tmp_path, stars):
    there = write_hats(tmp_path / "catalogue", *stars, positions=Positions.PIXEL_CENTRES)
    file = write_list(tmp_path / "list.parquet", source_id=stars[2][:5], ra=stars[0][:5], dec=stars[1][:5])
    with pytest.raises(StoreError, match=r"approximate.*ingest with --sources.*or match with --by-id"):
        crossmatch(there, file, tmp_path / "out", ByPosition())
    result = crossmatch(there, file, tmp_path / "out", ById())
    assert result.n_pairs == 5
    assert HatsFolder.read(tmp_path / "out").positions is Positions.PIXEL_CENTRES


def test_a_hats_answer_opens_and_says_what_it_holds(tmp_path, catalogue, stars):
    import lsdb

    ra, dec, source_id = stars
    file = write_list(
        tmp_path / "list.parquet", ra=ra[:40], dec=dec[:40], ruwe=ra[:40], spectrum=[[1.0]] * 40
    )
    result = crossmatch(catalogue, file, tmp_path / "matched", ByPosition(0.5))
    assert result.dropped_columns == ("spectrum",)
    folder = HatsFolder.read(tmp_path / "matched")
    assert folder.positions is Positions.MEASURED
    assert folder.schema.field("separation").metadata[b"unit"] == b"arcsec"
    assert folder.schema.field("ra").metadata[b"description"] == b"right ascension"
    assert folder.properties["hats_nrows"] == "40"
    opened = (
        lsdb.open_catalog(tmp_path / "matched").cone_search(ra[0], dec[0], 1.0).compute(progress_bar=False)
    )
    assert opened["source_id"].tolist() == [source_id[0]]
    assert not list(tmp_path.glob("*.partial"))
    again = crossmatch(tmp_path / "matched", file, tmp_path / "again.parquet", ByPosition(0.5))
    assert again.n_pairs == 40
    assert [n for n in pq.read_schema(again.path).names if n.startswith(("list_row", "separation"))] == [
        "list_row",
        "separation",
    ]
    listed = crossmatch(catalogue, tmp_path / "matched", tmp_path / "listed.parquet", ByPosition(0.5))
    assert (listed.n_list, listed.n_pairs) == (40, 40)  # a HATS folder may be the list
    about = json.loads(pq.read_schema(listed.path).metadata[b"scattervae.crossmatch"])
    assert (about["list"], about["by"]["radius"]) == ("matched", 0.5)


@pytest.mark.parametrize("name", ["out.parquet", "out"])
def test_nothing_found_writes_nothing(tmp_path, catalogue, name):
    ra, dec = everywhere(3, seed=9)
    file = write_list(tmp_path / "list.parquet", ra=ra, dec=dec)
    with pytest.raises(DataError, match="no star of the catalogue is in the list"):
        crossmatch(catalogue, file, tmp_path / name, ByPosition(0.01))
    assert [path.name for path in tmp_path.iterdir()] == ["list.parquet"]


@pytest.mark.parametrize("name", ["out.parquet", "out"])
@pytest.mark.parametrize("how", [ByPosition(), ById()])
def test_a_list_of_another_part_of_the_sky(tmp_path, name, how):
    ra, dec = np.array([10.0, 10.1, 10.2]), np.array([40.0, 40.1, 40.2])
    here = write_hats(tmp_path / "here", ra, dec, ids_at(ra, dec))
    elsewhere = {"ra": ra + 200, "dec": -dec}
    file = write_list(tmp_path / "list.parquet", source_id=ids_at(*elsewhere.values()), **elsewhere)
    with pytest.raises(DataError, match="no star of the catalogue is in the list"):
        crossmatch(here, file, tmp_path / name, how)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "list.parquet"]


@pytest.mark.parametrize("radius", [0.0, -1.0, 601.0, float("nan")])
def test_radii_out_of_range(tmp_path, catalogue, radius):
    with pytest.raises(RecipeError, match="expected arcsec above 0 and up to 600"):
        crossmatch(catalogue, tmp_path / "list.parquet", tmp_path / "out", ByPosition(radius))


def test_things_that_cannot_be_matched(tmp_path, catalogue, stars):
    file = write_list(tmp_path / "list.parquet", ra=[None, 1.0], dec=[1.0, float("nan")], source_id=[0, None])
    for how in (ByPosition(), ById()):
        with pytest.raises(DataError, match="none of its 2 rows can be placed on the sky"):
            crossmatch(catalogue, file, tmp_path / "out", how)
    with pytest.raises(StoreError, match="not a HATS catalogue"):
        crossmatch(tmp_path, file, tmp_path / "out", ById())
    strange = write_list(tmp_path / "strange.parquet", source_id=[7_000_000_000_000_000_000])
    with pytest.raises(StoreError, match="names no pixel of the sky"):
        crossmatch(catalogue, strange, tmp_path / "out", ById())


def test_without_lsdb(tmp_path, catalogue, monkeypatch):
    monkeypatch.setitem(sys.modules, "lsdb", None)
    file = write_list(tmp_path / "list.parquet", ra=[1.0], dec=[1.0])
    with pytest.raises(RecipeError, match=r"pip install '\.\[cluster\]'"):
        crossmatch(catalogue, file, tmp_path / "out", ByPosition())


def test_on_a_scheduler(tmp_path, catalogue, stars):
    import dask
    import distributed

    ra, dec, source_id = stars
    file = write_list(tmp_path / "list.parquet", ra=ra[:40], dec=dec[:40])
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, protocol="tcp", dashboard_address=None
    ) as cluster:
        result = crossmatch(
            catalogue, file, tmp_path / "out.parquet", ByPosition(0.01), scheduler=cluster.scheduler_address
        )
    assert sorted(pd.read_parquet(result.path)["source_id"]) == sorted(source_id[:40])
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "200ms"}),
        pytest.raises(RecipeError, match=r"tcp://127.0.0.1:9: no Dask scheduler answers"),
    ):
        crossmatch(catalogue, file, tmp_path / "no.parquet", ByPosition(), scheduler="tcp://127.0.0.1:9")
