import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from scattervae.science.labels.prediction import (
    ERROR_TIMES,
    LEVELS,
    Cells,
    Conformal,
    LabelFlag,
    LabelPrediction,
    correlations_of,
    scores_of,
)


def prediction_of(n: int = 4) -> LabelPrediction:
    values = np.column_stack([np.arange(n, dtype=float), np.full(n, 2.0)])
    reliability = np.full((n, 2), 0.5)
    reliability[0, 0] = 0.001
    reliability[4:] = 1e-3
    width_rank = np.full(n, 0.5)
    width_rank[1] = 0.001
    values[2] = np.nan
    chi2_rank = np.array([np.nan, 0.5, 0.5, 0.5, 1e-4])[:n]
    ends = values - 1, values + 2, values - 3, values + 4
    correlations = np.linspace(-0.5, 0.5, n)[:, None]
    blended = np.arange(n) == 3
    return LabelPrediction(
        ("teff", "logg"), values, *ends, reliability, width_rank, chi2_rank, blended, correlations
    )


def test_what_is_flagged_is_not_reliable():
    prediction = prediction_of()
    assert prediction.outside.tolist() == [[True, False], *[[False, False]] * 3]
    assert prediction.faint.tolist() == [False, True, False, False]
    assert prediction.reliable.tolist() == [[False, True], [True, True], [False, False], [False, False]]
    np.testing.assert_array_equal(prediction.sd[3], [1.5, 1.5])


def test_columns_of_a_table():
    columns = prediction_of().columns()
    assert len(columns) == 2 * 6 + 2
    np.testing.assert_array_equal(columns["teff_logg_corr"], np.linspace(-0.5, 0.5, 4).astype(np.float32))
    np.testing.assert_array_equal(columns["teff"], [0.0, 1.0, np.nan, 3.0])
    np.testing.assert_array_equal(columns["logg_high_95"], [6.0, 6.0, np.nan, 6.0])
    assert columns["logg_reliability"].dtype == np.float32


def test_rows_taken_and_put_together_again():
    prediction = prediction_of()
    again = LabelPrediction.concatenate([prediction.take(slice(0, 1)), prediction.take(slice(1, 4))])
    assert len(again) == 4
    for name, values in vars(prediction).items():
        np.testing.assert_array_equal(vars(again)[name], values)
    np.testing.assert_array_equal(prediction["logg"], [2.0, 2.0, np.nan, 2.0])


def test_labels_of_a_spectrum_that_the_model_does_not_reproduce_are_not_reliable():
    prediction = prediction_of(5)
    assert prediction.not_reproduced.tolist() == [False] * 4 + [True]
    assert not prediction.reliable[3:].any()


def test_each_doubt_has_a_bit_and_a_meaning():
    flags = LabelFlag
    expected = [1, flags.FAINT, 3, flags.BLENDED, 3 | flags.NOT_REPRODUCED]
    assert prediction_of(5).flags.tolist() == expected
    legend = LabelPrediction.flag_legend(("teff", "logg"))
    assert legend.startswith("1 teff is outside the labelled kinds; 2 logg is outside")
    assert all(f"{flag.value} {flag.name}: {flag.meaning}" in legend for flag in flags)


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
