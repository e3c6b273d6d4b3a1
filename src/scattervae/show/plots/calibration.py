"""Coverage of coefficients against what it should be, and histograms of their probability integral transforms."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from scattervae.science.calibration.coverage import (
    INSIDE_1_SIGMA,
    INSIDE_2_SIGMA,
    CoverageRow,
    Share,
)
from scattervae.show.style import QUIET, model_colour, model_marker

_TOLERATED = 0.02
_KINDS = ("hidden", "drawn", "at_mean", "others", "others_without_scatter")
KIND_LABELS = {
    "hidden": "hidden from the encoder",
    "drawn": "at a draw of the latents",
    "at_mean": "at the posterior mean",
    "others": "the others, at a draw",
    "others_without_scatter": "with no scatter at all",
}


def plot_coverage(axes: Axes, rows: Sequence[CoverageRow], kinds: Sequence[str]) -> None:
    """Shares inside one sigma (filled) and two sigma (open) of each row, with two per cent around nominal shaded.

    Args:
        axes: Where.
        rows: One place on the axis each, in order.
        kinds: Names of shares of a row; each has its colour and marker.
    """
    for level in (INSIDE_1_SIGMA, INSIDE_2_SIGMA):
        axes.axhspan(
            100 * (level - _TOLERATED), 100 * (level + _TOLERATED), color=QUIET, alpha=0.25, linewidth=0
        )
        axes.axhline(100 * level, color=QUIET, linewidth=0.6)
    for place, kind in enumerate(kinds):
        index = _KINDS.index(kind)
        shares: list[Share] = [getattr(row, kind) for row in rows]
        where = np.arange(len(rows)) + 0.16 * (place - (len(kinds) - 1) / 2)
        style: dict[str, Any] = {
            "linestyle": "none",
            "marker": model_marker(index),
            "color": model_colour(index),
            "markersize": 3.6,
        }
        axes.plot(where, [100 * s.one for s in shares], label=KIND_LABELS[kind], **style)
        axes.plot(where, [100 * s.two for s in shares], markerfacecolor="white", **style)
    axes.set_xlim(-0.6, len(rows) - 0.4)
    axes.xaxis.set_major_locator(FixedLocator(list(range(len(rows)))))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([row.name for row in rows], rotation=45, ha="right", rotation_mode="anchor")
    axes.set_ylabel("inside [%]")


def plot_pit(axes: Axes, counts: dict[str, Sequence[int]]) -> None:
    """Histograms of transforms, over the count that an even spread has; each kind in its colour and line."""
    axes.axhline(1.0, color=QUIET, linewidth=0.8)
    for index, (kind, numbers) in enumerate(counts.items()):
        total = sum(numbers)
        if total == 0:
            continue
        axes.stairs(
            np.asarray(numbers) * len(numbers) / total,
            np.linspace(0.0, 1.0, len(numbers) + 1),
            baseline=None,
            color=model_colour(_KINDS.index(kind)),
            linestyle="-" if index % 2 == 0 else "--",
            label=KIND_LABELS[kind],
        )
    axes.set_xlim(0.0, 1.0)
    axes.set_ylim(bottom=0.0)
    axes.set_xlabel("predicted to lie below [probability]")
    axes.set_ylabel("coefficients [over an even spread]")
