"""``scattervae star`` and ``scattervae models``: one star for a person, the same numbers as `encode`."""

import math

import numpy as np
import pyarrow.parquet as pq
import pytest

import scattervae as sv
from cli.toys import write_csv
from scattervae.science.shipped import shipped_models
from scattervae.science.star import answer_star
from toy import DR3, toy_sky

SKY = toy_sky(5, basis=DR3)


@pytest.fixture(scope="module")
def stars(tmp_path_factory):
    return write_csv(tmp_path_factory.mktemp("star") / "stars.csv", SKY.spectra)


def test_numbers_are_those_of_the_catalogue_and_of_python(cli, stars, tmp_path):
    wanted = SKY.spectra.source_id[2]
    run = cli("star", stars, "--id", wanted, "--json")
    assert run.code == 0, run.err
    in_python = answer_star(sv.load_model("best"), sv.load(stars).spectra.take([2])).values()
    assert {key: run.json[key] for key in in_python} == in_python
    assert cli("encode", "best", stars, "--out", tmp_path / "c.parquet").code == 0
    (row,) = (r for r in pq.read_table(tmp_path / "c.parquet").to_pylist() if r["source_id"] == wanted)
    answer = run.json
    assert answer["source_id"] == str(wanted)
    for k, latent in enumerate(answer["latents"], start=1):
        assert (latent["mean"], latent["sd"]) == (row[f"latent_{k}_mean"], row[f"latent_{k}_sd"])
    for name, label in answer["labels"].items():
        for key in ("low_68", "high_68", "low_95", "high_95"):
            assert label[key] == row[f"{name}_{key}"]
        assert label["value"] == row[name]
    assert answer["spectrum_score"] == row["spectrum_score"]
    n, chi2 = zip(*((f["n_coeffs"], f["reduced_chi2"]) for f in answer["fit"].values()), strict=True)
    assert np.average(chi2, weights=n) == pytest.approx(row["reduced_chi2"], rel=1e-4)


def test_a_person_reads_a_table(cli, stars, tmp_path):
    run = cli("star", stars, "--id", SKY.spectra.source_id[0], "--figure", tmp_path / "star.png")
    assert run.code == 0, run.err
    lines = run.out.splitlines()
    assert lines[0].startswith(f"Gaia source {SKY.spectra.source_id[0]}, G ")
    assert any(line.startswith("teff [K] ") for line in lines)
    assert any(line.startswith("BP ") for line in lines)
    assert lines[-1] == f"wrote {tmp_path / 'star.png'}"
    assert (tmp_path / "star.png").read_bytes()[:4] == b"\x89PNG"


def test_which_star_is_asked_where_there_are_several(cli, stars):
    for options, error in (
        ((), "5 stars; name one with --id, such as"),
        (("--id", 17), "17 is not among its 5 stars"),
    ):
        run = cli("star", stars, *options)
        assert run.code == 1
        assert error in run.err.splitlines()[-1]


def test_what_is_not_there_is_named(cli, tmp_path):
    assert (
        cli("star", tmp_path / "none.csv").error == f"{tmp_path / 'none.csv'}: does not exist; check the path"
    )
    assert (
        "no model of that name comes with the package (best"
        in cli("star", tmp_path / "none.csv", "--model", "besst").error
    )


def test_a_star_without_g_flux_or_bands_says_why_it_cannot_be_encoded(cli, tmp_path):
    spectra = SKY.spectra.take([0])
    spectra.coeffs[:] = math.nan
    run = cli("star", write_csv(tmp_path / "one.csv", spectra))
    assert run.code == 1 or "cannot be encoded" in run.out


def test_labels_of_a_spectrum_that_is_not_reproduced_are_doubted(cli, formats):
    """Proxima Centauri: log g of about 5.2, which the model does not find."""
    run = cli("star", formats / "XP_CONTINUOUS_RAW.fits", "--id", 5853498713190525696, "--json")
    assert run.code == 0, run.err
    assert run.json["spectrum_score"] < 0.01
    assert all(label["doubts"] for label in run.json["labels"].values())
    assert run.json["g_mag"] == pytest.approx(8.95, abs=0.02)
    assert run.json["unlike_training_stars"] == [
        "its coefficients are published, those of over 95 % of the training stars inferred",
        "its G flux is from the coefficients, that of over 95 % of the training stars from a table",
    ]


def test_models_lists_what_comes_with_the_package(cli):
    run = cli("models", "--json")
    assert [model["name"] for model in run.json["models"]] == sorted(shipped_models())
    lines = cli("models").out.splitlines()
    assert lines[0].split() == [
        "model",
        "size",
        "training",
        "stars",
        "basis",
        "-ELBO",
        "[nat]",
        "labels",
        "date",
    ]
    assert lines[1].startswith("best ")


def test_nothing_is_fitted_into_the_packages_model(cli, stars):
    for command in (("calibrate", "best", stars), ("label", "best", stars)):
        assert cli(*command).error.startswith("best: comes with the package; copy ")
