"""The claims on simulated stars, at a size that a test can wait for."""

import pytest

from scattervae.model.checkpoint import Checkpoint
from scattervae.science import paper_size as module
from scattervae.science.paper_size import PAPER_N_STARS, RECIPE_NAMES, at_paper_size
from scattervae.science.simulation import simulate
from scattervae.science.trial import HEADER, trial
from scattervae.seeds import folds
from science.toys import trained
from toy import toy_recipe

TINY = {name: toy_recipe(epochs=2).model_copy(update={"name": name}) for name in RECIPE_NAMES}


@pytest.fixture
def fits(monkeypatch):
    """Names of the recipes trained, in order."""
    names = []
    trained()  # kept from here on, so that it is not one of those counted
    monkeypatch.setattr(module, "RECIPES", TINY)
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
    learnt = Checkpoint.load(tmp_path / "elbo")
    n_test = folds(simulated.spectra.source_id).test.sum()
    assert learnt.provenance["data"]["n_trained_on"] == 900 - n_test
    assert table.rows[1][1:] == tuple(trial(learnt, simulated.spectra, simulated.labels))
    assert at_paper_size(model, sky.spectra, sky.labels, tmp_path, n_stars=900) == table
    assert len(fits) == 2
    at_paper_size(model, sky.spectra, sky.labels, tmp_path, n_stars=901)
    assert len(fits) == 4


def test_the_papers_size_is_the_default():
    assert PAPER_N_STARS == 500_000
    assert RECIPE_NAMES == ("paper2023", "elbo")
