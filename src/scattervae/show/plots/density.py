"""Many stars on two axes: how dense they lie, the most common value at each place, chosen stars in colour.

Laroche & Speagle (2023), fig. 2.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import LinearSegmentedColormap, LogNorm

from scattervae.arrays import StarArray, StarMask
from scattervae.show.plots.latents import Limits

COOL_BELOW_K = 4000.0
LOW_GRAVITY_BELOW = 1.0
COOL_COLOUR = "#009E73"
LOW_GRAVITY_COLOUR = "#E69F00"
MODE_COLOUR = "#7B2D8B"
DENSITY_MAP = LinearSegmentedColormap.from_list("density", ["#dedede", "#4d4d4d"])
_CELLS = (48, 60)
_BINS = 14
_FEWEST = 25  # stars for a mode: fewer, and it is the place of two stars that happen to be close


class Highlighted(NamedTuple):
    """Stars that the paper points out: green and yellow in its fig. 2."""

    cool: StarMask
    low_gravity: StarMask

    @classmethod
    def of(cls, teff: StarArray, logg: StarArray) -> "Highlighted":
        """Cool: Teff < 4000 K; low gravity: log g < 1. A missing label is neither."""
        return cls(teff < COOL_BELOW_K, logg < LOW_GRAVITY_BELOW)


class ModeLine(NamedTuple):
    """The most common y at each x."""

    x: Float64[np.ndarray, " bin"]
    y: Float64[np.ndarray, " bin"]


def mode_line(x: StarArray, y: StarArray, *, bins: int = _BINS, fewest: int = _FEWEST) -> ModeLine:
    """The mode of y in equal bins of x, at the median x of each; bins with too few stars are left out.

    Args:
        x: Where the stars lie.
        y: Values; of a quantity on a logarithmic axis, its logarithm.
        bins: Equal steps between the smallest and the largest x.
        fewest: Stars in a bin that is kept.
    """
    edges = np.linspace(x.min(), x.max(), bins + 1)
    place = np.clip(np.digitize(x, edges) - 1, 0, bins - 1)
    kept = [k for k in range(bins) if (place == k).sum() >= fewest]
    at = [float(np.median(x[place == k])) for k in kept]
    return ModeLine(np.array(at), np.array([_mode(y[place == k]) for k in kept]))


def _mode(values: StarArray) -> float:
    """The top of a Gaussian kernel density, whose width no outlier changes.

    Source:
        Silverman (1986), Density Estimation, eq. 3.31, for the width.
    """
    quartiles = np.percentile(values, [25, 75])
    width = 0.9 * float(quartiles[1] - quartiles[0]) / 1.34 * len(values) ** -0.2
    if width == 0.0:
        return float(np.median(values))
    low, high = (float(end) for end in np.percentile(values, [2, 98]))
    grid = np.linspace(low, high, 201)
    density = np.exp(-0.5 * np.square((grid[:, None] - values) / width)).sum(axis=1)
    return float(grid[density.argmax()])


def plot_density(axes: Axes, x: StarArray, y: StarArray, *, x_range: Limits, y_range: Limits) -> QuadMesh:
    """Cells that are equal on the axes' own scales, darker where there are more stars, white where none is.

    Args:
        axes: Where to draw; its scales are set before.
        x: Where the stars lie.
        y: The same.
        x_range: Ends of the x axis; stars outside are not shown.
        y_range: Ends of the y axis.
    """
    axes.set_xlim(x_range.low, x_range.high)
    axes.set_ylim(y_range.low, y_range.high)
    to_scale = axes.yaxis.get_transform()
    ends = to_scale.transform(np.array([y_range.low, y_range.high]))
    x_edges = np.linspace(x_range.low, x_range.high, _CELLS[0] + 1)
    y_edges = np.linspace(ends[0], ends[1], _CELLS[1] + 1)
    counts, _, _ = np.histogram2d(x, to_scale.transform(y), bins=(x_edges, y_edges))
    return axes.pcolormesh(
        x_edges,
        to_scale.inverted().transform(y_edges),
        np.ma.masked_equal(counts.T, 0.0),
        cmap=DENSITY_MAP,
        norm=LogNorm(1.0, max(counts.max(), 2.0)),
        rasterized=True,
        zorder=1,
    )


def plot_highlighted(axes: Axes, x: StarArray, y: StarArray, highlighted: Highlighted) -> None:
    """Cool and low-gravity stars, one mark each."""
    for chosen, marker, colour, label in (
        (highlighted.cool, "o", COOL_COLOUR, f"$T_\\mathrm{{eff}}$ < {COOL_BELOW_K:.0f} K"),
        (highlighted.low_gravity, "^", LOW_GRAVITY_COLOUR, f"$\\log\\,g$ < {LOW_GRAVITY_BELOW:.0f}"),
    ):
        axes.plot(
            x[chosen],
            y[chosen],
            linestyle="none",
            marker=marker,
            markersize=1.2,
            markeredgewidth=0,
            color=colour,
            alpha=0.6,
            label=f"{label} ({int(chosen.sum()):,} stars)",
            rasterized=True,
            zorder=2,
        )


def plot_mode(axes: Axes, line: ModeLine) -> None:
    """The mode against x, on a light border that keeps it apart from the density."""
    axes.plot(line.x, line.y, color="white", linewidth=2.4, zorder=3)
    axes.plot(line.x, line.y, color=MODE_COLOUR, linewidth=1.2, zorder=4, label="mode")
