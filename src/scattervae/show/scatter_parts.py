"""Factors on the published errors against G, one line for each group of orders of a band."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter, ScalarFormatter

from scattervae.show.style import QUIET, model_colour, model_marker

FACTOR_LABEL = "factor on the published errors"
_SHIFT = 0.05  # magnitudes between neighbouring lines
_TICKS = (0.4, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


@dataclass(frozen=True)
class FactorLine:
    """Factors of one group of orders, with their 95 % intervals; NaN where there is none."""

    value: Float64[np.ndarray, " bin"]
    low: Float64[np.ndarray, " bin"]
    high: Float64[np.ndarray, " bin"]


def plot_factors(
    axes: Axes,
    g_mag: Float64[np.ndarray, " bin"],
    lines: Mapping[str, FactorLine],
    *,
    references: Mapping[str, Mapping[float, float]] | None = None,
) -> None:
    """Factors with intervals on a logarithmic axis, and a line at 1, where published errors are right.

    Args:
        axes: Where to draw.
        g_mag: Median G of the stars of each bin.
        lines: By name of the group.
        references: Factors by G that others found, by their names; drawn as grey marks.
    """
    axes.axhline(1.0, color=QUIET, linewidth=0.6)
    for index, (name, line) in enumerate(lines.items()):
        axes.errorbar(
            g_mag + _SHIFT * (index - (len(lines) - 1) / 2),
            line.value,
            yerr=np.stack([line.value - line.low, line.high - line.value]),
            color=model_colour(index),
            marker=model_marker(index),
            markersize=3.2,
            markerfacecolor="none",
            markeredgewidth=0.7,
            linewidth=0.8,
            elinewidth=0.7,
            label=name,
        )
    for index, (name, points) in enumerate((references or {}).items()):
        axes.plot(
            list(points),
            list(points.values()),
            color=QUIET,
            linestyle="none",
            marker=("*", "x", "+")[index % 3],
            markersize=5.0,
            label=name,
        )
    axes.set_yscale("log")
    axes.set_yticks(_TICKS)
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("$G$ [mag]")
    axes.set_ylabel(FACTOR_LABEL)
