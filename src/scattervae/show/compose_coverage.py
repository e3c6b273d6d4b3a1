"""The paper's fig. 3: labelled and unlabelled stars in the latent space, and the volume that each occupies."""

import textwrap
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec, SubplotSpec

from scattervae.errors import DataError
from scattervae.science.coverage.comparison import Coverage, CoverageSettings, Projection
from scattervae.seeds import numpy_stream
from scattervae.show.data import FigureData
from scattervae.show.plots import projection
from scattervae.show.plots.latents import active_latents
from scattervae.show.plots.projection import Projected
from scattervae.show.style import PAGE_WIDTH, house_style, note

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


def coverage_figure(data: FigureData) -> Figure:
    """Pairs of active latents with both sets of stars; where a coverage is given, volumes against numbers.

    Raises:
        DataError: There are no labelled or no unlabelled stars, or the model has fewer than two active latents.
    """
    name, model = data.first_model
    posterior = model.encode(data.spectra.take(_labelled_rows(data)))
    active = active_latents(posterior.kl_per_latent())
    if len(active) < 2:
        raise DataError(
            f"{name}: {len(active)} active latents, and a pair is needed; was the model collapsed?"
        )
    outside = model.encode(data.outside).mean.double().numpy()
    sets = _equalised(posterior.mean.double().numpy(), outside)
    shown = sorted(active[:MOST_LATENTS])
    side = (data.coverage.settings if data.coverage else CoverageSettings()).pair_cell
    n = len(shown) - 1
    with house_style():
        columns = max(n, 2) if data.coverage else n
        width = max(PAGE_WIDTH / 3 * columns, 3.4)
        figure = Figure(figsize=(width, 0.8 + PAGE_WIDTH / 3.3 * n), layout="constrained")
        grid = figure.add_gridspec(n, columns)
        _draw_pairs(figure, grid, sets, shown, side=side, coverage=data.coverage)
        if data.coverage is not None:
            _draw_volumes(figure.add_subplot(_free(grid, n)), data.coverage)
        marks = projection.legend_marks(len(sets.labelled), len(sets.unlabelled))
        figure.legend(
            handles=marks, loc="outside upper center", ncols=(2, 3, 5)[min(columns, 3) - 1], **_TIGHT
        )
        remark = (
            f"{name}; cells of side {side:g} prior s.d., drawn for {len(sets.equal_labelled):,} stars of each set; "
            "contours: 50 and 90 % of all; axes: 99.6 % of each set"
        )
        figure.supxlabel(textwrap.fill(remark, 45 * columns), fontsize=7.0)
    return figure


_TIGHT = {"columnspacing": 1.0, "handlelength": 1.6, "handletextpad": 0.5, "fontsize": 7.0}


def _labelled_rows(data: FigureData) -> np.ndarray:
    if not data.labelled.any():
        raise DataError(
            f"none of {len(data.spectra)} stars is usable with Teff, log g and [Fe/H]: "
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
    figure: Figure, grid: GridSpec, sets: _Sets, shown: list[int], *, side: float, coverage: Coverage | None
) -> None:
    """The corner of all pairs: columns share their latent, and so do rows."""
    limits = {k: projection.shared_limits(sets.labelled[:, k], sets.unlabelled[:, k]) for k in shown}
    by_pair = {p.latents: p for p in coverage.pairs} if coverage else {}
    for row, second in enumerate(shown[1:]):
        for column, first in enumerate(shown[: row + 1]):
            axes = figure.add_subplot(grid[row, column])
            x, y = limits[first], limits[second]
            all_of, equal = (
                [Projected(z[:, first], z[:, second]) for z in pair] for pair in (sets[:2], sets[2:])
            )
            projection.plot_cells(axes, equal[0], equal[1], side=side, x=x, y=y)
            for stars, colour, dashed in (
                (all_of[0], projection.LABELLED_COLOUR, False),
                (all_of[1], projection.UNLABELLED_COLOUR, True),
            ):
                projection.plot_contours(axes, stars, colour=colour, dashed=dashed, x=x, y=y)
            axes.set_xlim(x.low, x.high)
            axes.set_ylim(y.low, y.high)
            _name_axes(axes, first, second, outer=(row == len(shown) - 2, column == 0))
            if (first, second) in by_pair:
                note(axes, _difference(by_pair[first, second]), y=0.97)


def _name_axes(axes: Axes, first: int, second: int, *, outer: tuple[bool, bool]) -> None:
    bottom, left = outer
    axes.tick_params(labelbottom=bottom, labelleft=left)
    axes.set_xlabel(f"latent {first + 1} [prior s.d.]" if bottom else "")
    axes.set_ylabel(f"latent {second + 1} [prior s.d.]" if left else "")


def _difference(pair: Projection) -> str:
    value, _, low, high = (100.0 * part for part in pair.equal_n.difference)
    percent = f"{value:+.0f} % ({low:+.0f} to {high:+.0f})".replace("-", "\N{MINUS SIGN}")
    return f"$\\Delta V/V_\\mathrm{{sup}}$ = {percent}"


def _free(grid: GridSpec, n: int) -> SubplotSpec:
    """The part of the grid that the corner of pairs leaves free."""
    return grid[0, 1:] if n != 2 else grid[0, 1]


def _draw_volumes(axes: Axes, coverage: Coverage) -> None:
    projection.plot_volumes(
        axes,
        [pair.over_n for pair in coverage.pairs],
        coverage.full.over_n,
        f"all {len(coverage.full.latents)} active latents",
    )
    axes.yaxis.tick_right()  # on the left the labels would push the pairs apart
    axes.yaxis.set_ticks_position("both")
    axes.tick_params(labelleft=False, labelright=True)
    axes.yaxis.set_label_position("right")
    axes.legend(loc="best")
