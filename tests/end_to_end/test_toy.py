"""From a toy file in the archive's csv to a catalogue and figures, by commands and by the library."""

import gzip
from importlib.resources import files

import numpy as np
import pyarrow.parquet as pq
import pytest

import scattervae as sv
from cli.toys import RECIPE, write_csv, write_parquet
from scattervae.model import training
from scattervae.show.registry import FigureData, save_figures
from scattervae.spectra.spectra import Flag
from toy import DR3, Basis, spoiled, toy_sky

DR4 = Basis(51, 55, bp_id=64, rp_id=65)


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "toy.toml"
    path.write_text(RECIPE)
    return path


def test_from_a_file_to_figures(cli, recipe, tmp_path, monkeypatch):
    sky = toy_sky(600, basis=DR3, n_latent=2)
    stars = spoiled(sky.spectra)
    csv = write_csv(tmp_path / "a.csv", stars.take(slice(0, 300)), sky.labels)
    packed = tmp_path / "b.csv.gz"
    packed.write_bytes(gzip.compress(write_csv(tmp_path / "b", stars.take(slice(300, 600))).read_bytes()))
    run = cli("ingest", csv, packed, "--out", tmp_path / "store", "--json")
    assert (run.code, run.json["n_stars"]) == (0, 599)

    real = training._run_epoch

    def stop(state, inputs, epoch):
        if epoch == 20:
            raise KeyboardInterrupt
        return real(state, inputs, epoch)

    monkeypatch.setattr(training, "_SECONDS_BETWEEN_SAVES", 0.0)
    monkeypatch.setattr(training, "_run_epoch", stop)
    train = ("train", tmp_path / "store", "--recipe", recipe, "--out", tmp_path / "model")
    assert cli(*train).code == 130
    monkeypatch.undo()
    monkeypatch.setattr("scattervae.show.style.DPI", 40)
    assert cli(*train, "--resume").code == 0

    out = tmp_path / "catalogue.parquet"
    run = cli("encode", tmp_path / "model", tmp_path / "store", "--out", out, "--json")
    table = pq.read_table(out).to_pandas()
    assert run.json["n_encoded"] == int(np.isfinite(table["latent_1_mean"]).sum())
    assert (table.loc[np.isnan(table["latent_1_mean"]), "quality_flags"] > 0).all()

    scores = cli("evaluate", tmp_path / "model", tmp_path / "store", "--json").json["models"]["model"]
    assert scores["negative_elbo"] < 0  # 110 coefficients of unit variance predicted at random cost 55 nats
    assert 2 <= scores["active_latents"] <= 3

    run = cli("generate", tmp_path / "model", "--flux", "-n", 5, "--out", tmp_path / "made.parquet")
    assert run.code == 0

    store, model = sv.SpectrumStore(tmp_path / "store"), sv.load_model(tmp_path / "model")
    spectra = store.read()
    latents = model.encode(spectra.take(spectra.usable)).mean.double().numpy()
    order = np.argsort(sky.spectra.source_id)  # a store's order is the sky's
    rows = order[np.searchsorted(sky.spectra.source_id[order], spectra.source_id[spectra.usable])]
    truth = sky.latents[rows]
    design = np.column_stack([latents, latents**2, np.prod(latents[:, :2], axis=1), np.ones(len(latents))])
    fitted = design @ np.linalg.lstsq(design, truth, rcond=None)[0]
    assert (1 - (fitted - truth).var(axis=0) / truth.var(axis=0) > 0.8).all()  # the known latents are found

    data, names = FigureData({"toy": model}, spectra, store.labels()), ["star", "latents"]
    figures = save_figures(data, tmp_path / "figures", names)
    assert [path.stem for path in figures] == names
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in figures)


def test_the_library_says_what_the_commands_say(cli, recipe, tmp_path):
    sky = toy_sky(200)
    csv = write_csv(tmp_path / "stars.csv", sky.spectra)
    cli("ingest", csv, "--out", tmp_path / "store")
    cli("train", tmp_path / "store", "--recipe", recipe, "--out", tmp_path / "model")
    cli("encode", tmp_path / "model", tmp_path / "store", "--out", tmp_path / "c.parquet")
    store = sv.ingest([csv], tmp_path / "store2")
    model = sv.train(store.read(), sv.load_recipe(recipe))
    assert model.digest == sv.load_model(tmp_path / "model").digest
    sv.write_catalogue(model, store.chunks(), tmp_path / "c2.parquet")
    assert (tmp_path / "c2.parquet").read_bytes() == (tmp_path / "c.parquet").read_bytes()
    by_command = cli("evaluate", tmp_path / "model", tmp_path / "store", "--json").json["models"]["model"]
    assert sv.evaluate(model, store.read()).negative_elbo == by_command["negative_elbo"]


def test_51_and_55_coefficients_go_the_whole_way(cli, recipe, tmp_path):
    sky = toy_sky(200, basis=DR4)
    csv = write_csv(tmp_path / "dr4.csv", sky.spectra)
    assert "give --release DR4" in cli("ingest", csv, "--out", tmp_path / "none").err
    release = tmp_path / "own.toml"  # a release whose source_ids hold pixels, as DR3's do
    text = (files("scattervae.gaia.archive") / "dr4.toml").read_text()
    release.write_text(text.replace("epoch = ", "ids_hold_pixels = true\nepoch = "))
    assert cli("ingest", csv, "--out", tmp_path / "store", "--release", release).code == 0
    assert cli("train", tmp_path / "store", "--recipe", recipe, "--out", tmp_path / "model").code == 0
    assert cli("evaluate", tmp_path / "model", tmp_path / "store").code == 0
    for source in (tmp_path / "store", csv):
        run = cli("encode", tmp_path / "model", source, "--out", tmp_path / "c.parquet", "--json")
        assert (run.code, run.json["n_encoded"]) == (0, 200)
    table = pq.read_table(tmp_path / "c.parquet")
    assert table["source_id"].to_pylist() == sky.spectra.source_id.tolist()
    assert cli("generate", tmp_path / "model", "--out", tmp_path / "made.parquet").code == 0
    refused = cli("generate", tmp_path / "model", "--flux", "--out", tmp_path / "flux.parquet")
    assert "51 BP (basis 64) + 55 RP (basis 65) coefficients: GaiaXPy knows only 55 BP" in refused.error
    bare = write_csv(tmp_path / "bare.csv", sky.spectra, g_flux=False)
    refused = cli("encode", tmp_path / "model", bare, "--out", tmp_path / "n.parquet")
    assert refused.error.endswith("give phot_g_mean_flux in the table")


def test_a_model_refuses_stars_of_another_basis(cli, recipe, tmp_path):
    stars = {
        basis: write_parquet(tmp_path / f"{basis}", toy_sky(60, basis=basis).spectra) for basis in (DR3, DR4)
    }
    for own, other in ((DR3, DR4), (DR4, DR3)):
        model = tmp_path / f"model of {own}"
        train = ("train", stars[own], "--recipe", recipe, "--epochs", 1, "--out", model)
        assert cli(*train).code == 0
        for command in (
            ("encode", model, stars[other], "--out", tmp_path / "c.parquet"),
            ("evaluate", model, stars[other]),
        ):
            run = cli(*command)
            assert run.code == 1
            (error,) = [line for line in run.err.splitlines() if "error:" in line]
            assert str(own) in error
            assert str(other) in error


def test_flagged_stars_do_not_train(tmp_path):
    sky = toy_sky(120)
    clean = sky.spectra.take(slice(7, 120))
    bad = spoiled(sky.spectra)
    assert (bad.flags[5:7] == [0, Flag.DUPLICATE]).all()
    kept = bad.take(np.r_[0:5, 6, 7:120])  # all that is spoilt, and all that is clean
    recipe = sv.load_recipe("elbo").model_copy(update={"name": "same"})
    settings = recipe.training.model_copy(update={"epochs": 1})
    recipe = recipe.model_copy(update={"training": settings})
    assert sv.train(kept, recipe).digest == sv.train(clean, recipe).digest
