"""Cells against regions of known volume, and against counting by NumPy's histogram."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scattervae.science.latent_volume.cells import count_cells, count_cells_of_both, occupied_volume

RNG = np.random.default_rng(0)
SIXTEENTHS = st.lists(st.tuples(*[st.integers(-200, 200)] * 3), min_size=1, max_size=60).map(
    lambda rows: np.array(rows, dtype=np.float64) / 16
)


def test_a_box_that_fits_the_grid_has_its_volume():
    z = RNG.uniform([-1.0, 0.0, 2.0], [1.0, 0.5, 3.0], (20_000, 3))
    assert occupied_volume(z, 0.25) == pytest.approx(2.0 * 0.5 * 1.0)


def test_an_ellipse_comes_nearer_as_cells_shrink_and_stays_too_large():
    """Edge cells count whole: the excess is of the order of half the edge's length times the cell."""
    angle, radius = RNG.uniform(0, 2 * np.pi, 400_000), np.sqrt(RNG.uniform(size=400_000))
    z = np.stack([2.0 * radius * np.cos(angle), 0.7 * radius * np.sin(angle)], axis=1)
    excess = [occupied_volume(z, cell) - np.pi * 2.0 * 0.7 for cell in (0.4, 0.2, 0.1, 0.05)]
    assert all(later < earlier for earlier, later in pairwise(excess))
    assert 0 < excess[-1] < 0.05 * 9.0  # edge of the ellipse: 9.0


def test_counts_are_those_of_a_histogram():
    z = RNG.normal(size=(500, 2))
    expected = np.histogram2d(*z.T, bins=[np.arange(-6, 6.1, 0.5)] * 2)[0]
    assert sorted(count_cells(z, 0.5)) == sorted(expected[expected > 0])
    assert occupied_volume(z, 0.5, threshold=3) == (expected >= 3).sum() * 0.25


def test_two_sets_share_one_grid():
    a, b = RNG.normal(size=(300, 3)), RNG.normal(size=(200, 3)) + 0.5
    counts = count_cells_of_both(a, b, 0.5)
    assert sorted(counts.labelled[counts.labelled > 0]) == sorted(count_cells(a, 0.5))
    assert sorted(counts.unlabelled[counts.unlabelled > 0]) == sorted(count_cells(b, 0.5))
    together = count_cells(np.concatenate([a, b]), 0.5)
    assert sorted(counts.labelled + counts.unlabelled) == sorted(together)
    assert counts.volume == 0.125


def test_cells_too_many_for_an_integer_are_still_told_apart():
    """Six dimensions of a million cells each would need 120 bits; neighbours differ in one dimension only."""
    z = np.concatenate([np.zeros((1, 6)), np.eye(6), -np.eye(6), np.full((1, 6), 1e6), np.zeros((1, 6))])
    assert sorted(count_cells(z, 1.0)) == [1] * 13 + [2]


@settings(deadline=None, max_examples=50)
@given(z=SIXTEENTHS, order=st.randoms(), shift=st.tuples(*[st.integers(-50, 50)] * 3))
def test_neither_the_order_of_the_stars_nor_a_shift_by_whole_cells_changes_a_count(z, order, shift):
    rows = list(range(len(z)))
    order.shuffle(rows)
    moved = z[rows] + 0.25 * np.array(shift, dtype=np.float64)
    assert sorted(count_cells(moved, 0.25)) == sorted(count_cells(z, 0.25))


def test_no_star_no_cell_and_what_cannot_be_counted_is_refused():
    assert len(count_cells(np.empty((0, 2)), 0.25)) == 0
    with pytest.raises(ValueError, match="finite"):
        count_cells(np.array([[np.nan, 0.0]]), 0.25)
    with pytest.raises(ValueError, match="above 0"):
        count_cells(np.zeros((1, 2)), 0.0)
