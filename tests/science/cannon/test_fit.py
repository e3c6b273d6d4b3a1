"""The fit against closed forms, scikit-learn, scipy's optimisers and simulated truth."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize, minimize_scalar
from sklearn.linear_model import Ridge
from sklearn.preprocessing import PolynomialFeatures

from scattervae.errors import DataError
from scattervae.science.cannon.fit import (
    features,
    fit_polynomial,
    n_features,
)
from science.cannon_toys import MEAN, STD, cannon_sky, tensors, terms

SCALED = torch.from_numpy(np.random.default_rng(0).normal(size=(20, 4)))


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_features_are_those_of_scikit_learn(k):
    expected = PolynomialFeatures(2).fit_transform(SCALED[:, :k].numpy())
    assert n_features(k) == expected.shape[1]
    np.testing.assert_allclose(features(SCALED[:, :k]).numpy(), expected, rtol=1e-14)


SKY = cannon_sky(500)
X, ERRORS, LABELS = tensors(SKY)
FIT = fit_polynomial(X, ERRORS, LABELS)
N_COEFFS = X.shape[1]


def weighted(x: np.ndarray, f: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Closed form: least squares of rows divided by their errors."""
    sigma = np.sqrt(variance)
    return np.linalg.lstsq(f / sigma[:, None], x / sigma, rcond=None)[0]


def profile_nll(s: float, x: np.ndarray, errors: np.ndarray, f: np.ndarray) -> float:
    variance = errors**2 + s**2
    residual = x - f @ weighted(x, f, variance)
    return 0.5 * float((residual**2 / variance + np.log(variance)).sum())


def test_theta_is_closed_form_weighted_least_squares():
    f = terms(LABELS.numpy())
    for j in range(N_COEFFS):
        variance = ERRORS[:, j].numpy() ** 2 + FIT.scatter[j].item() ** 2
        np.testing.assert_allclose(FIT.theta[:, j], weighted(X[:, j].numpy(), f, variance), rtol=1e-9)


def test_theta_is_that_of_scikit_learn():
    f = PolynomialFeatures(2).fit_transform(LABELS.numpy())
    for j in range(N_COEFFS):
        weights = 1.0 / (ERRORS[:, j] ** 2 + FIT.scatter[j] ** 2).numpy()
        ridge = Ridge(alpha=1e-12, fit_intercept=False, solver="svd").fit(f, X[:, j].numpy(), weights)
        np.testing.assert_allclose(FIT.theta[:, j], ridge.coef_, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("j", [0, 4, 9, 11])
def test_scatter_is_where_scipy_finds_the_highest_profile_likelihood(j):
    data = (X[:, j].numpy(), ERRORS[:, j].numpy(), terms(LABELS.numpy()))
    best = minimize_scalar(
        lambda t: profile_nll(np.exp(t), *data), bounds=(-9, 2), method="bounded", options={"xatol": 1e-9}
    )
    s = FIT.scatter[j].item()
    assert profile_nll(s, *data) <= best.fun + 1e-10
    assert s == pytest.approx(np.exp(best.x), rel=1e-5)  # scipy's own limit: a minimum is flat


@pytest.mark.parametrize("j", [2, 10])
def test_theta_and_scatter_together_are_the_joint_maximum(j):
    x, errors, f = X[:, j].numpy(), ERRORS[:, j].numpy(), terms(LABELS.numpy())

    def nll(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        theta, s2 = parameters[:-1], np.exp(2 * parameters[-1])
        variance, residual = errors**2 + s2, x - f @ parameters[:-1]
        value = 0.5 * (residual**2 / variance + np.log(variance)).sum()
        by_variance = 0.5 * (1 / variance - residual**2 / variance**2).sum()
        assert len(theta) == 10
        return value, np.append(-f.T @ (residual / variance), 2 * s2 * by_variance)

    start = np.append(np.linalg.lstsq(f, x, rcond=None)[0], np.log(0.1))
    best = minimize(nll, start, jac=True, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-8})
    np.testing.assert_allclose(FIT.theta[:, j], best.x[:-1], rtol=1e-4, atol=1e-6)
    assert FIT.scatter[j].item() == pytest.approx(np.exp(best.x[-1]), rel=1e-4)


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.floats(0.0, 0.3))
def test_no_scatter_anywhere_is_likelier(seed, scatter):
    """Errors over four decades: the likelihood may have several hills, and the fit is on the highest."""
    rng = np.random.default_rng(seed)
    errors = 10.0 ** rng.uniform(-4, 0, (40, 1))
    labels = rng.normal(size=(40, 1))
    x = labels + np.hypot(errors, scatter) * rng.standard_t(3, size=(40, 1))
    fit = fit_polynomial(*map(torch.from_numpy, (x, errors, labels)))
    data = (x[:, 0], errors[:, 0], terms(labels))
    others = min(profile_nll(s, *data) for s in (0.0, *np.geomspace(1e-6, 10.0, 400)))
    assert profile_nll(fit.scatter[0].item(), *data) <= others + 1e-9


def test_scatter_vanishes_where_the_errors_explain_everything():
    fit = fit_polynomial(X, ERRORS * 100.0, LABELS)
    assert (fit.scatter == 0.0).all()
    f = terms(LABELS.numpy())
    expected = [weighted(X[:, j].numpy(), f, ERRORS[:, j].numpy() ** 2) for j in range(N_COEFFS)]
    np.testing.assert_allclose(fit.theta.numpy(), np.stack(expected, axis=1), rtol=1e-9, atol=1e-12)


def test_truth_is_recovered_within_its_errors():
    sky = cannon_sky(4000)
    x, errors, labels = tensors(sky)
    fit = fit_polynomial(x, errors, labels)
    f = terms(labels.numpy())
    for j in range(N_COEFFS):
        weights = 1.0 / (errors[:, j].numpy() ** 2 + sky.scatter[j] ** 2)
        covariance = np.linalg.inv(f.T @ (weights[:, None] * f))
        off = fit.theta[:, j].numpy() - sky.theta[:, j]
        assert off @ np.linalg.solve(covariance, off) < 31  # chi^2 of 10: one in 2,000
        error = np.sqrt(2.0 / (weights**2).sum()) / (2 * sky.scatter[j])  # Fisher's, of s
        assert abs(fit.scatter[j].item() - sky.scatter[j]) < 4 * error


def test_clipping_leaves_far_values_out_and_finds_the_scatter_beneath():
    sky = cannon_sky(3000)
    x, errors, labels = tensors(sky)
    rng = np.random.default_rng(2)
    far = torch.from_numpy(rng.uniform(size=x.shape) < 0.02)
    x = torch.where(far, x + 20.0 * torch.from_numpy(rng.normal(size=x.shape)), x)
    plain, robust = fit_polynomial(x, errors, labels), fit_polynomial(x, errors, labels, clip_sigma=5.0)
    truth = torch.from_numpy(sky.scatter)
    assert robust.converged
    assert 0.9 * far.sum() < robust.n_clipped < 1.05 * far.sum()
    assert (plain.scatter > 1.0).all()
    torch.testing.assert_close(robust.scatter, truth, rtol=0.1, atol=0.005)


def test_clipping_of_nothing_is_the_plain_fit():
    robust = fit_polynomial(X, ERRORS, LABELS, clip_sigma=50.0)
    assert robust.n_clipped == 0
    torch.testing.assert_close(robust.theta, FIT.theta, rtol=1e-10, atol=1e-12)


def test_a_clipped_fit_is_the_fit_of_what_is_left():
    """Coefficient by coefficient, stars removed instead of weighed with zero."""
    x = X.clone()
    x[:25, 3] += 30.0  # so many that the plain fit's scatter hides them: it is 7
    robust = fit_polynomial(x, ERRORS, LABELS, clip_sigma=6.0)
    assert robust.n_clipped == 25
    left = fit_polynomial(x[25:, 3:4], ERRORS[25:, 3:4], LABELS[25:])
    torch.testing.assert_close(robust.theta[:, 3:4], left.theta, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(robust.scatter[3:4], left.scatter, rtol=1e-8, atol=1e-12)


@settings(max_examples=8)
@given(st.permutations(range(60)))
def test_the_order_of_stars_changes_nothing(order):
    first = fit_polynomial(X[:60], ERRORS[:60], LABELS[:60], clip_sigma=4.0)
    again = fit_polynomial(X[order], ERRORS[order], LABELS[order], clip_sigma=4.0)
    torch.testing.assert_close(again.theta, first.theta, rtol=0.0, atol=1e-9)
    torch.testing.assert_close(again.scatter, first.scatter, rtol=0.0, atol=1e-9)


def test_labels_that_determine_no_quadratic_are_an_error_of_one_line():
    for second in (2.0 * LABELS[:, 0] + 1.0, LABELS[:, 0].sign()):
        with pytest.raises(DataError, match="do not determine a quadratic") as error:
            fit_polynomial(X, ERRORS, torch.stack([LABELS[:, 0], second], dim=1))
        assert "\n" not in str(error.value)


def test_the_toys_are_scaled_as_the_tests_say():
    np.testing.assert_allclose(LABELS.numpy() * STD[:3] + MEAN[:3], SKY.true_labels[:, :3])
