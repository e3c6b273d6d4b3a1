"""Scores of real stars beside those of simulated ones, on numbers whose distribution is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest

from scattervae.science.calibration.score import FEWEST_OBSERVED, ObservedScores

PUBLISHED, INFERRED = False, True


def real_stars(n, seed, *, kind=PUBLISHED):
    """A statistic whose middle and spread depend on G, with a jump where an instrument changes its windows."""
    rng = np.random.default_rng(seed)
    g_mag = rng.uniform(8.0, 18.0, n)
    middle, spread = np.where(g_mag < 12.0, -4.0, 1.0 - 0.2 * g_mag), 0.5 + 0.1 * (g_mag - 8.0)
    return middle + spread * rng.standard_t(5, n), g_mag, np.full(n, kind)


def joined(*stars):
    return tuple(np.concatenate(values) for values in zip(*stars, strict=True))


def test_scores_of_other_stars_are_uniform_at_any_g():
    observed = ObservedScores.fit(*real_stars(6000, 0))
    u, g_mag, kind = real_stars(12_000, 1)
    score = observed(u, g_mag, kind, np.full(len(u), np.nan))
    for low in range(8, 18, 2):
        here = (g_mag >= low) & (g_mag < low + 2)
        assert kstest(score[here], "uniform").statistic < 0.05, low


def test_each_kind_has_its_own_and_one_of_too_few_stars_keeps_the_other_score():
    few = real_stars(FEWEST_OBSERVED - 1, 2, kind=INFERRED)
    observed = ObservedScores.fit(*joined(real_stars(1000, 3), few))
    u, g_mag, kind = joined(real_stars(500, 4), real_stars(500, 5, kind=INFERRED))
    score = observed(u, g_mag, kind, np.full(len(u), 0.25))
    assert (score[500:] == 0.25).all()
    assert (
        kstest(score[:500], "uniform").statistic < 0.09
    )  # chance, of 500 stars against 1,000: 1 in 100 above
    assert ObservedScores.fit(*few) is None
    shifted = (few[0] + 10.0, *few[1:])
    both = ObservedScores.fit(*joined(real_stars(1000, 3), *[shifted] * 2))
    again = both(u, g_mag, kind, np.full(len(u), 0.25))
    np.testing.assert_array_equal(again[:500], score[:500])
    assert again[500:].mean() > 0.9, "beside stars that fit worse by ten, these fit well"


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=50), st.floats(0.0, 30.0))
def test_a_star_that_fits_worse_scores_lower(values, g_mag):
    observed = ObservedScores.fit(*real_stars(200, 6))
    u = np.sort(np.array(values))
    n = len(u)
    score = observed(u, np.full(n, g_mag), np.zeros(n, dtype=bool), np.zeros(n))
    assert ((score >= 0.0) & (score <= 1.0)).all()
    assert (np.diff(score) <= 0.0).all()


def test_beyond_the_worst_star_known_the_score_falls_on():
    u, g_mag, kind = real_stars(200, 8)
    observed = ObservedScores.fit(u, g_mag, kind)
    beyond = observed(np.array([20.0, 40.0]), np.full(2, 14.0), kind[:2], np.zeros(2))
    assert 0.0 < beyond[1] < beyond[0] < 1.0 / 201.0
    assert observed(np.array([np.nan]), np.array([14.0]), kind[:1], np.zeros(1)) == pytest.approx(
        [np.nan], nan_ok=True
    )
