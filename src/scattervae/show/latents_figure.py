"""The latent space of a model, two latents at a time, coloured by a label that the model never saw.

Laroche & Speagle (2023), fig. 3, which shows where stars lie; colour says what they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.colors import ListedColormap, LogNorm, Normalize
from matplotlib.figure import Figure

from scattervae.arrays import StarArray
from scattervae.errors import counted
from scattervae.model.checkpoint import Checkpoint
from scattervae.show.registry import FigureData
from scattervae.show.style import FAINT, PAGE_WIDTH, house_style
from scattervae.spectra.spectra import Spectra

LABEL_TITLES = {
    "teff": "$T_\\mathrm{eff}$ [K]",
    "logg": "$\\log\\,g$ [dex(cm s$^{-2}$)]",
    "fe_h": "[Fe/H] [dex]",
    "alpha_m": "[$\\alpha$/M] [dex]",
    "a_k": "$A_K$ [mag]",
}
LABEL_MAPS = {"teff": "plasma", "logg": "viridis", "fe_h": "cividis", "alpha_m": "cividis", "a_k": "inferno"}
_CELLS = 70
_SHOWN = (0.2, 99.8)  # percentiles of a latent inside the axes
_COLOURED = (5.0, 95.0)  # percentiles of a label inside the colours


@dataclass(frozen=True)
class Limits:
    """A range of values."""

    low: float
    high: float


def informative_pairs(active: Sequence[int]) -> list[tuple[int, int]]:
    """At most two pairs of active latents: first with second, then third with fourth (or with the first).

    So four active latents are each seen once. Fewer than two active latents make no pair.
    """
    pairs = [(active[0], active[1])] if len(active) >= 2 else []
    if len(active) > 2:
        pairs.append((active[0], active[2]) if len(active) == 3 else (active[2], active[3]))
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
    """The hexagons drawn, coloured by the mean label of their stars; light grey where no star has the label.

    Args:
        first: Posterior means of the latent on the x axis, NaN where a star could not be encoded.
        colours: What the ends of the colour map stand for.
    """
    x_range, y_range = axis_limits(first), axis_limits(second)
    style: dict[str, Any] = {
        "gridsize": (_CELLS, int(_CELLS / np.sqrt(3))),
        "extent": (x_range.low, x_range.high, y_range.low, y_range.high),
        "mincnt": 1,
        "linewidths": 0.1,
        "antialiaseds": False,
        "rasterized": True,  # thousands of hexagons make an SVG of megabytes
    }
    encoded = np.isfinite(first) & np.isfinite(second)
    known = encoded & np.isfinite(label)
    none = np.zeros(int(encoded.sum()))
    axes.hexbin(first[encoded], second[encoded], C=none, cmap=ListedColormap([FAINT]), **style)
    style |= {"cmap": colour_map, "vmin": colours.low, "vmax": colours.high}
    hexagons = axes.hexbin(first[known], second[known], C=label[known], **style)
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
            rasterized=True,
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


COLOURED_BY = ("teff", "logg", "fe_h")
_COUNTED = {"teff": "$T_\\mathrm{eff}$", "logg": "$\\log\\,g$", "fe_h": "[Fe/H]"}


class _LatentRow(NamedTuple):
    """One row of panels: a pair of a model's latents, or its only active one, or none."""

    means: list[StarArray]
    names: list[str]
    remark: str


def latents_figure(data: FigureData) -> Figure:
    """The most informative pairs of each model's latents, coloured by Teff, log g and [Fe/H].

    A model with one active latent has no pair: it is shown against each label. One with none is named below the panels.
    """
    rows = [row for name, model in data.models.items() for row in _latent_rows(name, model, data.spectra)]
    drawn = [row for row in rows if row.means]
    with house_style():
        figure = Figure(figsize=(PAGE_WIDTH, 0.7 + 2.05 * max(len(drawn), 1)), layout="constrained")
        if drawn:
            _draw_latents(figure, data, drawn)
        not_drawn = "; ".join(row.remark for row in rows if not row.means)
        figure.supxlabel(" ".join(filter(None, [not_drawn, _count_note(data)])), fontsize=7.0)
    return figure


def _latent_rows(name: str, model: Checkpoint, spectra: Spectra) -> list[_LatentRow]:
    posterior = model.encode(spectra)
    kl = posterior.kl_per_latent()
    means = posterior.mean.double().numpy()
    active = posterior.active_latents()
    titles = [f"latent {k + 1} ({kl[k]:.1f} nats)" for k in range(model.n_latent)]
    pairs = informative_pairs(active)
    remark = f"{name}: {len(active)} of {model.n_latent} latents active"
    if pairs:
        return [
            _LatentRow([means[:, k] for k in pair], [titles[k] for k in pair], "" if index else remark)
            for index, pair in enumerate(pairs)
        ]
    remark += ", no pair to show"
    if active:
        remark += "; the one against each label, darker where there are more stars"
    return [_LatentRow([means[:, k] for k in active], [titles[k] for k in active], remark)]


def _draw_latents(figure: Figure, data: FigureData, rows: list[_LatentRow]) -> None:
    grid = figure.add_gridspec(len(rows), len(COLOURED_BY))
    limits = {name: colour_limits(data.labels[name]) for name in COLOURED_BY}
    columns: list[list[Axes]] = [[] for _ in COLOURED_BY]
    for index, row in enumerate(rows):
        for column, name in enumerate(COLOURED_BY):
            axes = figure.add_subplot(grid[index, column])
            columns[column].append(axes)
            if len(row.means) == 2:
                plot_pair(
                    axes,
                    row.means[0],
                    row.means[1],
                    data.labels[name],
                    colours=limits[name],
                    colour_map=LABEL_MAPS[name],
                )
                axes.tick_params(labelleft=column == 0)
                axes.set_ylabel(row.names[1] if column == 0 else "")
            else:
                plot_against_label(axes, row.means[0], data.labels[name])
                axes.set_ylabel(LABEL_TITLES[name])
            axes.set_xlabel(row.names[0])
        if row.remark:
            left = columns[0][-1]
            left.set_title(" ")  # keeps room for the remark, which may run over its neighbours
            left.text(0.0, 1.03, row.remark, transform=left.transAxes, in_layout=False)
    for name, axes_of_label in zip(COLOURED_BY, columns, strict=True):
        colours = Normalize(limits[name].low, limits[name].high)
        bar = figure.colorbar(
            ScalarMappable(colours, LABEL_MAPS[name]),
            ax=axes_of_label,
            location="top",
            extend="both",
            aspect=25,
            pad=0.02,
        )
        bar.set_label(LABEL_TITLES[name])


def _count_note(data: FigureData) -> str:
    n = len(data.spectra)
    missing = [
        f"{int(np.isnan(data.labels[name]).sum()):,} without {text}" for name, text in _COUNTED.items()
    ]
    return (
        f"{counted(n, 'star')}, {', '.join(missing)}; hexagons: mean label, light grey where no star has it\n"
        "nats: divergence of a latent from the prior; each axis holds 99.6 % of the stars"
    )
