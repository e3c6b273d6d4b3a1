import logging
from dataclasses import replace

import numpy as np
import pytest

from gaia.archive.stars import add_bulk, server_of, toy_stars
from scattervae.gaia.archive.listing import release_of
from scattervae.gaia.facts import DR3_BASIS
from scattervae.gaia.flux import flux_from_coeffs
from scattervae.science import machine
from scattervae.science.catalogue import encoding

STARS = toy_stars()
WELL = [machine.Finding.of("a part", "1", "1", same=True)]


@pytest.fixture
def server():
    with server_of(STARS) as server:
        add_bulk(server, release_of("DR3"))
        yield server


@pytest.fixture
def well(monkeypatch):
    """A machine without fault, looked at in no time."""
    monkeypatch.setattr(machine, "examine_machine", lambda _: WELL)


def doctor(cli, server, *options):
    return cli("doctor", "--archive-url", server.url, "--base-url", server.url, *options)


def test_all_is_well(cli, server, well):
    run = doctor(cli, server)
    assert run.code == 0
    *lines, fetch, ingest, encode, last = run.out.splitlines()
    assert (fetch[:7], ingest[:8], encode[:8], last) == ("fetch: ", "ingest: ", "encode: ", "all is well")
    table = [[cell.strip() for cell in line.split(" | ")] for line in lines]
    assert table[0] == ["machine: what", "expected", "found", "status"]
    assert ["a part", "1", "1", "ok"] in table
    assert ["column ra", "ra [deg]", "ra [deg]", "ok"] in table
    assert ["DataLink: n_bp of the basis", "55", "55", "ok"] in table


def test_what_differs_is_in_the_exit_code_and_says_what_to_change(cli, server, well):
    del server.sources["ruwe"]
    run = doctor(cli, server)
    assert run.code == 1
    lines = run.out.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("column ruwe"))
    assert [cell.strip() for cell in lines[at].split(" | ")] == [
        "column ruwe",
        "ruwe",
        "not there, stays empty",
        "differs",
    ]
    assert lines[at + 1] == "  correct [tap.columns] ruwe in the release file"
    assert lines[-1] == "1 line above not as expected"


def test_json_says_the_same(cli, server, well):
    server.words = set()
    run = doctor(cli, server, "--json")
    assert run.code == 1
    values = run.json
    assert (values["release"], values["no_network"], values["n_differing"]) == ("DR3", None, 1)
    assert list(values["uses"]) == ["fetch", "ingest", "encode"]
    assert values["machine"] == [
        {"what": "a part", "expected": "1", "found": "1", "status": "ok", "advice": ""}
    ]
    (refused,) = (finding for finding in values["archive"] if finding["status"] == "differs")
    assert refused["what"] == "DataLink"
    assert "Unknown data structure: DATAMODEL_GAIA" in refused["found"]
    assert refused["advice"] == "correct [datalink] data_structures in the release file"


def test_a_file_that_describes_the_release(cli, server, well, tmp_path):
    server.words = {"DATAMODEL_NEW"}
    own = tmp_path / "own.toml"
    own.write_text(
        'name = "mine"\nepoch = 2016.0\narchive_url = "https://nowhere.invalid/"\n[datalink]\nrelease = "R"\n'
        'retrieval_type = "T"\ndata_structures = ["DATAMODEL_NEW"]\n[tap]\nsources = "gaiadr3.gaia_source"\n'
    )
    run = doctor(cli, server, "--release", own)
    assert run.code == 0
    assert "R, T, DATAMODEL_NEW: 7 spectra of 7 stars" in run.out
    assert "fetch: single stars and cones; no bulk files: the release file names none" in run.out
    assert [form["RELEASE"] for form in server.asked if "RELEASE" in form] == ["R"]


def test_without_a_network_the_machine_alone(cli, well, monkeypatch):
    with server_of(STARS) as gone:
        pass
    run = doctor(cli, gone)
    assert run.code == 0
    assert len([line for line in run.out.splitlines() if line.startswith("no network")]) == 1
    assert "no network, the archive was not asked: 127.0.0.1:" in run.out
    assert "Connection refused" in run.out
    assert run.out.endswith("\nall is well\n")
    values = doctor(cli, gone, "--json").json
    assert (values["archive"], values["uses"]) == ([], {})
    assert "Connection refused" in values["no_network"]
    ill = [machine.Finding.of("numpy", ">=2", "1.0", same=False, advice="pip install numpy")]
    monkeypatch.setattr(machine, "examine_machine", lambda _: ill)
    assert doctor(cli, gone).code == 1


def test_a_release_that_is_none(cli):
    assert "no release is called DR9" in cli("doctor", "--release", "DR9").error


def test_this_machine(tmp_path):
    found = {finding.what: finding for finding in machine.examine_machine(tmp_path)}
    differing = [finding for finding in found.values() if finding.status == "differs"]
    assert differing == []
    assert found["Python"].expected == ">=3.11"
    assert found["numpy"].found == np.__version__
    assert found["lsdb"].expected.endswith("if wanted (cluster)")
    assert "pytest" not in found
    assert found["bases that GaiaXPy knows"].found == str(DR3_BASIS)
    assert found["self-test"].found.startswith("passed; 64 simulated stars, ")
    assert list(tmp_path.iterdir()) == []


def test_versions_that_are_too_old_or_absent(monkeypatch):
    needs = [
        "numpy>=999",
        "nothing-of-this-name>=1",
        'nor-of-this>=1; extra == "demo"',
        'x>=1; extra == "dev"',
    ]
    monkeypatch.setattr(machine.metadata, "requires", lambda _: needs)
    found = {f.what: (f.found, f.status, f.advice) for f in machine._libraries()}
    assert found == {
        "numpy": (np.__version__, "differs", 'pip install "numpy>=999"'),
        "nothing-of-this-name": ("not installed", "differs", 'pip install "nothing-of-this-name>=1"'),
        "nor-of-this": ("not installed", "unknown", ""),
    }


def test_simulated_stars_are_black_bodies():
    stars = machine.simulated_stars()
    sampled = flux_from_coeffs(stars.coeffs, stars.errors)
    inside = (sampled.grid_nm > 450) & (sampled.grid_nm < 900)
    metres, kelvin = sampled.grid_nm * 1e-9, np.geomspace(3500.0, 12000.0, len(stars))[:, None]
    h, c, k = 6.62607015e-34, 299792458.0, 1.380649e-23  # SI, exact
    planck = metres**-5 / np.expm1(h * c / (k * metres * kelvin))
    ratio = (sampled.flux / planck)[:, inside]
    off = np.abs(ratio / np.median(ratio, axis=1, keepdims=True) - 1)
    assert np.median(off) < 0.005
    assert off.max() < 0.03
    assert (stars.g_flux > 0).all()


def test_a_self_test_that_fails_says_what_failed(monkeypatch):

    logger, level = logging.getLogger("scattervae"), logging.getLogger("scattervae").level
    true = encoding.catalogue
    monkeypatch.setattr(
        encoding, "catalogue", lambda model, stars: true(model, replace(stars, g_flux=2 * stars.g_flux))
    )
    finding = machine.self_test()
    assert finding.status == "differs"
    assert "failed: latent_1_mean of the written catalogue is not what Python has" in finding.found

    def broken(*_, **__):
        raise RuntimeError("this build of torch\ncannot do that")

    monkeypatch.setattr("scattervae.model.run.train", broken)
    assert "failed: RuntimeError: this build of torch cannot do that; 64" in machine.self_test().found
    assert logger.level == level
