import threading
from dataclasses import replace
from itertools import repeat

import pytest

from cli.toys import with_ids
from gaia.archive.gaia_server import AT_ONCE, DATA, JOBS
from gaia.archive.server import PAGE, Answer
from gaia.archive.stars import add_bulk, server_of, source_table, toy_stars
from gaia.archive.toys import ObjectStore, patience
from scattervae.gaia.archive.doctor import Examination, Finding, Status, no_network
from scattervae.gaia.archive.listing import Bulk, release_of
from scattervae.spectra.spectra import Basis
from scattervae.spectra.star_tables import SOURCE_COLUMNS
from toy import toy_sky

STARS = toy_stars()
DR3 = release_of("DR3")
SPECTRA, SOURCES = (product.name for product in DR3.bulk.products)


@pytest.fixture
def server():
    with server_of(STARS) as server:
        add_bulk(server, DR3)
        yield server


def at(server, release=DR3, **changes):
    bulk = release.bulk and release.bulk.model_copy(update={"url": server.url, "listing_url": None})
    return release.model_copy(update={"archive_url": server.url, "bulk": bulk, **changes})


def examined(server, release=DR3, **changes):
    return Examination(at(server, release, **changes), patience=patience(2))


def by_name(examination):
    names = [finding.what for finding in examination.findings]
    assert len(names) == len(set(names))
    return dict(zip(names, examination.findings, strict=True))


def differing(examination):
    return [finding.what for finding in examination.findings if finding.status is Status.DIFFERS]


def test_dr3_is_as_its_file_says(server):
    examination = examined(server)
    found = by_name(examination)
    assert {finding.status for finding in found.values()} == {Status.OK}
    assert {f"column {name}" for name in ("source_id", *SOURCE_COLUMNS)} <= set(found)
    assert found["column phot_g_mean_flux"].expected == "phot_g_mean_flux [electron/s]"
    assert found["column phot_g_mean_flux"].found == "phot_g_mean_flux ['electron'.s**-1]"
    assert found["DataLink words"].found == "Gaia DR3, XP_CONTINUOUS, RAW: 7 spectra of 7 stars"
    assert found[SPECTRA].found == "1 file, each with its MD5, of 100 % of the sky"
    for where in ("DataLink", SPECTRA):
        seen = [found[f"{where}: {entry} of the basis"].found for entry in ("n_bp", "n_rp", "bp_id", "rp_id")]
        assert seen == ["55", "55", "56", "57"]
    assert examination.uses() == {
        "fetch": "single stars and cones; bulk files of xp_continuous_mean_spectrum and gaia_source",
        "ingest": "its spectra, 55 BP (basis 56) + 55 RP (basis 57) coefficients; positions from the source table; "
        "G flux from the source table, else the coefficients",
        "encode": "its spectra with models of 55 BP (basis 56) + 55 RP (basis 57) coefficients "
        "(see `scattervae info MODEL`); with --transport those of another basis",
    }


def test_little_is_fetched(server):
    examined(server)
    bulk = [request for request in server.requests if request.path.endswith(".csv.gz")]
    assert [request.headers["Range"] for request in bulk] == ["bytes=0-65535"] * 2
    assert len([request for request in server.requests if request.path == DATA]) == 1


def test_one_star_is_asked_for_where_the_table_says_who_has_a_spectrum(server):
    server.sources["has_xp_continuous"] = True
    assert by_name(examined(server))["DataLink words"].found.endswith("RAW: 1 spectrum of 1 star")
    (query,) = (form["QUERY"] for form in server.asked if "QUERY" in form)
    assert (
        query
        == "SELECT TOP 1 source_id AS source_id FROM gaiadr3.gaia_source WHERE has_xp_continuous = 'True'"
    )
    server.spectra.clear()
    examination = examined(server)
    assert differing(examination) == ["DataLink words"]
    assert examination.uses()["fetch"].startswith("no single stars; bulk files of")


def test_a_column_that_is_missing(server):
    del server.sources["ruwe"]
    add_bulk(server, DR3)
    examination = examined(server)
    found = by_name(examination)
    assert differing(examination) == ["column ruwe", f"columns of {SOURCES}"]
    assert found["column ruwe"] == Finding(
        "column ruwe",
        "ruwe",
        "not there, stays empty",
        Status.DIFFERS,
        "correct [tap.columns] ruwe in the release file",
    )
    assert found[f"columns of {SOURCES}"].found == "10 columns, without ruwe"
    server.sources["renormalised"] = 1.0
    named = at(server).tap.model_copy(update={"columns": {"ruwe": "renormalised"}})
    assert by_name(examined(server, tap=named))["column ruwe"].status is Status.OK


@pytest.mark.parametrize(
    ("unit", "status"),
    [
        ("mas", Status.OK),
        ("arcsec", Status.DIFFERS),
        ("pc", Status.DIFFERS),
        ("", Status.UNKNOWN),
        ("furl.", Status.UNKNOWN),
    ],
)
def test_units(server, unit, status):
    server.units["parallax"] = unit
    finding = by_name(examined(server))["column parallax"]
    assert (finding.status, finding.expected) == (status, "parallax [mas]")
    assert ("its unit is another" in finding.advice) == (status is Status.DIFFERS)


@pytest.mark.parametrize(
    ("answer", "entry"),
    [
        (None, "[datalink] data_structures"),
        ("Unknown retrieval type: XP_CONTINUOUS", "[datalink] retrieval_type"),
        ("Unknown data release: Gaia DR3", "[datalink] release"),
    ],
)
def test_a_word_that_the_archive_does_not_know(server, answer, entry):
    server.words = set()
    if answer is not None:
        server.trouble[DATA] = repeat(Answer(answer.encode(), 500))
    examination = examined(server)
    (finding,) = (f for f in examination.findings if f.status is Status.DIFFERS)
    assert finding.what == "DataLink"
    assert (answer or "Unknown data structure: DATAMODEL_GAIA") in finding.found
    assert "RAW and as DATAMODEL_GAIA" in finding.found
    assert finding.advice == f"correct {entry} in the release file"
    assert "its spectra" in examination.uses()["ingest"], "the bulk file shows what they are"


def test_the_word_that_is_answered_is_named(server):
    server.words = {"DATAMODEL_GAIA"}
    finding = by_name(examined(server))["DataLink words"]
    assert (finding.expected, finding.status) == (
        "Gaia DR3, XP_CONTINUOUS, RAW or DATAMODEL_GAIA",
        Status.OK,
    )
    assert finding.found.startswith("Gaia DR3, XP_CONTINUOUS, DATAMODEL_GAIA: ")


def test_another_size_of_the_basis(server):
    dr4 = replace(release_of("DR4").basis, bp_id=156)
    examination = examined(server, basis=dr4)
    found = by_name(examination)
    assert differing(examination) == [
        f"{where}: {entry} of the basis" for where in ("DataLink", SPECTRA) for entry in ("n_bp", "bp_id")
    ]
    size, rp_id = (found[f"DataLink: {entry} of the basis"] for entry in ("n_bp", "rp_id"))
    assert (size.expected, size.found) == ("51", "55")
    assert size.advice == "correct [basis] n_bp in the release file"
    assert (rp_id.expected, rp_id.found, rp_id.status) == ("", "57", Status.UNKNOWN)  # the file states no id
    renamed = examined(server, basis=dr4, name="DR4")
    assert "give --release DR3" in renamed.uses()["ingest"]


def test_a_basis_that_gaiaxpy_does_not_know():
    stars = with_ids(toy_sky(7, basis=Basis(51, 55, 156, 157)).spectra, STARS.source_id)
    with server_of(stars) as server:
        examination = examined(server, release_of("DR4"))
    assert differing(examination) == []
    assert "its spectra, 51 BP (basis 156) + 55 RP (basis 157)" in examination.uses()["ingest"]
    assert "the source table alone: the installed GaiaXPy does not know" in examination.uses()["ingest"]


def test_what_the_release_file_does_not_state_is_no_error(server):
    examination = examined(server, basis=None, bulk=None)
    found = by_name(examination)
    assert differing(examination) == []
    assert found["bulk files"].status is Status.UNKNOWN
    assert found["DataLink: n_bp of the basis"].status is Status.UNKNOWN
    assert found["DataLink: n_bp of the basis"].found == "55"
    assert examination.uses()["fetch"].endswith("no bulk files: the release file names none")


def test_tables_that_are_not_there(server):
    server.schema = {"gaiadr3.gaia_source"}
    server.tables["gaiadr3.other"] = source_table(STARS)
    tap = at(server).tap.model_copy(update={"photometry": "gaiadr3.other"})
    examination = examined(server, tap=tap)
    assert differing(examination) == ["table gaiadr3.other"]
    assert (
        by_name(examination)["table gaiadr3.other"].advice == "correct [tap] photometry in the release file"
    )


def test_a_table_in_another_schema_is_named(server):
    server.schema = {"gaiadr4_int.gaia_source", "gaiadr4.all_source_photometry"}
    server.tables = dict.fromkeys(server.schema, server.sources)
    found = by_name(examined(server, release_of("DR4")))
    assert found["table gaiadr4.gaia_source"].found == "not in TAP_SCHEMA, which has gaiadr4_int.gaia_source"


def test_bulk_folders_of_a_release_whose_file_names_none_are_looked_for(server):
    files = {
        f"Gaia/gdr4/{name}_000000-003111.csv.gz": b"x"
        for name in ("spectra/xp_mean_spectrum/XpMean", "gaia_source/GaiaSource", "photometry/epoch/Epoch")
    }
    with ObjectStore(files, tokens=False) as store:
        bulk = Bulk(url=server.url + "Gaia/gdr4/", listing_url=store.url)
        examination = Examination(
            at(server, release_of("DR4")).model_copy(update={"bulk": bulk}), patience=patience(2)
        )
    found = by_name(examination)["bulk files"]
    assert found.status is Status.UNKNOWN
    assert found.found.endswith(
        "gaia_source/GaiaSource_000000-003111.csv.gz, spectra/xp_mean_spectrum/XpMean_000000-003111.csv.gz"
    )


def test_spectra_whose_columns_are_called_otherwise(server):
    server.header = server.header.replace("bp_coefficient_errors", "bp_errors")
    add_bulk(server, DR3)
    examination = examined(server)
    assert differing(examination) == ["columns of DataLink", f"columns of {SPECTRA}"]
    assert "a newer scattervae" in by_name(examination)["columns of DataLink"].advice
    assert examination.uses()["ingest"] == "nothing: spectra come without bp_coefficient_errors"
    assert examination.uses()["encode"].startswith("not known")


def test_bulk_folders_that_are_wrong(server):
    first, second = DR3.bulk.products
    products = (first.model_copy(update={"folder": "gdr9/"}), second)
    bulk = at(server).bulk.model_copy(update={"products": products})
    examination = examined(server, bulk=bulk)
    (finding,) = (f for f in examination.findings if f.status is Status.DIFFERS)
    assert finding.what == SPECTRA
    assert "gdr9/_MD5SUM.txt" in finding.found
    assert finding.advice == "correct [[bulk.products]] folder or prefix in the release file"
    assert examination.uses()["fetch"] == "single stars and cones; bulk files of gaia_source"


def test_a_bulk_file_that_is_a_page(server):
    name = next(name for name in server.files if "XpContinuous" in name)
    server.files[name] = PAGE
    examination = examined(server)
    assert differing(examination) == [f"first of {SPECTRA}"]
    assert by_name(examination)[f"first of {SPECTRA}"].found == f"{server.url}{name}: is not gzipped"


def test_services_that_are_busy_are_named_and_cost_the_others_nothing(server):
    server.trouble |= {path: repeat(Answer(b"", 503)) for path in (AT_ONCE, JOBS)}
    examination = examined(server)
    assert differing(examination) == ["TAP", "DataLink"]
    assert examination.uses()["fetch"] == f"no single stars; bulk files of {SPECTRA} and {SOURCES}"


def test_a_service_that_hangs_is_not_waited_for_as_a_batch_would_be(server, monkeypatch):
    released = threading.Event()
    answer = server.answer
    monkeypatch.setattr(
        server,
        "answer",
        lambda request, body: (
            released.wait(60) and None if request.path in (AT_ONCE, JOBS) else answer(request, body)
        ),
    )
    monkeypatch.setattr("scattervae.gaia.archive.doctor._TIMEOUT", 0.05)
    examination = examined(server)
    released.set()
    assert differing(examination) == ["TAP", "DataLink"]
    assert "timed out; tried 2 times" in by_name(examination)["TAP"].found


def test_no_network():
    with server_of(STARS) as gone:
        there = at(gone)
        assert no_network(there) is None
    address = gone.url.removeprefix("http://").rstrip("/")
    assert no_network(there) == f"{address}: Connection refused; {address}: Connection refused"
    nowhere = there.model_copy(update={"archive_url": "https://nowhere.invalid/", "bulk": None})
    assert no_network(nowhere).startswith("nowhere.invalid: ")


def test_one_server_of_two_is_a_network(server):
    assert no_network(at(server).model_copy(update={"archive_url": "https://nowhere.invalid/"})) is None
