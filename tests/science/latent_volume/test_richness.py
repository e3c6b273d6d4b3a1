"""Unseen cells against iNEXT's printed output, exact sums, and populations whose number of cells is known."""

import math
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import hypergeom

from scattervae.science.latent_volume.richness import (
    count_cells,
    occupied_chance,
    richness_at,
    seen_share,
)

RNG = np.random.default_rng(0)
SIXTEENTHS = st.lists(st.tuples(*[st.integers(-200, 200)] * 3), min_size=1, max_size=60).map(
    lambda rows: np.array(rows, dtype=np.float64) / 16
)


def counts_of(z: np.ndarray, cell: float) -> list[int]:
    """Stars in each cell that holds any, in no order."""
    return sorted(count_cells(z, z[:0], cell).labelled)


def test_counts_are_those_of_a_histogram():
    z = RNG.normal(size=(500, 2))
    expected = np.histogram2d(*z.T, bins=[np.arange(-6, 6.1, 0.5)] * 2)[0]
    assert counts_of(z, 0.5) == sorted(expected[expected > 0])


def test_two_sets_share_one_grid():
    a, b = RNG.normal(size=(300, 3)), RNG.normal(size=(200, 3)) + 0.5
    counts = count_cells(a, b, 0.5)
    assert sorted(counts.labelled[counts.labelled > 0]) == counts_of(a, 0.5)
    assert sorted(counts.unlabelled[counts.unlabelled > 0]) == counts_of(b, 0.5)
    assert sorted(counts.labelled + counts.unlabelled) == counts_of(np.concatenate([a, b]), 0.5)


def test_cells_too_many_for_an_integer_are_still_distinct():
    """Six dimensions of a million cells each would need 120 bits; neighbours differ in one dimension only."""
    z = np.concatenate([np.zeros((1, 6)), np.eye(6), -np.eye(6), np.full((1, 6), 1e6), np.zeros((1, 6))])
    assert counts_of(z, 1.0) == [1] * 13 + [2]


@settings(deadline=None, max_examples=50)
@given(z=SIXTEENTHS, order=st.randoms(), shift=st.tuples(*[st.integers(-50, 50)] * 3))
def test_neither_the_order_of_the_stars_nor_a_shift_by_whole_cells_changes_a_count(z, order, shift):
    rows = list(range(len(z)))
    order.shuffle(rows)
    moved = z[rows] + 0.25 * np.array(shift, dtype=np.float64)
    assert counts_of(moved, 0.25) == counts_of(z, 0.25)


def test_no_star_no_cell_and_what_cannot_be_counted_is_refused():
    assert counts_of(np.empty((0, 2)), 0.25) == []
    with pytest.raises(ValueError, match="finite"):
        counts_of(np.array([[np.nan, 0.0]]), 0.25)
    with pytest.raises(ValueError, match="above 0"):
        counts_of(np.zeros((1, 2)), 0.0)


# Spiders of the girdled hemlocks (Ellison et al. 2010), and what iNEXT's vignette prints for them.
SPIDERS = np.array([46, 22, 17, 15, 15, 9, 8, 6, 6, 4, 2, 2, 2, 2, *[1] * 12])
COUNTS = st.lists(st.integers(1, 30), min_size=1, max_size=40).map(lambda c: np.array(c, dtype=np.int64))


@pytest.mark.parametrize(
    ("n", "printed"), [(1, 1.000), (84, 18.912), (168, 26.0), (248, 30.883), (336, 34.731)]
)
def test_rarefaction_and_extrapolation_are_those_of_inext(n, printed):
    assert richness_at(SPIDERS, n).value == pytest.approx(printed, abs=6e-4)


def test_the_asymptote_its_error_and_interval_are_those_of_inext():
    assert richness_at(SPIDERS, math.inf) == pytest.approx((43.893, 14.306, 30.511, 96.971), abs=6e-4)
    assert seen_share(SPIDERS) == pytest.approx(0.9289, abs=6e-5)


def test_rarefaction_is_the_mean_over_all_subsamples():
    counts = np.array([4, 2, 1, 1])
    stars = np.repeat(np.arange(4), counts)
    for n in (3, 4, 5):
        seen = [len(set(stars[list(draw)])) for draw in combinations(range(8), n)]
        assert richness_at(counts, n).value == pytest.approx(np.mean(seen))


def test_chances_are_scipys_also_for_many_stars():
    counts = np.array([0, 1, 2, 50, 40_000])
    expected = hypergeom.sf(0, 90_000, counts, 1000)
    np.testing.assert_allclose(occupied_chance(counts, 90_000, 1000), expected, rtol=1e-8, atol=1e-10)


@settings(deadline=None, max_examples=60)
@given(counts=COUNTS, order=st.randoms())
def test_laws(counts, order):
    """All stars give the observed count, more stars never fewer cells, and cells have no order."""
    n = int(counts.sum())
    sizes = [1, (n + 1) // 2, n, 2 * n, 10 * n]
    curve = [richness_at(counts, m).value for m in sizes]
    assert curve[2] == pytest.approx(len(counts))
    assert curve[0] == pytest.approx(1.0)
    assert all(later >= earlier - 1e-9 for earlier, later in pairwise(curve))
    assert richness_at(counts, math.inf).value >= curve[-1] - 1e-9
    shuffled = list(counts)
    order.shuffle(shuffled)
    assert richness_at(np.array(shuffled), 2 * n).value == pytest.approx(curve[-2])


@pytest.mark.parametrize("stars_a_cell", [0.5, 1.0, 3.0])
def test_the_corrected_number_is_nearer_the_truth_and_its_interval_about_nominal(stars_a_cell):
    """400 cells, equally likely: 300 repeats put 95 % within 92.5 to 97.5 % at two standard errors."""
    rng, n_cells, n = np.random.default_rng(1), 400, int(400 * stars_a_cell)
    repeats = [np.bincount(rng.integers(0, n_cells, n), minlength=n_cells) for _ in range(300)]
    estimates = [richness_at(counts, math.inf) for counts in repeats]
    raw = np.mean([(counts > 0).sum() for counts in repeats])
    assert abs(np.mean([e.value for e in estimates]) - n_cells) < 0.25 * abs(raw - n_cells)
    assert 0.91 <= np.mean([e.low <= n_cells <= e.high for e in estimates]) <= 0.985
    doubled = n_cells * (1 - (1 - 1 / n_cells) ** (2 * n))
    within = [e.low <= doubled <= e.high for e in (richness_at(c, 2 * n) for c in repeats)]
    assert 0.91 <= np.mean(within) <= 0.99


def test_a_long_tail_makes_the_asymptote_a_lower_bound_nearer_than_the_count():
    rng = np.random.default_rng(2)
    chances = 1.0 / np.arange(1, 2001)
    counts = rng.multinomial(2000, chances / chances.sum())
    assert (counts > 0).sum() < richness_at(counts, math.inf).value < 2000


def test_a_larger_sample_is_forefound_at_twice_the_size():
    rng = np.random.default_rng(3)
    p = rng.dirichlet(np.full(1000, 0.5))
    small, large = rng.multinomial(1000, p), rng.multinomial(2000, p)
    forefound = richness_at(small, 2000)
    assert forefound.low < (large > 0).sum() < forefound.high


def test_seen_share_is_the_truth():
    rng = np.random.default_rng(4)
    p = rng.dirichlet(np.full(800, 0.7))
    drawn = [rng.multinomial(1500, p) for _ in range(100)]
    truth = [p[counts > 0].sum() for counts in drawn]
    assert np.mean([seen_share(counts) for counts in drawn]) == pytest.approx(np.mean(truth), abs=0.003)


@pytest.mark.parametrize("counts", [[1], [1, 1, 1], [5, 9], [1, 7]])
def test_small_samples_give_finite_answers(counts):
    counts = np.array(counts)
    assert math.isfinite(seen_share(counts))
    for estimate in (richness_at(counts, math.inf), richness_at(counts, 3 * int(counts.sum()))):
        assert all(math.isfinite(part) for part in estimate)


def test_nothing_seen_is_nothing_and_what_is_undefined_is_refused():
    assert richness_at(np.array([], dtype=np.int64), math.inf).value == 0.0
    with pytest.raises(ValueError, match="cannot draw"):
        occupied_chance(SPIDERS, 168, 169)
