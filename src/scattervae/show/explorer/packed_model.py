"""A model and its stars as the page has them: arrays rounded and deflated, layers by name in one float32 array."""

import base64
import math
import zlib
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Float64
from torch import nn

from scattervae.errors import DataError
from scattervae.gaia.basis import BY_COLOUR, BY_G, band_weights, is_corrected, is_known
from scattervae.gaia.facts import G_ZERO_POINT
from scattervae.gaia.flux import design
from scattervae.science.trained import TrainedModel
from scattervae.show.explorer.shown_stars import Column

MOST_CATEGORIES = 12
_LINEAR_ENOUGH = 2e-4  # a step, as a share of the middle 90 % of the values
_ASINH_BELOW = 0.02  # training standard deviations
_MANTISSA = np.uint32(0xFFFFFF80)  # 16 of 23 bits, the first being understood


def deflated(values: np.ndarray) -> str:
    """The array's bytes: all first ones, then all second ones, and so on, which deflate better; in base64."""
    planes = np.ascontiguousarray(values).reshape(-1).view(np.uint8).reshape(-1, values.dtype.itemsize).T
    return base64.b64encode(zlib.compress(np.ascontiguousarray(planes).tobytes(), 6)).decode()


def packed_column(column: Column) -> tuple[dict[str, Any], str]:
    """How the page reads a column, and its text.

    Numbers are rounded to steps of their range: 254 for correlations, else 65,534. Latents, positions and columns with
    values far from all others keep 17 bits of each number instead. Text is a byte a star, rare texts one kind.
    """
    about = {"name": column.name, "unit": column.unit, "description": column.description}
    if column.is_text:
        return about | _categories(column.values), deflated(_category_of(column.values))
    finite = np.isfinite(column.values)
    known = column.values[finite]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 0.0)
    kind: type[np.unsignedinteger[Any]] = np.uint8 if column.name.endswith("_corr") else np.uint16
    missing = int(np.iinfo(kind).max)
    step = (high - low) / (missing - 1)
    middle = float(np.subtract(*np.percentile(known, [95, 5]))) if len(known) else 0.0
    far = kind is np.uint16 and not step <= _LINEAR_ENOUGH * middle
    if far or column.name in ("ra", "dec") or column.name.endswith("_mean"):
        return about | {"code": "f32", "loss": 2.0**-17, "relative": True}, deflated(_rounded(column.values))
    codes = np.full(len(finite), missing, dtype=kind)
    codes[finite] = np.rint((known - low) / (step or 1.0))
    code = "u8" if kind is np.uint8 else "u16"
    return about | {"code": code, "low": low, "step": step, "loss": step / 2}, deflated(codes)


def _rounded(values: np.ndarray) -> np.ndarray:
    """The bits of float32 numbers that hold 17 of 24 bits; beyond their range, and where missing, NaN."""
    with np.errstate(over="ignore"):
        numbers = values.astype(np.float32)
    bits = (numbers.view(np.uint32) + np.uint32(64)) & _MANTISSA
    return np.where(np.isfinite(numbers), bits, np.float32(np.nan).view(np.uint32)).astype(np.uint32)


def _categories(values: np.ndarray) -> dict[str, Any]:
    names, counts = np.unique(values[values != ""], return_counts=True)
    most = names[np.argsort(-counts, kind="stable")]
    kept = most[: MOST_CATEGORIES - 1] if len(most) > MOST_CATEGORIES else most
    return {"code": "category", "categories": [*kept.tolist(), *(["other"] if len(kept) < len(most) else [])]}


def _category_of(values: np.ndarray) -> np.ndarray:
    kept = _categories(values)["categories"]
    codes = np.full(len(values), len(kept) - 1 if "other" in kept[-1:] else 255, dtype=np.uint8)
    for index, name in enumerate(kept):
        codes[values == name] = index
    codes[values == ""] = 255
    return codes


def packed_coeffs(x: Float32[np.ndarray, "star coeff"]) -> tuple[dict[str, float], str]:
    r"""Coefficients in training standard deviations as 16 bits each, coefficient by coefficient.

    .. math:: q = \mathrm{round}\left[ k\, \sinh^{-1}(x / 0.02) \right]

    Steps are fine near the mean and grow with a coefficient far from it. A missing one is -32768.
    """
    known = x[np.isfinite(x)]
    largest = float(np.abs(known).max()) if len(known) else 1.0
    scale = 32767.0 / math.asinh(max(largest, 1.0) / _ASINH_BELOW)
    codes = np.where(
        np.isfinite(x),
        np.rint(np.arcsinh(np.nan_to_num(x, posinf=0.0, neginf=0.0) / _ASINH_BELOW) * scale),
        -32768,
    )
    return {"scale": scale, "below": _ASINH_BELOW}, deflated(codes.T.astype(np.int16))


def unpacked_coeffs(
    codes: Float64[np.ndarray, "star coeff"], scale: float
) -> Float64[np.ndarray, "star coeff"]:
    """What the page makes of the codes."""
    return _ASINH_BELOW * np.sinh(codes / scale)


def coeff_loss(
    x: Float32[np.ndarray, "star coeff"], errors: Float32[np.ndarray, "star coeff"], scale: float
) -> float:
    """The 99.9 % point of what rounding changes a coefficient by, in its measurement errors; 0 without stars."""
    known = np.isfinite(x) & np.isfinite(errors) & (errors > 0)
    if not known.any():
        return 0.0
    rounded = unpacked_coeffs(
        np.rint(np.arcsinh(x[known].astype(float) / _ASINH_BELOW) * scale)[None], scale
    )[0]
    return float(np.percentile(np.abs(rounded - x[known]) / errors[known], 99.9))


def packed_errors(errors: Float32[np.ndarray, "star coeff"]) -> tuple[dict[str, float], str]:
    """Errors as 8 bits of their logarithm; a missing one is 255. The loss is the largest relative change."""
    known = np.isfinite(errors) & (errors > 0)
    logs = np.log(errors[known]) if known.any() else np.zeros(1)
    low = float(logs.min())
    step = max(float(logs.max()) - low, 1e-6) / 254
    codes = np.full(errors.shape, 255, dtype=np.uint8)
    codes[known] = np.rint((np.log(errors[known]) - low) / step)
    return {"low": low, "step": step, "loss": math.expm1(step / 2)}, deflated(codes.T)


_CALIBRATED = ("scatter_factor", "width_offset", "width_slope")


class _Numbers:
    """Arrays laid end to end; each is known by where it begins and its shape."""

    def __init__(self) -> None:
        self._parts: list[np.ndarray] = []
        self._n = 0

    def add(self, values: torch.Tensor | np.ndarray) -> dict[str, Any]:
        array = np.asarray(values, dtype=np.float32)
        at, self._n = self._n, self._n + array.size
        self._parts.append(array.ravel())
        return {"at": at, "shape": list(array.shape)}

    def text(self) -> str:
        return deflated(np.concatenate(self._parts))


def packed_model(model: TrainedModel) -> tuple[dict[str, Any], str]:
    """What the page needs to encode and decode as this model does, and the text of all its numbers.

    Normalization stays in float64, as JSON numbers: coefficients are divided and subtracted before they are small.
    """
    numbers, network, normalization = _Numbers(), model.network, model.normalization
    shape, basis = network.shape, normalization.basis
    about: dict[str, Any] = {
        "n_latent": shape.n_latent,
        "encoder_sees": shape.encoder_sees,
        "posterior": shape.posterior,
        "scatter_link": shape.scatter_link,
        "scatter_floor": shape.scatter_floor,
        "log_variance_limits": list(shape.log_variance_limits),
        "n_bp": normalization.bp.stop,
        "n_coeffs": normalization.n_coeffs,
        "basis": {**vars(basis), "text": str(basis)},
        "columns": normalization.columns.tolist(),
        "mean": normalization.mean.tolist(),
        "std": normalization.std.tolist(),
        "g_zero_point": G_ZERO_POINT,
    }
    for name in ("encoder", "decoder", "scatter_estimator"):
        about[name] = _layers(getattr(network, name), numbers)
    state = network.state_dict()
    about |= {name: numbers.add(state[name].cpu()) for name in _CALIBRATED if name in state}
    if model.refined is not None:
        about |= {name: numbers.add(v) for name, v in model.refined.arrays("refined_").items()}
    if model.score is not None:
        about["score"] = {name: numbers.add(v) for name, v in model.score.arrays().items()}
    if model.observed is not None:  # files that people drop hold published coefficients, which come first
        observed = {name: v[0].double().numpy() for name, v in model.observed._asdict().items()}
        about["observed"] = {name: v[np.isfinite(v)].tolist() for name, v in observed.items()}
    about["design"] = _design(model, numbers)
    return about, numbers.text()


def _layers(layers: nn.Sequential, numbers: _Numbers) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for layer in layers:
        if isinstance(layer, nn.Linear):
            found.append(
                {
                    "kind": "linear",
                    "weight": numbers.add(layer.weight.detach().cpu()),
                    "bias": numbers.add(layer.bias.detach().cpu()),
                }
            )
        elif isinstance(layer, nn.LayerNorm):
            found.append(
                {
                    "kind": "norm",
                    "weight": numbers.add(layer.weight.detach().cpu()),
                    "bias": numbers.add(layer.bias.detach().cpu()),
                    "eps": layer.eps,
                }
            )
        elif isinstance(layer, nn.GELU):
            found.append({"kind": "gelu"})
        elif isinstance(inner := getattr(layer, "layers", None), nn.Sequential):
            found.append({"kind": "residual", "layers": _layers(inner, numbers)})
        else:
            raise TypeError(f"the page knows no layer of kind {type(layer).__name__}")
    return found


def _design(model: TrainedModel, numbers: _Numbers) -> dict[str, Any] | None:
    """What turns the model's coefficients into flux, and all coefficients into the G flux; None where not known."""
    basis, columns = model.normalization.basis, model.normalization.columns
    if not is_known(basis):
        return None
    matrices = design(basis)
    weights = None
    with suppress(DataError):  # flux is known of more bases than G
        weights = [numbers.add(band_weights(basis, band)) for band in ("G", "BP", "RP")]
    scale = float(np.abs(matrices.matrix).max())  # W m-2 nm-1 is 1e-17 and below: float32 would lose it
    return {
        "grid_nm": matrices.grid_nm.tolist(),
        "scale": scale,
        "matrix": numbers.add(matrices.matrix[:, columns] / scale),
        "alone": numbers.add(matrices.alone[:, columns] / scale),
        "band_weights": weights,
        "g_correction": [BY_G, BY_COLOUR] if weights and is_corrected(basis) else None,
    }
