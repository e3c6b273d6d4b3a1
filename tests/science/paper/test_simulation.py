"""Simulated surveys have the statistics of the model that made them, and the errors and labels of real stars."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, kstest
from torch.distributions import Normal

from model.noise_toys import correlated
from scattervae.errors import DataError
from scattervae.model.correlated_noise import square
from scattervae.science.paper.simulation import simulate
from scattervae.seeds import folds
from scattervae.spectra.labels import LABEL_NAMES, StellarLabels
from scattervae.spectra.normalization import NormalizationSettings
from science.toys import KnownLatents, known_latents
from toy import spoiled, toy_recipe, toy_sky, untrained_model

SKY = toy_sky(300, signal_to_noise=1.5)  # errors as large as the scatter of a model without training
N = 20_000


def which(simulation):
    """The real star that each simulated one is like, found by its Teff, which no two share."""
    labels = SKY.labels
    order = np.argsort(labels["teff"])
    place = np.searchsorted(labels["teff"][order], simulation.labels["teff"])
    return order[place.clip(max=len(order) - 1)]


@pytest.fixture(scope="module")
def model():
    return known_latents(SKY.spectra)


@pytest.fixture(scope="module")
def made(model):
    return simulate(model, SKY.spectra, SKY.labels, N)


def test_residuals_over_error_and_scatter_in_quadrature_are_standard_normal():
    """The posterior is a point here, so each star's mean spectrum is known."""
    model = known_latents(SKY.spectra, n_active=3)
    made = simulate(model, SKY.spectra, SKY.labels, N)
    star, norm = which(made), model.normalization
    z = torch.from_numpy(SKY.spectra.coeffs[:, :3] / SKY.spectra.g_flux[:, None]).float()
    told = model.decode(z)
    g = made.spectra.g_flux[:, None]
    x, errors = (made.spectra.coeffs / g - norm.mean) / norm.std, made.spectra.errors / g / norm.std
    scatter = told.scatter.numpy()[star]
    assert 0.1 < np.median(errors / scatter) < 10  # neither hides the other
    residual = (x - told.mean.numpy()[star]) / np.hypot(errors, scatter)
    np.testing.assert_allclose(residual.var(axis=0), 1.0, atol=5 * math.sqrt(2 / N))
    assert kstest(residual.ravel(), "norm").pvalue > 1e-4
    correlations = np.corrcoef(residual.T) - np.eye(residual.shape[1])
    assert np.abs(correlations).max() < 5 / math.sqrt(N)


def test_latents_are_drawn_from_the_posteriors():
    """One star with a wide posterior: its moments agree with our own draws by torch.distributions."""
    base = known_latents(SKY.spectra, log_variance=math.log(0.5**2))
    one = SKY.spectra.take(slice(0, 1))
    made = simulate(base, one, SKY.labels, N)
    norm, posterior = base.normalization, base.encode(one)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        told = base.decode(Normal(posterior.mean[0], posterior.sd[0]).sample((N,)))
        errors = torch.from_numpy(one.errors / one.g_flux / norm.std).float()
        mine = Normal(told.mean, torch.hypot(told.scatter, errors)).sample().numpy()
    x = (made.spectra.coeffs / made.spectra.g_flux[:, None] - norm.mean) / norm.std
    width = mine.std(axis=0)
    np.testing.assert_allclose(x.mean(axis=0), mine.mean(axis=0), atol=6 * width.max() * math.sqrt(2 / N))
    np.testing.assert_allclose(x.std(axis=0), width, rtol=6 / math.sqrt(N))


def test_everything_else_is_the_real_stars(made):
    star = which(made)
    np.testing.assert_array_equal(made.labels.values, SKY.labels.values[star])
    np.testing.assert_array_equal(made.labels.errors, SKY.labels.errors[star])
    np.testing.assert_array_equal(made.spectra.errors, SKY.spectra.errors[star])
    np.testing.assert_array_equal(made.spectra.g_flux, SKY.spectra.g_flux[star])
    assert made.spectra.basis == SKY.spectra.basis
    assert made.spectra.source_id.tolist() == made.labels.source_id.tolist() == list(range(1, N + 1))
    assert made.spectra.usable.all()
    assert chisquare(np.bincount(star, minlength=300)).pvalue > 1e-4


def test_same_seed_same_survey(model):
    a, b, c = (simulate(model, SKY.spectra, SKY.labels, 50, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(a.spectra.coeffs, b.spectra.coeffs)
    assert (a.spectra.coeffs != c.spectra.coeffs).all()
    assert (a.labels.values != c.labels.values).any()


def test_the_folds_of_simulated_stars_have_their_shares(made):
    fold = folds(made.spectra.source_id)
    shares = [part.mean() for part in (fold.test, fold.validation, fold.train)]
    assert shares == pytest.approx([0.15, 0.10, 0.75], abs=0.01)
    few = folds(np.arange(1, 1001))
    assert few.test.mean() == pytest.approx(0.15, abs=0.02)


def test_coefficients_that_the_model_does_not_use_are_noise():
    recipe = toy_recipe().model_copy(update={"normalization": NormalizationSettings(n_bp=4)})
    made = simulate(untrained_model(SKY.spectra, recipe), SKY.spectra, SKY.labels, 4000)
    unused = (made.spectra.coeffs / made.spectra.errors)[:, 4:6]
    assert kstest(unused.ravel(), "norm").pvalue > 1e-4
    assert np.abs(np.corrcoef(unused.T)[0, 1]) < 5 / math.sqrt(4000)


def test_only_usable_stars_are_copied_and_a_missing_label_stays_missing(model):
    values = SKY.labels.values.copy()
    values[::2, LABEL_NAMES.index("fe_h")] = np.nan
    labels = StellarLabels(SKY.labels.source_id, values, SKY.labels.errors).take(slice(0, 250))
    made = simulate(model, spoiled(SKY.spectra), labels, 3000)
    assert made.spectra.usable.all()
    known = np.isfinite(made.labels["teff"])
    assert known.mean() == pytest.approx(244 / 294, abs=0.04)  # 250 have labels, six of them are spoilt
    star = which(made)[known]
    assert not set(star.tolist()) & {0, 1, 2, 3, 4, 6}
    assert set(star.tolist()) == set(range(250)) - {0, 1, 2, 3, 4, 6}
    np.testing.assert_array_equal(np.isnan(made.labels["fe_h"][known]), star % 2 == 0)


def test_no_usable_star_is_an_error_of_one_line(model):
    assert isinstance(model, KnownLatents)
    with pytest.raises(DataError, match="none of 5 stars is usable") as caught:
        simulate(model, spoiled(SKY.spectra).take(slice(0, 5)), SKY.labels, 10)
    assert "\n" not in str(caught.value)


def test_noise_is_as_correlated_as_that_of_the_star(model):
    """Coefficients over error and scatter in quadrature would not be: the errors are made to rule."""
    stars = replace(correlated(SKY.spectra), errors=1e3 * SKY.spectra.errors).take(slice(0, 1))
    made = simulate(model, stars, SKY.labels, N)
    noise = (made.spectra.coeffs / made.spectra.errors).T
    np.testing.assert_array_equal(made.spectra.correlations.rp[N - 1], stars.correlations.rp[0])
    for pairs, here in ((stars.correlations.bp, slice(0, 6)), (stars.correlations.rp, slice(6, 11))):
        expected = square(torch.from_numpy(pairs))[0]
        np.testing.assert_allclose(np.cov(noise[here]), expected, atol=5 / math.sqrt(N))
    assert simulate(model, SKY.spectra, SKY.labels, 5).spectra.correlations is None


def test_latents_are_what_the_stars_were_made_from(model):
    made = simulate(model, SKY.spectra, SKY.labels, N)
    norm, told = model.normalization, model.decode(made.latents)
    errors = made.spectra.errors / made.spectra.g_flux[:, None] / norm.std
    x = (made.spectra.coeffs / made.spectra.g_flux[:, None] - norm.mean) / norm.std
    residual = (x - told.mean.numpy()) / np.hypot(errors, told.scatter.numpy())
    np.testing.assert_allclose(residual.var(axis=0), 1.0, atol=5 * math.sqrt(2 / N))
