"""The two factors: recovered, at the optimum of a likelihood that is not ours, with intervals that hold the truth."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import norm

from scattervae.science.scatter.leave_one_out import Residuals
from scattervae.science.scatter.separation import separate

K, A = np.array([3.0, 2.0, 1.5, 1.0]), np.array([0.7, 1.3])


def stars(n=2000, *, n_coeffs=12, seed=0):
    """Errors that shrink with brightness, scatter that does not, and latents that add a little."""
    rng = np.random.default_rng([9, seed])
    brightness, kind = rng.integers(0, 4, n), rng.integers(0, 2, n)
    errors = 0.05 * 2.0 ** brightness[:, None] * rng.lognormal(0.0, 0.4, (n, n_coeffs))
    scatter = 0.15 * rng.lognormal(0.0, 0.6, (2, n_coeffs))[kind]
    latent = 0.2 * errors**2
    variance = latent + (K[brightness, None] * errors) ** 2 + (A[kind, None] * scatter) ** 2
    residuals = np.sqrt(variance) * rng.normal(size=errors.shape)
    return Residuals(residuals, errors, scatter, latent), brightness, kind


def one_group(sample):
    return np.zeros(sample.residuals.shape[1], dtype=np.int64)


def test_it_is_the_optimum_of_a_likelihood_found_by_another_optimiser():
    sample, brightness, kind = stars(400)

    def cost(theta):
        k, a = np.exp(theta[:4]), np.exp(theta[4:])
        sd = np.sqrt(
            sample.latent_variance
            + (k[brightness, None] * sample.errors) ** 2
            + (a[kind, None] * sample.scatter) ** 2
        )
        return -norm.logpdf(sample.residuals, scale=sd).sum()

    best = np.exp(minimize(cost, np.zeros(6), options={"gtol": 1e-3}).x)
    found = separate(sample, brightness, kind, one_group(sample), clip_sigma=np.inf)
    np.testing.assert_allclose(found.error.value[0], best[:4], rtol=1e-4)
    np.testing.assert_allclose(found.own.value[0], best[4:], rtol=1e-4)


def test_intervals_hold_the_truth_as_often_as_they_say():
    away = []
    for seed in range(40):
        sample, brightness, kind = stars(600, seed=seed)
        found = separate(sample, brightness, kind, one_group(sample))
        away += [*((found.error.squared - K**2) / found.error.sd)[0]]
        away += [*((found.own.squared - A**2) / found.own.sd)[0]]
    share = np.mean(np.abs(away) < 1.96)
    assert share == pytest.approx(0.95, abs=4 * np.sqrt(0.95 * 0.05 / len(away)))
    low, high = found.error.bounds()
    assert (low < found.error.value).all()
    assert (found.error.value < high).all()


def test_residuals_of_a_star_that_go_together_widen_the_interval():
    """Each star's residuals repeated nine times count no more than once."""
    sample, brightness, kind = stars(800, n_coeffs=3)
    many = Residuals(*(np.tile(v, (1, 9)) for v in vars(sample).values()))
    once = separate(sample, brightness, kind, one_group(sample))
    again = separate(many, brightness, kind, one_group(many))
    np.testing.assert_allclose(again.error.squared, once.error.squared, rtol=1e-5)
    np.testing.assert_allclose(again.error.sd, once.error.sd, rtol=1e-5)


def test_with_no_scatter_and_equal_errors_it_is_the_mean_square():
    sample, brightness, kind = stars(300)
    flat = replace(
        sample,
        errors=np.full_like(sample.errors, 0.3),
        scatter=np.full_like(sample.scatter, 1e-200),
        latent_variance=np.zeros_like(sample.errors),
    )
    found = separate(flat, brightness, kind, one_group(flat), clip_sigma=np.inf)
    of_cell = [(sample.residuals[brightness == b] ** 2).mean() / 0.09 for b in range(4)]
    np.testing.assert_allclose(found.error.squared[0], of_cell, rtol=1e-6)


def test_an_error_in_proportion_to_the_flux_cannot_be_separated_from_scatter():
    sample, brightness, kind = stars()
    same = replace(sample, errors=2.0 * sample.scatter)
    found = separate(same, np.zeros_like(brightness), np.zeros_like(kind), one_group(sample))
    assert found.confusion[0, 0] < -0.99 or found.own.squared[0, 0] == 0 or found.error.squared[0, 0] == 0
    apart = separate(sample, brightness, kind, one_group(sample))
    assert (apart.confusion > -0.9).all()


def test_groups_are_independent_and_left_out_coefficients_do_nothing():
    sample, brightness, kind = stars(500)
    groups = np.repeat([0, 1, -1], 4)
    both = separate(sample, brightness, kind, groups)
    second = Residuals(*(v[:, 4:8] for v in vars(sample).values()))
    alone = separate(second, brightness, kind, one_group(second))
    np.testing.assert_allclose(both.error.squared[1], alone.error.squared[0], rtol=1e-9)
    np.testing.assert_allclose(both.own.sd[1], alone.own.sd[0], rtol=1e-9)


def test_cells_without_stars_are_nan_and_stars_without_a_cell_do_nothing():
    sample, brightness, kind = stars(500)
    kept = brightness != 1
    found = separate(sample, np.where(kept, brightness, -1), kind, one_group(sample))
    alone = separate(sample.take(kept), brightness[kept], kind[kept], one_group(sample))
    np.testing.assert_allclose(found.error.squared, alone.error.squared, rtol=1e-9)
    assert np.isnan(found.error.squared[0, 1])


def test_missing_residuals_are_left_out():
    sample, brightness, kind = stars(500)
    holes = sample.residuals.copy()
    holes[:, 0] = np.nan
    found = separate(replace(sample, residuals=holes), brightness, kind, one_group(sample))
    rest = Residuals(*(v[:, 1:] for v in vars(sample).values()))
    np.testing.assert_allclose(
        found.error.squared,
        separate(rest, brightness, kind, one_group(rest)).error.squared,
        rtol=1e-9,
    )


def test_a_few_wild_residuals_are_left_out_and_counted():
    sample, brightness, kind = stars()
    wild = sample.residuals.copy()
    wild[:30, 0] = 50.0
    found = separate(replace(sample, residuals=wild), brightness, kind, one_group(sample))
    assert 30 <= found.clipped[0] <= 33
    np.testing.assert_allclose(found.error.value[0], K, rtol=0.1)


@settings(max_examples=20)
@given(st.floats(0.01, 100.0), st.integers(0, 1000))
def test_units_and_order_of_stars_do_not_matter(unit, seed):
    sample, brightness, kind = stars(200)
    order = np.random.default_rng(seed).permutation(200)
    scaled = Residuals(
        unit * sample.residuals, unit * sample.errors, unit * sample.scatter, unit**2 * sample.latent_variance
    ).take(order)
    found = separate(sample, brightness, kind, one_group(sample))
    again = separate(scaled, brightness[order], kind[order], one_group(sample))
    np.testing.assert_allclose(again.error.squared, found.error.squared, rtol=1e-5)
    np.testing.assert_allclose(again.own.sd, found.own.sd, rtol=1e-4)
