"""The table of variants: what varies, and that nothing is seeds_trained twice or taken from elsewhere."""

import json
import logging

import numpy as np
import pytest

from scattervae.errors import TrainingError
from scattervae.model.checkpoint import read_checkpoint
from scattervae.model.recipe import RECIPES
from scattervae.science.evaluation import evaluate
from scattervae.science.paper import sensitivity as module
from scattervae.science.paper.claim import HOLDS
from scattervae.science.paper.contest import fit_cannons, hold_contest
from scattervae.science.paper.sensitivity import (
    HEADER,
    PAPER_N_STARS,
    RECIPE_NAMES,
    at_paper_size,
    claim_cells,
    sensitivity,
    variants,
)
from scattervae.science.paper.simulation import simulate
from scattervae.science.paper.variants import Variant
from scattervae.seeds import folds
from scattervae.spectra.labels import StellarLabels
from science.toys import claims_of, trained
from toy import toy_recipe, toy_sky

SKY = toy_sky(750, n_latent=3)
TINY = [Variant(f"tiny, seed {seed}", toy_recipe(epochs=2, seed=seed)) for seed in (0, 1)]
TINY_BY_NAME = {name: toy_recipe(epochs=2).model_copy(update={"name": name}) for name in RECIPE_NAMES}


@pytest.fixture
def seeds_trained(monkeypatch):
    """The seeds of the models seeds_trained, in order; two tiny variants in place of the many."""
    seeds = []
    train = module.train

    def counted(spectra, recipe, **options):
        model = train(spectra, recipe, **options)
        seeds.append(recipe.training.seed)
        return model

    monkeypatch.setattr(module, "train", counted)
    monkeypatch.setattr(module, "variants", lambda: iter(TINY))
    return seeds


def test_variants_differ_from_a_named_recipe_in_what_they_say():
    found = {v.name: v.recipe for v in variants()}
    assert len(found) == len(list(variants())) == len({r.model_dump_json() for r in found.values()})
    plain = {r.model_dump_json(exclude={"name"}) for r in found.values()}
    assert len(plain) == len(found)
    for name, recipe in found.items():
        assert recipe.name == name
        assert recipe.training.epochs == 100
    assert sum("seed" in name for name in found) == 10
    printed = found["as printed, seed 3"]
    assert (printed.training.seed, printed.objective) == (3, "printed")
    base = RECIPES["paper2023"]
    assert printed.model_copy(update={"name": base.name, "training": base.training}) == base
    assert found["elbo, 10 latents"].network.n_latent == 10
    assert found["elbo, exp scatter"].network.scatter_link == "exp"
    assert found["elbo with SGD"].training == base.training
    adamw = found["as printed with AdamW"]
    assert (adamw.objective, adamw.training) == ("printed", RECIPES["elbo"].training)


def test_a_row_a_variant_and_a_finished_row_is_not_trained_again(tmp_path, seeds_trained):
    stages = []
    table = sensitivity(SKY.spectra, SKY.labels, tmp_path / "new", stage=stages.append)
    assert table.header == HEADER
    assert [row[0] for row in table.rows] == ["tiny, seed 0", "tiny, seed 1"]
    assert {len(row) for row in table.rows} == {len(HEADER)}
    assert table.rows[0][1:] == tuple(
        claim_cells(module.train(SKY.spectra, TINY[0].recipe), SKY.spectra, SKY.labels)
    )
    assert stages == ["variant 1 of 2: tiny, seed 0", "variant 2 of 2: tiny, seed 1"]
    del seeds_trained[:]
    again = sensitivity(SKY.spectra, SKY.labels, tmp_path / "new", stage=stages.append)
    assert again == table
    assert (seeds_trained, len(stages)) == ([], 2)


def test_a_killed_run_goes_on_with_the_variant_it_was_at(tmp_path, seeds_trained):
    def kill(record):
        if len(seeds_trained) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sensitivity(SKY.spectra, SKY.labels, tmp_path, progress=kill)
    assert seeds_trained == [0]
    assert len(list(tmp_path.iterdir())) == 1
    table = sensitivity(SKY.spectra, SKY.labels, tmp_path)
    assert seeds_trained == [0, 1]
    assert len(table.rows) == 2


def test_rows_of_other_stars_labels_or_recipes_are_made_again(tmp_path, seeds_trained, monkeypatch):
    monkeypatch.setattr(module, "claim_cells", lambda *_: ["1"] * (len(HEADER) - 1))
    monkeypatch.setattr(module, "variants", lambda: iter(TINY[:1]))
    sensitivity(SKY.spectra, SKY.labels, tmp_path)
    shifted = StellarLabels(SKY.labels.source_id, SKY.labels.values + 1.0, SKY.labels.errors)
    for spectra, labels in ((SKY.spectra, shifted), (SKY.spectra.take(slice(0, 700)), SKY.labels)):
        sensitivity(spectra, labels, tmp_path)
        sensitivity(spectra, labels, tmp_path)
    assert seeds_trained == [0, 0, 0]
    monkeypatch.setattr(
        module, "variants", lambda: iter([Variant(TINY[0].name, toy_recipe(epochs=1, seed=5))])
    )
    sensitivity(SKY.spectra.take(slice(0, 700)), SKY.labels, tmp_path)
    assert seeds_trained == [0, 0, 0, 5]
    (file,) = tmp_path.iterdir()
    assert np.array(json.loads(file.read_text())["cells"]).shape == (len(HEADER) - 1,)


def test_a_variant_that_diverges_is_a_row_and_not_the_end(tmp_path, seeds_trained, monkeypatch, caplog):
    counted = module.train

    def diverges(spectra, recipe, **options):
        if recipe.training.seed == 0:
            raise TrainingError("epoch 1: the loss is nan")
        return counted(spectra, recipe, **options)

    monkeypatch.setattr(module, "train", diverges)
    with caplog.at_level(logging.WARNING, logger="scattervae.science.paper.sensitivity"):
        table = sensitivity(SKY.spectra, SKY.labels, tmp_path)
    assert table.rows[0][:3] == ("tiny, seed 0", "training failed", "-")
    assert {len(row) for row in table.rows} == {len(HEADER)}
    assert float(table.rows[1][1]) < 1e6
    assert "tiny, seed 0: epoch 1: the loss is nan" in [r.getMessage() for r in caplog.records]


def test_a_row_has_the_numbers_of_its_model():
    sky, model = trained()
    cells = claim_cells(model, sky.spectra, sky.labels)
    assert len(cells) == len(HEADER) - 1
    test = sky.spectra.take(folds(sky.spectra.source_id).test)
    score = evaluate(model, test)
    assert cells[:2] == [f"{score.negative_elbo:.1f}", f"{score.active_latents} of 3"]
    contest = hold_contest(model, fit_cannons(model, sky.spectra, sky.labels), sky.spectra, sky.labels)
    claims = {claim.id: claim for claim in claims_of(contest)}
    order = ("normalised_error_ratio_bp10", "normalised_error_ratio_rp10", "tails", "scatter_ratio")
    for cell, name in zip(cells[2:6], order, strict=True):
        claim = claims[name]
        if claim.measured is None:
            assert cell == "-"
        else:
            assert float(cell.removesuffix(" h")) == pytest.approx(claim.measured, abs=6e-4)
            assert cell.endswith(" h") == (claim.verdict == HOLDS)
    assert any(cell.endswith(" h") for cell in cells[2:6])
    assert cells[6:] == ["-", "-"]  # the toy sky has no cool giants


@pytest.fixture
def fits(monkeypatch):
    """Names of the recipes trained, in order."""
    names = []
    trained()  # kept from here on, so that it is not one of those counted
    monkeypatch.setattr(module, "RECIPES", TINY_BY_NAME)
    from scattervae.model import run

    fit = run.fit_network

    def counted(inputs, recipe, **options):
        names.append(recipe.name)
        return fit(inputs, recipe, **options)

    monkeypatch.setattr(run, "fit_network", counted)
    return names


def test_both_losses_are_rows_and_a_finished_model_is_not_trained_again(tmp_path, fits):
    sky, model = trained()
    stages = []
    table = at_paper_size(model, sky.spectra, sky.labels, tmp_path, n_stars=900, stage=stages.append)
    assert table.header == HEADER
    assert [row[0] for row in table.rows] == ["paper2023", "elbo"] == fits
    assert "900 simulated stars" in table.title
    assert stages[0] == "simulating 900 stars"
    simulated = simulate(model, sky.spectra, sky.labels, 900)
    learnt = read_checkpoint(tmp_path / "elbo")
    n_test = folds(simulated.spectra.source_id).test.sum()
    assert learnt.provenance["data"]["n_trained_on"] == 900 - n_test
    assert table.rows[1][1:] == tuple(claim_cells(learnt, simulated.spectra, simulated.labels))
    assert at_paper_size(model, sky.spectra, sky.labels, tmp_path, n_stars=900) == table
    assert len(fits) == 2
    at_paper_size(model, sky.spectra, sky.labels, tmp_path, n_stars=901)
    assert len(fits) == 4


def test_the_papers_size_is_the_default():
    assert PAPER_N_STARS == 500_000
    assert RECIPE_NAMES == ("paper2023", "elbo")
