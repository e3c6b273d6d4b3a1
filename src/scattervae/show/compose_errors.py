"""The paper's fig. 2: normalised errors of the scatter VAE and the Cannon against labels, and their scatter."""

from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from scattervae.arrays import LabelArray, StarArray
from scattervae.errors import DataError
from scattervae.science.cannon.model import Cannon, labelled
from scattervae.science.compare import Told, coefficient, tell, told_by_network
from scattervae.show.data import SHOWN_LABELS, FigureData
from scattervae.show.plots import density
from scattervae.show.plots.coefficients import RESIDUAL_LABEL
from scattervae.show.plots.latents import LABEL_TITLES, Limits
from scattervae.show.style import OBSERVED, PAGE_WIDTH, QUIET, house_style, note, signed
from scattervae.spectra.labels import LABEL_NAMES
from scattervae.spectra.normalization import Normalization

ORDER = 3
"""Which coefficient of each band is shown, counted from 1 (Laroche & Speagle 2023, fig. 2)."""

SCATTER_LABEL = "scatter\n[training s.d.]"
_TRUNCATED = 5.0  # where the paper sees the VAE's errors end; the axis is linear inside
_ROW_HEIGHT = 1.45


class _Row(NamedTuple):
    """What one model tells of the chosen coefficient of each band."""

    z: tuple[StarArray, StarArray]
    scatter: tuple[StarArray, StarArray]


class _Stars(NamedTuple):
    """The stars that every model is judged on, and what each model tells of them."""

    labels: LabelArray
    models: dict[str, _Row]
    cannon: _Row
    highlighted: density.Highlighted


def normalised_errors_figure(data: FigureData) -> Figure:
    """Errors of each scatter VAE, of the Cannon, then each VAE's scatter against the Cannon's one value.

    Raises:
        DataError: There is no Cannon, no usable test star with all labels, or no third coefficient.
    """
    stars = _tell_all(data)
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
        span = _span([*(s for row in stars.models.values() for s in row.scatter), *stars.cannon.scatter])
        for index, (name, row) in enumerate(stars.models.items(), start=len(rows)):
            _draw_scatter(axes[index], stars, row, span)
            axes[index][0].set_ylabel(f"{name}\n{SCATTER_LABEL}")
        _finish(figure, axes, len(stars.labels))
    return figure


def _tell_all(data: FigureData) -> _Stars:
    cannon = data.require_cannon()
    chosen = data.labelled & data.test & labelled(data.spectra, data.labels, cannon.settings)
    if not chosen.any():
        raise DataError(
            f"none of {len(data.spectra)} stars is usable, in the test fold and has Teff, log g and [Fe/H]: "
            "nothing to compare models on; give labelled stars"
        )
    stars, labels = data.spectra.take(chosen), data.labels.take(chosen)
    columns = [LABEL_NAMES.index(name) for name in cannon.settings.labels]
    propagated = labels.errors[:, columns] if cannon.settings.propagate_label_errors else None
    by_cannon = tell(cannon.normalization.apply(stars), cannon.predict(labels.values[:, columns], propagated))
    return _Stars(
        labels=np.stack([labels[name] for name in SHOWN_LABELS], axis=1),
        models={
            name: _row_of(told_by_network(model, stars), model.normalization, cannon)
            for name, model in data.models.items()
        },
        cannon=_row_of(by_cannon, cannon.normalization, cannon),
        highlighted=density.Highlighted.of(labels["teff"], labels["logg"]),
    )


def _row_of(told: Told, normalization: Normalization, cannon: Cannon) -> _Row:
    """The chosen coefficients, with scatter in the standard deviations that the Cannon was fitted in."""
    own, common = ([_column(n.bp, "BP"), _column(n.rp, "RP")] for n in (normalization, cannon.normalization))
    scale = normalization.std[own] / cannon.normalization.std[common]
    bp, rp = own
    return _Row(
        (told.z[:, bp], told.z[:, rp]), (told.scatter[:, bp] * scale[0], told.scatter[:, rp] * scale[1])
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
        density.plot_density(axes, x, z, x_range=_x_range(x), y_range=span)
        density.plot_highlighted(axes, x, z, stars.highlighted)
        for level in (-_TRUNCATED, _TRUNCATED):
            axes.axhline(level, color=QUIET, linewidth=0.6, linestyle=":", zorder=2.5)
        density.plot_mode(axes, density.mode_line(x, z))
        ticks = _TRUNCATED * 4.0 ** np.arange(np.floor(np.log(span.high / _TRUNCATED) / np.log(4.0)) + 1)
        axes.yaxis.set_major_locator(FixedLocator([*-ticks[::-1], 0.0, *ticks]))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: signed(value, 0)))
    for axes, z in zip(panels[:: len(SHOWN_LABELS)], row.z, strict=True):
        note(axes, _summary(z), x=0.98, y=0.98)


def _draw_scatter(panels: list[Axes], stars: _Stars, row: _Row, span: Limits) -> None:
    for index, (axes, scatter, x) in enumerate(_each(panels, row.scatter, stars.labels)):
        axes.set_yscale("log")
        density.plot_density(axes, x, scatter, x_range=_x_range(x), y_range=span)
        density.plot_highlighted(axes, x, scatter, stars.highlighted)
        line = density.mode_line(x, np.log10(scatter))
        density.plot_mode(axes, density.ModeLine(line.x, 10.0**line.y))
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
        told = f"median {own / cannon:.2g} of\nthe Cannon's" if cannon > 0 else "the Cannon's is 0"
        note(axes, told, x=0.98, y=0.98)


def _each(
    panels: list[Axes], by_band: tuple[StarArray, StarArray], labels: LabelArray
) -> list[tuple[Axes, StarArray, StarArray]]:
    n = len(SHOWN_LABELS)
    return [(axes, by_band[index // n], labels[:, index % n]) for index, axes in enumerate(panels)]


def _summary(z: StarArray) -> str:
    beyond = int((np.abs(z) > _TRUNCATED).sum())
    return f"{beyond:,} beyond 5$\\sigma$\nlargest {np.abs(z).max():.1f}$\\sigma$"


def _x_range(x: StarArray) -> Limits:
    margin = 0.03 * (float(np.ptp(x)) or 1.0)
    return Limits(float(x.min()) - margin, float(x.max()) + margin)


def _span(values: list[StarArray]) -> Limits:
    together = np.concatenate(values)
    together = together[together > 0]  # the Cannon's scatter is 0 where errors explain all there is
    return Limits(float(together.min()) / 1.6, float(together.max()) * 4.0)


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
