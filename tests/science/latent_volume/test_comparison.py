"""Simulated latents whose volumes are known, two populations on one grid, and the same population twice."""

from dataclasses import replace

import numpy as np
import pytest

from scattervae.errors import DataError
from scattervae.science.latent_volume.comparison import (
    VolumeSettings,
    compare_volumes,
    extrapolate,
    overlap_at,
    stated_selections,
)
from scattervae.science.latent_volume.richness import JointCounts, count_cells
from toy import toy_sky


def uniform(rng, n, sides):
    return rng.uniform(0.0, sides, (n, len(sides)))


@pytest.fixture(scope="module")
def grown():
    """Unlabelled stars reach half again as far in the second latent; the third of four is not active."""
    rng = np.random.default_rng(0)
    labelled, unlabelled = uniform(rng, 3000, [2, 2, 9, 2]), uniform(rng, 6000, [2, 3, 9, 2])
    labelled[5, 0] = np.nan
    settings = VolumeSettings(full_cell=0.5, cells=(0.25, 0.5), n_sizes=4)
    return compare_volumes(labelled, unlabelled, (0, 1, 3), settings=settings)


def test_known_volumes_come_back_in_every_pair_and_in_the_full_space(grown):
    assert [p.latents for p in grown.pairs] == [(0, 1), (0, 3), (1, 3)]
    for projection, truth in zip((*grown.pairs, grown.full), (0.5, 0.0, 0.5, 0.5), strict=True):
        for result in (
            projection.as_given.new,
            projection.as_given.difference,
            projection.equal_n.difference,
        ):
            assert result.value == pytest.approx(truth, abs=0.01)
        assert projection.resolved
    assert (grown.n_labelled, grown.n_unlabelled) == (2999, 6000)


def test_curves_end_in_the_comparison_at_equal_numbers(grown):
    for projection in (*grown.pairs, grown.full):
        assert projection.over_n[-1] == projection.equal_n
        assert dict(projection.over_cell)[projection.cell] == projection.equal_n
        sizes = [overlap.n_labelled for overlap in projection.over_n]
        assert sizes == sorted(sizes)


def test_the_order_of_the_stars_changes_nothing():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(300, 2)), rng.normal(size=(250, 2))
    assert compare_volumes(a[::-1].copy(), b[::-1].copy(), (0, 1)) == compare_volumes(a, b, (0, 1))


def test_a_selection_of_labelled_stars_is_named():
    sky = toy_sky(400)
    z, active = sky.latents, (0, 1)
    selections = stated_selections(sky.labels)
    assert len(selections) == 1  # every toy star has [Fe/H]
    giants = selections[0]
    assert not (giants.labelled & giants.unlabelled).any()
    result = compare_volumes(z[giants.labelled], z[giants.unlabelled], active, selection=giants.name)
    assert result.selection == giants.name


def test_cells_that_hold_a_star_each_are_not_resolved():
    rng = np.random.default_rng(3)
    settings = VolumeSettings(full_cell=0.25)
    result = compare_volumes(
        rng.normal(size=(300, 6)), rng.normal(size=(300, 6)), tuple(range(6)), settings=settings
    )
    assert not result.full.resolved


def test_what_cannot_be_compared_is_an_error_of_one_line():
    z = np.zeros((5, 3))
    with pytest.raises(DataError, match="1 active latents"):
        compare_volumes(z, z, (0,))
    with pytest.raises(DataError, match="none of 5 unlabelled"):
        compare_volumes(z, np.full((5, 3), np.nan), (0, 1))


def test_dense_sets_in_a_box_differ_by_half_the_box():
    """20,000 stars in 64 cells: every cell is seen."""
    rng = np.random.default_rng(0)
    wide, half = rng.uniform(-1, 1, (20_000, 2)), rng.uniform(-1, 1, (5_000, 2)) * [1.0, 0.5]
    pair = compare_volumes(wide, half, [0, 1]).pairs[0]
    assert pair.equal_n.difference.value == pytest.approx(-0.5, abs=1e-6)


def test_a_line_promises_volume_that_is_not_there_and_unseen_cells_do_not():
    """Unlabelled stars reach 2 times the labelled volume, which 200 of them have nearly filled."""
    rng = np.random.default_rng(2)
    counts = count_cells(uniform(rng, 1000, [2, 2]), uniform(rng, 400, [2, 4]), 0.25)
    result = extrapolate(counts, 220_000_000)
    assert result.linear > 100_000
    assert result.corrected.value == pytest.approx(1.0, abs=0.05)
    assert not result.reliable
    near = extrapolate(counts, 800)
    assert near.reliable
    assert near.times_the_sample == 2.0
    later = count_cells(uniform(rng, 1000, [2, 2]), uniform(rng, 800, [2, 4]), 0.25)
    assert near.corrected.value == pytest.approx(extrapolate(later, 800).corrected.value, abs=0.05)


def boxes(rng, n_small, n_large, *, ratio=1.5):
    """A square of 10 by 10 cells and a rectangle `ratio` times as long that contains it."""
    small = rng.uniform(0.0, [2.5, 2.5], (n_small, 2))
    large = rng.uniform(0.0, [2.5 * ratio, 2.5], (n_large, 2))
    return count_cells(small, large, 0.25)


def test_volumes_of_boxes_are_exact_when_every_cell_is_full():
    counts = boxes(np.random.default_rng(0), 3000, 5000, ratio=1.6)
    result = overlap_at(counts, 3000, 3000)
    assert [result.new.value, result.difference.value] == pytest.approx([0.6, 0.6])
    assert result.new_by_size_alone == pytest.approx(0.0, abs=1e-9)
    assert result.share_new.value == pytest.approx(0.375, abs=0.03)


def test_the_plain_difference_and_the_new_volume_part_where_sets_part():
    counts = JointCounts(np.array([5, 5, 5, 0]), np.array([0, 0, 4, 4]))
    result = overlap_at(counts, 15, 8)
    assert result.new.value == pytest.approx(1 / 3)
    assert result.difference.value == pytest.approx(-1 / 3)
    assert result.share_new.value == pytest.approx(0.5)


def test_subsamples_have_the_expected_volumes():
    rng = np.random.default_rng(1)
    counts = boxes(rng, 300, 200)
    expected = overlap_at(counts, 100, 60)
    drawn = []
    for _ in range(400):
        x, y = (
            rng.multivariate_hypergeometric(c, n)
            for c, n in ((counts.labelled, 100), (counts.unlabelled, 60))
        )
        drawn.append([(x > 0).sum(), (y > 0).sum(), ((y > 0) & (x == 0)).sum()])
    sup, unsup, new = np.mean(drawn, axis=0)
    assert expected.difference.value == pytest.approx(unsup / sup - 1.0, abs=0.01)
    assert expected.new.value == pytest.approx(new / sup, abs=0.01)


def test_more_stars_of_the_same_population_look_like_new_volume_only_at_unequal_sizes():
    rng = np.random.default_rng(2)
    counts = count_cells(rng.normal(size=(500, 2)), rng.normal(size=(5000, 2)), 0.25)
    as_given, equal = overlap_at(counts, 500, 5000), overlap_at(counts, 500, 500)
    assert as_given.difference.low > 0.5
    assert equal.difference.low < 0 < equal.difference.high
    assert equal.new.low < equal.new_by_size_alone < equal.new.high
    assert as_given.new_by_size_alone is None  # eleven times the labelled stars: not to be predicted


def test_intervals_hold_the_truth_at_least_as_often_as_they_say():
    """The truth is the mean over all repeats; half of 600 stars are counted, where the jackknife is fair."""
    rng = np.random.default_rng(3)
    results = [overlap_at(boxes(rng, 600, 600), 300, 300) for _ in range(150)]
    for name in ("new", "difference", "share_new"):
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
    assert a.share_new == pytest.approx(b.share_new)
