import gzip
from itertools import repeat

import numpy as np
import pytest

from gaia.archive.gaia_server import DATA
from gaia.archive.server import Answer
from gaia.archive.stars import server_of, source_table, toy_stars
from gaia.archive.toys import patience
from scattervae.errors import DataError, FetchError
from scattervae.gaia.archive.ids import fetch_ids
from scattervae.gaia.archive.listing import release_of
from scattervae.gaia.archive.services import Services
from scattervae.gaia.files.reading import read_file, read_ids_file
from scattervae.spectra.spectra import Flag, GFluxSource

STARS = toy_stars()
IDS = STARS.source_id


@pytest.fixture
def server():
    with server_of(STARS, without=IDS[[2]].tolist(), unknown=IDS[[3]].tolist()) as server:
        yield server


def run(server, out, ids=IDS, tries=2, **options):
    return fetch_ids(
        ids, out, Services(release_of("DR3"), url=server.url, patience=patience(tries)), **options
    )


def asked_batches(server):
    return [form["ID"].split(",") for form in server.asked if "ID" in form]


@pytest.mark.parametrize("name", ["stars.csv", "stars.csv.gz"])
def test_the_file_holds_the_spectra_and_what_the_source_table_says(server, tmp_path, name):
    done = run(server, tmp_path / name)
    here = np.delete(np.arange(7), [2, 3])
    assert (done.fetched.tolist(), done.without.tolist(), done.unknown.tolist()) == (
        IDS[here].tolist(),
        [IDS[2]],
        [IDS[3]],
    )
    contents = read_file(tmp_path / name)
    stars, truth = contents.stars, STARS.take(here)
    np.testing.assert_array_equal(stars.source_id, truth.source_id)
    np.testing.assert_array_equal(stars.coeffs, truth.coeffs)
    np.testing.assert_array_equal(stars.errors, truth.errors)
    np.testing.assert_array_equal(stars.g_flux, truth.g_flux)
    assert (stars.g_flux_source == GFluxSource.TABLE).all()
    assert stars.basis == truth.basis
    table = source_table(STARS)[here]
    for column in ("ra", "dec", "bp_rp", "ruwe"):
        expected = np.ma.filled(np.ma.asarray(table[column], dtype=float), np.nan)
        np.testing.assert_allclose(contents.sources.values[column], expected, rtol=1e-7)  # single precision
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_an_answer_of_the_archive_survives(formats, tmp_path):
    """The archive's own csv of real stars, one of them without BP."""
    header, *lines = (formats / "XP_CONTINUOUS_RAW_with_missing_BP.csv").read_text().splitlines()
    truth = read_file(formats / "XP_CONTINUOUS_RAW_with_missing_BP.csv", correlations=True).stars
    with server_of(STARS) as server:
        table = source_table(STARS)[: len(truth)]
        table["SOURCE_ID"] = truth.source_id
        server.sources, server.header = table, header
        server.spectra = {int(line.split(",")[0]): line for line in lines}
        run(server, tmp_path / "stars.csv.gz", ids=truth.source_id)
    stars = read_file(tmp_path / "stars.csv.gz", correlations=True).stars
    np.testing.assert_array_equal(stars.coeffs, truth.coeffs)
    np.testing.assert_array_equal(stars.correlations.bp, truth.correlations.bp)
    np.testing.assert_array_equal(stars.flags, truth.flags & ~np.uint16(Flag.NO_G_FLUX))
    assert np.isfinite(stars.g_flux).all()


def test_batches_hold_each_star_once(server, tmp_path):
    counts = []
    ids = np.concatenate([IDS, IDS[::-1]])
    done = run(server, tmp_path / "a.csv", ids=ids, batch_size=2, progress=counts.append)
    assert done.fetched.tolist() == np.delete(IDS, [2, 3]).tolist()
    assert counts == [2, 2, 2, 1]
    assert [star for batch in asked_batches(server) for star in batch] == list(map(str, IDS.tolist()))
    assert len((tmp_path / "a.csv").read_text().splitlines()) == 6


def test_a_batch_that_does_not_come_costs_no_other(server, tmp_path, caplog):
    server.trouble[DATA] = iter([None, *[Answer(status=503)] * 2])
    out = tmp_path / "a.csv.gz"
    with pytest.raises(FetchError, match=r"^1 of 4 batches did not come \(.* 503.*the same command resumes$"):
        run(server, out, batch_size=2)
    assert not out.exists()
    server.asked.clear()
    done = run(server, out, batch_size=2)
    assert asked_batches(server) == [[str(IDS[2]), str(IDS[3])]]
    assert done.fetched.tolist() == np.delete(IDS, [2, 3]).tolist()
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv.gz"]


def test_what_a_stopped_run_left_half_written_is_not_used(server, tmp_path):
    server.trouble[DATA] = iter([None, *repeat(Answer(status=404), 2)])
    out = tmp_path / "a.csv.gz"
    with pytest.raises(FetchError, match="404"):
        run(server, out, batch_size=3)
    (part,) = (tmp_path / "a.csv.gz.parts").glob("*.csv.gz")
    part.rename(part.with_name(part.name + ".partial"))
    out.with_name("a.csv.gz.partial").write_bytes(b"half")
    assert run(server, out, batch_size=3).fetched.tolist() == np.delete(IDS, [2, 3]).tolist()
    assert len(gzip.decompress(out.read_bytes()).splitlines()) == 6


def test_columns_that_changed_since_are_not_mixed(server, tmp_path):
    server.trouble[DATA] = iter([None, Answer(status=404), Answer(status=404)])
    with pytest.raises(FetchError, match="2 of 4 batches"):
        run(server, tmp_path / "a.csv", batch_size=2)
    server.header = server.header.replace("bp_n_parameters", "bp_number")
    with pytest.raises(FetchError, match="columns are not those of the batches there; remove it"):
        run(server, tmp_path / "a.csv", batch_size=2)


def test_no_star_has_a_spectrum(server, tmp_path):
    for ids in (IDS[[2]], IDS[[3]], IDS[[2, 3]]):
        with pytest.raises(
            FetchError, match=rf"none of {len(ids)} stars? has a mean spectrum in this release"
        ):
            run(server, tmp_path / "a.csv", ids=ids)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [0, 5001])
def test_batches_the_archive_does_not_give(server, tmp_path, size):
    with pytest.raises(FetchError, match=f"batches of {size} stars: expected 1 to 5000"):
        run(server, tmp_path / "a.csv", batch_size=size)


def test_lists_of_stars(tmp_path):
    path = tmp_path / "ids"
    for text in (
        "5853498713190525697\n\n 7\n",
        "# some stars\nGaia DR3 5853498713190525697\r\nGaia EDR3 7\r\n# end",
        "source_id,name\n5853498713190525697,a\n7,b\n",
        "Name;SOURCE_ID\na;5853498713190525697\n".replace(";", ",") + "b,7\nc,\n",
    ):
        path.write_text(text)
        assert read_ids_file(path).tolist() == [5853498713190525697, 7]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1\n2\nthree\n", "line 3: three is no source_id; expected one a line"),
        ("1\n99999999999999999999\n", "line 2: 99999999999999999999 is no source_id"),
        ("1\n0\n", "line 2: 0 is no source_id"),
        ("ra,dec\n1,2\n", "holds no identifiers: columns ra, dec; expected source_id or ids"),
        ("source_id\n", "holds no source_id"),
        ("", "is empty"),
        ("<html></html>", "is a web page"),
    ],
)
def test_files_that_list_no_stars(tmp_path, text, message):
    path = tmp_path / "ids"
    path.write_text(text)
    with pytest.raises(DataError, match=rf"^{path}: .*{message}"):
        read_ids_file(path)
    with pytest.raises(DataError, match="does not exist"):
        read_ids_file(tmp_path / "nothing")


def test_a_star_that_the_source_table_lacks_is_asked_for_and_counted_apart(server, tmp_path):
    server.sources = server.sources[~np.isin(server.sources["SOURCE_ID"], IDS[[0, 1]])]
    other = source_table(STARS)[["SOURCE_ID", "phot_g_mean_flux"]]
    server.tables["all_source_photometry"] = other[np.isin(other["SOURCE_ID"], IDS[[0]])]
    server.words = {"DATAMODEL_GAIA"}
    done = fetch_ids(
        IDS, tmp_path / "a.csv", Services(release_of("DR4"), url=server.url, patience=patience(2))
    )
    assert done.fetched.tolist() == np.delete(IDS, [2, 3]).tolist()
    assert done.unlocated.tolist() == [IDS[0]]
    assert (done.unlisted.tolist(), done.unknown.tolist(), done.without.tolist()) == (
        [IDS[1]],
        [IDS[3]],
        [IDS[2]],
    )
    stars = read_file(tmp_path / "a.csv").stars
    assert stars.g_flux_source[:2].tolist() == [GFluxSource.TABLE, GFluxSource.NONE]
    assert stars.g_flux[0] == STARS.g_flux[0]


def test_a_star_that_the_source_table_lacks_has_its_position_from_the_table_that_has_all(server, tmp_path):
    server.sources = server.sources[~np.isin(server.sources["SOURCE_ID"], IDS[[0, 1]])]
    every = source_table(STARS)
    server.tables = {
        "all_source_photometry": every[["SOURCE_ID", "phot_g_mean_flux"]][:1],
        "all_source_astrometry": every[["SOURCE_ID", "ra", "dec", "parallax"]][:2],
    }
    server.words = {"DATAMODEL_GAIA"}
    done = fetch_ids(
        IDS[:2], tmp_path / "a.csv", Services(release_of("DR4"), url=server.url, patience=patience(2))
    )
    assert (done.unlocated.tolist(), done.unlisted.tolist()) == ([], [])
    sources = read_file(tmp_path / "a.csv").sources
    for name in ("ra", "dec", "parallax"):
        truth = np.ma.filled(np.ma.asarray(every[name][:2], dtype=float), np.nan)
        np.testing.assert_array_equal(sources.values[name], truth)
    flux = sources.values["phot_g_mean_flux"]
    assert (flux[0], np.isnan(flux[1])) == (STARS.g_flux[0], True)


def test_an_answer_of_no_bytes_means_no_spectrum_and_costs_no_other_batch(server, tmp_path):
    empty = Answer(b"", headers={"Content-Type": "application/zip"})
    server.trouble[DATA] = iter([None, empty, empty])
    done = run(server, tmp_path / "a.csv", batch_size=2)
    assert done.fetched.tolist() == IDS[[0, 1, 4, 5, 6]].tolist()
    assert done.without.tolist() == [IDS[2]]
    assert done.unknown.tolist() == [IDS[3]]
    server.trouble[DATA] = iter([None, empty])  # once only: it passes
    assert len(run(server, tmp_path / "b.csv", batch_size=2).fetched) == 5


def test_batches_of_one_release_are_not_those_of_another(server, tmp_path):
    server.words = {"RAW", "DATAMODEL_GAIA"}
    server.trouble[DATA] = iter([None, *[Answer(status=404)] * 3])
    with pytest.raises(FetchError, match="3 of 4 batches"):
        run(server, tmp_path / "a.csv", batch_size=2)
    server.asked.clear()
    fetch_ids(
        IDS,
        tmp_path / "a.csv",
        Services(release_of("DR4"), url=server.url, patience=patience()),
        batch_size=2,
    )
    assert len(asked_batches(server)) == 4, "none of DR3's is taken for one of DR4's"


@pytest.mark.parametrize("quote", ["", '"'])
def test_the_case_and_the_quotes_of_a_header_do_not_matter(server, tmp_path, quote):
    truth = run(server, tmp_path / "a.csv").path.read_bytes()
    server.header = ",".join(f"{quote}{name.upper()}{quote}" for name in server.header.split(","))
    assert run(server, tmp_path / "b.csv").path.read_bytes() == truth


def test_words_that_the_archive_does_not_know_are_not_asked_for_again_by_later_batches(server, tmp_path):
    server.words = set()
    with pytest.raises(
        FetchError, match=r"4 of 4 batches did not come .*asked for Gaia DR3, XP_CONTINUOUS as RAW"
    ):
        run(server, tmp_path / "a.csv", batch_size=2)
    assert len(asked_batches(server)) == 2
