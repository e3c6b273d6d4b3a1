"""Leave-one-out residuals against fits that really leave one out."""

import numpy as np
import pytest
import torch

from scattervae.science.scatter.leave_one_out import Residuals, leave_one_out
from scattervae.spectra.normalization import Inputs
from science.scatter.models import N, conditional, inputs_of, linear_model


def test_variances_add_up_and_stars_are_taken_together():
    parts = [np.array([[value], [2.0 * value]]) for value in (10.0, 3.0, 4.0, 75.0)]
    left = Residuals(*parts)
    np.testing.assert_allclose(left.variance, [[9 + 16 + 75], [36 + 64 + 150]])
    np.testing.assert_allclose(left.normalised, [[1.0], [20 / np.sqrt(250)]])
    second = left.take(np.array([False, True]))
    assert [getattr(second, name).item() for name in vars(left)] == [20.0, 6.0, 8.0, 150.0]


MODEL = linear_model()


def test_a_linear_decoder_gives_what_refits_without_each_coefficient_give():
    inputs = inputs_of(MODEL, 6)
    left = leave_one_out(MODEL, inputs)
    for star in range(len(inputs)):
        for i in range(N):
            mean, variance = conditional(MODEL, inputs, star, np.arange(N) != i)
            assert left.residuals[star, i] == pytest.approx(inputs.x[star, i].item() - mean[i], abs=2e-5)
            assert left.latent_variance[star, i] == pytest.approx(variance[i], rel=1e-4)
    np.testing.assert_allclose(left.scatter, np.broadcast_to(MODEL.network.own, (6, N)), rtol=1e-5)
    np.testing.assert_array_equal(left.errors, inputs.errors.double().numpy())


def test_factors_change_what_is_fitted_and_not_what_is_reported():
    inputs = inputs_of(MODEL, 5)
    left = leave_one_out(MODEL, inputs, error_factor=2.0, own_factor=0.5)
    np.testing.assert_array_equal(left.errors, inputs.errors.double().numpy())
    np.testing.assert_allclose(left.scatter, np.broadcast_to(MODEL.network.own, (5, N)), rtol=1e-5)
    halved = linear_model()
    halved.network.own = 0.5 * MODEL.network.own
    same = leave_one_out(halved, Inputs(inputs.x, 2.0 * inputs.errors))
    np.testing.assert_allclose(left.residuals, same.residuals, atol=2e-5)
    np.testing.assert_allclose(left.latent_variance, same.latent_variance, rtol=1e-4)


def test_a_missing_coefficient_is_nan_and_adds_nothing():
    inputs = inputs_of(MODEL, 4)
    missing = torch.zeros(4, N, dtype=torch.bool)
    missing[:, 3] = True
    left = leave_one_out(
        MODEL, Inputs(inputs.x.masked_fill(missing, 0.0), inputs.errors.masked_fill(missing, torch.inf))
    )
    assert np.isnan(left.residuals[:, 3]).all()
    assert np.isnan(left.latent_variance[:, 3]).all()
    others = (np.arange(N) != 3) & (np.arange(N) != 0)
    mean, variance = conditional(MODEL, inputs, 2, others)
    assert left.residuals[2, 0] == pytest.approx(inputs.x[2, 0].item() - mean[0], abs=2e-5)
    assert left.latent_variance[2, 0] == pytest.approx(variance[0], rel=1e-4)


@pytest.mark.parametrize("swell", [0.0, 0.2])
def test_residuals_of_the_models_own_stars_have_the_variance_that_is_stated(swell):
    """Also where the scatter depends on the latents, and a coefficient shows them by its size alone."""
    model = linear_model(swell=swell)
    left = leave_one_out(model, inputs_of(model, 2000, seed=3))
    of_each = (left.normalised**2).mean(axis=0)
    np.testing.assert_allclose(of_each, 1.0, atol=5 * np.sqrt(2 / 2000))


def test_stars_do_not_depend_on_each_other():
    inputs = inputs_of(MODEL, 7)
    together, alone = leave_one_out(MODEL, inputs), leave_one_out(MODEL, inputs[3:4])
    np.testing.assert_allclose(together.take(slice(3, 4)).residuals, alone.residuals, atol=1e-5)


def test_a_model_that_sees_no_errors_will_do():
    model = linear_model(seen="coefficients")
    inputs = inputs_of(model, 4)
    with torch.no_grad():
        left = leave_one_out(model, inputs)
    np.testing.assert_allclose(left.residuals, leave_one_out(MODEL, inputs).residuals, atol=2e-5)
    assert all(weights.requires_grad for weights in model.network.parameters())
