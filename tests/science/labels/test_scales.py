import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scattervae.errors import DataError
from scattervae.science.labels.scales import LabelScales
from science.labels.label_toys import labels_like


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
