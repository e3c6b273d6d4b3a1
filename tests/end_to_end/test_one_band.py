"""A store of stars of which half have no BP or no RP goes the whole way, by commands."""

import numpy as np
import pyarrow.parquet as pq
import pytest

import scattervae as sv
from cli.toys import write_csv
from scattervae.errors import DataError
from scattervae.science.evaluation import evaluate
from scattervae.science.labels.model import fit_labels, label_stars
from scattervae.science.labels.targets import TargetLabels
from scattervae.science.labels.training import LabelSettings
from scattervae.show.registry import FigureData
from scattervae.show.star_figure import star_figure
from scattervae.spectra.spectra import Flag
from toy import DR3, toy_best, toy_sky, untrained_model, without_bands

RECIPE = """
name = "toy"
[network]
n_latent = 3
hidden = [24]
[training]
epochs = 40
batch_size = 64
"""
SKY = toy_sky(600)
STARS = without_bands(SKY.spectra)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one_band")
    (folder / "toy.toml").write_text(RECIPE)
    write_csv(folder / "stars.csv", STARS, SKY.labels)
    return folder


@pytest.fixture(scope="module")
def model(folder):
    store = sv.ingest([folder / "stars.csv"], folder / "store")
    recipe = sv.load_recipe(folder / "toy.toml")
    model = sv.train(store, recipe)
    model.save(folder / "model")
    return model


def test_every_star_is_encoded_and_trained_on(cli, folder, model):
    info = cli("info", folder / "store", "--json").json
    n_complete, n_one_band = int(STARS.usable.sum()), int((~STARS.usable).sum())
    assert (info["n_usable"], info["n_usable_with_one_band"]) == (n_complete, n_one_band)
    trained = ~sv.folds(STARS.source_id).test
    data = model.provenance["data"]
    assert (data["n_trained_on"], data["n_one_band"]) == (trained.sum(), (trained & ~STARS.usable).sum())
    out = folder / "catalogue.parquet"
    run = cli("encode", folder / "model", folder / "store", "--out", out, "--json")
    assert (run.code, run.json["n_encoded"]) == (0, 600)
    table = pq.read_table(out).to_pandas().set_index("source_id").loc[STARS.source_id]
    wider = (model.encode(STARS).log_variance - model.encode(SKY.spectra).log_variance).sum(dim=1).numpy()
    assert np.median(wider[~STARS.usable]) > 0.0 == np.median(wider[STARS.usable])
    truth, usual = SKY.latents, table[[f"latent_{k}_mean" for k in (1, 2, 3)]].to_numpy()
    design = np.column_stack([usual, usual**2, usual**3, np.ones(600)])
    for stars in (STARS.usable, ~STARS.usable):  # the known latents are found with either band
        fitted = design[stars] @ np.linalg.lstsq(design[stars], truth[stars], rcond=None)[0]
        assert (1 - (fitted - truth[stars]).var(axis=0) / truth[stars].var(axis=0) > 0.8).all()


def test_complete_stars_are_predicted_no_less_well(folder, model):
    store, recipe = sv.SpectrumStore(folder / "store").read(), sv.load_recipe(folder / "toy.toml")
    alone = sv.train(store.take(store.usable), recipe)
    held_out = SKY.spectra.take(sv.folds(SKY.spectra.source_id).test)
    found, wanted = (
        evaluate(m, held_out).negative_elbo + np.log(m.normalization.std).sum() for m in (model, alone)
    )
    assert found < wanted + 0.5


def test_labels_are_fitted_to_and_predicted_for_stars_with_one_band(model):
    known = TargetLabels.of(SKY.labels)
    labels = fit_labels(model, STARS, known, LabelSettings(networks=1, steps=300))
    assert labels.n_stars == model.provenance["data"]["n_trained_on"]
    off = np.abs(label_stars(model, labels, STARS)["teff"] - SKY.labels["teff"])
    assert np.isfinite(off).all()
    assert np.median(off[~STARS.usable]) < 150.0  # of a range of 1,400 K


def test_commands_take_stars_with_one_band(cli, folder, model):
    scores = cli("evaluate", folder / "model", folder / "store", "--no-coverage", "--json").json
    test = sv.folds(STARS.source_id).test
    assert (scores["n_test"], scores["n_one_band"]) == (
        (test & STARS.usable).sum(),
        (test & ~STARS.usable).sum(),
    )
    for bit in (Flag.MISSING_BP, Flag.MISSING_RP):
        star = STARS.source_id[np.flatnonzero(STARS.flags == bit)[0]]
        drawn = cli(
            "figure", "star", "--model", folder / "model", "--stars", folder / "store", "--star", star,
            "--out", folder / f"{star}.png",
        )  # fmt: skip
        assert drawn.code == 0
        made = cli(
            "generate", folder / "model", "--around", star, "--stars", folder / "store",
            "--out", folder / f"{star}.parquet",
        )  # fmt: skip
        assert made.code == 0
        for band in ("bp", "rp"):
            coeffs = pq.read_table(folder / f"{star}.parquet")[f"{band}_coefficients"]
            assert np.isfinite(np.stack(coeffs.to_numpy())).all()


def test_a_star_with_one_band_is_drawn_with_flux_where_its_basis_is_known():
    sky = toy_sky(100, basis=DR3)
    stars = without_bands(sky.spectra)
    model = untrained_model(sky.spectra, toy_best())
    for bit in (Flag.MISSING_BP, Flag.MISSING_RP):
        source_id = int(stars.source_id[np.flatnonzero(stars.flags == bit)[0]])
        figure = star_figure(FigureData({"toy": model}, stars, sky.labels, source_id=source_id))
        assert len(figure.axes) == 8
    paper = FigureData({"toy": untrained_model(sky.spectra)}, stars, sky.labels, source_id=source_id)
    with pytest.raises(DataError, match="cannot be shown, the star has no RP"):
        star_figure(paper)


def test_g_flux_of_one_band_is_flagged_not_guessed(cli, tmp_path):
    csv = write_csv(tmp_path / "bare.csv", without_bands(toy_sky(100, basis=DR3).spectra), g_flux=False)
    bare = sv.ingest([csv], tmp_path / "bare").read()
    lacks_g = (bare.flags & np.uint16(Flag.NO_G_FLUX)) > 0
    one_band = (bare.flags & np.uint16(Flag.MISSING_BP | Flag.MISSING_RP)) > 0
    assert lacks_g[one_band].all()
    assert not lacks_g[~one_band].all()
    assert np.isnan(bare.g_flux[one_band]).all()
    assert not bare.usable_with_one_band[one_band].any()
