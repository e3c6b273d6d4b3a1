"""One star's coefficients in one band: as observed, as models tell them, and what is left.

Laroche & Speagle (2023), fig. 1: amplitudes on a symmetric-log axis, errors and scatter in quadrature.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator, SymmetricalLogLocator

from scattervae.show.style import FAINT, OBSERVED, QUIET, model_colour, model_marker

AMPLITUDE_LABEL = "coefficient / $G$ flux\n[archive units]"
SIGMA_LABEL = "$1\\sigma$ / $G$ flux\n[archive units]"
RESIDUAL_LABEL = "residual\n[error $\\oplus$ scatter]"
_SHIFT = 0.22  # orders between the markers of neighbouring models


@dataclass(frozen=True)
class Curve:
    """Values with one standard deviation each.

    Attributes:
        values: Observed or reconstructed.
        sigma: The measurement's error, or the model's scatter; same units.
    """

    values: Float64[np.ndarray, " point"]
    sigma: Float64[np.ndarray, " point"]


def plot_amplitudes(axes: Axes, observed: Curve, models: Mapping[str, Curve], *, linear_below: float) -> None:
    """Coefficients against order; bars are the measurement's error, and error and scatter in quadrature.

    Args:
        axes: Where to draw.
        observed: The star's coefficients in units of its G flux, with their errors.
        models: Reconstruction and scatter by each model's name, same units.
        linear_below: The axis is linear below this amplitude and logarithmic above.
    """
    orders = np.arange(1, len(observed.values) + 1)
    axes.axhline(0.0, color=FAINT, linewidth=0.6)
    axes.errorbar(
        orders,
        observed.values,
        yerr=observed.sigma,
        fmt=".",
        color=OBSERVED,
        markersize=3.0,
        elinewidth=0.7,
        label="observed",
        zorder=2,
    )
    for index, (name, model) in enumerate(models.items()):
        axes.errorbar(
            orders + _shift(index, len(models)),
            model.values,
            yerr=np.hypot(observed.sigma, model.sigma),
            fmt=model_marker(index),
            color=model_colour(index),
            markersize=3.2,
            markerfacecolor="none",
            markeredgewidth=0.7,
            elinewidth=0.5,
            label=name,
            zorder=3 + index,
        )
    axes.set_yscale("symlog", linthresh=linear_below, linscale=0.8)
    axes.yaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=linear_below))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlim(0, len(orders) + 1)


def plot_sigmas(axes: Axes, observed: Curve, models: Mapping[str, Curve]) -> None:
    """The measurement's error and each model's scatter against order, on a logarithmic axis.

    A scatter of zero, where errors explain all there is, has no mark.
    """
    orders = np.arange(1, len(observed.sigma) + 1)
    axes.plot(orders, observed.sigma, color=OBSERVED, drawstyle="steps-mid", linewidth=0.9, label="error")
    for index, (name, model) in enumerate(models.items()):
        axes.plot(
            orders,
            np.where(model.sigma > 0, model.sigma, np.nan),
            color=model_colour(index),
            marker=model_marker(index),
            markersize=2.6,
            markerfacecolor="none",
            markeredgewidth=0.6,
            linewidth=0.8,
            label=name,
        )
    axes.set_yscale("log")
    axes.set_xlim(0, len(orders) + 1)


def plot_residuals(axes: Axes, observed: Curve, models: Mapping[str, Curve]) -> None:
    r"""Normalised errors against order, with the range of one standard deviation shaded.

    .. math:: (x_i - \hat x_i) / \sqrt{\sigma_{x,i}^2 + \hat\sigma_{s,i}^2}

    Source:
        Laroche & Speagle (2023), sect. 3 and fig. 2.
    """
    orders = np.arange(1, len(observed.values) + 1)
    axes.axhspan(-1.0, 1.0, color=FAINT, alpha=0.6, linewidth=0)
    axes.axhline(0.0, color=QUIET, linewidth=0.6)
    largest = 3.0
    for index, (name, model) in enumerate(models.items()):
        residual = (observed.values - model.values) / np.hypot(observed.sigma, model.sigma)
        largest = max(largest, 1.15 * float(np.nanmax(np.abs(residual))))
        axes.plot(
            orders + _shift(index, len(models)),
            residual,
            linestyle="none",
            marker=model_marker(index),
            color=model_colour(index),
            markersize=3.0,
            markerfacecolor="none",
            markeredgewidth=0.8,
            label=name,
        )
    axes.set_xlim(0, len(orders) + 1)
    axes.set_ylim(-largest, largest)


def _shift(index: int, n_models: int) -> float:
    return _SHIFT * (index - (n_models - 1) / 2) if n_models > 1 else 0.0
