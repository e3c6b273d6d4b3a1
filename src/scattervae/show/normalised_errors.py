"""The paper's fig. 2: normalised errors of the scatter VAE and the Cannon against labels, and their scatter."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from scattervae.arrays import LabelArray, StarArray, StarMask
from scattervae.errors import DataError, counted
from scattervae.science.cannon.model import Cannon, labelled
from scattervae.science.paper.comparison import (
    COOL_BELOW_K,
    LOW_GRAVITY_BELOW,
    Scores,
    coefficient,
    score,
    score_network,
)
from scattervae.show.latents_figure import LABEL_TITLES, Limits
from scattervae.show.registry import SHOWN_LABELS, FigureData
from scattervae.show.star_figure import RESIDUAL_LABEL
from scattervae.show.style import OBSERVED, PAGE_WIDTH, QUIET, house_style, note, signed
from scattervae.spectra.normalization import Normalization

COOL_COLOUR = "#0072B2"  # as far from the next as colours can be for those who see no green
LOW_GRAVITY_COLOUR = "#E69F00"
MODE_COLOUR = "#000000"
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


def mode_line(x: StarArray, y: StarArray, *, bins: int = _BINS) -> ModeLine:
    """The mode of y in equal bins of x, at the median x of each; bins with too few stars are left out.
    Of a quantity on a logarithmic axis, y is the logarithm.
    """
    edges = np.linspace(x.min(), x.max(), bins + 1)
    bin_of = np.clip(np.digitize(x, edges) - 1, 0, bins - 1)
    kept = [k for k in range(bins) if (bin_of == k).sum() >= _FEWEST]
    at = [float(np.median(x[bin_of == k])) for k in kept]
    return ModeLine(np.array(at), np.array([_mode(y[bin_of == k]) for k in kept]))


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
    The scales are set before; stars outside the ranges are not shown.
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
            markersize=2.0,
            markeredgewidth=0,
            color=colour,
            alpha=0.6,
            label=f"{label} ({counted(int(chosen.sum()), 'star')})",
            rasterized=True,
            zorder=2,
        )


def plot_mode(axes: Axes, line: ModeLine) -> None:
    """The mode against x, on a light border that keeps it apart from the density."""
    axes.plot(line.x, line.y, color="white", linewidth=2.4, zorder=3)
    axes.plot(line.x, line.y, color=MODE_COLOUR, linewidth=1.2, zorder=4, label="mode")


ORDER = 3
"""Which coefficient of each band is shown, counted from 1 (Laroche & Speagle 2023, fig. 2)."""

SCATTER_LABEL = "scatter\n[training s.d.]"
_TRUNCATED = 5.0  # where the paper sees the VAE's errors end; the axis is linear inside
_ROW_HEIGHT = 1.45


class _Row(NamedTuple):
    """What one model predicts of the chosen coefficient of each band."""

    z: tuple[StarArray, StarArray]
    scatter: tuple[StarArray, StarArray]


class _Stars(NamedTuple):
    """The stars that every model is judged on, and what each model predicts of them."""

    labels: LabelArray
    models: dict[str, _Row]
    cannon: _Row
    highlighted: Highlighted


def normalised_errors_figure(data: FigureData) -> Figure:
    """Errors of each scatter VAE, of the Cannon, then each VAE's scatter against the Cannon's one value.

    Raises:
        DataError: There is no Cannon, no usable test star with all labels, or no third coefficient.
    """
    stars = _predictions(data)
    names = [*stars.models, "The Cannon"]
    rows = [*stars.models.values(), stars.cannon]
    with house_style():
        n_rows = len(rows) + len(stars.models)
        figure = Figure(figsize=(PAGE_WIDTH, 0.9 + _ROW_HEIGHT * n_rows), layout="constrained")
        axes = _panels(figure, n_rows)
        reach = max(_TRUNCATED, *(float(np.abs(z).max()) for row in rows for z in row.z))
        for index, (name, row) in enumerate(zip(names, rows, strict=True)):
            _draw_errors(axes[index], stars, row, Limits(-1.5 * reach, 4.0 * reach))  # room for a note
            axes[index][0].set_ylabel(f"{name}\n{RESIDUAL_LABEL}")
        together = np.concatenate([scatter for row in rows for scatter in row.scatter])
        together = together[together > 0]  # the Cannon's scatter is 0 where errors explain all there is
        span = Limits(float(together.min()) / 1.6, float(together.max()) * 4.0)
        for index, (name, row) in enumerate(stars.models.items(), start=len(rows)):
            _draw_scatter(axes[index], stars, row, span)
            axes[index][0].set_ylabel(f"{name}\n{SCATTER_LABEL}")
        _finish(figure, axes, len(stars.labels))
    return figure


def _predictions(data: FigureData) -> _Stars:
    cannon = data.require_cannon()
    chosen = data.labelled & data.test & labelled(data.spectra, data.labels, cannon.settings)
    if not chosen.any():
        raise DataError(
            f"none of {counted(len(data.spectra), 'star')} is usable, in the test fold and has Teff, log g and [Fe/H]: "
            "nothing to compare models on; give labelled stars"
        )
    stars, labels = data.spectra.take(chosen), data.labels.take(chosen)
    predicted = cannon.predict(labels.values[:, cannon.settings.columns])
    by_cannon = score(cannon.normalization.apply(stars), predicted)
    return _Stars(
        labels=np.stack([labels[name] for name in SHOWN_LABELS], axis=1),
        models={
            name: _row_of(score_network(model, stars), model.normalization, cannon)
            for name, model in data.models.items()
        },
        cannon=_row_of(by_cannon, cannon.normalization, cannon),
        highlighted=Highlighted.of(labels["teff"], labels["logg"]),
    )


def _row_of(predicted: Scores, normalization: Normalization, cannon: Cannon) -> _Row:
    """The chosen coefficients, with scatter in the standard deviations that the Cannon was fitted in."""
    own, common = ([_column(n.bp, "BP"), _column(n.rp, "RP")] for n in (normalization, cannon.normalization))
    scale = normalization.std[own] / cannon.normalization.std[common]
    bp, rp = own
    return _Row(
        (predicted.z[:, bp], predicted.z[:, rp]),
        (predicted.scatter[:, bp] * scale[0], predicted.scatter[:, rp] * scale[1]),
    )


def _column(band: slice, name: str) -> int:
    if band.stop - band.start < ORDER:
        raise DataError(
            f"a model has {band.stop - band.start} {name} coefficients: there is no number {ORDER}"
        )
    return coefficient(band, ORDER)


def _panels(figure: Figure, n_rows: int) -> list[list[Axes]]:
    """Rows of six: BP against three labels, then RP, with a wider gap between the bands."""
    n = len(SHOWN_LABELS)
    grid = figure.add_gridspec(n_rows, 2 * n + 1, width_ratios=[1] * n + [0.06] + [1] * n)
    columns = [*range(n), *range(n + 1, 2 * n + 1)]
    return [[figure.add_subplot(grid[row, column]) for column in columns] for row in range(n_rows)]


def _draw_errors(panels: list[Axes], stars: _Stars, row: _Row, span: Limits) -> None:
    for axes, z, x in _each(panels, row.z, stars.labels):
        axes.set_yscale("symlog", linthresh=_TRUNCATED, linscale=1.2)
        plot_density(axes, x, z, x_range=_x_range(x), y_range=span)
        plot_highlighted(axes, x, z, stars.highlighted)
        for level in (-_TRUNCATED, _TRUNCATED):
            axes.axhline(level, color=QUIET, linewidth=0.6, linestyle=":", zorder=2.5)
        plot_mode(axes, mode_line(x, z))
        ticks = _TRUNCATED * 4.0 ** np.arange(np.floor(np.log(span.high / _TRUNCATED) / np.log(4.0)) + 1)
        axes.yaxis.set_major_locator(FixedLocator([*-ticks[::-1], 0.0, *ticks]))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: signed(value, 0)))
    for axes, z in zip(panels[:: len(SHOWN_LABELS)], row.z, strict=True):
        beyond = int((np.abs(z) > _TRUNCATED).sum())
        note(axes, f"{beyond:,} beyond 5$\\sigma$\nlargest {np.abs(z).max():.1f}$\\sigma$", x=0.98, y=0.98)


def _draw_scatter(panels: list[Axes], stars: _Stars, row: _Row, span: Limits) -> None:
    for index, (axes, scatter, x) in enumerate(_each(panels, row.scatter, stars.labels)):
        axes.set_yscale("log")
        plot_density(axes, x, scatter, x_range=_x_range(x), y_range=span)
        plot_highlighted(axes, x, scatter, stars.highlighted)
        line = mode_line(x, np.log10(scatter))
        plot_mode(axes, ModeLine(line.x, 10.0**line.y))
        one_value = float(np.median(stars.cannon.scatter[index // len(SHOWN_LABELS)]))
        axes.axhline(
            one_value if one_value > 0 else np.nan,
            color=OBSERVED,
            linewidth=1.2,
            linestyle="--",
            zorder=5,
            label="the Cannon's scatter",
        )
        axes.yaxis.set_minor_locator(NullLocator())
    for band, axes in enumerate(panels[:: len(SHOWN_LABELS)]):
        own, cannon = (float(np.median(s.scatter[band])) for s in (row, stars.cannon))
        ratio = f"median {own / cannon:.2g} of\nthe Cannon's" if cannon > 0 else "the Cannon's is 0"
        note(axes, ratio, x=0.98, y=0.98)


def _each(
    panels: list[Axes], by_band: tuple[StarArray, StarArray], labels: LabelArray
) -> list[tuple[Axes, StarArray, StarArray]]:
    n = len(SHOWN_LABELS)
    return [(axes, by_band[index // n], labels[:, index % n]) for index, axes in enumerate(panels)]


def _x_range(x: StarArray) -> Limits:
    margin = 0.03 * (float(np.ptp(x)) or 1.0)
    return Limits(float(x.min()) - margin, float(x.max()) + margin)


def _finish(figure: Figure, axes: list[list[Axes]], n_stars: int) -> None:
    n = len(SHOWN_LABELS)
    for row in axes:
        for index, panel in enumerate(row):
            panel.tick_params(labelleft=index == 0, labelbottom=row is axes[-1])
            panel.xaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
    for index, panel in enumerate(axes[-1]):
        panel.set_xlabel(LABEL_TITLES[SHOWN_LABELS[index % n]], fontsize=7.5)
    for panel, band in zip(axes[0][::n], ("BP", "RP"), strict=True):
        panel.set_title(f"{band} coefficient {ORDER}", loc="left")
    handles, names = axes[-1][0].get_legend_handles_labels()
    legend = figure.legend(handles, names, loc="outside upper center", ncols=len(names), markerscale=2.5)
    legend.set_title(f"{n_stars:,} usable test stars with all three labels; grey: density")
    legend.get_title().set_fontsize(7.5)
