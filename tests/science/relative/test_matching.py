"""Matching against a brute-force search, closed forms, and the laws of a one-to-one match."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from scattervae.errors import DataError
from scattervae.gaia.basis import g_flux_of
from scattervae.science.relative.matching import Covariates, closest_pairs, covariates_of, groups_of, match
from toy import spoiled, toy_sky


def two_groups(n=600, shift=0.5, seed=0):
    """Covariates on unlike scales, correlated, of a small group and a large one that is shifted."""
    rng = np.random.default_rng(seed)
    in_a = np.arange(n) < n // 4
    raw = rng.normal(size=(n, 3)) + shift * in_a[:, None]
    values = raw @ np.array([[300.0, 0.5, 0.0], [0.0, 0.3, 0.1], [0.0, 0.0, 0.2]]) + [4500.0, 2.0, -0.3]
    return Covariates(rng.permutation(10 * n)[:n], ("teff", "logg", "fe_h"), values), in_a


def test_pairs_are_those_of_a_search_through_all_distances():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(70, 2)), rng.normal(size=(50, 2))
    distance = cdist(a, b)
    expected = set()
    while distance.min() <= 0.3:
        i, j = np.unravel_index(distance.argmin(), distance.shape)
        expected.add((int(i), int(j)))
        distance[i], distance[:, j] = np.inf, np.inf
    assert {tuple(pair) for pair in closest_pairs(a, b, 0.3).tolist()} == expected


def test_equal_distances_end_and_pair_all():
    grid = np.repeat(np.arange(4.0), 5)[:, None]
    pairs = closest_pairs(grid, grid.copy(), 0.1)
    assert len(set(pairs[:, 0].tolist())) == len(set(pairs[:, 1].tolist())) == 20
    np.testing.assert_array_equal(grid[pairs[:, 0]], grid[pairs[:, 1]])


def test_matching_balances_and_is_one_to_one():
    covariates, in_a = two_groups()
    matched = match(covariates, in_a, ~in_a)
    rows_a, rows_b = matched.groups.rows_a, matched.groups.rows_b
    assert matched.groups.paired
    assert len(set(rows_a.tolist())) == len(set(rows_b.tolist())) == matched.n_pairs
    assert in_a[rows_a].all()
    assert not in_a[rows_b].any()
    assert np.abs(matched.balance.before).max() > 0.3
    assert np.abs(matched.balance.after).max() < 0.1
    assert matched.n_pairs + matched.n_unmatched_a == in_a.sum()
    assert matched.n_pairs + matched.n_unmatched_b == (~in_a).sum()
    assert matched.n_unmatched_a > 0
    gaps = np.abs(covariates.values[rows_a] - covariates.values[rows_b])
    np.testing.assert_allclose(matched.balance.median_gap, np.median(gaps, axis=0))


def test_no_pair_lies_further_apart_than_the_caliper():
    """Mahalanobis distance computed by SciPy, with the covariance within the groups."""
    covariates, in_a = two_groups()
    matched = match(covariates, in_a, ~in_a, caliper=0.2)
    x_a, x_b = covariates.values[in_a], covariates.values[~in_a]
    within = np.concatenate([x_a - x_a.mean(0), x_b - x_b.mean(0)])
    inverse = np.linalg.inv(within.T @ within / len(within))
    distance = cdist(covariates.values, covariates.values, "mahalanobis", VI=inverse)
    of_pairs = distance[matched.groups.rows_a, matched.groups.rows_b]
    assert 0.19 < of_pairs.max() <= 0.2
    free_a = np.setdiff1d(np.flatnonzero(in_a), matched.groups.rows_a)
    free_b = np.setdiff1d(np.flatnonzero(~in_a), matched.groups.rows_b)
    assert distance[np.ix_(free_a, free_b)].min() > 0.2  # none was left that had a partner


def test_balance_is_the_standardised_mean_difference():
    covariates, in_a = two_groups()
    before = match(covariates, in_a, ~in_a).balance.before
    a, b = covariates.values[in_a], covariates.values[~in_a]
    expected = (a.mean(0) - b.mean(0)) / np.sqrt((np.var(a, axis=0, ddof=1) + np.var(b, axis=0, ddof=1)) / 2)
    np.testing.assert_allclose(before, expected)


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_the_order_of_the_stars_and_their_units_change_nothing(seed):
    covariates, in_a = two_groups(400)
    order = np.random.default_rng(seed).permutation(400)
    shuffled = Covariates(
        covariates.source_id[order], covariates.names, covariates.values[order] * [1e-3, 10.0, 1.0]
    )
    one, other = match(covariates, in_a, ~in_a), match(shuffled, in_a[order], ~in_a[order])
    for rows, rows_shuffled in (
        (one.groups.rows_a, other.groups.rows_a),
        (one.groups.rows_b, other.groups.rows_b),
    ):
        np.testing.assert_array_equal(covariates.source_id[rows], shuffled.source_id[rows_shuffled])


def test_covariates_are_labels_magnitude_and_colour_and_nan_for_stars_that_cannot_be_used():
    sky = toy_sky(50)
    spectra = spoiled(sky.spectra)
    found = covariates_of(spectra, sky.labels, ["logg", "g_mag", "bp1_rp1"])
    good = spectra.usable
    assert np.isnan(found.values[~good]).all()
    np.testing.assert_allclose(g_flux_of(found.values[good, 1]), spectra.g_flux[good])
    ratio = spectra.coeffs[good, 0] / spectra.coeffs[good, 6]
    np.testing.assert_allclose(10 ** (-0.4 * found.values[good, 2][ratio > 0]), ratio[ratio > 0])
    assert np.isnan(found.values[good, 2][ratio <= 0]).all()
    aligned = sky.labels.aligned_to(spectra.source_id)
    np.testing.assert_array_equal(found.values[good, 0], aligned["logg"][good])


def test_stars_without_a_covariate_are_counted_and_left_out():
    covariates, in_a = two_groups()
    values = covariates.values.copy()
    values[[0, 1, 590], 2] = np.nan
    matched = match(Covariates(covariates.source_id, covariates.names, values), in_a, ~in_a)
    assert matched.n_incomplete == 3
    assert matched.n_pairs + matched.n_unmatched_a == in_a.sum() - 2
    assert not {0, 1} & set(matched.groups.rows_a.tolist())


def test_groups_as_they_are_hold_the_usable_stars_in_order_of_source_id():
    spectra = spoiled(toy_sky(60).spectra)
    in_a = np.arange(60) % 2 == 0
    groups = groups_of(spectra, in_a, ~in_a)
    assert not groups.paired
    assert set(groups.rows_a.tolist()) == set(np.flatnonzero(in_a & spectra.usable).tolist())
    for rows in (groups.rows_a, groups.rows_b):
        assert (np.diff(spectra.source_id[rows]) > 0).all()


def broken(kind):
    covariates, in_a = two_groups(100)
    values, in_b = covariates.values.copy(), ~in_a
    if kind == "both":
        in_b = in_b | (np.arange(100) == 3)
    if kind == "tiny":
        in_a = np.arange(100) < 4
    if kind == "empty":
        in_a = np.zeros(100, dtype=bool)
    if kind == "constant":
        values[:, 1] = 2.0
    if kind == "follows":
        values[:, 1] = 3 * values[:, 0]
    if kind == "far":
        values[in_a] += [1e4, 0.0, 0.0]
    return Covariates(covariates.source_id, covariates.names, values), in_a, in_b


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("both", "1 star in both groups"),
        ("tiny", "4 and 75 usable stars"),
        ("empty", "0 and 100 usable|0 and 75 usable"),
        ("constant", "logg is the same in all stars"),
        ("follows", "follows from the others"),
        ("far", "0 pairs within a caliper of 0.25"),
    ],
)
def test_groups_that_cannot_be_matched_are_an_error_of_one_line(kind, message):
    with pytest.raises(DataError, match=message) as error:
        match(*broken(kind))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("names", [["teff", "age"], []])
def test_a_covariate_that_does_not_exist_is_an_error_of_one_line(names):
    sky = toy_sky(20)
    with pytest.raises(DataError, match=r"no covariate .*choose of teff"):
        covariates_of(sky.spectra, sky.labels, names)
