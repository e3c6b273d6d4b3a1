"""The table of ablations: what varies, what is trained and scored on, and that nothing is trained twice."""

import json
import logging
import sys

import numpy as np
import pytest
from studies.ablation import CHANGES, HEADER, ablate, ablations
from studies.sensitivity import variant_of

from cli.toys import write_parquet
from scattervae.errors import DataError, TrainingError
from scattervae.model.recipe import RECIPES
from scattervae.science.evaluation import evaluate
from scattervae.seeds import folds
from studies import ablation as module
from toy import toy_best, toy_sky

SKY = toy_sky(300, n_latent=3)
SHORT = {"n_seeds": 2}


def tiny(*, epochs, n_seeds):
    """Two variants of a tiny recipe in place of the many."""
    for what, changes in (("none", {}), ("2 latents", {"network": {"n_latent": 2}})):
        yield (
            what,
            [
                variant_of(
                    toy_best(epochs=epochs or 2, hold_out_validation=True, seed=seed),
                    f"{what}, seed {seed}",
                    **changes,
                )
                for seed in range(n_seeds)
            ],
        )


@pytest.fixture
def trained(monkeypatch):
    """The recipes of the models trained, with the models."""
    models = []
    train = module.train

    def noted(spectra, recipe, **options):
        models.append(train(spectra, recipe, **options))
        return models[-1]

    monkeypatch.setattr(module, "train", noted)
    monkeypatch.setattr(module, "ablations", tiny)
    return models


def test_each_change_is_one_and_none_of_them_trains_on_the_validation_fold():
    base = RECIPES["best"]
    chosen = dict(ablations(epochs=7, n_seeds=2))
    assert list(chosen)[:-1] == list(CHANGES)
    for what, variants in chosen.items():
        assert [v.recipe.training.seed for v in variants] == [0, 1]
        assert all(v.recipe.training.hold_out_validation for v in variants)
        assert all(v.recipe.training.epochs == 7 for v in variants)
        assert len({v.name for v in variants}) == 2
        recipe = variants[0].recipe
        plain = recipe.model_copy(update={"name": base.name, "training": base.training})
        assert (plain == base) == (
            what in ("none", *(n for n, c in CHANGES.items() if set(c) == {"training"}))
        )
    assert all(v.recipe.training.epochs == 100 for v in dict(ablations())["none"])


def test_rows_are_means_over_seeds_of_scores_on_the_validation_fold(tmp_path, trained):
    table = ablate(SKY.spectra, tmp_path, **SHORT)
    assert table.header == HEADER
    held_out = SKY.spectra.take(folds(SKY.spectra.source_id).validation)
    elbos = np.array([evaluate(model, held_out, fold="all").negative_elbo for model in trained]).reshape(2, 2)
    unchanged, changed = table.rows
    assert float(unchanged[1]) == pytest.approx(elbos[0].mean(), abs=0.006)
    assert float(unchanged[2]) == pytest.approx(elbos[0].std(ddof=1) / 2**0.5, abs=0.006)
    assert unchanged[3:5] == ("-", "-")
    assert float(changed[3]) == pytest.approx((elbos[1] - elbos[0]).mean(), abs=0.006)
    assert float(changed[4]) == pytest.approx((elbos[1] - elbos[0]).std(ddof=1) / 2**0.5, abs=0.006)


def test_a_stopped_table_goes_on_and_other_stars_begin_another(tmp_path, trained):
    ablate(SKY.spectra, tmp_path, **SHORT)
    again = ablate(SKY.spectra, tmp_path, **SHORT)
    assert len(trained) == 4
    (tmp_path / "2_latents_seed_1.json").unlink()
    assert ablate(SKY.spectra, tmp_path, **SHORT).rows[0] == again.rows[0]
    assert len(trained) == 5
    ablate(SKY.spectra.take(slice(0, 250)), tmp_path, **SHORT)
    assert len(trained) == 9


def test_a_training_that_fails_is_left_out_and_named(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(module, "ablations", tiny)
    train = module.train

    def fails(spectra, recipe, **options):
        if recipe.network.n_latent == 2:
            raise TrainingError("the loss is nan")
        return train(spectra, recipe, **options)

    monkeypatch.setattr(module, "train", fails)
    with caplog.at_level(logging.WARNING, logger="studies.ablation"):
        table = ablate(SKY.spectra, tmp_path, **SHORT)
    assert [row[0] for row in table.rows] == ["none"]
    assert "the loss is nan" in caplog.text


def test_the_table_is_printed_and_written(tmp_path, trained, monkeypatch, capsys):
    write_parquet(tmp_path / "stars.parquet", SKY.spectra)
    out = tmp_path / "ablation"
    monkeypatch.setattr(sys, "argv", ["ablation", str(tmp_path / "stars.parquet"), str(out), "1", "1"])
    module.main()
    written = json.loads((out / "ablation.json").read_text())
    printed = capsys.readouterr().out
    assert [row[0] for row in written["rows"]] == ["none", "2 latents"]
    assert all(row[0] in printed for row in written["rows"])
    module.main()
    assert json.loads((out / "ablation.json").read_text()) == written
    assert len(trained) == 2, "read, not trained again"


def test_stars_without_a_validation_fold_are_refused(tmp_path):
    train_only = SKY.spectra.take(folds(SKY.spectra.source_id).train)
    with pytest.raises(DataError, match="validation fold"):
        ablate(train_only, tmp_path)
