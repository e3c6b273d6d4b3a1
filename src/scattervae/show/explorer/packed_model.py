"""A model as the page runs it: its layers by name, all numbers in one float32 array."""

from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import nn

from scattervae.arrays import CoeffVector
from scattervae.errors import DataError
from scattervae.gaia.basis import design, g_flux_from_coeffs, is_known
from scattervae.gaia.facts import G_ZERO_POINT
from scattervae.science.trained import TrainedModel
from scattervae.show.explorer.packing import deflated
from scattervae.spectra.spectra import Basis, Spectra

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
    if model.score is not None:
        about["score"] = {name: numbers.add(v) for name, v in model.score.arrays().items()}
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
        weights = numbers.add(_g_weights(basis))
    scale = float(np.abs(matrices.matrix).max())  # W m-2 nm-1 is 1e-17 and below: float32 would lose it
    return {
        "grid_nm": matrices.grid_nm.tolist(),
        "scale": scale,
        "matrix": numbers.add(matrices.matrix[:, columns] / scale),
        "alone": numbers.add(matrices.alone[:, columns] / scale),
        "g_weights": weights,
    }


def _g_weights(basis: Basis) -> CoeffVector:
    """What each coefficient adds to the G flux [electron/s]: of ones with one doubled, less of ones."""
    n = basis.n_coeffs  # no row is zero in a band: that would be a missing one
    coeffs = np.ones((n + 1, n)) + np.eye(n + 1, n)
    stars = Spectra.of(np.arange(1, n + 2), coeffs, np.ones_like(coeffs), basis=basis)
    flux = g_flux_from_coeffs(stars)
    weights: CoeffVector = flux[:n] - flux[n]
    return weights
