import numpy as np
import pytest
from studies.label_scores import LabelScores, compare, coverage, interval_of, selections, spread

from scattervae.science.labels.prediction import LabelPrediction
from science.labels.label_toys import labels_like


def test_scores_of_a_gaussian_are_its_standard_deviation():
    rng = np.random.default_rng(0)
    off = rng.normal(0.5, 2.0, (40_000, 1))
    scores = LabelScores.of(off + 7.0, np.full(off.shape, 7.0))
    np.testing.assert_allclose(scores.bias, 0.5, atol=0.05)
    np.testing.assert_allclose(np.concatenate([scores.spread, scores.mad]), 2.0, rtol=0.03)
    np.testing.assert_allclose(scores.rmse, np.hypot(0.5, 2.0), rtol=0.03)
    np.testing.assert_allclose(scores.mae, np.abs(off).mean())


def test_stars_without_the_label_are_left_out():
    known = np.column_stack([np.arange(20.0), np.full(20, np.nan)])
    known[3, 0] = np.nan
    scores = LabelScores.of(np.zeros((20, 2)), known)
    assert scores.n_stars.tolist() == [19, 0]
    assert np.isnan(scores.rmse[1])
    np.testing.assert_allclose(scores.rmse[0], np.sqrt(np.nanmean(known[:, 0] ** 2)))


@pytest.mark.parametrize("measure", ["spread", "rmse"])
def test_an_error_twice_as_large_is_found_twice_as_large(measure):
    known = np.zeros(3000)
    off = np.random.default_rng(0).normal(size=3000)
    predicted = compare(2 * off, off, known, measure=measure)
    np.testing.assert_allclose(predicted, 2.0)


def test_the_interval_of_a_ratio_is_that_of_independent_samples():
    """ln(s1 / s2) of two Gaussian samples of n has a standard deviation of 1 / sqrt(n)."""
    rng = np.random.default_rng(0)
    predicted = compare(rng.normal(size=2000), rng.normal(size=2000), np.zeros(2000), measure="rmse")
    assert predicted.low < 1.0 < predicted.high
    np.testing.assert_allclose(
        np.log(predicted.high / predicted.low) / (2 * 1.96), 1 / np.sqrt(2000), rtol=0.15
    )


def test_intervals_hold_what_they_should():
    rng = np.random.default_rng(0)
    n, sd, error = 20_000, 3.0, 2.0
    middle = np.zeros((n, 2))
    predicted = LabelPrediction(
        ("teff", "logg"),
        middle,
        *(middle + times * sd for times in (-0.994, 0.994, -1.96, 1.96)),
        reliability=np.ones((n, 2)),
        width_rank=np.ones(n),
        chi2_rank=np.ones(n),
        blended=np.zeros(n, dtype=bool),
        correlations=np.empty((n, 0)),
    )
    known = labels_like(rng.normal(0, sd, (n, 2)) + rng.normal(0, error, (n, 2)), error)
    share = coverage(predicted, known)
    np.testing.assert_allclose(share.inside_68, 0.68, atol=0.012)
    np.testing.assert_allclose(share.inside_95, 0.95, atol=0.006)
    assert share.n_stars.tolist() == [n, n]


def test_giants_are_those_of_low_gravity():
    labels = labels_like(np.array([[4500.0, 2.0], [5800.0, 4.4], [4500.0, np.nan]]))
    chosen = selections(labels)
    assert chosen["giants"].tolist() == [True, False, False]
    assert chosen["all"].all()
    assert selections(labels, np.array([10.0, 99.0, 99.0]))["good giants"].tolist() == [False] * 3


def test_spread_ignores_an_outlier():
    off = np.r_[np.linspace(-1, 1, 999), 1e9]
    assert abs(spread(off) - 0.68) < 0.01


def test_the_interval_of_an_error_is_that_of_a_gaussian_sample():
    """The standard deviation of a Gaussian sample of n is known to sd / sqrt(2 n)."""
    off = np.random.default_rng(0).normal(scale=2.0, size=4000)
    found = interval_of(off + 5.0, np.full(4000, 5.0), measure="rmse")
    assert found.ratio == pytest.approx(np.sqrt(np.mean(off**2)))
    assert (found.high - found.low) / (2 * 1.96) == pytest.approx(2.0 / np.sqrt(8000), rel=0.1)
