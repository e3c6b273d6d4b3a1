import numpy as np
import pytest

from scattervae.science.labels.known import KnownLabels
from scattervae.spectra.labels import StellarLabels

VALUES = np.array([[5000.0, 3.0, -0.1, 0.1], [np.nan, 2.0, np.nan, 0.0], [-9999.0, 4.0, 0.0, 0.0]])
STELLAR = StellarLabels(np.array([3, 1, 2]), VALUES, np.full((3, 4), 0.1))


def test_values_that_are_no_labels_are_left_out():
    known = KnownLabels.of(STELLAR, a_k=np.array([0.2, -86.0, 13.7]))
    assert known.names == ("teff", "logg", "fe_h", "alpha_m", "a_k")
    np.testing.assert_array_equal(known["teff"], [5000.0, np.nan, np.nan])
    np.testing.assert_array_equal(known["a_k"], [0.2, np.nan, np.nan])
    np.testing.assert_array_equal(np.isnan(known.errors), np.isnan(known.values))


@pytest.mark.parametrize("error", [np.nan, -1.0, 0.0, np.inf])
def test_a_label_without_a_usable_error_is_taken_as_exact(error):
    known = KnownLabels.of(StellarLabels(STELLAR.source_id, VALUES, np.full((3, 4), error)))
    assert known.errors[0].tolist() == [0.0] * 4


def test_labels_follow_their_stars():
    aligned = KnownLabels.of(STELLAR).aligned_to(np.array([1, 7, 3]))
    np.testing.assert_array_equal(aligned["logg"], [2.0, np.nan, 3.0])
    assert aligned.any_known.tolist() == [True, False, True]


def test_no_labels_align_to_none():
    nothing = KnownLabels.of(STELLAR).take(slice(0, 0)).aligned_to(np.array([4, 5]))
    assert len(nothing) == 2
    assert not nothing.any_known.any()
