"""A law of widths scales a Gaussian as it should, and finds by how much an encoder's widths are wrong."""

import math

import numpy as np
import pytest
import torch
from studies.latent_intervals import one_band_coverage
from torch.distributions import MultivariateNormal

from scattervae.science.calibration.widths import (
    WidthLaw,
    distances,
    fit_widths,
    kinds_of,
    renoised,
    renoised_coverage,
)
from scattervae.seeds import stream
from scattervae.spectra.normalization import Inputs
from science.calibration.linear import correlated, linear_model, stars_of

BP, RP = slice(0, 6), slice(6, 11)


def test_the_law_scales_each_latent_and_keeps_correlations():
    posterior, kinds = correlated(40), torch.arange(40) % 3
    law = WidthLaw(torch.randn(3, 3) / 5, torch.randn(3, 3) / 5)
    changed = law.apply(posterior, kinds)
    scale = (law.offset[kinds] + law.slope[kinds] * posterior.sd.log()).exp()
    expected = posterior.covariance * scale[:, :, None] * scale[:, None, :]
    torch.testing.assert_close(changed.covariance, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(changed.mean, posterior.mean)


def test_a_single_law_is_for_all_stars():
    posterior, kinds = correlated(40), torch.arange(40) % 3
    law = WidthLaw(torch.tensor([[0.1, -0.2, 0.0]]), torch.tensor([[0.3, 0.0, -0.1]]))
    thrice = WidthLaw(*(values.expand(3, -1) for values in law))
    for a, b in zip(law.apply(posterior, kinds), thrice.apply(posterior, kinds), strict=True):
        assert torch.equal(a, b)


def test_no_law_changes_nothing():
    posterior = correlated(5)
    same = WidthLaw(torch.zeros(3, 3), torch.zeros(3, 3)).apply(posterior, torch.arange(5) % 3)
    for a, b in zip(same, posterior, strict=True):
        assert torch.equal(a, b)


def test_the_kind_of_a_star_is_the_band_it_lacks():
    errors = torch.ones(6, 11)
    errors[1, BP] = errors[2, RP] = errors[3, 0] = errors[4, 5:] = (
        math.inf
    )  # the last has one BP coefficient less
    errors[5] = torch.nan
    assert kinds_of(errors, 6).tolist() == [0, 1, 2, 0, 2, 0]


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


def test_renoised_stars_have_the_noise_of_their_errors_and_missing_stays_missing():
    errors = torch.full((20_000, 3), 0.5)
    errors[:, 2] = torch.inf
    made = renoised(Inputs(torch.zeros(20_000, 3), errors), 3.0, stream(0, "n"))
    np.testing.assert_allclose(made.x[:, :2].std(dim=0), 0.5 * math.sqrt(8.0), rtol=0.02)
    assert (made.x[:, 2] == 0).all()
    assert made.errors[0].tolist() == [1.5, 1.5, math.inf]


@pytest.mark.slow
def test_right_widths_are_left_and_wrong_ones_of_faint_stars_found():
    model = linear_model()
    bright = stars_of(model, 4000)
    law = fit_widths(model, bright)
    np.testing.assert_allclose(law.offset - law.slope, 0.0, atol=0.03)  # at a width of 1/e
    assert abs(renoised_coverage(model, bright, 10.0).jointly - 0.6827) < 0.02

    wrong = _with_law(model, WidthLaw(torch.full((3, 2), math.log(1.2)), torch.full((3, 2), 0.1)))
    assert renoised_coverage(wrong, bright, 10.0).jointly > 0.70
    right = _with_law(wrong, fit_widths(wrong, bright))
    for factor in (3.0, 10.0):
        found = renoised_coverage(right, bright, factor)
        assert abs(found.jointly - 0.6827) < 0.03
        np.testing.assert_allclose(found.per_latent, 0.6827, atol=0.03)


def test_widths_that_are_wrong_only_where_a_band_is_missing_are_found_there():
    model = linear_model()
    stars = stars_of(model, 2500)
    narrow = torch.tensor([0.0, math.log(0.7), math.log(0.8)])[:, None].expand(3, 2)
    wrong = _with_law(model, WidthLaw(narrow, torch.zeros(3, 2)))
    right = _with_law(wrong, fit_widths(wrong, stars))
    for lost in (BP, RP):
        assert abs(one_band_coverage(model, stars, lost).jointly - 0.6827) < 0.03
        assert one_band_coverage(wrong, stars, lost).jointly < 0.60
        found = one_band_coverage(right, stars, lost)
        assert abs(found.jointly - 0.6827) < 0.03
        np.testing.assert_allclose(found.per_latent, 0.6827, atol=0.03)
    complete = (m.network.encode(stars.x, stars.errors).log_variance for m in (model, right))
    # three standard errors of a log variance found from 2,500 stars
    torch.testing.assert_close(*complete, atol=0.085, rtol=0.0)


def _with_law(model, law):
    """The linear model with its posteriors changed by a law."""
    changed = linear_model()
    before = model.network.encode
    changed.network.encode = lambda x, errors: law.apply(before(x, errors), kinds_of(errors, 6))
    return changed
