"""Where the training labels lie, against scipy's triangulation."""

import numpy as np
import pytest
from scipy.spatial import Delaunay

from scattervae.errors import DataError
from scattervae.science.cannon.label_range import LabelRange

NAMES = ("teff", "logg", "fe_h", "alpha_m")
RNG = np.random.default_rng(3)
VALUES = RNG.normal(size=(300, 4)) * [600.0, 1.0, 0.3, 0.1] + [5000.0, 3.0, -0.2, 0.1]


@pytest.mark.parametrize("k", [2, 3, 4])
def test_outside_is_outside_every_simplex_of_scipy(k):
    range_ = LabelRange.of(VALUES[:, :k], NAMES[:k])
    asked = VALUES[:, :k].mean(axis=0) + 2.5 * VALUES[:, :k].std(axis=0) * RNG.normal(size=(5000, k))
    triangles = Delaunay(range_.scaled(VALUES[:, :k]).numpy())
    expected = triangles.find_simplex(range_.scaled(asked).numpy()) < 0
    assert 0.1 < expected.mean() < 0.99
    np.testing.assert_array_equal(range_.outside(asked), expected)


def test_one_label_has_two_ends():
    range_ = LabelRange.of(VALUES[:, :1], NAMES[:1])
    low, high = VALUES[:, 0].min(), VALUES[:, 0].max()
    asked = np.array([[low - 1.0], [low], [5000.0], [high], [high + 1.0], [np.nan]])
    assert range_.outside(asked).tolist() == [True, False, False, False, True, False]


def test_no_training_star_is_outside():
    assert not LabelRange.of(VALUES, NAMES).outside(VALUES).any()


def test_scaling_has_an_inverse_and_unit_variance():
    range_ = LabelRange.of(VALUES, NAMES)
    scaled = range_.scaled(VALUES)
    np.testing.assert_allclose(scaled.numpy().std(axis=0), 1.0)
    np.testing.assert_allclose(scaled.numpy().mean(axis=0), 0.0, atol=1e-12)
    np.testing.assert_allclose(range_.unscaled(scaled), VALUES)


def test_corners_are_training_stars_far_from_each_other():
    range_ = LabelRange.of(VALUES[:, :2], NAMES[:2])
    scaled = range_.scaled(VALUES[:, :2]).numpy()
    assert {tuple(c) for c in range_.corners} <= {tuple(s) for s in scaled}
    between = np.linalg.norm(range_.corners[:, None] - range_.corners, axis=2)
    to_nearest = np.linalg.norm(scaled[:, None] - range_.corners, axis=2).min(axis=1)
    assert to_nearest.max() <= between[~np.eye(len(between), dtype=bool)].min()


def test_too_few_stars_are_an_error_of_one_line():
    with pytest.raises(
        DataError, match=r"29 usable stars have all of teff, logg, fe_h, alpha_m.*30"
    ) as error:
        LabelRange.of(VALUES[:29], NAMES)
    assert "\n" not in str(error.value)


def test_a_label_without_spread_is_named():
    values = VALUES.copy()
    values[:, 1] = 4.0
    with pytest.raises(DataError, match="logg is 4 in all 300"):
        LabelRange.of(values, NAMES)


def test_a_label_that_follows_from_the_others_is_an_error_of_one_line():
    values = VALUES.copy()
    values[:, 1] = 1e-3 * values[:, 0]
    with pytest.raises(DataError, match="follows from the others") as error:
        LabelRange.of(values, NAMES)
    assert "\n" not in str(error.value)
