import numpy as np

from scattervae.science.labels.prediction import LabelFlag, LabelPrediction


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
