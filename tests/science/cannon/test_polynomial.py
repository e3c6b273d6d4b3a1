"""The polynomial against scikit-learn, automatic differentiation and simulated labels."""

import numpy as np
import pytest
import torch
from sklearn.preprocessing import PolynomialFeatures

from scattervae.science.cannon.polynomial import feature_gradients, features, n_features, propagated_variance

LABELS = torch.from_numpy(np.random.default_rng(0).normal(size=(20, 4)))


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_features_are_those_of_scikit_learn(k):
    expected = PolynomialFeatures(2).fit_transform(LABELS[:, :k].numpy())
    assert n_features(k) == expected.shape[1]
    np.testing.assert_allclose(features(LABELS[:, :k]).numpy(), expected, rtol=1e-14)


@pytest.mark.parametrize("k", [1, 3, 4])
def test_gradients_are_those_of_automatic_differentiation(k):
    def one(star: torch.Tensor) -> torch.Tensor:
        return features(star[None])[0]

    expected = torch.stack([torch.autograd.functional.jacobian(one, star) for star in LABELS[:, :k]])
    torch.testing.assert_close(feature_gradients(LABELS[:, :k]), expected)


def test_propagated_variance_is_that_of_many_draws_of_the_labels():
    rng = np.random.default_rng(1)
    theta = torch.from_numpy(rng.normal(size=(10, 6)))
    label, errors = LABELS[:1, :3], torch.tensor([[1e-3, 2e-3, 5e-4]], dtype=torch.float64)
    drawn = features(label + errors * torch.from_numpy(rng.normal(size=(200_000, 3)))) @ theta
    told = propagated_variance(label, errors, theta)[0]
    torch.testing.assert_close(drawn.var(dim=0), told, rtol=0.02, atol=0.0)  # 6 sigma of 200,000 draws
