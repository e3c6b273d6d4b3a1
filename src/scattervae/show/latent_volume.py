"""The paper's fig. 3: labelled and unlabelled stars in the latent space, and the volume that each occupies."""

import textwrap
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from scipy.ndimage import gaussian_filter

from scattervae.errors import DataError, counted
from scattervae.science.latent_volume.comparison import (
    Overlap,
    Projection,
    VolumeComparison,
    VolumeSettings,
    compare_volumes,
)
from scattervae.seeds import numpy_stream
from scattervae.show.latents_figure import Limits, axis_limits
from scattervae.show.registry import HOW_TO_GIVE, FigureData, Need
from scattervae.show.style import OBSERVED, PAGE_WIDTH, QUIET, explain, house_style
from scattervae.spectra.spectra import Spectra

LABELLED_COLOUR = "#D55E00"
UNLABELLED_COLOUR = "#0072B2"
ONLY_LABELLED, ONLY_UNLABELLED, BOTH = "#f7c9a3", "#a9d0ec", "#c9c9c9"
PAIR_COLOUR = "#7B2D8B"
ENCLOSED = (0.9, 0.5)
_GRID = 60
_SMOOTH = 1.5  # grid steps
_FEWEST = 50  # stars for a contour

Points: TypeAlias = Float64[np.ndarray, " point"]


Projected: TypeAlias = Float64[np.ndarray, "_ 2"]
"""Posterior means of one set of stars in two latents, all finite."""


def plot_cells(
    axes: Axes, labelled: Projected, unlabelled: Projected, *, side: float, x: Limits, y: Limits
) -> None:
    """Cells that stars of either set fall in: orange, blue, or grey where stars of both do.

    They are those that volumes are counted in: squares whose edges are whole multiples of `side`.
    Areas can be compared where both sets have equally many stars; `side` is in prior standard deviations.
    """
    x_edges, y_edges = (
        side * np.arange(np.floor(ends.low / side), np.ceil(ends.high / side) + 1) for ends in (x, y)
    )
    sup, unsup = (
        np.histogram2d(stars[:, 0], stars[:, 1], bins=(x_edges, y_edges))[0] > 0
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
    """Lines of equal density that enclose 90 and 50 % of the stars; none where stars are too few."""
    if len(stars) < _FEWEST:
        axes.plot(*stars.T, ".", markersize=2, color=colour, zorder=3)
        return
    edges = [np.linspace(ends.low, ends.high, _GRID + 1) for ends in (x, y)]
    counts = gaussian_filter(np.histogram2d(stars[:, 0], stars[:, 1], bins=edges)[0], _SMOOTH)
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
        Line2D([], [], color=LABELLED_COLOUR, label=f"labelled ({counted(n_labelled, 'star')})"),
        Line2D(
            [],
            [],
            color=UNLABELLED_COLOUR,
            linestyle="--",
            label=f"unlabelled ({counted(n_unlabelled, 'star')})",
        ),
        Patch(color=ONLY_LABELLED, label="cells of labelled only"),
        Patch(color=ONLY_UNLABELLED, label="of unlabelled only"),
        Patch(color=BOTH, label="of both"),
    ]


def plot_volumes(axes: Axes, pairs: Sequence[Sequence[Overlap]], full: Sequence[Overlap], name: str) -> None:
    r"""Difference of occupied volumes in per cent against the number of stars of each set, with 95 % intervals.

    .. math:: \Delta V / V_{sup} = (V_{unsup} - V_{sup}) / V_{sup}

    Args:
        pairs: Each pair of latents at equal numbers, from few to many; thin, with the interval shaded.
        full: The same in all latents together, `name` in the legend.
        name: See `full`.
    """
    axes.axhline(0.0, color=QUIET, linewidth=0.6)
    for index, overlaps in enumerate(pairs):
        n, value, low, high = _percents(overlaps)
        axes.fill_between(n, low, high, color=PAIR_COLOUR, alpha=0.1, linewidth=0)
        axes.plot(n, value, color=PAIR_COLOUR, linewidth=0.8, label=None if index else "each pair of latents")
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


MOST_LATENTS = 4
"""The most informative active latents are shown, in all their pairs; more would be too small to read."""

LabelledSet = Float64[np.ndarray, "labelled latent"]
UnlabelledSet = Float64[np.ndarray, "unlabelled latent"]


class _Sets(NamedTuple):
    """Posterior means of both sets, all latents; those of equal numbers are what cells are drawn from."""

    labelled: LabelledSet
    unlabelled: UnlabelledSet
    equal_labelled: LabelledSet
    equal_unlabelled: UnlabelledSet


def latent_volume_figure(data: FigureData) -> Figure:
    """Pairs of active latents with both sets of stars; where they are given, volumes against numbers.

    Raises:
        DataError: There are no labelled or no unlabelled stars, or the model has fewer than two active latents.
    """
    name, model = data.first_model
    posterior = model.encode(data.spectra.take(_labelled_rows(data)))
    active = posterior.active_latents()
    if len(active) < 2:
        raise DataError(
            f"{name}: {len(active)} active latents, and a pair is needed; was the model collapsed?"
        )
    outside = model.encode(unlabelled_stars(data)).mean.double().numpy()
    sets = _equalised(posterior.mean.double().numpy(), outside)
    shown = sorted(active[:MOST_LATENTS])
    side = (data.volumes.settings if data.volumes else VolumeSettings()).pair_cell
    n = len(shown) - 1
    with house_style():
        columns = max(n, 2) if data.volumes else n
        width = max(PAGE_WIDTH / 3 * columns, 3.4)
        figure = Figure(figsize=(width, 0.8 + PAGE_WIDTH / 3.3 * n), layout="constrained")
        grid = figure.add_gridspec(n, columns)
        _draw_pairs(figure, grid, sets, shown, side=side, compared=data.volumes)
        if data.volumes is not None:
            free = grid[0, 1:] if n != 2 else grid[0, 1]  # what the corner of pairs leaves
            _draw_volumes(figure.add_subplot(free), data.volumes)
        marks = legend_marks(len(sets.labelled), len(sets.unlabelled))
        figure.legend(
            handles=marks, loc="outside upper center", ncols=(2, 3, 5)[min(columns, 3) - 1], **_TIGHT
        )
        remark = (
            f"{name}; cells of side {side:g} prior s.d., drawn for {counted(len(sets.equal_labelled), 'star')} of "
            "each set; contours: 50 and 90 % of all; axes: 99.6 % of each set"
        )
        figure.supxlabel(textwrap.fill(remark, 45 * columns), fontsize=7.0)
    return figure


_TIGHT = {"columnspacing": 1.0, "handlelength": 1.6, "handletextpad": 0.5, "fontsize": 7.0}


def unlabelled_stars(data: FigureData) -> Spectra:
    """The usable unlabelled stars that are not among the labelled ones.

    Raises:
        DataError: There is none.
    """
    if data.unlabelled is None:
        raise DataError(HOW_TO_GIVE[Need.UNLABELLED])
    also = np.isin(data.unlabelled.source_id, data.spectra.source_id[data.labelled])
    found = data.unlabelled.take(data.unlabelled.usable & ~also)
    if len(found) == 0:
        raise DataError(f"none of {len(data.unlabelled)} unlabelled stars is usable and not labelled as well")
    return found


def measured_volumes(data: FigureData) -> VolumeComparison:
    """Volumes that labelled and unlabelled stars occupy in the active latents of the first model.

    Raises:
        DataError: There are no unlabelled stars, or the model has fewer than two active latents.
    """
    _, model = data.first_model
    posterior = model.encode(data.spectra.take(data.labelled))
    unlabelled = model.encode(unlabelled_stars(data)).mean.double().numpy()
    return compare_volumes(posterior.mean.double().numpy(), unlabelled, posterior.active_latents())


def _labelled_rows(data: FigureData) -> np.ndarray:
    if not data.labelled.any():
        raise DataError(
            f"none of {counted(len(data.spectra), 'star')} is usable with Teff, log g and [Fe/H]: "
            "no labelled stars to project; give stars with labels"
        )
    return np.flatnonzero(data.labelled)


def _equalised(labelled: LabelledSet, unlabelled: UnlabelledSet) -> _Sets:
    n = min(len(labelled), len(unlabelled))
    equal = (
        z[np.sort(numpy_stream(0, "projection", name).permutation(len(z))[:n])]
        for name, z in (("labelled", labelled), ("unlabelled", unlabelled))
    )
    return _Sets(labelled, unlabelled, *equal)


def _draw_pairs(
    figure: Figure,
    grid: GridSpec,
    sets: _Sets,
    shown: list[int],
    *,
    side: float,
    compared: VolumeComparison | None,
) -> None:
    """The corner of all pairs: columns share their latent, and so do rows."""
    limits = {k: shared_limits(sets.labelled[:, k], sets.unlabelled[:, k]) for k in shown}
    by_pair = {p.latents: p for p in compared.pairs} if compared else {}
    for row, second in enumerate(shown[1:]):
        for column, first in enumerate(shown[: row + 1]):
            axes = figure.add_subplot(grid[row, column])
            x, y = limits[first], limits[second]
            labelled, unlabelled, *equal = (z[:, [first, second]] for z in sets)
            plot_cells(axes, *equal, side=side, x=x, y=y)
            plot_contours(axes, labelled, colour=LABELLED_COLOUR, dashed=False, x=x, y=y)
            plot_contours(axes, unlabelled, colour=UNLABELLED_COLOUR, dashed=True, x=x, y=y)
            axes.set_xlim(x.low, x.high)
            axes.set_ylim(y.low, y.high)
            bottom, left = row == len(shown) - 2, column == 0
            axes.tick_params(labelbottom=bottom, labelleft=left)
            axes.set_xlabel(f"latent {first + 1} [prior s.d.]" if bottom else "")
            axes.set_ylabel(f"latent {second + 1} [prior s.d.]" if left else "")
            if (first, second) in by_pair:
                explain(axes, _difference(by_pair[first, second]))


def _difference(pair: Projection) -> str:
    value, _, low, high = (100.0 * part for part in pair.equal_n.difference)
    percent = f"{value:+.0f} % ({low:+.0f} to {high:+.0f})".replace("-", "\N{MINUS SIGN}")
    return f"$\\Delta V/V_\\mathrm{{sup}}$ = {percent}"


def _name_extremes(axes: Axes, compared: VolumeComparison) -> None:
    """The names of the pairs whose volumes differ least and most, beside the ends of their curves."""
    ends = {pair.latents: float(_percents(pair.over_n)[1][-1]) for pair in compared.pairs if pair.over_n}
    if len(ends) < 2:
        return
    n = max(float(_percents(pair.over_n)[0][-1]) for pair in compared.pairs if pair.over_n)
    axes.set_xlim(right=2.2 * n)
    for choose in (max, min):
        latents = choose(ends, key=lambda pair: ends[pair])
        text = " " + ", ".join(str(k + 1) for k in latents)
        axes.text(n, ends[latents], text, color=PAIR_COLOUR, fontsize=7.0, ha="left", va="center")


def _draw_volumes(axes: Axes, compared: VolumeComparison) -> None:
    plot_volumes(
        axes,
        [pair.over_n for pair in compared.pairs],
        compared.full.over_n,
        f"all {len(compared.full.latents)} active latents",
    )
    _name_extremes(axes, compared)
    axes.yaxis.tick_right()  # on the left the labels would push the pairs apart
    axes.yaxis.set_ticks_position("both")
    axes.tick_params(labelleft=False, labelright=True)
    axes.yaxis.set_label_position("right")
    axes.legend(loc="best")
