"""What errors of labels add, against automatic differentiation, draws of the labels and simulated truth."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from studies.cannon_label_errors import feature_gradients, predict, propagated_variance, with_label_errors

from scattervae.science.cannon.fit import features
from science.cannon_toys import STD, cannon_sky

SCALED = torch.from_numpy(np.random.default_rng(0).normal(size=(20, 4)))
SKY = cannon_sky(3000, label_noise=0.05)
CANNON = SKY.fit()
NOISY = replace(SKY.labels, errors=np.tile(0.05 * STD, (3000, 1)))


@pytest.mark.parametrize("k", [1, 3, 4])
def test_gradients_are_those_of_automatic_differentiation(k):
    def one(star: torch.Tensor) -> torch.Tensor:
        return features(star[None])[0]

    expected = torch.stack([torch.autograd.functional.jacobian(one, star) for star in SCALED[:, :k]])
    torch.testing.assert_close(feature_gradients(SCALED[:, :k]), expected)


def test_propagated_variance_is_that_of_many_draws_of_the_labels():
    rng = np.random.default_rng(1)
    theta = torch.from_numpy(rng.normal(size=(10, 6)))
    label, errors = SCALED[:1, :3], torch.tensor([[1e-3, 2e-3, 5e-4]], dtype=torch.float64)
    drawn = features(label + errors * torch.from_numpy(rng.normal(size=(200_000, 3)))) @ theta
    expected = propagated_variance(label, errors, theta)[0]
    torch.testing.assert_close(drawn.var(dim=0), expected, rtol=0.02, atol=0.0)  # 6 sigma of 200,000 draws


def test_label_errors_are_not_taken_for_scatter():
    wide = with_label_errors(CANNON, SKY.spectra, NOISY)
    truth = torch.from_numpy(SKY.scatter)
    assert 1 < wide.counts.rounds < 60
    assert ((wide.scatter - truth).abs() < (CANNON.scatter - truth).abs())[:6].all()
    torch.testing.assert_close(wide.scatter[3:], truth[3:], rtol=0.15, atol=0.003)
    assert (CANNON.scatter[:6] > 1.4 * truth[:6]).all()


def test_no_label_errors_change_nothing():
    same = with_label_errors(CANNON, SKY.spectra, replace(NOISY, errors=np.zeros_like(NOISY.errors)))
    torch.testing.assert_close(same.theta, CANNON.theta, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(same.scatter, CANNON.scatter, rtol=1e-9, atol=1e-12)


def test_label_errors_widen_the_prediction():
    asked = SKY.labels.values[:5, :3]
    errors = np.full_like(asked, 0.02) * STD[:3]
    draws = np.random.default_rng(6).normal(size=(4000, *asked.shape))
    drawn = torch.stack([CANNON.predict(asked + errors * draw).mean for draw in draws]).std(dim=0)
    wide, narrow = predict(CANNON, asked, errors), CANNON.predict(asked)
    widened = (wide.scatter.square() - narrow.scatter.square()).sqrt()
    torch.testing.assert_close(drawn, widened, rtol=0.06, atol=1e-3)
