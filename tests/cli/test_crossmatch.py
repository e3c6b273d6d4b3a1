"""``scattervae crossmatch``: from a store or catalogue and a list to a file or folder."""

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from science.sky_toys import everywhere, ids_at, moved, write_hats

pytest.importorskip("lsdb", reason="crossmatches need the extra `cluster`")


@pytest.fixture(scope="module")
def sky_folder(tmp_path_factory):
    """A folder with catalogue/ and targets.csv: 30 rows, the first 20 at stars, two of those at the same."""
    folder = tmp_path_factory.mktemp("sky")
    ra, dec = everywhere(80)
    source_id = ids_at(ra, dec)
    write_hats(folder / "catalogue", ra, dec, source_id)
    far = moved(ra[20:30], dec[20:30], np.full(10, 5.0))
    where = [np.concatenate([a[:20], b]) for a, b in ((ra, far[0]), (dec, far[1]))]
    targets = pd.DataFrame({"RA": where[0], "Dec": where[1], "gaia": source_id[:30], "name": "a star"})
    targets.loc[29, "gaia"] = 0
    targets.to_csv(folder / "targets.csv", index=False)
    return folder


def test_by_position(cli, sky_folder, tmp_path):
    out = tmp_path / "matched.parquet"
    arguments = ("crossmatch", sky_folder / "catalogue", sky_folder / "targets.csv", "--out", out)
    run = cli(*arguments)
    assert run.code == 0
    assert run.out == f"matched 20 of 30 rows with 20 stars\nwrote {out}\n"
    table = pd.read_parquet(out)
    assert table["separation"].max() < 1e-6
    assert table["name"].tolist() == ["a star"] * 20
    assert pq.read_schema(out).field("separation").metadata[b"unit"] == b"arcsec"
    wider = cli(*arguments, "--radius", 6, "--json").json  # over its own file
    assert (wider["n_matched"], wider["n_pairs"], wider["path"]) == (30, 30, str(out))
    assert cli("info", out).code == 0


def test_by_id_to_a_folder(cli, sky_folder, tmp_path):
    out = tmp_path / "labelled"
    arguments = ("crossmatch", sky_folder / "catalogue", sky_folder / "targets.csv", "--by-id", "GAIA")
    run = cli(*arguments, "--out", out)
    assert run.out.splitlines() == [
        "matched 29 of 29 rows with 29 stars",
        "1 row of the list without a source_id",
        f"wrote {out}",
    ]
    assert cli(*arguments, "--out", out).error == f"{out}: exists; give another --out"
    assert cli(*arguments, "--out", tmp_path / "no", "--radius", 1).error.startswith(
        "--by-id matches source_ids"
    )


def test_a_store_whose_positions_are_only_the_pixels_of_its_source_ids(cli, store, sky, tmp_path):
    ids = sky.spectra.source_id
    file, out = tmp_path / "list.csv", tmp_path / "out.parquet"
    pd.DataFrame({"source_id": ids[:9], "ra": 1.0, "dec": 2.0}).to_csv(file, index=False)
    arguments = ("crossmatch", store, file, "--out", out)
    assert "ingest with --sources to match by position, or match with --by-id" in cli(*arguments).error
    assert cli(*arguments, "--by-id", "source_id").code == 0
    found = pd.read_parquet(out).sort_values("list_row")
    np.testing.assert_array_equal(found["source_id"], ids[:9])
    order = [ids.tolist().index(i) for i in found["source_id"]]
    np.testing.assert_array_equal(found["phot_g_mean_flux"], sky.spectra.g_flux[order])


@pytest.mark.parametrize("name", ["out.parquet", "out"])
@pytest.mark.parametrize("options", [(), ("--by-id", "source_id")])
def test_a_list_elsewhere_on_the_sky_is_one_line(cli, tmp_path, name, options):
    ra, dec = np.full(5, 10.0) + np.arange(5) / 10, np.full(5, 10.0)
    write_hats(tmp_path / "catalogue", ra, dec, ids_at(ra, dec))
    elsewhere = np.array([217.39]), np.array([-62.67])
    listing = pd.DataFrame({"source_id": ids_at(*elsewhere), "ra": elsewhere[0], "dec": elsewhere[1]})
    listing.to_csv(tmp_path / "list.csv", index=False)
    out = tmp_path / name
    run = cli("crossmatch", tmp_path / "catalogue", tmp_path / "list.csv", "--out", out, *options)
    assert (run.code, run.error) == (1, f"{out}: not written, since no star of the catalogue is in the list")
    assert {file.name for file in tmp_path.iterdir()} == {"catalogue", "list.csv"}


def test_warnings_of_lsdb_are_not_shown(cli, sky_folder, tmp_path, recwarn):
    run = cli(
        "crossmatch", sky_folder / "catalogue", sky_folder / "targets.csv", "--out", tmp_path / "m.parquet"
    )
    assert (run.code, run.err) == (0, "")
    assert [warning for warning in recwarn if "site-packages" in str(warning.filename)] == []


def test_lists_that_say_too_little(cli, sky_folder, tmp_path):
    arguments = ("crossmatch", sky_folder / "catalogue", sky_folder / "targets.csv", "--out", tmp_path / "o")
    for option, message in (
        (("--ra", "alpha"), "no column alpha among RA, Dec, gaia, name; name one with --ra"),
        (("--dec", "name"), "column name is in text; expected numbers in degrees"),
        (("--by-id", "ids"), "no column ids among RA, Dec, gaia, name; name one with --by-id"),
    ):
        assert cli(*arguments, *option).error == f"{sky_folder / 'targets.csv'}: {message}"
    assert not list(tmp_path.iterdir())


def test_out_that_is_something_else(cli, sky_folder, tmp_path):
    mine = tmp_path / "mine.parquet"
    mine.write_bytes(b"mine")
    run = cli("crossmatch", sky_folder / "catalogue", sky_folder / "targets.csv", "--out", mine)
    assert run.error == f"{mine}: exists and was not made by scattervae; give another --out"
    assert mine.read_bytes() == b"mine"
