from dataclasses import fields

import numpy as np
import pytest

from model.test_preparation import QUICK, SKY, mixed_stars, with_training
from scattervae.model.preparation import training_stars
from scattervae.model.survey import Survey, trained_on
from scattervae.seeds import folds
from scattervae.spectra.normalization import NormalizationSettings
from scattervae.spectra.spectra import Flag, GFluxSource
from spectra.row_group_toys import toy_store
from toy import spoiled


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return toy_store(tmp_path_factory.mktemp("toy") / "store", mixed_stars(), rows_a_partition=40)


@pytest.mark.parametrize("hold_out", [False, True])
def test_the_test_fold_never_trains_and_validation_only_when_nothing_is_chosen_by_it(hold_out):
    spectra = spoiled(SKY.spectra)
    recipe = with_training(QUICK, hold_out_validation=hold_out)
    stars = training_stars(spectra, recipe)
    fold = folds(spectra.source_id)
    chosen = fold.train if hold_out else fold.train | fold.validation
    assert stars.source_id.tolist() == spectra.source_id[chosen & (spectra.flags == 0)].tolist()
    assert trained_on(spectra, recipe).sum() == len(stars)
    assert fold.validation.any()
    assert fold.test.any()


def test_a_survey_counts_what_is_there(store):
    survey = Survey.of(store, QUICK)
    spectra = store.read()
    trained = training_stars(spectra, QUICK)
    assert survey.totals(len(store)) == {
        "n_stars": len(spectra),
        "n_usable": int(spectra.usable.sum()),
        "n_trained_on": len(trained),
        "n_one_band": 0,
        "n_inferred_coefficients": int(((trained.flags & np.uint16(Flag.INFERRED)) > 0).sum()),
    }
    assert len(survey.n_trained_on) == len(store.row_groups) > 4
    assert survey.normalization.n_g_flux_from_table == (trained.g_flux_source == GFluxSource.TABLE).sum()


def test_a_survey_is_kept_for_its_store_and_settings_alone(store, tmp_path):
    path = tmp_path / "survey"
    recipe = QUICK.model_copy(update={"normalization": NormalizationSettings(n_bp=4)})
    survey = Survey.of(store, recipe)
    assert Survey.saved(path, store, recipe) is None
    survey.save(path, store, recipe)
    again = Survey.saved(path, store, recipe)
    assert again.totals(len(store)) == survey.totals(len(store))
    assert again.n_trained_on.tolist() == survey.n_trained_on.tolist()
    for field in fields(survey.normalization):
        ours, theirs = (getattr(s.normalization, field.name) for s in (again, survey))
        assert np.array_equal(ours, theirs)
    other = toy_store(tmp_path / "other", SKY.spectra)
    assert Survey.saved(path, other, recipe) is None
    assert Survey.saved(path, store, QUICK) is None
    assert Survey.saved(path, store, with_training(recipe, hold_out_validation=True)) is None
    assert Survey.saved(path, store, with_training(recipe, epochs=7)) is not None
    path.write_bytes(path.read_bytes()[:-9])
    assert Survey.saved(path, store, recipe) is None
