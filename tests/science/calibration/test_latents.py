"""Coverage of latents against closed forms, SciPy, and a linear model whose posterior is known."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2, kstest
from torch.distributions import MultivariateNormal

from scattervae.model.posterior import Posterior
from scattervae.science.calibration.latents import (
    chi2_quantile,
    distances,
    latent_coverage,
    renoised,
    renoised_coverage,
    simulated_ranks,
    uniformity,
)
from scattervae.seeds import stream
from scattervae.spectra.normalization import Inputs
from science.calibration.linear import errors_of, linear_model, with_widths


def correlated(n, seed=0):
    generator = stream(seed, "test")
    mean = torch.randn(n, 3, generator=generator)
    coupling = torch.randn(n, 3, 3, generator=generator).tril(-1)
    return Posterior(mean, torch.randn(n, 3, generator=generator), coupling)


@settings(max_examples=25, deadline=None)
@given(st.floats(0.01, 0.99), st.integers(1, 20))
def test_chi2_quantile_is_scipys(share, degrees):
    assert chi2_quantile(share, degrees) == pytest.approx(chi2.ppf(share, degrees), rel=1e-6)


def test_distances_are_those_of_torch_distributions():
    posterior = correlated(50)
    z = torch.randn(50, 3, generator=stream(1, "z"))
    gaussian = MultivariateNormal(posterior.mean.double(), posterior.covariance.double())
    precision = gaussian.precision_matrix
    away = (z - posterior.mean).double()
    expected = torch.einsum("si,sij,sj->s", away, precision, away)
    torch.testing.assert_close(
        distances(posterior, z), expected, rtol=1e-3, atol=1e-4
    )  # covariance in float32


def test_draws_from_a_posterior_are_covered_as_they_should():
    posterior = correlated(20_000)
    found = latent_coverage(posterior, posterior.sample(stream(2, "z")))
    assert found.jointly == pytest.approx(0.6827, abs=0.012)
    assert found.per_latent == pytest.approx([0.6827] * 3, abs=0.012)
    assert found.mean_square == pytest.approx(3.0, abs=0.1)
    assert found.n == 20_000


def test_too_narrow_a_posterior_is_found_out():
    posterior = correlated(20_000)
    z = posterior.sample(stream(2, "z"))
    narrow = posterior._replace(log_variance=posterior.log_variance - 2 * math.log(2.0))
    found = latent_coverage(narrow, z)
    assert found.mean_square == pytest.approx(12.0, abs=0.5)
    assert found.jointly < 0.4


def test_ranks_of_an_exact_encoder_are_uniform_and_of_a_narrow_one_are_not():
    model = linear_model()
    like = errors_of(6000)
    z = torch.randn(6000, 2, generator=stream(3, "z"))
    exact = simulated_ranks(model, like, z=z)
    even = uniformity(exact.ranks, exact.n_draws)
    assert (chi2.sf(even.chi2.numpy(), even.degrees) > 1e-3).all()
    assert exact.coverage.jointly == pytest.approx(0.6827, abs=0.02)
    pvalue = kstest((exact.ranks[:, 0].numpy() + 0.5) / 100, "uniform").pvalue
    assert pvalue > 1e-3
    narrow = simulated_ranks(with_widths(model, 0.5), like, z=z)
    uneven = uniformity(narrow.ranks, narrow.n_draws)
    assert (chi2.sf(uneven.chi2.numpy(), uneven.degrees) < 1e-6).all()
    assert narrow.coverage.jointly < 0.35


def test_bins_of_ranks_must_be_alike():
    with pytest.raises(ValueError, match="100 ranks do not fall evenly into 30 bins"):
        uniformity(torch.zeros(5, 2, dtype=torch.int64), 99, n_bins=30)


@pytest.mark.parametrize("factor", [1.0, 3.0, 10.0])
def test_draws_from_an_exact_bright_posterior_lie_in_the_exact_faint_one(factor):
    """Nothing is to be corrected for the bright star's own noise: the linear model's posteriors are Bayes'."""
    model = linear_model()
    like = errors_of(6000)
    z = torch.randn(6000, 2, generator=stream(4, "z"))
    told = model.decode(z)
    noise = torch.randn(told.mean.shape, generator=stream(5, "x"))
    bright = Inputs(told.mean + (like.errors**2 + told.scatter**2).sqrt() * noise, like.errors)
    found = renoised_coverage(model, bright, factor)
    assert found.jointly == pytest.approx(0.6827, abs=0.02)
    assert found.per_latent == pytest.approx([0.6827] * 2, abs=0.02)


def test_renoised_stars_have_the_noise_of_their_errors_and_missing_stays_missing():
    errors = torch.full((20_000, 3), 0.5)
    errors[:, 2] = torch.inf
    made = renoised(Inputs(torch.zeros(20_000, 3), errors), 3.0, stream(0, "n"))
    np.testing.assert_allclose(made.x[:, :2].std(dim=0), 0.5 * math.sqrt(8.0), rtol=0.02)
    assert (made.x[:, 2] == 0).all()
    assert made.errors[0].tolist() == [1.5, 1.5, math.inf]
