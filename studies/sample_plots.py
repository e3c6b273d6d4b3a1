"""Densities of made stars and of real ones in a plane: whether what a model makes looks like the survey.

Laroche & Speagle (2023), sect. 2.2, for making stars.
"""

import numpy as np
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from scipy.ndimage import gaussian_filter

from scattervae.show.style import model_colour


def plot_samples(
    axes: Axes,
    real: Float64[np.ndarray, "2 real"],
    made: Float64[np.ndarray, "2 made"],
    *,
    name: str,
    index: int = 0,
    share: float = 0.998,
) -> None:
    """Density of real stars in grey with that of made ones as contours, on axes that hold nearly all of the real ones.

    Contours, and the steps of grey, enclose 50, 80 and 95 % of the stars.

    Made stars outside the axes are counted in the legend.

    Args:
        axes: Where to draw.
        real: x and y of real stars; same quantities as of the made ones.
        made: x and y of made stars.
        name: Where those come from.
        index: Of their colour.
        share: Of the real stars that lies inside the axes along each of them.
    """
    limits = [_limits(values, share) for values in real]
    x, y, density, levels = _density(real, limits)
    axes.contourf(x, y, density, [*levels, density.max()], colors=["#dedede", "#b0b0b0", "#7d7d7d"])
    low, high = np.transpose(limits)
    outside = ((low > made.T) | (high < made.T)).any(axis=1)
    label = f"{name} ({100 * outside.mean():.1f} % outside)"
    x, y, density, levels = _density(made, limits)
    axes.contour(x, y, density, levels, colors=model_colour(index), linewidths=[0.7, 1.0, 1.4])
    axes.set_xlim(limits[0])
    axes.set_ylim(limits[1])
    handles = [Patch(color="#b0b0b0", label="real"), Line2D([], [], color=model_colour(index), label=label)]
    axes.legend(handles=handles, loc="lower left")


_ENCLOSED = (0.95, 0.80, 0.50)
_CELLS = 80


def _density(
    points: Float64[np.ndarray, "2 point"], limits: list[tuple[float, float]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[float]]:
    """Centres of cells, a smoothed histogram of points, and the levels that enclose shares of those inside."""
    counts, *edges = np.histogram2d(points[0], points[1], bins=_CELLS, range=limits)
    density = gaussian_filter(counts.T, 1.2)
    ranked = np.sort(density.ravel())[::-1]
    enclosed = np.cumsum(ranked) / ranked.sum()
    levels = [float(ranked[np.searchsorted(enclosed, share)]) for share in _ENCLOSED]
    x, y = (0.5 * (edge[:-1] + edge[1:]) for edge in edges)
    return x, y, density, levels


def _limits(values: Float64[np.ndarray, " real"], share: float) -> tuple[float, float]:
    """Ends that leave out as few values on either side, with a margin."""
    low, high = np.quantile(values, [(1 - share) / 2, (1 + share) / 2])
    margin = 0.15 * (high - low)
    return float(low - margin), float(high + margin)
