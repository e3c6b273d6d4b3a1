import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from scattervae.science.labels.conformal import (
    ERROR_TIMES,
    LEVELS,
    Cells,
    Conformal,
    correlations_of,
    scores_of,
)


def stars(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Places, and scores whose width depends on the first of them."""
    rng = np.random.default_rng(seed)
    places = rng.normal(size=(n, 3))
    scores = np.abs(rng.normal(size=(n, 2))) * np.where(places[:, :1] > 0, 3.0, 1.0)
    return places, both_levels(scores)


def both_levels(scores: np.ndarray) -> np.ndarray:
    """The same scores for either level, as where labels have no errors."""
    return np.stack([scores, scores], axis=-1)


@given(st.integers(1, 5000), st.integers(0, 100))
def test_every_star_has_a_cell_and_every_cell_stars_enough(n, seed):
    places = np.random.default_rng(seed).normal(size=(n, 3))
    cells = Cells.fit(places, fewest=100)
    counts = np.bincount(cells.of(places), minlength=cells.n_cells)
    assert len(counts) == cells.n_cells
    assert counts.sum() == n
    assert cells.n_cells == 1 or counts.min() >= 100 - cells.depth  # halves of odd numbers
    assert counts.max() - counts.min() <= cells.depth + 1


def test_a_place_that_is_no_number_has_a_cell():
    cells = Cells.fit(stars(1000)[0])
    assert (cells.of(np.full((2, 3), np.nan)) == 0).all()


def test_intervals_hold_new_truths_in_every_cell():
    conformal = Conformal.fit(*stars(4000))
    places, scores = stars(20_000, seed=1)
    inside = scores <= conformal.half_widths(places)
    for wide in (places[:, 0] > 0, places[:, 0] <= 0):
        np.testing.assert_allclose(inside[wide].mean(axis=(0, 1)), LEVELS, atol=0.02)


def test_over_many_calibrations_the_promise_is_kept_exactly():
    """The mean coverage of ceil((n + 1) p) of n is that over n + 1, whatever the distribution."""
    n, held = 30, []
    for seed in range(3000):
        scores = np.random.default_rng(seed).lognormal(size=(n + 1, 1))
        conformal = Conformal.fit(np.zeros((n, 1)), both_levels(scores[:n]))
        held.append(scores[n, 0] <= conformal.half_widths(np.zeros((1, 1)))[0, 0, 0])
    expected = np.ceil((n + 1) * LEVELS[0]) / (n + 1)
    assert abs(np.mean(held) - expected) < 4 * np.sqrt(expected * (1 - expected) / 3000)


def test_too_few_stars_promise_nothing():
    factors = Conformal.fit(np.zeros((5, 1)), np.ones((5, 1, 2))).factors
    np.testing.assert_array_equal(factors, [[[1.0, np.inf]]])  # 95 % needs nineteen stars


def test_a_label_that_no_star_of_a_cell_has_promises_nothing():
    scores = np.column_stack([np.arange(100.0), np.full(100, np.nan)])
    factors = Conformal.fit(np.zeros((100, 1)), both_levels(scores)).factors
    assert factors[0, 0].tolist() == [68.0, 95.0]  # the 69th and the 96th from 0
    assert np.isinf(factors[0, 1]).all()


def test_intervals_are_right_however_wrong_the_stated_width_is_and_whatever_labels_err():
    """A network that is five times too sure, and labels whose errors are twice the width that it states."""
    rng = np.random.default_rng(0)
    n, sd, errors = 20_000, np.full((20_000, 1), 0.2), np.full((20_000, 1), 0.4)
    off = rng.normal(size=(n, 1)) + errors * rng.normal(size=(n, 1))
    half = (
        Conformal.fit(np.zeros((n, 1)), scores_of(off, sd, errors)).half_widths(np.zeros((1, 1)))[0, 0] * 0.2
    )
    np.testing.assert_allclose(half, [0.994, 1.96], rtol=0.03)  # of the true label, whose width is 1
    measured = np.hypot(half, np.array(ERROR_TIMES) * 0.4)
    np.testing.assert_allclose((np.abs(off) <= measured).mean(axis=0), LEVELS, atol=1e-3)


def test_correlations_are_those_of_the_errors_in_each_cell():
    rng = np.random.default_rng(4)
    n = 4000
    here = np.repeat([-1.0, 1.0], n // 2)
    first, second = rng.normal(size=(2, n))
    off = np.column_stack([first, 0.6 * here * first + 0.8 * second])
    conformal = Conformal.fit(here[:, None], np.abs(np.stack([off, off], axis=-1)), off)
    cells = conformal.cells.of(np.array([[-1.0], [1.0]]))
    np.testing.assert_allclose(conformal.correlations[cells, 0], [-0.6, 0.6], atol=0.04)
    off[::2, 0] = np.nan
    off[1, :] = 1e6  # an outlier makes no correlation
    again = correlations_of(off[n // 2 :])
    np.testing.assert_allclose(again, [0.6], atol=0.06)
    assert np.isnan(correlations_of(off[:20])).all()
    assert Conformal.fit(here[:, None], np.ones((n, 2, 2))).correlations.size == 0
