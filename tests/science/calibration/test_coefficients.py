"""Transforms of coefficients that a model made are uniform; those of a model with a wrong scatter are not."""

import math

import pytest
import torch
from scipy.stats import kstest, norm

from scattervae.model.network import Reconstruction
from scattervae.science.calibration.coefficients import N_GROUPS, pit, pits
from scattervae.science.calibration.coverage import Share
from scattervae.spectra.normalization import Inputs
from science.calibration.linear import N, linear_model, stars_of, with_widths


@pytest.fixture(scope="module")
def told():
    model = linear_model()
    return pits(model, stars_of(model, 3000), n_rounds=N_GROUPS)


def test_transforms_are_scipys():
    x, errors, mean, scatter = (torch.rand(4, 3) + k for k in range(4))
    found = pit(Inputs(x, errors), Reconstruction(mean, scatter))
    expected = norm.cdf(x.numpy(), mean.numpy(), (errors**2 + scatter**2).sqrt().numpy())
    assert found.numpy() == pytest.approx(expected, abs=1e-6)


def test_hidden_coefficients_of_simulated_stars_are_covered_within_one_per_cent(told):
    share = Share.of(told.hidden.numpy().ravel())
    assert share.n == 3000 * N
    assert share.one == pytest.approx(0.6827, abs=0.01)
    assert share.two == pytest.approx(0.9545, abs=0.01)


def test_at_a_draw_they_are_uniform_and_at_the_mean_they_are_not(told):
    share = Share.of(told.drawn.numpy().ravel())
    assert share.one == pytest.approx(0.6827, abs=0.01)
    assert share.two == pytest.approx(0.9545, abs=0.01)
    assert kstest(told.drawn[:, 0].numpy(), "uniform").pvalue > 1e-3
    assert Share.of(told.at_mean.numpy().ravel()).one > 0.70  # two latents of eleven coefficients were fitted
    assert Share.of(told.without_scatter.numpy().ravel()).one < 0.65


def test_a_scatter_half_as_wide_shows():
    stars = stars_of(linear_model(scatter=0.4), 1500)
    found = Share.of(pits(linear_model(scatter=0.2), stars, n_rounds=N_GROUPS).hidden.numpy().ravel())
    assert found.one < 0.62


def test_an_encoder_too_sure_of_itself_changes_nothing(told):
    """Decoder and scatter are tested, not the encoder: posteriors are found anew."""
    model = with_widths(linear_model(), 0.3)
    found = pits(model, stars_of(model, 3000), n_rounds=1)
    assert Share.of(found.drawn.numpy().ravel()).one == pytest.approx(0.6827, abs=0.01)


def test_one_round_hides_about_a_tenth_of_each_star():
    model = linear_model()
    hidden = pits(model, stars_of(model, 50)).hidden.isfinite().sum(dim=1)
    assert set(hidden.tolist()) <= {math.ceil(N / N_GROUPS), N // N_GROUPS}


def test_missing_coefficients_have_no_transform():
    model = linear_model()
    stars = stars_of(model, 40)
    stars.x[:, 3], stars.errors[:, 3] = 0.0, torch.inf
    found = pits(model, stars, n_rounds=N_GROUPS)
    for values in (found.hidden, found.drawn, found.at_mean):
        assert values[:, 3].isnan().all()
        assert values[:, :3].isfinite().all()
