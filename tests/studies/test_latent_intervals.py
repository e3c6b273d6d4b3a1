"""Coverage of latents against closed forms, SciPy, and a linear model whose posterior is known."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import chi2, kstest
from studies.latent_intervals import (
    FACTORS,
    density_rank,
    moments,
    print_degraded,
    share_below,
    simulated_ranks,
    uniformity,
)

from scattervae.science.calibration.widths import latent_coverage, renoised_coverage
from scattervae.science.evaluation import mean_bound
from scattervae.science.exact_posterior import posterior_draws
from scattervae.seeds import stream
from scattervae.spectra.normalization import Inputs
from science.calibration.linear import correlated, errors_of, linear_model, stars_of, with_widths


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
    predicted = model.reconstruct(z)
    noise = torch.randn(predicted.mean.shape, generator=stream(5, "x"))
    bright = Inputs(predicted.mean + (like.errors**2 + predicted.scatter**2).sqrt() * noise, like.errors)
    found = renoised_coverage(model, bright, factor)
    assert found.jointly == pytest.approx(0.6827, abs=0.02)
    assert found.per_latent == pytest.approx([0.6827] * 2, abs=0.02)


def test_weighted_draws_of_a_gaussian_posterior_have_its_moments_and_even_ranks():
    model = linear_model()
    stars = stars_of(model, 2000)
    stated = model.network.encode(stars.x, stars.errors)
    draws = posterior_draws(model, stars, stated, stream(5, "draws"), n_draws=200)
    found = moments(draws)
    np.testing.assert_allclose((found.mean - stated.mean) / stated.sd, 0.0, atol=0.6)
    assert (found.sd / stated.sd).median() == pytest.approx(1.0, abs=0.03)
    z = stated.sample(stream(6, "z"))
    assert kstest(density_rank(model, stars, draws, z).numpy(), "uniform").statistic < 0.05
    assert kstest(share_below(draws, z)[:, 0].numpy(), "uniform").statistic < 0.05
    far = stated.mean + 3.0 * stated.sd

    def bound(posterior):
        return mean_bound(model, stars, posterior, stream(0, "bound"))

    assert (density_rank(model, stars, draws, far) < 0.05).all()
    assert (bound(stated) < bound(stated._replace(mean=far))).all()


def test_the_table_has_every_posterior_of_every_degradation(capsys):
    model = linear_model()
    stars = stars_of(model, 300)
    z = model.network.encode(stars.x, stars.errors).sample(stream(7, "z"))
    print_degraded(model, stars, z, "toy")
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines() if line.startswith("| x ")]
    assert [row[1].strip() for row in rows] == [f"x {factor:g}" for factor in FACTORS for _ in range(4)]
    jointly = np.array([[float(share) for share in row[3].split(",")] for row in rows])
    np.testing.assert_allclose(jointly[:, 0], 68.3, atol=10.0)  # 300 stars: 2.7 % are one standard deviation
