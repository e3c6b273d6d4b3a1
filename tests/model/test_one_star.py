"""No single star decides what a model becomes: whatever finite number a file has for it, others keep their bound."""

from functools import cache

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from scattervae.model.checkpoint import Checkpoint
from scattervae.model.run import train
from scattervae.model.training_stars import Machine, StoreStatistics, prepare_spectra, prepare_store
from scattervae.science.evaluation import evaluate
from scattervae.seeds import folds
from scattervae.spectra.normalization import LARGEST_INPUT, Normalization
from scattervae.spectra.spectra import Spectra
from spectra.row_group_toys import toy_store
from toy import toy_recipe, toy_sky

STARS = toy_sky(1500).spectra
NORMALIZATION = Normalization.fit(lambda: [STARS])
RECIPE = toy_recipe(epochs=30)
TRAINED = int(np.flatnonzero(folds(STARS.source_id).train)[0])
FINITE = st.floats(-300, 300).map(lambda power: 10.0**power) | st.floats(
    allow_nan=False, allow_infinity=False
)


def with_column(name: str, value: float) -> Spectra:
    """The stars, one of them with this value in a column: in all of an array's places, or in a single one."""
    coeffs, errors, g_flux = STARS.coeffs.copy(), STARS.errors.copy(), STARS.g_flux.copy()
    if name == "g_flux":
        g_flux[TRAINED] = value
    elif name == "bp":
        coeffs[TRAINED, STARS.basis.bp] = value
    else:
        {"coeffs": coeffs, "errors": errors}[name][TRAINED, 3] = value
    return Spectra.of(STARS.source_id, coeffs, errors, basis=STARS.basis, g_flux=g_flux)


@given(st.sampled_from(["coeffs", "errors", "g_flux", "bp"]), FINITE)
@example("g_flux", 1.9e-30)
@example("g_flux", 5e-324)
@example("coeffs", 1e308)
@example("bp", -1e200)
def test_no_finite_value_of_one_star_moves_the_scale_by_a_nat(name, value):
    """A standard deviation that grows by a factor moves each star's likelihood by its logarithm."""
    stars = with_column(name, value)
    found = Normalization.fit(lambda: [stars])
    assert abs(np.log(found.std / NORMALIZATION.std).sum()) < 0.7
    assert np.square((found.mean - NORMALIZATION.mean) / NORMALIZATION.std).sum() < 0.1
    inputs = found.apply(stars)
    assert not (inputs.x.abs() > LARGEST_INPUT).any()
    assert not (inputs.errors > LARGEST_INPUT).any()


@cache
def bound_of_others(name: str | None = None, value: float = 0.0) -> float:
    """Of stars that did not train a model, with or without a spoilt star among those that did."""
    model: Checkpoint = train(STARS if name is None else with_column(name, value), RECIPE)
    return evaluate(model, STARS).negative_elbo


@pytest.mark.parametrize(
    ("name", "value"),
    [("g_flux", 1.9e-30), ("bp", 1e9), ("errors", 1e-200)],
)
def test_no_finite_value_of_one_star_moves_the_bound_of_others_by_a_nat(name, value):
    assert bound_of_others(name, value) == pytest.approx(bound_of_others(), abs=1.0)


def test_a_star_that_is_outliers_trains_neither_in_memory_nor_from_a_store(tmp_path):
    stars = with_column("g_flux", 1e-3)
    spoilt = STARS.source_id[TRAINED]
    machine = Machine()
    in_memory = prepare_spectra(stars, RECIPE, machine)
    store = toy_store(tmp_path / "store", stars, rows_a_partition=400)
    statistics = StoreStatistics.of(store, RECIPE)
    statistics.save(tmp_path / "statistics", store, RECIPE)
    again = StoreStatistics.saved(tmp_path / "statistics", store, RECIPE)
    assert again.normalization.outliers.tolist() == in_memory.normalization.outliers.tolist() == [spoilt]
    n_trained_on = int((~folds(stars.source_id).test).sum()) - 1
    assert len(in_memory.stars) == n_trained_on == in_memory.data["n_trained_on"]
    for streamed in (False, True):
        prepared = prepare_store(store, RECIPE, machine, statistics=again, streamed=streamed)
        assert len(prepared.stars) == n_trained_on == prepared.data["n_trained_on"]
        seen = [batch.x.abs().max().item() for batch in prepared.stars.batches(RECIPE.training, 1)]
        assert max(seen) < 10.0
