"""Inferred labels against known truth, scipy's least squares and the chi-square distribution."""

import numpy as np
import pytest
import torch
from scipy.optimize import least_squares
from scipy.stats import chi2
from studies.cannon_labels import infer_labels

from scattervae.spectra.normalization import Inputs
from science.cannon_toys import MEAN, STD, cannon_sky, terms

CANNON = cannon_sky(3000).fit()
NEW = cannon_sky(800, seed=1)
INPUTS = NEW.normalization.apply(NEW.spectra, dtype=torch.float64)
FOUND = infer_labels(CANNON, INPUTS)
TRUE = NEW.true_labels[:, :3]


def test_labels_lie_within_their_covariance_as_often_as_they_should():
    off = FOUND.values - TRUE
    distance = np.einsum("sl,slm,sm->s", off, np.linalg.inv(FOUND.covariance), off)
    assert FOUND.converged.all()
    for share in (0.5, 0.683, 0.954):
        inside = (distance < chi2.ppf(share, 3)).mean()
        assert abs(inside - share) < 4 * np.sqrt(share * (1 - share) / len(off))
    np.testing.assert_allclose((off / FOUND.errors).std(axis=0), 1.0, atol=0.1)  # 4 sigma of 800 stars


def test_chi2_has_the_degrees_of_freedom_that_are_left():
    n_left = INPUTS.x.shape[1] - 3
    assert FOUND.chi2.mean() == pytest.approx(n_left, abs=4 * np.sqrt(2 * n_left / len(TRUE)))


@pytest.mark.parametrize("star", [0, 5, 11])
def test_values_and_covariance_are_those_of_scipy(star):
    sigma = np.sqrt(INPUTS.errors[star].numpy() ** 2 + CANNON.scatter.numpy() ** 2)
    theta, range_ = CANNON.theta.numpy(), CANNON.label_range

    def residual(scaled: np.ndarray) -> np.ndarray:
        return (INPUTS.x[star].numpy() - (terms(scaled[None]) @ theta)[0]) / sigma

    start = (TRUE[star] - range_.mean) / range_.std
    best = least_squares(residual, start, method="lm", jac="3-point", xtol=1e-12, ftol=1e-14, gtol=1e-12)
    np.testing.assert_allclose((FOUND.values[star] - range_.mean) / range_.std, best.x, atol=1e-4)
    covariance = np.linalg.inv(best.jac.T @ best.jac) * np.outer(range_.std, range_.std)
    np.testing.assert_allclose(FOUND.covariance[star], covariance, rtol=1e-3)
    assert FOUND.chi2[star] == pytest.approx(2 * best.cost, rel=1e-7)


@pytest.mark.parametrize("labels", [("teff",), ("teff", "logg"), ("teff", "logg", "fe_h", "alpha_m")])
def test_any_set_of_labels_is_found(labels):
    k = len(labels)
    sky = cannon_sky(1500, n_labels=k)
    cannon = sky.fit(labels=labels)
    found = infer_labels(cannon, sky.normalization.apply(sky.spectra))
    assert found.names == labels
    off = (found.values - sky.true_labels[:, :k])[found.converged] / STD[:k]
    assert found.converged.mean() > 0.99
    assert np.median(np.abs(off)) < 0.2


def test_stars_outside_the_training_labels_are_flagged():
    scaled = np.array([[0.0, 0.0, 0.0], [1.0, -1.0, 1.0], [2.6, 0.0, 0.0], [0.0, 0.0, -3.0]])
    values = MEAN[:3] + STD[:3] * scaled
    x = CANNON.predict(values).mean
    found = infer_labels(CANNON, Inputs(x=x, errors=torch.full_like(x, 0.01)))
    np.testing.assert_allclose(found.values, values, rtol=1e-6)
    assert found.extrapolated.tolist() == [False, False, True, True]
    assert FOUND.extrapolated.mean() < 0.2


def test_a_star_that_cannot_be_encoded_has_no_labels_and_no_neighbour_notices():
    x, errors = INPUTS.x[:4].clone(), INPUTS.errors[:4].clone()
    x[1] = errors[1] = torch.nan
    found = infer_labels(CANNON, Inputs(x=x, errors=errors))
    assert np.isnan(found.values[1]).all()
    assert np.isnan(found.covariance[1]).all()
    assert np.isnan(found.chi2[1])
    assert (found.converged.tolist(), found.extrapolated[1]) == ([True, False, True, True], np.False_)
    np.testing.assert_allclose(found.values[[0, 2, 3]], FOUND.values[[0, 2, 3]], rtol=1e-6)


def test_a_label_that_changes_nothing_has_no_error_and_is_not_converged():
    sky = cannon_sky(300)
    cannon = sky.fit()
    cannon.theta[[3, 6, 8, 9]] = 0.0  # every term with the third label
    found = infer_labels(cannon, sky.normalization.apply(sky.spectra))
    assert not found.converged.any()
    assert np.isnan(found.errors).all()


def test_the_size_of_chunks_changes_nothing(monkeypatch):
    monkeypatch.setattr("studies.cannon_labels._ROWS", 37)
    again = infer_labels(CANNON, INPUTS)
    np.testing.assert_allclose(
        again.values, FOUND.values, rtol=1e-6
    )  # the last step rounds as the machine does
    assert (again.converged == FOUND.converged).all()


def test_no_stars_have_no_labels():
    found = infer_labels(CANNON, Inputs(x=INPUTS.x[:0], errors=INPUTS.errors[:0]))
    assert found.values.shape == (0, 3)
    assert found.errors.shape == (0, 3)
