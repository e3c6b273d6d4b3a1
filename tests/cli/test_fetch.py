import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from cli.toys import with_ids
from gaia.archive.server import Break, Corrupt, Drip, FileServer, Page, Status
from gaia.archive.stars import datalink_csv, server_of, source_table, toy_stars
from gaia.archive.toys import SOURCES, XP, toy_archive
from scattervae.gaia.archive.transport import Patience
from scattervae.spectra.spectra import Basis
from scattervae.spectra.store import SpectrumStore
from toy import toy_sky

STARS = toy_stars()


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Commands wait too short for a test to notice."""
    init = Patience.__init__

    def quick(self, tries=3, first_wait=0.001, longest_wait=0.01, stop=None):
        init(self, tries, first_wait, longest_wait, stop or threading.Event())

    monkeypatch.setattr(Patience, "__init__", quick)


@pytest.fixture
def archive():
    with FileServer(toy_archive(n_files=3)) as server:
        yield server


def bulk(cli, server, out, *options):
    return cli("fetch", "bulk", "--out", out, "--base-url", server.url, *options)


def here(out):
    return sorted(path.name for path in out.rglob("*.csv.gz"))


def names(product, *pixels):
    return [f"{product.prefix}_{pixel}.csv.gz" for pixel in pixels]


def test_bulk_files_come_and_are_passed_over_the_next_time(cli, archive, tmp_path):
    run = bulk(cli, archive, tmp_path / "gaia")
    assert (run.code, run.err) == (0, "")
    assert run.out == f"{tmp_path / 'gaia'}: 6 files fetched, 0 were here and whole, 0 failed\n"
    for product in (XP, SOURCES):
        for name in here(tmp_path / "gaia" / product.name):
            path = tmp_path / "gaia" / product.name / name
            assert path.read_bytes() == archive.files[product.folder + name]
    run = bulk(cli, archive, tmp_path / "gaia", "--json")
    assert run.json == {"out": str(tmp_path / "gaia"), "fetched": [], "kept": 6, "failed": {}}


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["--files", "1"], names(SOURCES, "000000-000999") + names(XP, "000000-000999")),
        (["--product", "gaia_source", "--files", "2"], names(SOURCES, "000000-000999", "001000-001999")),
        (
            ["--product", "xp_continuous", "--healpix", "999-1000"],
            names(XP, "000000-000999", "001000-001999"),
        ),
        (["--product", "xp_continuous", "--healpix", "2500"], names(XP, "002000-002999")),
    ],
)
def test_a_part_of_the_sky(cli, archive, tmp_path, options, wanted):
    assert bulk(cli, archive, tmp_path, *options).code == 0
    assert here(tmp_path) == wanted


def test_the_list_says_what_there_is_and_fetches_none(cli, archive, tmp_path):
    bulk(cli, archive, tmp_path / "gaia", "--files", "1", "--product", "gaia_source")
    archive.requests.clear()
    run = bulk(cli, archive, tmp_path / "gaia", "--product", "gaia_source", "--list")
    header, first, *_, last = run.out.splitlines()
    assert header.split() == ["file", "size", "here"]
    assert first.split() == ["gaia_source/GaiaSource_000000-000999.csv.gz", "100", "kB", "here"]
    assert last == f"3 files, 300 kB; 100 kB are in {tmp_path / 'gaia'}"
    assert len(here(tmp_path / "gaia")) == 1
    values = bulk(cli, archive, tmp_path / "new", "--list", "--json").json
    assert not (tmp_path / "new").exists()
    assert len(values["files"]) == 6
    assert values["bytes"] == sum(file["bytes"] for file in values["files"])
    assert {request.method for request in archive.requests if "MD5SUM" not in request.path} == {"HEAD"}


def test_files_that_do_not_come_are_named_and_the_code_says_so(cli, archive, tmp_path):
    broken = XP.folder + names(XP, "001000-001999")[0]
    archive.fail(broken, [Page()] * 10)
    archive.fail(SOURCES.folder + names(SOURCES, "000000-000999")[0], [Break(1000), Corrupt(9), Status(503)])
    run = bulk(cli, archive, tmp_path)
    assert run.code == 1
    assert run.out.splitlines() == [
        f"{tmp_path}: 5 files fetched, 0 were here and whole, 1 failed",
        "failed: xp_continuous_mean_spectrum/XpContinuousMeanSpectrum_001000-001999.csv.gz; "
        "the same command tries them again",
    ]
    assert "the server sent a web page instead of the file; tried 3 times" in run.err
    archive.faults.clear()
    assert bulk(cli, archive, tmp_path).code == 0
    assert len(here(tmp_path)) == 6


def test_no_space(cli, archive, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    error = bulk(cli, archive, tmp_path / "gaia").error
    assert error.startswith(f"{tmp_path / 'gaia'}: 0.00 GB are free, but 0.11 GB are needed")
    assert not (tmp_path / "gaia").exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--healpix", "0-1", "--files", "1"], "--healpix and --files exclude each other"),
        (["--healpix", "a-b"], "--healpix a-b: expected a pixel or a range of them, such as 0-3111"),
        (["--healpix", "5-1"], "pixels 5-1: expected a range of order-8 pixels within 0-786431"),
        (["--release", "DR9"], "no release is called DR9; choose DR3 or DR4"),
        (["--release", "DR4"], "DR4 has no bulk files xp_continuous_mean_spectrum"),
        (["--base-url", "nowhere"], "is no web address; give --base-url as https://"),
    ],
)
def test_what_cannot_be_asked_for(cli, archive, tmp_path, options, expected):
    assert expected in bulk(cli, archive, tmp_path, *options).error


def test_a_killed_run_goes_on_to_the_byte(tmp_path):
    """SIGKILL in the middle of several files; the server counts what it sends."""
    out = tmp_path / "gaia"
    with FileServer(toy_archive(n_files=2, n_bytes=400_000)) as server:
        paths = [path for path in server.files if "MD5SUM" not in path]
        command = [sys.executable, "-m", "scattervae", "fetch", "bulk", "--out", str(out)]
        command += ["--base-url", server.url, "--json"]
        for path in paths:
            server.fail(path, [Drip(5000, 0.02)])
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        while len(partials(out)) < 4 or min(map(size, partials(out))) < 100_000:
            time.sleep(0.01)
            assert process.poll() is None, process.stderr.read()
        process.send_signal(signal.SIGKILL)
        process.communicate()
        left = {path.name.partition(".csv.gz")[0]: size(path) for path in partials(out)}
        assert here(out) == []
        server.requests.clear()
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stderr == ""
        for path in paths:
            assert (out / path.split("/")[-2] / path.split("/")[-1]).read_bytes() == server.files[path]
            (request,) = server.gets(path)
            came = left[path.split("/")[-1].partition(".csv.gz")[0]]
            assert (request.start, request.n_sent) == (came, len(server.files[path]) - came)


def partials(out):
    return list(out.rglob("*.partial"))


def size(path):
    return path.stat().st_size


def ids(cli, server, *arguments):
    return cli("fetch", "ids", "--archive-url", server.url, *arguments)


def test_single_stars_go_to_a_store(cli, tmp_path):
    stars = STARS.source_id.tolist()
    (tmp_path / "stars.txt").write_text("\n".join(map(str, stars)))
    with server_of(STARS, without=stars[1:2], unknown=stars[2:3]) as server:
        run = ids(cli, server, tmp_path / "stars.txt", "--out", tmp_path / "stars.csv.gz", "--batch", "2")
        assert (run.code, run.err) == (0, "")
        assert run.out.splitlines() == [
            f"wrote {tmp_path / 'stars.csv.gz'}: 5 stars",
            f"1 in no table of the release, and without a mean spectrum: {stars[2]}",
            f"1 without a mean spectrum: {stars[1]}",
        ]
        run = ids(cli, server, "--query", "SELECT source_id FROM x", "-o", tmp_path / "b.csv", "--json")
        assert run.json == {
            "out": str(tmp_path / "b.csv"),
            "stars": 5,
            "unlocated": [],
            "unlisted": [],
            "unknown": [],
            "without_spectrum": [str(stars[1])],
        }
        assert "exists; remove it" in ids(cli, server, tmp_path / "b.csv", "-o", tmp_path / "b.csv").error
        again = ids(cli, server, tmp_path / "b.csv", "-o", tmp_path / "c.csv")
        assert again.code == 0, "what was fetched is itself a list of stars"
    assert cli("ingest", tmp_path / "stars.csv.gz", "--out", tmp_path / "store").code == 0
    store = SpectrumStore(tmp_path / "store")
    assert sorted(store.read().source_id.tolist()) == sorted(set(stars) - set(stars[1:3]))
    assert store.positions.name == "MEASURED"


def test_stars_of_the_next_release_go_to_a_store(cli, tmp_path):
    """51 + 55 coefficients, new words, a column less, and stars that the table of sources lacks."""
    stars = with_ids(toy_sky(6, basis=Basis(51, 55, 801, 802)).spectra, STARS.source_id[:6])
    ids_ = stars.source_id.tolist()
    (tmp_path / "stars.txt").write_text("\n".join(f"Gaia DR4 {star}" for star in ids_))
    with server_of(stars, without=ids_[1:2], unknown=ids_[2:4]) as server:
        _, lines = datalink_csv(stars)
        server.spectra |= {star: lines[star] for star in ids_[2:4]}
        server.words = {"DATAMODEL_GAIA"}
        del server.sources["phot_bp_rp_excess_factor"]
        server.tables["all_source_photometry"] = source_table(stars)[[2]]["SOURCE_ID", "phot_g_mean_flux"]
        release = ["--release", "DR4"]
        run = ids(cli, server, tmp_path / "stars.txt", "--out", tmp_path / "a.csv", *release, "--json")
        cone = cli(
            "fetch", "cone", "10", "20", "1", "--archive-url", server.url, "-o", tmp_path / "c.csv", *release
        )
    assert run.json["stars"] == 5
    assert [run.json[kind] for kind in ("unlocated", "unlisted", "unknown", "without_spectrum")] == [
        [str(ids_[2])],
        [str(ids_[3])],
        [],
        [str(ids_[1])],
    ]
    assert "written before it was published" in run.err
    assert run.err.count("has no phot_bp_rp_excess_factor") == 1
    assert cone.code == 0
    refused = cli("ingest", tmp_path / "a.csv", "--out", tmp_path / "wrong")
    assert refused.code == 1
    assert "give --release DR4" in refused.err
    allowed = ["--allow-skipped", "0.5"]
    run = cli("ingest", tmp_path / "a.csv", "--out", tmp_path / "store", *release, *allowed, "--json")
    assert run.code == 0
    assert run.json["release"]["epoch"] == 2017.5
    assert run.json["files"][0]["skipped"] == [
        f"source_id {star}: no position in the file" for star in ids_[2:4]
    ]
    store = SpectrumStore(tmp_path / "store")
    assert sorted(store.read().source_id.tolist()) == [ids_[0], *ids_[4:]]
    assert (store.basis.n_bp, store.basis.n_rp) == (51, 55)
    assert "release: DR4 (epoch J2017.5)" in cli("info", tmp_path / "store").out


@pytest.mark.parametrize("arguments", [[], ["stars.txt", "--query", "SELECT 1"]])
def test_stars_are_given_in_one_way(cli, tmp_path, arguments):
    error = cli("fetch", "ids", *arguments, "--out", tmp_path / "a.csv").error
    assert error == "give either a file of source_ids or --query"


def test_the_group_explains_itself(cli):
    text = cli("fetch", "--help").out
    assert all(f"│ {command} " in text for command in ("bulk", "ids"))
    for command in ("bulk", "ids"):
        assert f"scattervae fetch {command} " in cli("fetch", command, "--help").out.partition("Example")[2]
    assert cli("fetch").code == 2
