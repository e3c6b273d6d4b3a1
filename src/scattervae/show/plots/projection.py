r"""Two sets of stars in a pair of latents so that neither hides the other, and their volumes against numbers.

Laroche & Speagle (2023), fig. 3 and sect. 3, third point.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from scipy.ndimage import gaussian_filter

from scattervae.arrays import StarArray
from scattervae.science.coverage.overlap import Overlap
from scattervae.show.plots.latents import Limits, axis_limits
from scattervae.show.style import OBSERVED, QUIET

LABELLED_COLOUR = "#D55E00"
UNLABELLED_COLOUR = "#0072B2"
ONLY_LABELLED, ONLY_UNLABELLED, BOTH = "#f7c9a3", "#a9d0ec", "#c9c9c9"
PAIR_COLOUR = "#7B2D8B"
ENCLOSED = (0.9, 0.5)
_GRID = 60
_SMOOTH = 1.5  # grid steps
_FEWEST = 50  # stars for a contour

Points: TypeAlias = Float64[np.ndarray, " point"]


@dataclass(frozen=True)
class Projected:
    """Posterior means of one set of stars in two latents, all finite."""

    first: StarArray
    second: StarArray

    def __len__(self) -> int:
        return len(self.first)


def plot_cells(
    axes: Axes, labelled: Projected, unlabelled: Projected, *, side: float, x: Limits, y: Limits
) -> None:
    """Cells that stars of either set fall in: orange, blue, or grey where stars of both do.

    Cells are those that volumes are counted in: squares whose edges are whole multiples of `side`.

    Args:
        axes: Where to draw.
        labelled: As many stars as of the other set, if areas are to be compared.
        unlabelled: The other set.
        side: Of a cell, in prior standard deviations.
        x: Ends of the x axis.
        y: Ends of the y axis.
    """
    x_edges, y_edges = (
        side * np.arange(np.floor(ends.low / side), np.ceil(ends.high / side) + 1) for ends in (x, y)
    )
    sup, unsup = (
        np.histogram2d(stars.first, stars.second, bins=(x_edges, y_edges))[0] > 0
        for stars in (labelled, unlabelled)
    )
    which = np.where(sup & unsup, 2, np.where(unsup, 1, 0))
    axes.pcolormesh(
        x_edges,
        y_edges,
        np.ma.masked_array(which, ~(sup | unsup)).T,
        cmap=ListedColormap([ONLY_LABELLED, ONLY_UNLABELLED, BOTH]),
        vmin=-0.5,
        vmax=2.5,
        rasterized=True,
        zorder=1,
    )


def plot_contours(axes: Axes, stars: Projected, *, colour: str, dashed: bool, x: Limits, y: Limits) -> None:
    """Lines of equal density that enclose 90 and 50 % of the stars; none for too few stars to tell."""
    if len(stars) < _FEWEST:
        axes.plot(stars.first, stars.second, ".", markersize=2, color=colour, zorder=3)
        return
    edges = [np.linspace(ends.low, ends.high, _GRID + 1) for ends in (x, y)]
    counts = gaussian_filter(np.histogram2d(stars.first, stars.second, bins=edges)[0], _SMOOTH)
    levels = enclosing_levels(counts, ENCLOSED)
    if len(set(levels)) < len(levels):
        return
    middles = [0.5 * (edge[1:] + edge[:-1]) for edge in edges]
    for linestyle, width, colour_of in (("-", 2.2, "white"), ("--" if dashed else "-", 1.1, colour)):
        axes.contour(
            *middles,
            counts.T,
            levels=levels,
            colors=[colour_of],
            linewidths=width,
            linestyles=linestyle,
            zorder=3,
        )


def enclosing_levels(density: Float64[np.ndarray, "x y"], shares: Sequence[float]) -> list[float]:
    """The density above which each share of the stars lies, for shares from the largest to the smallest."""
    falling = np.sort(density.ravel())[::-1]
    enclosed = np.cumsum(falling) / falling.sum()
    return [float(falling[np.searchsorted(enclosed, share)]) for share in shares]


def legend_marks(n_labelled: int, n_unlabelled: int) -> list[Line2D | Patch]:
    """What the marks of `plot_cells` and `plot_contours` mean."""
    return [
        Line2D([], [], color=LABELLED_COLOUR, label=f"labelled ({n_labelled:,} stars)"),
        Line2D([], [], color=UNLABELLED_COLOUR, linestyle="--", label=f"unlabelled ({n_unlabelled:,} stars)"),
        Patch(color=ONLY_LABELLED, label="cells of labelled only"),
        Patch(color=ONLY_UNLABELLED, label="of unlabelled only"),
        Patch(color=BOTH, label="of both"),
    ]


def plot_volumes(axes: Axes, pairs: Sequence[Sequence[Overlap]], full: Sequence[Overlap], name: str) -> None:
    r"""Difference of occupied volumes in per cent against the number of stars of each set, with 95 % intervals.

    .. math:: \Delta V / V_{sup} = (V_{unsup} - V_{sup}) / V_{sup}

    Args:
        axes: Where to draw.
        pairs: Each pair of latents at equal numbers, from few to many; thin, with the interval shaded.
        full: The same in all latents together.
        name: What to call the latter.
    """
    axes.axhline(0.0, color=QUIET, linewidth=0.6)
    for index, overlaps in enumerate(pairs):
        n, value, low, high = _percents(overlaps)
        axes.fill_between(n, low, high, color=PAIR_COLOUR, alpha=0.1, linewidth=0)
        axes.plot(n, value, color=PAIR_COLOUR, linewidth=0.8, label=None if index else "each pair")
    n, value, low, high = _percents(full)
    axes.errorbar(
        n,
        value,
        yerr=np.stack([value - low, high - value]),
        color=OBSERVED,
        marker="o",
        markersize=3.0,
        linewidth=1.1,
        elinewidth=0.7,
        label=name,
    )
    axes.set_xscale("log")
    axes.set_xlabel("$N$ [stars of each set]")
    axes.set_ylabel("$\\Delta V / V_\\mathrm{sup}$ [%]")


def _percents(overlaps: Sequence[Overlap]) -> tuple[Points, Points, Points, Points]:
    n = np.array([float(o.n_labelled) for o in overlaps])
    differences = 100.0 * np.array([o.difference for o in overlaps])
    return n, differences[:, 0], differences[:, 2], differences[:, 3]


def shared_limits(labelled: Points, unlabelled: Float64[np.ndarray, " other"]) -> Limits:
    """Ends of an axis that holds 99.6 % of each set, with a margin."""
    ends = [axis_limits(values) for values in (labelled, unlabelled)]
    return Limits(min(e.low for e in ends), max(e.high for e in ends))
