"""Arrays as text, and what rounding loses."""

import base64
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from scattervae.show.explorer.packed_model import (
    coeff_loss,
    deflated,
    packed_coeffs,
    packed_column,
    packed_errors,
)
from scattervae.show.explorer.shown_stars import Column


def inflated(text, dtype):
    size = np.dtype(dtype).itemsize
    planes = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8).reshape(size, -1)
    return np.ascontiguousarray(planes.T).reshape(-1).view(dtype)


def read_again(about, text):
    if about["code"] == "f32":
        return inflated(text, np.float32).astype(float)
    codes = inflated(text, {"u16": np.uint16, "u8": np.uint8}[about["code"]])
    return np.where(codes == np.iinfo(codes.dtype).max, np.nan, about["low"] + codes * about["step"])


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.int64])
def test_bytes_come_back(dtype):
    values = np.arange(-3, 40).astype(dtype)
    assert (inflated(deflated(values), dtype) == values).all()


@given(
    hnp.arrays(np.float64, st.integers(0, 60), elements=st.floats(-1e30, 1e30) | st.just(np.nan)),
    st.sampled_from(["x", "latent_1_mean", "a_corr"]),
)
def test_numbers_come_back_within_the_stated_loss(values, name):
    about, text = packed_column(Column(name, values))
    found = read_again(about, text)
    assert (np.isnan(found) == np.isnan(values)).all()
    known = ~np.isnan(values)
    allowed = about["loss"] * (np.abs(values[known]) if about.get("relative") else 1.0) + 1e-37
    assert (
        np.abs(found[known] - values[known]) <= allowed * (1 + 1e-6) + 1e-12 * np.abs(values[known])
    ).all()


def test_a_far_value_does_not_coarsen_the_others():
    values = np.array([*np.linspace(0, 1, 1000), 1e9])
    about, text = packed_column(Column("x", values))
    assert np.allclose(read_again(about, text), values, rtol=1e-5)


def test_rare_texts_are_one_kind_and_missing_ones_none():
    values = np.array(["a"] * 5 + [f"kind {k}" for k in range(20)] + [""], dtype=np.str_)
    about, text = packed_column(Column("x", values))
    codes = inflated(text, np.uint8)
    assert about["categories"][0] == "a"
    assert about["categories"][-1] == "other"
    assert len(about["categories"]) == 12
    assert codes[-1] == 255
    assert (codes[:5] == 0).all()
    assert np.unique(codes[:-1]).tolist() == list(range(12))


def test_no_text_at_all_has_no_categories():
    about, _ = packed_column(Column("x", np.array(["", ""])))
    assert about["categories"] == []


def test_coefficients_and_errors_lose_what_is_said():
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(200, 7)) * 10.0 ** rng.uniform(-3, 2, (200, 7))).astype(np.float32)
    errors = (10.0 ** rng.uniform(-3, 1, (200, 7))).astype(np.float32)
    x[3, 2] = np.nan
    errors[5, 1] = np.inf
    about, text = packed_coeffs(x)
    codes = inflated(text, np.int16).reshape(7, 200).T
    assert codes[3, 2] == -32768
    found = about["below"] * np.sinh(codes / about["scale"])
    known = np.isfinite(x)
    assert (np.abs(found - x)[known] <= 2e-4 * np.abs(x[known]) + 1e-5).all()
    away = np.abs(found - x)[known & np.isfinite(errors)] / errors[known & np.isfinite(errors)]
    assert np.percentile(away, 99.9) == pytest.approx(coeff_loss(x, errors, about["scale"]), rel=1e-3)
    about, text = packed_errors(errors)
    codes = inflated(text, np.uint8).reshape(7, 200).T
    assert codes[5, 1] == 255
    rounded = np.exp(about["low"] + codes * about["step"])
    assert np.abs(rounded / errors - 1)[np.isfinite(errors)].max() <= about["loss"] * 1.001
