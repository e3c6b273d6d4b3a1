"""Whether intervals of coefficients hold the truth: coverage by G, order and colour, and the PIT, of each model."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator, ScalarFormatter

from scattervae.errors import DataError, counted
from scattervae.science.calibration.coverage import (
    FEWEST_STARS,
    INSIDE_1_SIGMA,
    INSIDE_2_SIGMA,
    CoverageRow,
    CoverageTable,
    DrawnStars,
    Share,
    coverage_table,
)
from scattervae.science.scatter.parts import ScatterParts
from scattervae.seeds import numpy_stream
from scattervae.show.registry import FigureData
from scattervae.show.style import PAGE_WIDTH, QUIET, explain, house_style, model_colour, model_marks

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
        kinds: Names of shares of a row; each has its colour and marker.
    """
    for level in (INSIDE_1_SIGMA, INSIDE_2_SIGMA):
        axes.axhspan(
            100 * (level - _TOLERATED), 100 * (level + _TOLERATED), color=QUIET, alpha=0.25, linewidth=0
        )
        axes.axhline(100 * level, color=QUIET, linewidth=0.6)
    for offset, kind in enumerate(kinds):
        index = _KINDS.index(kind)
        shares: list[Share] = [getattr(row, kind) for row in rows]
        where = np.arange(len(rows)) + 0.16 * (offset - (len(kinds) - 1) / 2)
        style = model_marks(index, 3.6, filled=True)
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
    axes.set_xlabel("PIT [share predicted to lie below]")
    axes.set_ylabel("PIT density [1 where even]")


MOST_STARS = 2000
_POOLED = ("hidden", "drawn", "at_mean")
_OTHERS = ("drawn", "others_without_scatter")
_HEIGHT = 4.6
_AXES = {
    "G": "G [mag]",
    "order": "coefficients [band and order]",
    "colour": "colour from the first coefficients [mag]",
}


def calibration_figure(data: FigureData) -> Figure:
    """Coverage of each model on usable test stars, at most `MOST_STARS` of them drawn at random.

    Raises:
        DataError: No test star is usable.
    """
    test = data.spectra.take(data.test & data.spectra.usable)
    if len(test) > MOST_STARS:
        test = test.take(np.sort(numpy_stream(0, "calibration").choice(len(test), MOST_STARS, replace=False)))
    if len(test) == 0:
        raise DataError(
            f"none of {counted(len(data.spectra), 'star')} is usable and in the test fold: "
            "no coverage to draw; give more stars"
        )
    return tables_figure(
        {name: coverage_table(model, DrawnStars.of(model, test)) for name, model in data.models.items()}
    )


def tables_figure(tables: Mapping[str, CoverageTable]) -> Figure:
    """These tables, two rows of panels a model."""
    with house_style():
        figure = Figure(figsize=(PAGE_WIDTH, 0.4 + _HEIGHT * len(tables)), layout="constrained")
        parts = figure.subfigures(len(tables), 1, squeeze=False)[:, 0]
        for part, (name, table) in zip(parts, tables.items(), strict=True):
            (pit, by_g), (by_colour, by_order) = part.subplots(2, 2, width_ratios=[1.0, 1.7])
            plot_pit(pit, {"hidden": table.hidden_counts, "drawn": table.drawn_counts})
            for axes in (pit, by_g, by_colour):
                explain(axes, "coefficients whose scatter exceeds their error")
            enough = [row for row in table.by("G") if row.n_stars >= min(FEWEST_STARS, table.n_stars / 20)]
            plot_coverage(by_g, enough, _POOLED)
            plot_coverage(by_colour, table.by("colour"), _POOLED)
            plot_coverage(by_order, table.by("order"), _OTHERS)
            for axes, kind in ((by_g, "G"), (by_colour, "colour"), (by_order, "order")):
                axes.set_xlabel(_AXES[kind])
            explain(by_order, "all coefficients")
            handles = {
                label: handle
                for axes in (by_g, by_order)
                for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
            }
            legend = part.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=4)
            legend.set_title(
                f"{name}: {counted(table.n_stars, 'star')}; filled: inside one sigma, "
                "open: two; shaded: nominal within 2 %"
            )
            legend.get_title().set_fontsize(7.5)
    return figure


FACTOR_LABEL = "factor on the published errors"
_SHIFT = 0.05  # magnitudes between neighbouring lines
_TICKS = (0.4, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def scatter_parts_figure(parts: ScatterParts) -> Figure:
    """Factors with 95 % intervals on a logarithmic axis, and a line at 1, where published errors are right."""
    with house_style():
        figure = Figure(figsize=(PAGE_WIDTH, 3.4), layout="constrained")
        axes = figure.subplots(1, 2, sharey=True)
        for panel, band in zip(axes, ("bp", "rp"), strict=True):
            _draw_band(panel, parts, band)
            panel.set_title(band.upper(), loc="left")
        axes[0].set_ylabel(FACTOR_LABEL)
    return figure


def _draw_band(axes: Axes, parts: ScatterParts, band: str) -> None:
    k = parts.separation.error
    low, high = k.bounds()
    groups = [g for g, group in enumerate(parts.groups) if group.band == band]
    axes.axhline(1.0, color=QUIET, linewidth=0.6)
    for index, g in enumerate(groups):
        axes.errorbar(
            parts.median_g + _SHIFT * (index - (len(groups) - 1) / 2),
            k.value[g],
            yerr=np.stack([k.value[g] - low[g], high[g] - k.value[g]]),
            elinewidth=0.7,
            label=f"orders {parts.groups[g].first}-{parts.groups[g].last}",
            **model_marks(index, 3.2) | {"linestyle": "-", "linewidth": 0.8},
        )
    axes.set_yscale("log")
    axes.set_yticks(_TICKS)
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("$G$ [mag]")
    axes.legend(fontsize=7.0)
