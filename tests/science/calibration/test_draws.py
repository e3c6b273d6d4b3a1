"""Weighted draws against the exact posterior of a linear model."""

import numpy as np
import torch
from studies.latent_intervals import latent_coverage

from scattervae.science.calibration.draws import posterior_draws
from scattervae.seeds import stream
from science.calibration.linear import linear_model, stars_of, with_widths


def test_draws_have_the_exact_posteriors_moments_whatever_the_encoder():
    exact = linear_model()
    stars = stars_of(exact, 2000)
    truth = exact.network.encode(stars.x, stars.errors)
    sure = with_widths(exact, 0.2)
    start = sure.network.encode(stars.x, stars.errors)
    draws = posterior_draws(sure, stars, start, stream(0, "d"), n_draws=64)
    torch.testing.assert_close(draws.weights.sum(dim=0), torch.ones(2000, dtype=torch.float64))
    one = draws.one(stream(1, "d"))
    found = latent_coverage(truth, one)
    np.testing.assert_allclose([found.jointly, *found.per_latent], 0.6827, atol=0.03)
    assert abs(found.mean_square - 2.0) < 0.15
    mean = (draws.z * draws.weights[:, :, None]).sum(dim=0)
    assert latent_coverage(truth, mean.float()).mean_square < 0.1
