import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy.table import Table

from cli.toys import write_parquet
from scattervae.gaia.basis import g_flux_of, g_mag_of
from scattervae.model.checkpoint import read_checkpoint
from scattervae.science.generation import LabelFlow
from scattervae.science.labels.model import label_stars
from scattervae.science.trained import load_model
from scattervae.spectra.spectra import Spectra
from toy import spoiled


def columns(path):
    table = pq.read_table(path)
    return {name: np.array(table[name].to_pylist()) for name in table.column_names}


def test_from_the_prior(cli, model, tmp_path):
    out = tmp_path / "made.parquet"
    run = cli("generate", model, "--out", out)
    assert (run.code, run.err) == (0, "")
    assert run.out == f"made 100 spectra of G = 15 from the prior\nwrote {out}\n"
    made = columns(out)
    assert made["bp_coefficients"].shape == (100, 6)
    np.testing.assert_allclose(made["phot_g_mean_flux"], g_flux_of(15.0))
    assert (made["rp_coefficient_scatter"] > 0).all()


def test_seeds(cli, model, tmp_path):
    for name, seed in (("a.parquet", 1), ("b.parquet", 1), ("c.parquet", 2)):
        cli("generate", model, "-n", 5, "--seed", seed, "--out", tmp_path / name)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert (columns(tmp_path / "a.parquet")["latent"] != columns(tmp_path / "c.parquet")["latent"]).all()


def test_at_a_latent_vector(cli, model, tmp_path):
    out = tmp_path / "made.parquet"
    run = cli("generate", model, "--latent", "-0.5,1e-1, 2", "--g-mag", 12, "--out", out, "--json")
    assert (run.json["n"], run.json["source"], run.json["g_mag"]) == (1, "latent", 12)
    made = columns(out)
    np.testing.assert_allclose(made["latent"], [[-0.5, 0.1, 2.0]], rtol=1e-6)
    cli("generate", model, "--latent", "-0.5,0.1,2", "-n", 3, "--draw-scatter", "--out", out)
    drawn = columns(out)["bp_coefficients"]
    assert len(np.unique(drawn[:, 0])) == 3


@pytest.mark.parametrize(
    ("latent", "expected"),
    [
        ("1,2", "2 numbers, but the model has 3 latents"),
        ("1,b,3", "expected numbers with commas between them"),
        ("1,nan,3", "expected numbers with commas between them"),
        ("", "expected numbers with commas between them"),
    ],
)
def test_wrong_latents(cli, model, tmp_path, latent, expected):
    run = cli("generate", model, "--latent", latent, "--out", tmp_path / "made.parquet")
    assert run.code == 1
    assert run.error == f"--latent {latent}: {expected}"
    assert not (tmp_path / "made.parquet").exists()


def test_identifiers_reach_the_stars_with_every_digit(cli, model, store, tmp_path, sky):
    ids = [int(i) for i in sky.spectra.source_id if i > 2**53 and int(float(i)) != i][:2]
    posterior = read_checkpoint(model).encode(sky.spectra)
    rows = [sky.spectra.source_id.tolist().index(i) for i in ids]
    out = tmp_path / "made.parquet"
    run = cli("generate", model, "--between", *ids, "--stars", store, "-n", 3, "--out", out, "--json")
    assert run.json["source_ids"] == [str(i) for i in ids]
    latents = columns(out)["latent"]
    np.testing.assert_allclose(latents[[0, 2]], posterior.mean[rows], atol=1e-5)
    np.testing.assert_allclose(latents[1], posterior.mean[rows].mean(dim=0), atol=1e-5)
    run = cli("generate", model, "--around", ids[0], "--stars", store, "-n", 400, "--out", out)
    assert f"from the posterior of star {ids[0]}" in run.out
    drawn = columns(out)["latent"]
    mean, sd = posterior.mean[rows[0]].numpy(), posterior.sd[rows[0]].numpy()
    assert (np.abs(drawn.mean(axis=0) - mean) < 5 * sd / 20).all()


def test_from_the_survey(cli, model, store, tmp_path):
    arguments = ("generate", model, "--aggregate", "--stars", store, "-n", 7, "--out", tmp_path / "m.parquet")
    assert cli(*arguments).out.startswith("made 7 spectra of G = 15 from the posteriors of the stars in ")


def test_from_a_flow_fitted_to_the_survey_and_kept_with_the_model(cli, model, store, tmp_path):
    own = shutil.copytree(model, tmp_path / "model")
    out = tmp_path / "made.parquet"
    run = cli("generate", own, "--flow", "--out", out)
    assert run.error == (
        f"{own}: has no flow.safetensors; fit a flow, with `scattervae generate {own} --flow --stars STORE`"
    )
    assert not out.exists()
    run = cli("generate", own, "--flow", "--stars", store, "-n", 9, "--out", out)
    assert run.code == 0
    assert f"from the flow in {own}, fitted to the stars in {store}\n" in run.out
    first = columns(out)["latent"]
    run = cli("generate", own, "--flow", "-n", 9, "--out", out, "--json")
    assert run.json["source"] == "flow"
    np.testing.assert_array_equal(columns(out)["latent"], first)
    assert cli("generate", own, "-n", 9, "--out", out).code == 0
    assert (columns(out)["latent"] != first).all()


def test_from_labels_learnt_once_and_kept_with_the_model(cli, model, store, tmp_path, sky):
    own = shutil.copytree(model, tmp_path / "model")
    out = tmp_path / "made.parquet"
    teff, logg = np.nanmedian(sky.labels.values[:, :2], axis=0)
    given = (
        "--teff",
        teff,
        "--logg",
        logg,
        "--errors-like",
        f"G={np.median(g_mag_of(sky.spectra.g_flux)):.1f}",
    )
    run = cli("generate", own, *given, "--out", out)
    assert run.error.startswith(f"{own}: has no label_flow.safetensors; give labelled stars")
    run = cli("generate", own, *given, "--stars", store, "-n", 9, "--out", out)
    assert run.code == 0, run.err
    assert f"of stars with teff {teff:g}, logg {logg:g}\n" in run.out
    first = columns(out)
    assert first["bp_coefficient_errors"].shape == (9, 6)
    run = cli("generate", own, *given, "-n", 9, "--out", out, "--json")
    assert (run.json["source"], run.json["given"]) == ("labels", {"teff": teff, "logg": logg})
    assert run.json["reliability"] > 0.01
    np.testing.assert_array_equal(columns(out)["bp_coefficients"], first["bp_coefficients"])
    flow = LabelFlow.load(own, load_model(own))
    z = flow.sample({"teff": teff, "logg": logg}, 9)
    np.testing.assert_array_equal(first["latent"], z.numpy())
    assert "farther out than any labelled star" in cli("generate", own, "--teff", 9e5, "--out", out).error


def test_the_packages_model_answers_labels_without_stars(cli, tmp_path):
    """Spectra of a giant, measured as at G = 13, and their labels predicted from them again."""
    out, asked = tmp_path / "giants.parquet", {"teff": 4800.0, "logg": 2.4, "fe_h": -0.5}
    run = cli(
        *("generate", "best", "--teff", 4800, "--logg", 2.4, "--feh", -0.5, "--errors-like", "G=13"),
        *("-n", 40, "--g-mag", 13, "--out", out, "--json"),
    )
    assert run.code == 0, run.err
    assert run.json["given"] == asked
    model, made = load_model("best"), columns(out)
    coeffs, errors = (
        np.hstack([made[f"{band}_{kind}"] for band in ("bp", "rp")])
        for kind in ("coefficients", "coefficient_errors")
    )
    g_flux, basis = made["phot_g_mean_flux"], model.normalization.basis
    spectra = Spectra.of(np.arange(1, 41), coeffs, errors, basis=basis, g_flux=g_flux)
    found = label_stars(model, model.label_model, spectra)
    for name, near in (("teff", 100.0), ("logg", 0.3), ("fe_h", 0.2)):
        assert abs(np.median(found.values[:, found.names.index(name)]) - asked[name]) < near


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--teff", 5000, "--aggregate", "--stars", "STORE"], "--aggregate and labels both choose where"),
        (["--errors-like", "G=15"], "--errors-like goes with labels, such as --teff"),
        (["--teff", 5000, "--errors-like", "faint"], "--errors-like faint: expected a magnitude, as G=15"),
        (["--flow", "--aggregate"], "--aggregate and --flow both choose where"),
        (["--around", 1], "--around needs stars; name a store or a file with --stars"),
        (["--aggregate"], "--aggregate needs stars; name a store or a file with --stars"),
        (["--between", 1, 2], "--between needs stars; name a store or a file with --stars"),
        (
            ["--stars", "STORE"],
            "--stars needs one of --aggregate, --flow, --around and --between, or labels, beside it",
        ),
        (["--latent", "1,2,3", "--stars", "STORE"], "--stars needs one of --aggregate"),
        (["--around", 12, "--stars", "STORE"], "STORE: no star 12 among 300"),
        (["--between", 12, 13, "--stars", "STORE"], "STORE: no star 12 among 300"),
        (["--between", 1, 2, "-n", 1, "--stars", "STORE"], "give --number 2 or more"),
        (["--around", 1, "--aggregate", "--stars", "STORE"], "--aggregate and --around both choose where"),
        (["--flux"], "GaiaXPy knows only 55 BP"),
    ],
)
def test_slips(cli, model, store, tmp_path, options, expected):
    options = [store if option == "STORE" else option for option in options]
    run = cli("generate", model, *options, "--out", tmp_path / "made.parquet")
    assert run.code == 1
    assert expected.replace("STORE", str(store)) in run.error
    assert not (tmp_path / "made.parquet").exists()


def test_stars_that_cannot_be_encoded(cli, model, tmp_path, sky):
    bad = spoiled(sky.spectra)
    stars = write_parquet(tmp_path / "bad.parquet", bad)
    first, good = (str(bad.source_id[row]) for row in (0, 20))
    arguments = ("generate", model, "--stars", stars, "--out", tmp_path / "made.parquet")
    for options in (["--around", first], ["--between", good, first]):
        run = cli(*arguments, *options)
        assert run.code == 1
        assert run.err.endswith(f"{stars}: star {first} cannot be encoded: flags MISSING_BP\n")
    doubled = str(bad.source_id[5])  # the first of its two rows is used
    assert cli(*arguments, "--around", doubled).code == 0


def test_flux(cli, dr3, tmp_path):
    out = tmp_path / "made.parquet"
    run = cli("generate", dr3 / "model", "-n", 4, "--flux", "--out", out, "--json")
    assert "flux_scatter" in run.json["columns"]
    assert columns(out)["flux"].shape == (4, 343)
    notes = json.loads(pq.read_schema(out).metadata[b"scattervae.generated"])
    assert (notes["wavelength_nm"][0], notes["wavelength_nm"][-1]) == (336.0, 1020.0)


def test_the_form_is_that_of_the_name(cli, dr3, tmp_path):
    assert cli("generate", dr3 / "model", "-n", 4, "--flux", "--out", tmp_path / "made.parquet").code == 0
    assert cli("generate", dr3 / "model", "-n", 4, "--flux", "--out", tmp_path / "made.fits").code == 0
    table, expected = Table.read(tmp_path / "made.fits"), columns(tmp_path / "made.parquet")
    for name in ("flux", "bp_coefficients", "latent"):
        np.testing.assert_array_equal(table[name], expected[name])
    assert table["flux"].unit == "W m^-2 nm^-1"


def test_where_it_may_write(cli, model, store, folder):
    assert "is a folder; name a file for the spectra" in cli("generate", model, "--out", store).error
    run = cli("generate", model, "--out", folder / "stars.parquet")
    assert "exists and was not made by scattervae" in run.error
