import gc
import importlib
import re
import shutil
import weakref

import numpy as np
import pytest

from cli.toys import with_ids, write_parquet
from scattervae.model.checkpoint import read_checkpoint
from scattervae.science.calibration import coverage
from scattervae.science.evaluation import evaluate
from scattervae.seeds import folds
from scattervae.spectra.normalization import Normalization
from toy import toy_sky

command = importlib.import_module("scattervae.cli.evaluate")  # not the function of this name
SCORES = (
    "negative_elbo",
    "nll_at_mean",
    "kl",
    "active_latents",
    "share_beyond_5_sigma",
    "train_seconds",
    "stars_per_second",
)


def test_json_has_the_promised_keys(cli, model, store, sky):
    run = cli("evaluate", model, store, "--json")
    assert (run.code, run.err) == (0, "")
    stars = sky.spectra.take(np.argsort(sky.spectra.source_id))  # the store's order, in which chance is drawn
    test = stars.take(folds(stars.source_id).test)
    assert (run.json["n_stars"], run.json["n_test"], run.json["fold"]) == (300, len(test), "test")
    scores = run.json["models"]["model"]
    assert all(isinstance(scores[name], float | int) for name in SCORES)
    assert set(scores["mean_abs_normalised_error"]) == {"bp10", "rp10"}
    expected = evaluate(read_checkpoint(model), test)
    # a store keeps coefficients in float32
    np.testing.assert_allclose(scores["negative_elbo"], expected.negative_elbo, rtol=1e-4)
    np.testing.assert_allclose(scores["nll_at_mean"], expected.nll_at_mean, rtol=1e-4)
    assert scores["active_latents"] == expected.active_latents
    assert len(scores["kl_per_latent"]) == scores["n_latent"] == 3
    assert scores["recipe"] == "toy"


def test_the_stars_of_the_coverage_are_prepared_once(cli, model, store, monkeypatch):
    plain, prepared = Normalization.apply, []

    def apply(self, stars, **how):
        prepared.append(len(stars))
        return plain(self, stars, **how)

    monkeypatch.setattr(Normalization, "apply", apply)
    run = cli("evaluate", model, store, "--json")
    assert prepared == 2 * [run.json["n_test"]]  # of the scores, and of the coverage


def test_while_coverage_is_measured_no_other_stars_are_in_memory(cli, model, store, monkeypatch):
    load, table, loaded = command.load_fold, coverage.coverage_table, []

    def noted(*what):
        stars = load(*what)
        loaded.append(weakref.ref(stars.spectra))
        return stars

    def measured(*what, **how):
        gc.collect()
        loaded.append(loaded[0]() is None)
        return table(*what, **how)

    monkeypatch.setattr(command, "load_fold", noted)
    monkeypatch.setattr(coverage, "coverage_table", measured)
    assert cli("evaluate", model, store).code == 0
    assert loaded[1:] == [True]


def test_text(cli, model, store):
    run = cli("evaluate", model, store, "--no-coverage")
    stars, header, row = run.out.splitlines()
    assert stars.endswith(" stars of the test fold, of 300")
    assert header.split()[:2] == ["model", "-ELBO"]
    assert row.split()[0] == "model"
    assert " of 3 " in row


def test_coverage_fits_one_screen_and_says_which_column_is_68_and_which_95(cli, model, store):
    run = cli("evaluate", model, store)
    assert len(run.out.splitlines()) <= 25
    assert re.search(r"^3, inside 68.3 % +\d+\.\d \+- \d+\.\d +\d+\.\d to \d+\.\d$", run.out, re.MULTILINE)
    _, title, header, *rows = run.out.splitlines()[3:]
    assert title == "model: coverage [%]"
    assert header.split()[:6] == ["which", "stars", "coeffs", "inside", "68.3", "%"]
    every, worst = rows[:6], rows[7:-3]
    assert rows[6] == f"the {len(worst)} worst bins; --all prints every one"
    table = cli("evaluate", model, store, "--json").json["models"]["model"]["coverage"]
    (whole,) = [row for row in table["rows"] if row["by"] == "all"]
    assert [float(every[0].split()[i]) for i in (1, 3, 6)] == [
        whole["n_stars"],
        round(100 * whole["hidden"][0], 1),
        round(100 * whole["hidden"][1], 1),
    ]
    assert {row.split()[0] for row in worst} <= {"G", "order", "colour"}
    misses = [
        max(abs(float(one) - 68.27) - 2 * float(error), abs(float(two) - 95.45) - 2 * float(two_error))
        for one, error, two, two_error in (re.findall(r" (\d+\.\d)", row)[-4:] for row in worst)
    ]
    assert misses == pytest.approx(sorted(misses, reverse=True), abs=0.31)  # of rounded numbers
    by_g = [row for row in table["rows"] if row["by"] == "G"]
    assert sum(row["n_stars"] for row in by_g) == table["n_stars"]
    assert (
        cli("evaluate", model, store, "--no-coverage", "--json").json["models"]["model"]["coverage"] is None
    )


def test_all_prints_every_bin(cli, model, store):
    printed = cli("evaluate", model, store, "--all").out.splitlines()
    start = printed.index("every bin")
    table = cli("evaluate", model, store, "--json").json["models"]["model"]["coverage"]
    bins = [f"{row['by']} {row['name']}" for row in table["rows"] if row["by"] != "all"]
    assert len(printed[start + 1 :]) == 6 * len(bins) + 3
    assert all(any(line.startswith(name) for line in printed[start:]) for name in bins)


def test_figure_of_the_coverage(cli, model, store, tmp_path):
    path = tmp_path / "calibration.png"
    run = cli("evaluate", model, store, "--figure", path)
    assert run.out.splitlines()[-1] == f"wrote {path}"
    assert path.read_bytes()[:4] == b"\x89PNG"


def test_a_figure_that_cannot_be_drawn_is_refused_at_once(cli, model, store, tmp_path):
    run = cli("evaluate", model, store, "--figure", tmp_path / "a.png", "--no-coverage")
    assert (run.code, "--no-coverage leaves out" in run.error) == (1, True)
    run = cli("evaluate", model, store, "--figure", tmp_path / "a.txt")
    assert (run.code, "one of .png, .pdf, .svg" in run.error) == (1, True)


def test_folds(cli, model, store, sky):
    fold = folds(sky.spectra.source_id)
    counts = {"train": fold.train.sum(), "validation": fold.validation.sum(), "all": 300}
    for name, n in counts.items():
        assert (
            cli("evaluate", model, store, "--fold", name, "--draws", 1, "--no-coverage", "--json").json[
                "n_test"
            ]
            == n
        )


def test_models_in_folders_of_the_same_name(cli, model, store, tmp_path):
    other = shutil.copytree(model, tmp_path / "model")
    run = cli("evaluate", model, other, store, "--json")
    assert list(run.json["models"]) == [str(model), str(other)]
    named = shutil.copytree(model, tmp_path / "named")
    assert list(cli("evaluate", model, named, store, "--json").json["models"]) == ["model", "named"]


def test_model_in_the_working_directory(cli, model, store, monkeypatch):
    monkeypatch.chdir(model)
    assert list(cli("evaluate", ".", store, "--json").json["models"]) == ["model"]


def test_no_star_in_the_fold(cli, model, tmp_path):
    train_id = next(i for i in range(1, 100) if folds(np.array([i])).train[0])
    stars = write_parquet(tmp_path / "one.parquet", with_ids(toy_sky(1).spectra, [train_id]))
    run = cli("evaluate", model, stars)
    assert (run.code, run.error) == (
        1,
        f"{stars}: 1 star, of which 0 are in the test fold, none of them usable; --fold all takes every star",
    )
    assert cli("evaluate", model, stars, "--fold", "all").code == 0


@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_another_basis(cli, dr3, store, as_json):
    run = cli("evaluate", dr3 / "model", store, *as_json)
    assert run.code == 1
    assert "6 BP + 5 RP coefficients" in run.error
