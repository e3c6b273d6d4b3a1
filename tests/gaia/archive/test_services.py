import gzip
from importlib.resources import files
from itertools import repeat

import numpy as np
import pytest
from astropy.table import Table

from gaia.archive.gaia_server import AT_ONCE, DATA, JOBS, GaiaServer, refusal, votable, zipped
from gaia.archive.server import PAGE, Answer
from gaia.archive.stars import server_of, source_table, toy_stars
from gaia.archive.toys import patience
from scattervae.errors import FetchError
from scattervae.gaia import facts
from scattervae.gaia.archive.listing import release_of
from scattervae.gaia.archive.services import Services
from scattervae.spectra.spectra import Basis
from scattervae.spectra.star_tables import SOURCE_COLUMNS

STARS = toy_stars()
IDS = STARS.source_id


def services(server, release="DR3", tries=3):
    return Services(release_of(release), url=server.url, patience=patience(tries))


@pytest.fixture
def server():
    with server_of(STARS, without=IDS[[2]].tolist(), unknown=IDS[[3]].tolist()) as server:
        yield server


def test_source_columns_are_the_archives(server, capfd):
    sources = services(server).sources_of(IDS)
    order = np.argsort(sources.source_id)
    assert sources.source_id[order].tolist() == np.delete(IDS, 3).tolist()
    table = source_table(STARS)
    assert list(sources.values) == list(SOURCE_COLUMNS)
    for name in SOURCE_COLUMNS:
        truth = np.delete(np.ma.filled(np.ma.asarray(table[name], dtype=float), np.nan), 3)
        np.testing.assert_array_equal(sources.values[name][order], truth)
    assert "FROM gaiadr3.gaia_source AS s JOIN tap_upload.stars" in server.asked[0]["QUERY"]
    assert capfd.readouterr() == ("", "")


def test_a_query_gives_identifiers_in_its_order_each_once(server):
    found = Table({"source_id": IDS[[4, 1, 4, 0]]})
    server.found = found
    adql = "SELECT source_id FROM gaiadr3.gaia_source WHERE parallax > 50"
    assert services(server).ids_of(adql).tolist() == IDS[[4, 1, 0]].tolist()
    assert server.asked[0]["QUERY"] == adql
    server.found = Table({"ra": [1.0]})
    with pytest.raises(FetchError, match="SELECT ra FROM x: gives ra; expected source_id"):
        services(server).ids_of("SELECT ra FROM x")


def test_spectra_are_the_archives_lines(server, tmp_path):
    lines = services(server).spectra_of(IDS)
    assert lines == [server.header, *(server.spectra[star] for star in np.delete(IDS, [2, 3]).tolist())]
    assert list(tmp_path.iterdir()) == []
    asked = server.asked[0]
    assert (asked["RELEASE"], asked["RETRIEVAL_TYPE"], asked["DATA_STRUCTURE"]) == (
        "Gaia DR3",
        "XP_CONTINUOUS",
        "RAW",
    )
    assert services(server).spectra_of(IDS[[2]]) == []


def test_comments_and_an_empty_table(server, tmp_path):
    answers = [zipped({"a.csv": f"# ECSV\n{server.header}\n"}), zipped({"a.csv": ""})]
    server.trouble[DATA] = iter(answers)
    for _ in answers:
        assert services(server).spectra_of(IDS) == []


def test_a_file_a_star_and_a_file_that_is_not_zipped_are_read_as_one(server, tmp_path):
    expected = [server.header, *(server.spectra[star] for star in IDS[:2].tolist())]
    apart = {f"{star}.csv": f"{server.header}\n{server.spectra[star]}\n" for star in IDS[:2].tolist()}
    server.trouble[DATA] = iter([zipped(apart), Answer("\n".join(expected).encode())])
    for _ in range(2):
        assert services(server, tries=1).spectra_of(IDS[:2]) == expected
    other = {"a.csv": f"{server.header}\n", "b.csv": "source_id,other\n1,2\n"}
    server.trouble[DATA] = repeat(zipped(other))
    with pytest.raises(FetchError, match="files of different columns"):
        services(server, tries=1).spectra_of(IDS[:2])


def test_the_next_release_goes_by_its_own_names(server, tmp_path):
    server.words = {"DATAMODEL_GAIA"}
    services(server, "dr4").spectra_of(IDS)
    services(server, "dr4").sources_of(IDS)
    assert (server.asked[0]["RELEASE"], server.asked[0]["RETRIEVAL_TYPE"]) == ("Gaia DR4", "MEAN_SPECTRUM_XP")
    assert "FROM gaiadr4.gaia_source" in server.asked[1]["QUERY"]


TROUBLE = {
    "busy": Answer(PAGE, 503),
    "page": Answer(PAGE),
    "cut short": Answer(b"PK\x03\x04", 200, {"Content-Length": "1000"}),
    "another table": zipped({"a.csv": "error,why\n1,2\n3,4\n"}),
    "two files": zipped({"a.csv": "x", "b.csv": "y"}),
}


@pytest.mark.parametrize("name", TROUBLE)
def test_trouble_that_passes_is_waited_out(server, tmp_path, name, capfd):
    server.trouble[DATA] = iter([TROUBLE[name]] * 2)
    assert len(services(server).spectra_of(IDS)) == 6
    server.trouble[DATA] = repeat(TROUBLE[name])
    with pytest.raises(FetchError, match=rf"^{server.url}.*: .*; tried 3 times; try again later$"):
        services(server).spectra_of(IDS)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("where", [JOBS, f"{JOBS}/1/phase", f"{JOBS}/1/results"])
def test_trouble_with_a_job_is_waited_out(server, where):
    server.at_once = False
    server.trouble[where] = iter([None] * (where == JOBS) and [Answer(status=503)])
    assert len(services(server).sources_of(IDS)) == 6


def test_a_table_that_is_none(server):
    server.at_once = False
    server.trouble[f"{JOBS}/1/results"] = repeat(Answer(PAGE))
    server.trouble[f"{JOBS}/2/results"] = repeat(Answer(b"<VOTABLE><RESOURCE><TABLE>"))
    with pytest.raises(FetchError, match=r"sent something that is not what was asked for.*; tried 2 times"):
        services(server, tries=2).sources_of(IDS)
    server.trouble[f"{JOBS}/3/results"] = repeat(Answer(b"<VOTABLE><RESOURCE/></VOTABLE>"))
    with pytest.raises(FetchError, match="sent a table that is VOTable without a table"):
        services(server).sources_of(IDS)


LIES = {
    "a star that nobody asked for": lambda s: f"{s.header}\n{s.spectra[IDS[0]]}\n{s.spectra[IDS[1]]}\n",
    "a star twice": lambda s: f"{s.header}\n" + f"{s.spectra[IDS[0]]}\n" * 2,
    "a row that is cut": lambda s: f"{s.header}\n{s.spectra[IDS[0]][:300]}\n",
    "a quote too many": lambda s: f'{s.header}\n{s.spectra[IDS[0]]}"\n',
    "a number that is none": lambda s: f"{s.header}\nx{s.spectra[IDS[0]]}\n",
}


@pytest.mark.parametrize("name", LIES)
def test_rows_that_are_not_those_asked_for_are_refused(server, tmp_path, name):
    server.trouble[DATA] = repeat(zipped({"a.csv": LIES[name](server)}))
    with pytest.raises(FetchError, match="sent something that is not what was asked for"):
        services(server, tries=1).spectra_of(IDS[:1])


def test_an_archive_that_grows_out_of_proportion_is_not_unpacked(server, tmp_path, monkeypatch):
    monkeypatch.setenv("SCATTERVAE_READ_LIMIT_GB", "0.001")
    server.trouble[DATA] = repeat(zipped({"a.csv": "0" * 10**7}))
    with pytest.raises(
        FetchError, match=f"^{server.url}: sent a table that .*no file of spectra grows like that"
    ):
        services(server).spectra_of(IDS)
    server.trouble[f"{JOBS}/"] = iter([None, Answer(gzip.compress(b"0" * 10**7))] * 9)
    with pytest.raises(FetchError, match="no file of spectra grows like that"):
        services(server).sources_of(IDS)


def test_an_endless_answer_ends(server, tmp_path, monkeypatch):
    monkeypatch.setattr("scattervae.gaia.archive.services._LARGEST_ANSWER", 1000)
    with pytest.raises(FetchError, match=r"sends more than 0\.001 MB, .*--batch"):
        services(server).spectra_of(IDS)


@pytest.mark.parametrize("zip_it", [bytes, gzip.compress])
def test_a_result_opens_nothing_outside_itself(server, tmp_path, zip_it):
    server.at_once = False
    (tmp_path / "secret").write_bytes(b"\0" * 80)
    stream = f'<BINARY><STREAM href="file://{tmp_path}/secret"/></BINARY>'
    field = '<FIELD name="source_id" datatype="long"/>'
    content = f"<VOTABLE><RESOURCE><TABLE>{field}<DATA>{stream}</DATA></TABLE></RESOURCE></VOTABLE>"
    server.trouble[f"{JOBS}/1/results"] = repeat(Answer(zip_it(content.encode())))
    with pytest.raises(FetchError, match="which is not opened"):
        services(server).ids_of("SELECT source_id FROM gaiadr3.gaia_source")


def test_a_job_without_an_address(server):
    server.at_once = False
    server.trouble[JOBS] = repeat(Answer(status=303))
    with pytest.raises(FetchError, match="sent something that is not what was asked for"):
        services(server, tries=1).ids_of("SELECT source_id FROM x")


def test_identifiers_that_are_no_integers(server):
    server.found = Table({"source_id": ["a", "b"]})
    with pytest.raises(FetchError, match="sent something that is not what was asked for"):
        services(server, tries=1).ids_of("SELECT source_id FROM x")


@pytest.mark.parametrize("status", [400, 500])
def test_a_query_that_is_refused_is_asked_once(server, status, capfd):
    server.at_once = False
    server.trouble[f"{JOBS}/1/results"] = iter([refusal("Unknown column 'parralax'", status)])
    with pytest.raises(
        FetchError, match=rf"^{server.url}{JOBS}/1/results/result: Unknown column 'parralax'$"
    ):
        services(server).ids_of("SELECT source_id FROM gaiadr3.gaia_source WHERE parralax > 1")
    assert len(server.asked) == 1
    assert capfd.readouterr() == ("", "")


def test_a_job_that_fails_says_why(server):
    server.at_once = False
    server.trouble[f"{JOBS}/1/phase"] = repeat(Answer(b"ERROR"))
    server.trouble[f"{JOBS}/1/error"] = repeat(refusal("took too long", 200))
    with pytest.raises(FetchError, match="took too long"):
        services(server).ids_of("SELECT source_id FROM gaiadr3.gaia_source")


def test_a_network_that_is_absent_is_said(server, monkeypatch):
    def absent(*_, **__):
        raise TimeoutError("timed out")

    archive = services(server)
    monkeypatch.setattr("urllib3.util.connection.create_connection", absent)
    with pytest.raises(FetchError, match="timed out; the network, or the way to this server, seems absent"):
        archive.sources_of(IDS)


def test_nobody_answers(tmp_path):
    with GaiaServer(source_table(STARS), "", {}) as gone:
        pass
    with pytest.raises(FetchError, match="Connection refused; tried 3 times"):
        services(gone).sources_of(IDS)
    with pytest.raises(FetchError, match=r"there: is no web address; give --archive-url as https://\.\.\."):
        Services(release_of("DR3"), url="there")


@pytest.mark.parametrize(("release", "known"), [("DR3", "DATAMODEL_GAIA"), ("DR4", "RAW")])
def test_the_other_vocabulary_is_tried_once_and_remembered(server, tmp_path, caplog, release, known):
    server.words = {known}
    archive = services(server, release)
    for _ in range(2):
        assert len(archive.spectra_of(IDS)) == 6
    first = release_of(release).datalink.data_structures[0]
    assert [form["DATA_STRUCTURE"] for form in server.asked] == [first, known, known]
    assert f"Unknown data structure: {first}; asking for {known} instead" in caplog.text


@pytest.mark.parametrize("status", [200, 400, 500])
def test_words_that_the_archive_does_not_know_are_asked_for_once_each(server, tmp_path, status):
    server.words = set()
    if status != 500:
        server.trouble[DATA] = repeat(Answer(b"Unknown retrieval type: XP_CONTINUOUS", status))
    with pytest.raises(FetchError) as caught:
        services(server, tries=7).spectra_of(IDS)
    text = str(caught.value)
    assert text.startswith(server.url)
    assert "Unknown" in text
    assert "asked for Gaia DR3, XP_CONTINUOUS as RAW and as DATAMODEL_GAIA; correct the words" in text
    assert len([r for r in server.requests if r.path == DATA]) == 2


def test_columns_that_a_release_lacks_stay_null_and_are_named_once(server, caplog):
    del server.sources["phot_bp_rp_excess_factor"]
    archive = services(server)
    for _ in range(2):
        found = archive.sources_of(IDS)
        assert np.isnan(found.values["phot_bp_rp_excess_factor"]).all()
        assert np.isfinite(found.values["bp_rp"]).all()
    assert caplog.text.count("gaiadr3.gaia_source: has no phot_bp_rp_excess_factor; left empty") == 1


def test_a_table_that_is_elsewhere_is_named_and_one_that_is_not_needed_is_done_without(server, caplog):
    server.schema = {"dr4int.gaia_source"}
    message = (
        r"gaiadr4\.gaia_source: not in TAP_SCHEMA, which has dr4int\.gaia_source; .*\[tap\] of a release file"
    )
    with pytest.raises(FetchError, match=message):
        services(server, "DR4").sources_of(IDS)
    server.schema = {"gaiadr4.gaia_source", "gaiadr4.all_photometry"}
    archive = services(server, "DR4")
    for _ in range(2):
        assert len(archive.sources_of(IDS)) == 6
    assert caplog.text.count("gaiadr4.all_source_photometry: not in TAP_SCHEMA; done without") == 1


def test_a_column_goes_by_the_name_that_the_release_gives_it(server):
    server.sources.rename_column("ruwe", "renormalised")
    release = release_of("DR3")
    own = release.model_copy(
        update={"tap": release.tap.model_copy(update={"columns": {"ruwe": "renormalised"}})}
    )
    found = Services(own, url=server.url, patience=patience()).sources_of(IDS)
    assert np.isfinite(found.values["ruwe"]).sum() == 5


def test_what_tap_says_of_a_query_that_it_refuses_is_shown(server):
    server.at_once = False
    server.trouble[JOBS] = repeat(refusal("Cannot find table gaiadr9.gaia_source", 400))
    with pytest.raises(FetchError, match=r"Bad Request: Cannot find table gaiadr9\.gaia_source$"):
        services(server).ids_of("SELECT source_id FROM gaiadr9.gaia_source")
    assert [request.path for request in server.requests] == [AT_ONCE, JOBS]


def test_little_is_asked_without_a_job_whose_turn_may_be_hours_away(server):
    server.trouble[JOBS] = repeat(Answer(status=503))
    assert len(services(server).sources_of(IDS)) == 6
    server.found = Table({"source_id": np.arange(1999)})
    assert len(services(server).ids_in_cone(0.0, 0.0, 1.0)) == 1999
    assert {request.path for request in server.requests} == {AT_ONCE}


def test_much_and_what_does_not_come_at_once_is_asked_as_a_job(server):
    server.found = Table({"source_id": np.arange(5000)})
    assert len(services(server).ids_in_cone(0.0, 0.0, 1.0)) == 5000
    server.found = Table({"source_id": np.arange(5)})
    for late in (refusal("Job timeout/aborted.", 400), Answer(PAGE, 503), Answer(b"")):
        server.trouble[AT_ONCE] = iter([late])
        assert len(services(server).ids_in_cone(0.0, 0.0, 1.0)) == 5
    many = np.concatenate([IDS, np.arange(1, 2000)])
    before = len(server.requests)
    assert len(services(server).sources_of(many)) == 6
    paths = [request.path for request in server.requests[before:]]
    assert paths[:2] == [AT_ONCE, JOBS], "the names of columns at once, 2,006 stars by a job"


def test_a_result_that_the_archive_cut_is_not_taken_for_all(server):
    overflow = b'<INFO name="QUERY_STATUS" value="OVERFLOW"/></RESOURCE>'
    some = votable(Table({"source_id": IDS[:3]})).replace(b"</RESOURCE>", overflow)
    server.trouble[AT_ONCE] = repeat(Answer(some))
    assert len(services(server).ids_in_cone(0.0, 0.0, 1.0)) == 6, "asked again by a job"
    server.trouble[f"{JOBS}/2/results"] = repeat(Answer(gzip.compress(some)))
    with pytest.raises(FetchError, match="gives no more than 3 rows; ask for a smaller part of the sky"):
        services(server).ids_in_cone(0.0, 0.0, 1.0)


def test_a_job_that_waits_for_its_turn_is_asked_after_now_and_then(server, monkeypatch, caplog):
    server.at_once = False
    monkeypatch.setattr("scattervae.gaia.archive.services._NOTICED_WAIT", 0.0)
    phases = [b"PENDING", b"QUEUED", b"QUEUED", b"EXECUTING\n"]
    server.trouble[f"{JOBS}/1/phase"] = iter([*(Answer(phase) for phase in phases), Answer(status=503)])
    archive = services(server)
    assert len(archive.ids_in_cone(0.0, 0.0, 1.0)) == 6
    assert caplog.text.count("the query waits for its turn; others are before it") == 1
    assert sum(request.path == JOBS for request in server.requests) == 1, "its place in the queue is kept"
    server.trouble[f"{JOBS}/2/phase"] = repeat(Answer(b"QUEUED"))
    archive._longest_job = 0.05
    with pytest.raises(FetchError, match="its queue is long: no result in 0 s; try again later"):
        archive.ids_in_cone(0.0, 0.0, 1.0)


def test_a_query_that_is_wrong_is_refused_without_a_job(server):
    server.trouble[AT_ONCE] = repeat(refusal("Unknown column 'parralax'", 400))
    with pytest.raises(FetchError, match="Unknown column 'parralax'"):
        services(server).ids_of("SELECT source_id FROM gaiadr3.gaia_source WHERE parralax > 1")
    assert [request.path for request in server.requests] == [AT_ONCE]


def test_a_cone_is_a_query(server):
    server.found = Table({"source_id": IDS})
    assert services(server).ids_in_cone(56.75, -24.12, 0.5).tolist() == IDS.tolist()
    asked = server.asked[0]["QUERY"]
    assert "CONTAINS(POINT(ra, dec), CIRCLE(56.75, -24.12, 0.5))" in asked
    assert "FROM gaiadr3.gaia_source" in asked


def test_a_release_described_in_a_file(tmp_path):
    text = (files("scattervae.gaia.archive") / "dr4.toml").read_text()
    own = tmp_path / "own.toml"
    own.write_text(
        text + '\n[[bulk.products]]\nname = "gaia_source"\n'
        'folder = "gdr4/gaia_source/"\nprefix = "GaiaSource"\n'
    )
    assert release_of(str(own)).product("gaia_source").folder == "gdr4/gaia_source/"
    for broken, message in (
        (text.replace("epoch = 2017.5", ""), "epoch: Field required; see docs/reference/releases\\.md$"),
        (text + "\nsurprise = 1\n", "bulk.surprise: Extra inputs are not permitted"),
        (text.replace("= 2017.5", "= -1"), "epoch: Input should be greater than 0"),
        ("name = ", "is no TOML file that can be read"),
        ("a = " + "[" * 50_000, "is no TOML file that can be read"),
        ("#" * 70_000, "no release's file is"),
    ):
        own.write_text(broken)
        with pytest.raises(FetchError, match=f"^{own}: .*{message}"):
            release_of(str(own))
    with pytest.raises(FetchError, match=r"nothing\.toml: does not exist; check the path"):
        release_of("nothing.toml")


def test_the_facts_of_a_release_are_in_its_file():
    dr3, dr4 = release_of("DR3"), release_of("DR4")
    assert (dr3.epoch, dr4.epoch) == (2016.0, 2017.5)
    assert dr3.g_zero_point == facts.G_ZERO_POINT
    assert dr3.has_basis(facts.DR3_BASIS)
    assert not dr4.has_basis(facts.DR3_BASIS)
    assert dr4.has_basis(Basis(51, 55))
    assert (dr3.ids_hold_pixels, dr4.ids_hold_pixels) == (True, False)  # not documented: not assumed
    assert (dr3.preliminary, dr4.preliminary) == (False, True)


def test_a_release_that_is_none():
    with pytest.raises(FetchError, match="no release is called DR9; choose DR3 or DR4"):
        release_of("DR9")
    with pytest.raises(
        FetchError,
        match=r"DR4 has no bulk files gaia_source; it has none that are known yet; .*doctor --release DR4",
    ):
        release_of("DR4").product("gaia_source")
    assert release_of("dr3").product("gaia_source").prefix == "GaiaSource"
