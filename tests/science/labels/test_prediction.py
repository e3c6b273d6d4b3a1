import numpy as np

from scattervae.science.labels.prediction import LabelPrediction


def prediction_of(n: int = 4) -> LabelPrediction:
    values = np.column_stack([np.arange(n, dtype=float), np.full(n, 2.0)])
    reliability = np.full((n, 2), 0.5)
    reliability[0, 0] = 0.001
    width_rank = np.full(n, 0.5)
    width_rank[1] = 0.001
    values[2] = np.nan
    score = np.array([np.nan, 0.5, 0.5, 0.5, 1e-4])[:n]
    ends = values - 1, values + 2, values - 3, values + 4
    return LabelPrediction(("teff", "logg"), values, *ends, reliability, width_rank, score)


def test_what_is_flagged_is_not_reliable():
    prediction = prediction_of()
    assert prediction.outside.tolist() == [[True, False], *[[False, False]] * 3]
    assert prediction.wide.tolist() == [False, True, False, False]
    assert prediction.reliable.tolist() == [[False, True], [False, False], [False, False], [True, True]]
    np.testing.assert_array_equal(prediction.sd[3], [1.5, 1.5])


def test_columns_of_a_table():
    columns = prediction_of().columns()
    assert len(columns) == 2 * 6 + 1
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
    assert prediction.reliable[3:].tolist() == [[True, True], [False, False]]
