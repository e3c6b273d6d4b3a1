"""Two populations of known volume, and the same population twice."""

from dataclasses import replace

import numpy as np
import pytest

from scattervae.science.latent_volume.overlap import extrapolate, linear_extrapolation, overlap_at
from scattervae.science.latent_volume.richness import JointCounts, count_cells_of_both


def uniform(rng, n, sides):
    return rng.uniform(0.0, sides, (n, len(sides)))


def test_the_paper_s_line_is_the_paper_s_number():
    assert linear_extrapolation(0.30, 220_000_000, 1_000_000) == pytest.approx(66)  # "approximately 65"


def test_a_line_promises_volume_that_is_not_there_and_unseen_cells_do_not():
    """Unlabelled stars reach 2 times the labelled volume, which 200 of them have nearly filled."""
    rng = np.random.default_rng(2)
    counts = count_cells_of_both(uniform(rng, 1000, [2, 2]), uniform(rng, 400, [2, 4]), 0.25)
    result = extrapolate(counts, 220_000_000)
    assert result.linear > 100_000
    assert result.corrected.value == pytest.approx(1.0, abs=0.05)
    assert not result.reliable
    near = extrapolate(counts, 800)
    assert near.reliable
    assert near.times_the_sample == 2.0
    later = count_cells_of_both(uniform(rng, 1000, [2, 2]), uniform(rng, 800, [2, 4]), 0.25)
    assert near.corrected.value == pytest.approx(extrapolate(later, 800).corrected.value, abs=0.05)


def boxes(rng, n_small, n_large, *, ratio=1.5):
    """A square of 10 by 10 cells and a rectangle `ratio` times as long that contains it."""
    small = rng.uniform(0.0, [2.5, 2.5], (n_small, 2))
    large = rng.uniform(0.0, [2.5 * ratio, 2.5], (n_large, 2))
    return count_cells_of_both(small, large, 0.25)


def test_volumes_of_boxes_are_exact_when_every_cell_is_full():
    counts = boxes(np.random.default_rng(0), 3000, 5000, ratio=1.6)
    result = overlap_at(counts, 3000, 3000)
    assert (result.v_sup, result.v_unsup) == pytest.approx((6.25, 10.0))
    assert [result.new.value, result.difference.value] == pytest.approx([0.6, 0.6])
    assert result.new_by_size_alone == pytest.approx(0.0, abs=1e-9)
    assert result.share_new.value == pytest.approx(0.375, abs=0.03)


def test_the_plain_difference_and_the_new_volume_part_where_sets_part():
    counts = JointCounts(np.array([5, 5, 5, 0]), np.array([0, 0, 4, 4]), volume=0.5)
    result = overlap_at(counts, 15, 8)
    assert result.new.value == pytest.approx(1 / 3)
    assert result.difference.value == pytest.approx(-1 / 3)
    assert (result.v_sup, result.v_unsup) == (1.5, 1.0)
    assert result.share_new.value == pytest.approx(0.5)


def test_subsamples_have_the_expected_volumes():
    rng = np.random.default_rng(1)
    counts = boxes(rng, 300, 200)
    told = overlap_at(counts, 100, 60, threshold=2)
    drawn = []
    for _ in range(400):
        x, y = (
            rng.multivariate_hypergeometric(c, n)
            for c, n in ((counts.labelled, 100), (counts.unlabelled, 60))
        )
        drawn.append([(x >= 2).sum(), (y >= 2).sum()])
    mean, error = np.mean(drawn, axis=0), np.std(drawn, axis=0) / 20
    assert np.all(np.abs(np.array([told.v_sup, told.v_unsup]) / 0.0625 - mean) < 4 * error)


def test_more_stars_of_the_same_population_look_like_new_volume_only_where_sizes_are_not_told():
    rng = np.random.default_rng(2)
    counts = count_cells_of_both(rng.normal(size=(500, 2)), rng.normal(size=(5000, 2)), 0.25)
    as_given, equal = overlap_at(counts, 500, 5000), overlap_at(counts, 500, 500)
    assert as_given.difference.low > 0.5
    assert equal.difference.low < 0 < equal.difference.high
    assert equal.new.low < equal.new_by_size_alone < equal.new.high
    assert as_given.new_by_size_alone is None  # eleven times the labelled stars: not to be foretold
    assert as_given.share_new.value == pytest.approx(as_given.share_new_by_size_alone.value, abs=0.03)


def test_intervals_hold_the_truth_at_least_as_often_as_they_say():
    """The truth is the mean over all repeats; half of 600 stars are counted, where the jackknife is fair."""
    rng = np.random.default_rng(3)
    results = [overlap_at(boxes(rng, 600, 600), 300, 300) for _ in range(150)]
    for name in ("new", "difference", "share_new", "share_new_by_size_alone"):
        estimates = [getattr(result, name) for result in results]
        truth = np.mean([e.value for e in estimates])
        spread = np.std([e.value for e in estimates])
        assert np.mean([e.low <= truth <= e.high for e in estimates]) >= 0.93, name
        assert spread < 1.1 * np.mean([e.sd for e in estimates]), name
        assert np.mean([e.sd for e in estimates]) < 1.8 * spread, name


def test_the_order_of_the_cells_has_no_meaning():
    counts = boxes(np.random.default_rng(6), 200, 100)
    order = np.random.default_rng(7).permutation(len(counts.labelled))
    shuffled = replace(counts, labelled=counts.labelled[order], unlabelled=counts.unlabelled[order])
    a, b = overlap_at(counts, 150, 100), overlap_at(shuffled, 150, 100)
    assert a.new == pytest.approx(b.new)
    assert a.share_new_by_size_alone == pytest.approx(b.share_new_by_size_alone)


def test_no_volume_to_compare_with_is_refused():
    with pytest.raises(ValueError, match="larger cells"):
        overlap_at(JointCounts(np.array([1, 1]), np.array([0, 3]), 1.0), 2, 3, threshold=2)
