import numpy as np

from scattervae.science.scatter.residuals import Residuals


def test_variances_add_up_and_stars_are_taken_together():
    parts = [np.array([[value], [2.0 * value]]) for value in (10.0, 3.0, 4.0, 75.0)]
    seen = Residuals(*parts)
    np.testing.assert_allclose(seen.variance, [[9 + 16 + 75], [36 + 64 + 150]])
    np.testing.assert_allclose(seen.normalised, [[1.0], [20 / np.sqrt(250)]])
    second = seen.take(np.array([False, True]))
    assert [getattr(second, name).item() for name in vars(seen)] == [20.0, 6.0, 8.0, 150.0]
