"""Differences of means against SciPy, and what the findings promise over many repeats.

All rates are compared with the bound of a binomial count at 99.9 %: a test that holds its level fails these
once in a thousand seeds, and the seeds are fixed.
"""

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import stats

from scattervae.errors import DataError
from scattervae.science.relative.contrast import Significance, contrast
from scattervae.science.relative.matching import Groups

FEW = Significance(n_permutations=199)  # the smallest number that can hold 5 % is taken where it is larger
N_REPEATS = 200


def halves(n, *, paired):
    return Groups(np.arange(n), np.arange(n, 2 * n), paired=paired)


def heavy_tailed(rng, n, n_quantities=20):
    """Quantities correlated with both signs, as wavelengths are, with tails of infinite variance."""
    loads = np.random.default_rng(5).normal(size=(3, n_quantities))
    return rng.standard_t(2, (n, 3)) @ loads + 0.3 * rng.standard_t(2, (n, n_quantities))


def binomial_bound(n, p):
    return stats.binom.ppf(0.999, n, p)


@pytest.mark.parametrize("paired", [True, False])
def test_difference_and_interval_are_those_of_scipys_t_tests(paired):
    x = np.random.default_rng(0).normal(size=(80, 4))
    x[:40] *= 3.0
    result = contrast(x, halves(40, paired=paired), significance=FEW)
    a, b = x[:40], x[40:]
    expected = stats.ttest_rel(a, b) if paired else stats.ttest_ind(a, b, equal_var=False)
    interval = expected.confidence_interval(0.95)
    np.testing.assert_allclose(result.low, interval.low)
    np.testing.assert_allclose(result.high, interval.high)
    np.testing.assert_allclose(result.difference / result.standard_error, expected.statistic)
    assert (result.n_a, result.n_b) == (40, 40)


@pytest.mark.parametrize("paired", [True, False])
def test_p_values_agree_with_t_tests_where_those_are_right(paired):
    """Normal noise, 200 stars: within four standard errors of 9,999 rearrangements, and 0.005 of theory."""
    x = np.random.default_rng(3).normal(size=(200, 12))
    x[:100] += np.linspace(0.0, 0.5, 12)
    p = contrast(x, halves(100, paired=paired)).p_value
    a, b = x[:100], x[100:]
    expected = (stats.ttest_rel(a, b) if paired else stats.ttest_ind(a, b, equal_var=False)).pvalue
    assert (np.abs(p - expected) < 4 * np.sqrt(expected * (1 - expected) / 9999) + 0.005).all()


@pytest.mark.parametrize(("dependence", "method"), [("positive", "bh"), ("any", "by")])
def test_findings_are_those_of_the_step_up_procedure(dependence, method):
    """Benjamini & Hochberg's rule as they state it: all up to the last p(k) <= k level / m."""
    x = np.random.default_rng(4).normal(size=(120, 15))
    x[:60, :5] += 0.8
    result = contrast(x, halves(60, paired=True), significance=Significance(dependence=dependence))
    m = 15
    penalty = (1 / np.arange(1, m + 1)).sum() if method == "by" else 1.0
    p = np.sort(result.p_value)
    below = np.flatnonzero(p <= np.arange(1, m + 1) * 0.05 / (m * penalty))
    last = p[below[-1]]
    np.testing.assert_array_equal(result.found, result.p_value <= last)
    np.testing.assert_allclose(result.q_value, stats.false_discovery_control(result.p_value, method=method))
    assert 3 <= result.n_found == result.found.sum()


@pytest.mark.parametrize("paired", [True, False])
def test_random_halves_give_no_more_than_five_percent_false_findings(paired):
    """Nothing is there to find, so the false-discovery rate is the share of repeats with any finding."""
    rng = np.random.default_rng(10 + paired)
    with_finding = n_small = 0
    for repeat in range(N_REPEATS):
        x = heavy_tailed(rng, 60)
        settings = Significance(n_permutations=199, seed=repeat)
        result = contrast(x, halves(30, paired=paired), significance=settings)
        with_finding += bool(result.found.any())
        n_small += int(result.p_value[0] <= 0.05)
    assert with_finding <= binomial_bound(N_REPEATS, 0.05)
    assert n_small <= binomial_bound(N_REPEATS, 0.05)  # of one quantity alone


def test_groups_of_unlike_size_and_variance_give_no_more_than_five_percent():
    """Where a plain difference of means, rearranged, would be wrong: the small group varies more."""
    rng = np.random.default_rng(12)
    groups = Groups(np.arange(40), np.arange(40, 240), paired=False)
    with_finding = 0
    for repeat in range(N_REPEATS):
        x = rng.normal(size=(240, 5))
        x[:40] *= 3.0
        settings = Significance(n_permutations=199, seed=repeat)
        with_finding += bool(contrast(x, groups, significance=settings).found.any())
    assert with_finding <= binomial_bound(N_REPEATS, 0.05)


def test_false_discovery_rate_is_held_where_some_differences_are_real():
    """Half of 20 correlated quantities differ; the mean share of false ones among the findings."""
    rng = np.random.default_rng(13)
    real = np.arange(20) < 10
    shares, n_recovered = [], 0
    for repeat in range(N_REPEATS):
        x = heavy_tailed(rng, 120)
        x[:60, real] += 6.0
        settings = Significance(n_permutations=199, seed=repeat)
        found = contrast(x, halves(60, paired=True), significance=settings).found
        shares.append((found & ~real).sum() / max(found.sum(), 1))
        n_recovered += int((found & real).sum())
    error = np.std(shares) / np.sqrt(N_REPEATS)
    assert np.mean(shares) <= 0.05 + 3 * error
    assert n_recovered > 0.5 * 10 * N_REPEATS


@pytest.mark.parametrize("paired", [True, False])
def test_intervals_hold_an_injected_difference_as_often_as_they_say(paired):
    """Coverage of 95 % intervals, 200 repeats of five independent quantities, noise of Student's t4."""
    rng = np.random.default_rng(14)
    truth = np.linspace(-1.0, 1.0, 5)
    inside = 0
    for _ in range(N_REPEATS):
        x = rng.standard_t(4, (100, 5))
        x[:50] += truth
        result = contrast(x, halves(50, paired=paired), significance=FEW)
        inside += int(((result.low <= truth) & (truth <= result.high)).sum())
    n = 5 * N_REPEATS
    assert abs(inside / n - 0.95) < 4 * np.sqrt(0.95 * 0.05 / n)


@pytest.mark.parametrize("paired", [True, False])
def test_a_values_own_variance_widens_the_interval_and_blurs_the_p_value(paired):
    """Values that hardly vary and are 0.01 apart: certain by themselves, nothing where each is known to 1."""
    x = 1e-3 * np.random.default_rng(6).normal(size=(40, 3))
    x[:20] += 0.01
    groups = halves(20, paired=paired)
    plain, wide = (contrast(x, groups, own_variances=v, significance=FEW) for v in (None, np.ones_like(x)))
    np.testing.assert_allclose(wide.standard_error**2, plain.standard_error**2 + 2 * 1.0 / 20)
    assert plain.found.all()
    assert not wide.found.any()
    assert ((wide.low < 0) & (wide.high > 0)).all()


def test_exchanging_the_groups_turns_the_sign_and_a_lone_quantity_can_be_found():
    x = np.random.default_rng(7).normal(size=(100, 60))
    x[:50, 7] += 3.0
    settings = Significance(n_permutations=1, dependence="any")
    there = contrast(x, Groups(np.arange(50), np.arange(50, 100), paired=True), significance=settings)
    back = contrast(x, Groups(np.arange(50, 100), np.arange(50), paired=True), significance=settings)
    assert np.flatnonzero(there.found).tolist() == [7]
    np.testing.assert_array_equal(there.difference, -back.difference)
    np.testing.assert_array_equal(there.p_value, back.p_value)


def test_quantities_that_do_not_vary_are_no_findings():
    x = np.zeros((40, 2))
    for paired in (True, False):
        np.testing.assert_array_equal(
            contrast(x, halves(20, paired=paired), significance=FEW).p_value, [1.0, 1.0]
        )


def test_a_star_without_values_is_an_error_of_one_line():
    x = np.random.default_rng(8).normal(size=(40, 2))
    x[3, 1] = np.nan
    with pytest.raises(DataError, match="1 star of the two groups") as error:
        contrast(x, halves(20, paired=True))
    assert "\n" not in str(error.value)


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValidationError):
        Significance(level=1.5)
