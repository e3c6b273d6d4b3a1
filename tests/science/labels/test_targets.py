import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scattervae.errors import DataError
from scattervae.science.labels.targets import LabelScales, TargetLabels
from scattervae.spectra.star_tables import LABEL_NAMES, StellarLabels
from science.labels.label_toys import labels_like

VALUES = np.array(
    [[5000.0, 3.0, -0.1, 0.1, 0.2], [np.nan, 2.0, np.nan, 0.0, -86.0], [-9999.0, 4.0, 0.0, 0.0, 13.7]]
)
STELLAR = StellarLabels(np.array([3, 1, 2]), VALUES, np.full((3, 5), 0.1))


def test_values_that_are_no_labels_are_left_out():
    known = TargetLabels.of(STELLAR)
    assert known.names == ("teff", "logg", "fe_h", "alpha_m", "a_k")
    np.testing.assert_array_equal(known["teff"], [5000.0, np.nan, np.nan])
    np.testing.assert_array_equal(known["a_k"], [0.2, np.nan, np.nan])
    np.testing.assert_array_equal(np.isnan(known.errors), np.isnan(known.values))


@pytest.mark.parametrize("error", [np.nan, -1.0, 0.0, np.inf])
def test_a_label_without_a_usable_error_is_taken_as_exact(error):
    known = TargetLabels.of(StellarLabels(STELLAR.source_id, VALUES, np.full((3, 5), error)))
    assert known.errors[0].tolist() == [0.0] * 5


def test_labels_that_no_star_has_are_left_out_unless_they_are_asked_for():
    values = VALUES.copy()
    values[:, [2, 4]] = np.nan
    stellar = StellarLabels(STELLAR.source_id, values, STELLAR.errors)
    assert TargetLabels.of(stellar).names == ("teff", "logg", "alpha_m")
    asked = TargetLabels.of(stellar, ("a_k", "logg"))
    assert asked.names == ("a_k", "logg")
    assert np.isnan(asked["a_k"]).all()
    np.testing.assert_array_equal(asked["logg"], values[:, 1])


def test_no_labels_at_all_keep_their_names():
    none = StellarLabels(STELLAR.source_id, np.full((3, 5), np.nan), STELLAR.errors)
    assert TargetLabels.of(none).names == LABEL_NAMES


@pytest.mark.parametrize(
    ("names", "said"), [(("teff", "age"), "no label age: choose of teff"), (("teff", "teff"), "comes twice")]
)
def test_names_that_are_no_choice_of_labels_are_refused(names, said):
    with pytest.raises(DataError, match=said):
        TargetLabels.of(STELLAR, names)


def test_labels_follow_their_stars():
    aligned = TargetLabels.of(STELLAR).aligned_to(np.array([1, 7, 3]))
    np.testing.assert_array_equal(aligned["logg"], [2.0, np.nan, 3.0])
    assert aligned.any_known.tolist() == [True, False, True]


def test_no_labels_align_to_none():
    nothing = TargetLabels.of(STELLAR).take(slice(0, 0)).aligned_to(np.array([4, 5]))
    assert len(nothing) == 2
    assert not nothing.any_known.any()


def sample(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.column_stack([rng.uniform(3000, 9000, 100), rng.uniform(0, 5, 100)])


@given(st.integers(0, 1000))
def test_scaling_is_undone(seed):
    values = sample(seed)
    values[seed % 100, seed % 2] = np.nan
    labels = labels_like(values, 0.1)
    scales = LabelScales.fit(labels)
    targets = scales.apply(labels)
    back = scales.invert(targets.values.double().numpy())
    np.testing.assert_allclose(np.where(targets.known.numpy(), back, np.nan), values, rtol=1e-5, atol=1e-5)


def test_half_the_stars_lie_below_the_centre_and_two_thirds_within_a_width():
    values = np.sort(sample(), axis=0)
    scaled = LabelScales.fit(labels_like(values)).apply(labels_like(values)).values.numpy()
    np.testing.assert_allclose(np.median(scaled, axis=0), 0.0, atol=1e-5)
    low, high = np.percentile(scaled, (16, 84), axis=0)
    np.testing.assert_allclose(high - low, 2.0, rtol=0.02)  # percentiles are taken before the logarithm here


def test_errors_scale_as_small_differences_do():
    values, step = sample(), 1e-2
    labels = labels_like(values, step)
    scales = LabelScales.fit(labels)
    moved = scales.apply(labels_like(values + step)).values.double() - scales.apply(labels).values.double()
    np.testing.assert_allclose(scales.apply(labels).errors.double(), moved, atol=2e-6)


@pytest.mark.parametrize("rows", [slice(0, 19), slice(0, 0)])
def test_too_few_labels_are_an_error(rows):
    with pytest.raises(DataError, match="teff is known for"):
        LabelScales.fit(labels_like(sample()[rows]))


def test_a_constant_label_is_an_error():
    values = sample()
    values[:, 1] = 4.0
    with pytest.raises(DataError, match="logg is the same"):
        LabelScales.fit(labels_like(values))
