"""``scattervae reproduce`` on toy stars: what it writes. That a second run trains nothing is asked of the library."""

import json

import pytest

from cli.toys import RECIPE, write_parquet
from scattervae.science.paper.reproduce import PRINTED
from toy import DR3, toy_sky, with_own_g

PROMISED = {
    "normalised_error_ratio_bp10",
    "normalised_error_ratio_rp10",
    "tails",
    "scatter_ratio",
    "cool_stars",
    "low_gravity",
    "coverage_delta_v",
    "coverage_extrapolation",
    "lossless_flux",
    "bad_labels",
}


@pytest.fixture(scope="module")
def stars(tmp_path_factory):
    """A thousand labelled toy stars in one file, and 200 others in another."""
    folder = tmp_path_factory.mktemp("stars")
    for name, sky in (
        ("labelled", toy_sky(1000, basis=DR3, n_latent=3)),
        ("others", toy_sky(200, basis=DR3, n_latent=3, seed=7)),
    ):
        write_parquet(folder / f"{name}.parquet", with_own_g(sky.spectra), sky.labels)
    (folder / "toy.toml").write_text(RECIPE)
    return folder


def test_claims_figures_and_report_are_written(cli, stars, tmp_path, monkeypatch):
    monkeypatch.setattr("scattervae.show.style.DPI", 40)
    few = PRINTED.training.model_copy(update={"epochs": 3})
    monkeypatch.setattr(
        "scattervae.science.paper.reproduce.PRINTED", PRINTED.model_copy(update={"training": few})
    )
    out = tmp_path / "reproduction"
    more = ("--unlabelled", stars / "others.parquet", "--recipe", stars / "toy.toml", "--json")
    run = cli("reproduce", stars / "labelled.parquet", "--out", out, *more)
    assert run.code == 0, run.err
    claims = json.loads((out / "claims.json").read_text())
    assert {claim["id"] for claim in claims} >= PROMISED
    assert all({"id", "paper", "measured", "interval", "verdict", "note"} <= set(claim) for claim in claims)
    assert json.loads(run.out)["claims"] == claims
    for name in ("architecture", "normalised_errors", "latent_volume"):
        assert (out / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (out / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    report = (out / "report.html").read_text(encoding="utf-8")
    assert all(claim["title"] in report for claim in claims)


def test_too_few_labelled_stars_are_an_error_of_one_line(cli, stars, tmp_path):
    run = cli("reproduce", stars / "others.parquet", "--out", tmp_path / "few")
    assert run.code == 1
    assert run.err.splitlines()[-1].startswith("scattervae: error: ")
    assert "at least 100 are needed" in run.err
