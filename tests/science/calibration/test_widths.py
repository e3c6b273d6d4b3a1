"""A law of widths scales a Gaussian as it should, and finds by how much an encoder's widths are wrong."""

import math

import numpy as np
import torch

from scattervae.science.calibration.latents import renoised_coverage
from scattervae.science.calibration.widths import WidthLaw, fit_widths
from science.calibration.linear import linear_model, stars_of
from science.calibration.test_latents import correlated


def test_the_law_scales_each_latent_and_keeps_correlations():
    posterior = correlated(40)
    law = WidthLaw(torch.tensor([0.1, -0.2, 0.0]), torch.tensor([0.3, 0.0, -0.1]))
    changed = law.apply(posterior)
    scale = (law.offset + law.slope * posterior.sd.log()).exp()
    expected = posterior.covariance * scale[:, :, None] * scale[:, None, :]
    torch.testing.assert_close(changed.covariance, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(changed.mean, posterior.mean)


def test_no_law_changes_nothing():
    posterior = correlated(5)
    same = WidthLaw(torch.zeros(3), torch.zeros(3)).apply(posterior)
    for a, b in zip(same, posterior, strict=True):
        assert torch.equal(a, b)


def test_right_widths_are_left_and_wrong_ones_of_faint_stars_found():
    model = linear_model()
    bright = stars_of(model, 4000)
    law = fit_widths(model, bright)
    np.testing.assert_allclose(law.log_scale(torch.tensor([[-1.0, -1.0]])), 0.0, atol=0.03)
    assert abs(renoised_coverage(model, bright, 10.0).jointly - 0.6827) < 0.02

    wrong = _with_law(model, WidthLaw(torch.full((2,), math.log(1.2)), torch.full((2,), 0.1)))
    assert renoised_coverage(wrong, bright, 10.0).jointly > 0.70
    right = _with_law(wrong, fit_widths(wrong, bright))
    for factor in (3.0, 10.0):
        found = renoised_coverage(right, bright, factor)
        assert abs(found.jointly - 0.6827) < 0.03
        np.testing.assert_allclose(found.per_latent, 0.6827, atol=0.03)


def _with_law(model, law):
    """The linear model with its posteriors changed by a law."""
    changed = linear_model()
    before = model.network.encode
    changed.network.encode = lambda x, errors: law.apply(before(x, errors))
    return changed
