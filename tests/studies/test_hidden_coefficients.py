"""Predictions of hidden coefficients against conditional Gaussians."""

import numpy as np
import pytest
import torch
from studies.hidden_coefficients import predict_hidden

from scattervae.errors import CheckpointError
from scattervae.spectra.normalization import Inputs
from science.scatter.models import BASIS, N, conditional, inputs_of, linear_model

MODEL = linear_model()


def without_bp(n: int) -> torch.Tensor:
    hidden = torch.zeros(n, N, dtype=torch.bool)
    hidden[:, BASIS.bp] = True
    return hidden


def test_a_refined_posterior_predicts_a_hidden_band_as_the_joint_gaussian_does():
    inputs = inputs_of(MODEL, 5)
    seen = predict_hidden(MODEL, inputs, without_bp(5), refined=True, n_draws=500)
    for star in range(5):
        mean, variance = conditional(MODEL, inputs, star, np.arange(N) >= BASIS.n_bp)
        np.testing.assert_allclose(
            seen.residuals[star, BASIS.bp], (inputs.x[star].numpy() - mean)[BASIS.bp], atol=1e-4
        )
        np.testing.assert_allclose(
            seen.latent_variance[star, BASIS.bp], variance[BASIS.bp], rtol=5 * np.sqrt(2 / 500)
        )
    np.testing.assert_allclose(
        seen.scatter[:, BASIS.bp], np.tile(MODEL.network.own[BASIS.bp], (5, 1)), rtol=1e-4
    )


def test_only_hidden_coefficients_have_residuals():
    seen = predict_hidden(MODEL, inputs_of(MODEL, 4), without_bp(4))
    for values in (seen.residuals, seen.errors, seen.scatter, seen.latent_variance, seen.normalised):
        assert np.isfinite(values[:, BASIS.bp]).all()
        assert np.isnan(values[:, BASIS.rp]).all()


def test_what_is_hidden_changes_nothing_but_its_own_residual():
    inputs = inputs_of(MODEL, 4)
    moved = Inputs(inputs.x + 100.0 * without_bp(4), inputs.errors)
    seen, other = (predict_hidden(MODEL, stars, without_bp(4)) for stars in (inputs, moved))
    np.testing.assert_allclose(
        other.residuals - seen.residuals, np.where(without_bp(4), 100.0, np.nan), atol=1e-4
    )
    np.testing.assert_array_equal(other.latent_variance, seen.latent_variance)


def test_nothing_can_be_hidden_from_an_encoder_that_sees_no_errors():
    model = linear_model(seen="coefficients")
    with pytest.raises(CheckpointError, match=r'recipe linear.*encoder_sees = "errors"'):
        predict_hidden(model, inputs_of(model, 2), without_bp(2))
