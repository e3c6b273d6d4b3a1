"""The latent space of a model, two latents at a time, coloured by a label that the model never saw.

Laroche & Speagle (2023), fig. 3, which shows where stars lie; colour says what they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import ListedColormap, LogNorm

from scattervae.arrays import StarArray
from scattervae.model.posterior import ACTIVE_ABOVE_NATS
from scattervae.show.style import FAINT

LABEL_TITLES = {
    "teff": "$T_\\mathrm{eff}$ [K]",
    "logg": "$\\log\\,g$ [dex(cm s$^{-2}$)]",
    "fe_h": "[Fe/H] [dex]",
    "alpha_m": "[$\\alpha$/M] [dex]",
}
LABEL_MAPS = {"teff": "plasma", "logg": "viridis", "fe_h": "cividis", "alpha_m": "cividis"}
_CELLS = 70
_SHOWN = (0.2, 99.8)  # percentiles of a latent inside the axes
_COLOURED = (5.0, 95.0)  # percentiles of a label inside the colours


class LatentPair(NamedTuple):
    """Two latents, counted from 0, the more informative first."""

    first: int
    second: int


@dataclass(frozen=True)
class Limits:
    """A range of values."""

    low: float
    high: float


def active_latents(kl_per_latent: Sequence[float]) -> list[int]:
    """Latents with more than 0.1 nats of divergence from the prior, the most informative first."""
    order = sorted(range(len(kl_per_latent)), key=lambda k: -kl_per_latent[k])
    return [k for k in order if kl_per_latent[k] > ACTIVE_ABOVE_NATS]


def informative_pairs(kl_per_latent: Sequence[float]) -> list[LatentPair]:
    """At most two pairs of active latents: first with second, then third with fourth (or with the first).

    So four active latents are each seen once. Fewer than two active latents make no pair.
    """
    active = active_latents(kl_per_latent)
    pairs = [LatentPair(*active[:2])] if len(active) >= 2 else []
    if len(active) == 3:
        pairs.append(LatentPair(active[0], active[2]))
    elif len(active) > 3:
        pairs.append(LatentPair(active[2], active[3]))
    return pairs


def colour_limits(values: StarArray) -> Limits:
    """The range of colours: the 5th to 95th percentile of the values that are known; 0 to 1 where none is."""
    return _percentiles(values, _COLOURED)


def axis_limits(values: StarArray) -> Limits:
    """The range of an axis: 99.6 % of the values that are known, and a margin; 0 to 1 where none is."""
    inner = _percentiles(values, _SHOWN)
    margin = 0.08 * (inner.high - inner.low)
    return Limits(inner.low - margin, inner.high + margin)


def plot_pair(
    axes: Axes, first: StarArray, second: StarArray, label: StarArray, *, colours: Limits, colour_map: str
) -> PolyCollection:
    """Hexagons coloured by the mean label of their stars; light grey where none of their stars has the label.

    Args:
        axes: Where to draw.
        first: Posterior means of the latent on the x axis, NaN where a star could not be encoded.
        second: The same on the y axis.
        label: A label of each star, NaN where it is missing.
        colours: What the ends of the colour map stand for.
        colour_map: Its name.

    Returns:
        The coloured hexagons, for a colour bar.
    """
    x_range, y_range = axis_limits(first), axis_limits(second)
    extent = (x_range.low, x_range.high, y_range.low, y_range.high)
    grid = (_CELLS, int(_CELLS / np.sqrt(3)))
    encoded = np.isfinite(first) & np.isfinite(second)
    known = encoded & np.isfinite(label)
    axes.hexbin(
        first[encoded],
        second[encoded],
        C=np.zeros(int(encoded.sum())),
        gridsize=grid,
        extent=extent,
        mincnt=1,
        cmap=ListedColormap([FAINT]),
        linewidths=0.1,
    )
    hexagons = axes.hexbin(
        first[known],
        second[known],
        C=label[known],
        reduce_C_function=np.mean,
        gridsize=grid,
        extent=extent,
        mincnt=1,
        cmap=matplotlib.colormaps[colour_map],
        vmin=colours.low,
        vmax=colours.high,
        linewidths=0.1,
    )
    axes.set_xlim(x_range.low, x_range.high)
    axes.set_ylim(y_range.low, y_range.high)
    return hexagons


def plot_against_label(axes: Axes, latent: StarArray, label: StarArray) -> None:
    """One latent against a label, darker where there are more stars: for a model with one active latent."""
    known = np.isfinite(latent) & np.isfinite(label)
    x_range, y_range = axis_limits(latent), axis_limits(label)
    if known.any():
        axes.hexbin(
            latent[known],
            label[known],
            gridsize=(_CELLS, int(_CELLS / np.sqrt(3))),
            extent=(x_range.low, x_range.high, y_range.low, y_range.high),
            mincnt=1,
            norm=LogNorm(vmin=0.3),
            cmap="Greys",
            linewidths=0.1,
        )
    axes.set_xlim(x_range.low, x_range.high)
    axes.set_ylim(y_range.low, y_range.high)


def _percentiles(values: StarArray, between: tuple[float, float]) -> Limits:
    known = values[np.isfinite(values)]
    if len(known) == 0:
        return Limits(0.0, 1.0)
    low, high = (float(p) for p in np.percentile(known, between))
    if low == high:
        low, high = low - 0.5, high + 0.5
    return Limits(low, high)
