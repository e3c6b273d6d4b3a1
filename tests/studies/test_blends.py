"""Models with and without blended stars: what each trains on, what is scored, and that nothing is trained twice."""

import numpy as np
import pytest
from studies.blends import TRAINED_ON, bounds, predictions, print_bounds, print_label_scores
from studies.sensitivity import variant_of

from scattervae.science.evaluation import evaluate
from scattervae.science.paper.comparison import bootstrap_mean
from scattervae.seeds import folds
from scattervae.spectra.spectra import Flag
from science.labels.label_toys import known_of
from studies import blends as module
from toy import toy_best, toy_sky

SKY = toy_sky(400, n_latent=3)
BLENDED = np.arange(400) % 3 == 0
SPECTRA = SKY.spectra.with_flags(np.where(BLENDED, Flag.BLENDED, 0).astype(np.uint16))


@pytest.fixture
def trained(monkeypatch):
    """The stars of each model trained, with the model."""
    models = []
    train = module.train

    def noted(spectra, recipe):
        models.append((spectra, train(spectra, recipe)))
        return models[-1][1]

    def tiny(_, name, *, training):
        return variant_of(toy_best(), name, training=training)

    monkeypatch.setattr(module, "train", noted)
    monkeypatch.setattr(module, "variant_of", tiny)
    monkeypatch.setattr(module, "LABEL_STEPS", 2)
    return models


def test_blended_stars_are_left_out_of_one_training_and_scored_in_both(tmp_path, trained, capsys):
    def found():
        return {
            title: list(predictions(SPECTRA, known_of(SKY), kept, tmp_path, epochs=1, n_seeds=2, title=title))
            for title, kept in zip(TRAINED_ON, (np.ones(400, dtype=bool), ~BLENDED), strict=True)
        }

    first = found()
    validation = folds(SPECTRA.source_id).validation
    assert all(not np.isin(SPECTRA.source_id[validation], stars.source_id).any() for stars, _ in trained)
    n_blended = [int(np.isin(SPECTRA.source_id[BLENDED], stars.source_id).sum()) for stars, _ in trained]
    assert n_blended == [(BLENDED & ~validation).sum()] * 2 + [0, 0]
    assert [one["bound"] for many in found().values() for one in many] == [
        one["bound"] for many in first.values() for one in many
    ]
    assert len(trained) == 4, "kept, not trained again"
    kinds = {"clean": ~BLENDED[validation], "blended": BLENDED[validation]}
    print_bounds(first, kinds)
    print_label_scores(first, {"clean": kinds["clean"]}, known_of(SKY).take(validation))
    printed = capsys.readouterr().out.splitlines()
    means = [np.array(one["bound"])[BLENDED[validation]].mean() for one in first["all stars"]]
    (row,) = (line for line in printed if line.startswith(f"| blended | {BLENDED[validation].sum()} |"))
    assert [float(mean) for mean in row.split("|")[3].split(",")] == pytest.approx(means, abs=0.006)
    assert sum(line.startswith("| clean |") for line in printed) == 1 + len(known_of(SKY).names)


def test_bounds_are_those_of_evaluate_in_the_given_units(trained):
    model = module.train(SPECTRA, toy_best())
    unit = model.normalization.std
    expected = evaluate(model, SPECTRA, fold="all").negative_elbo
    assert bounds(model, SPECTRA, unit).mean() == pytest.approx(expected, abs=1e-4)
    shifted = bounds(model, SPECTRA, unit * np.e).mean()
    assert shifted == pytest.approx(expected - len(unit), abs=1e-4)


def test_the_interval_of_a_mean_is_two_of_its_standard_errors():
    values = np.random.default_rng(0).normal(2.0, 3.0, 2000)
    middle, low, high = bootstrap_mean(values)
    assert middle == pytest.approx(values.mean())
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 2000**0.5, rel=0.1)
