"""Factors on the published errors against G: a panel a band, a line for each group of orders."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter

from scattervae.science.scatter.parts import ScatterParts
from scattervae.show.style import PAGE_WIDTH, QUIET, house_style, model_colour, model_marker

FACTOR_LABEL = "factor on the published errors"
_SHIFT = 0.05  # magnitudes between neighbouring lines
_TICKS = (0.4, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def scatter_parts_figure(parts: ScatterParts) -> Figure:
    """Factors with 95 % intervals on a logarithmic axis, and a line at 1, where published errors are right."""
    with house_style():
        figure = Figure(figsize=(PAGE_WIDTH, 3.4), layout="constrained")
        axes = figure.subplots(1, 2, sharey=True)
        for panel, band in zip(axes, ("bp", "rp"), strict=True):
            _draw_band(panel, parts, band)
            panel.set_title(band.upper(), loc="left")
        axes[0].set_ylabel(FACTOR_LABEL)
    return figure


def _draw_band(axes: Axes, parts: ScatterParts, band: str) -> None:
    k = parts.separation.calibration
    low, high = k.bounds()
    groups = [g for g, group in enumerate(parts.groups) if group.band == band]
    axes.axhline(1.0, color=QUIET, linewidth=0.6)
    for index, g in enumerate(groups):
        axes.errorbar(
            parts.median_g + _SHIFT * (index - (len(groups) - 1) / 2),
            k.value[g],
            yerr=np.stack([k.value[g] - low[g], high[g] - k.value[g]]),
            color=model_colour(index),
            marker=model_marker(index),
            markersize=3.2,
            markerfacecolor="none",
            markeredgewidth=0.7,
            linewidth=0.8,
            elinewidth=0.7,
            label=f"orders {parts.groups[g].first}-{parts.groups[g].last}",
        )
    axes.set_yscale("log")
    axes.set_yticks(_TICKS)
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("$G$ [mag]")
    axes.legend(fontsize=7.0)
