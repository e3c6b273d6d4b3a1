"""Whether intervals of coefficients hold the truth: coverage by G, order and colour, and the PIT, of each model."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from scattervae.errors import DataError
from scattervae.science.calibration.coverage import FEWEST_STARS, CoverageTable, coverage_table
from scattervae.seeds import numpy_stream
from scattervae.show.data import FigureData
from scattervae.show.plots.calibration import plot_coverage, plot_pit
from scattervae.show.style import PAGE_WIDTH, house_style

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
            f"none of {len(data.spectra)} stars is usable and in the test fold: no coverage to draw; give more stars"
        )
    return coverage_figure({name: coverage_table(model, test) for name, model in data.models.items()})


def coverage_figure(tables: Mapping[str, CoverageTable]) -> Figure:
    """These tables, two rows of panels a model."""
    with house_style():
        figure = Figure(figsize=(PAGE_WIDTH, 0.4 + _HEIGHT * len(tables)), layout="constrained")
        parts = figure.subfigures(len(tables), 1, squeeze=False)[:, 0]
        for part, (name, table) in zip(parts, tables.items(), strict=True):
            (pit, by_g), (by_colour, by_order) = part.subplots(2, 2, width_ratios=[1.0, 1.7])
            plot_pit(pit, {"hidden": table.hidden_counts, "drawn": table.drawn_counts})
            pit.set_title("coefficients whose scatter exceeds their error", loc="left", fontsize=7.0)
            enough = [row for row in table.by("G") if row.n_stars >= min(FEWEST_STARS, table.n_stars / 20)]
            plot_coverage(by_g, enough, _POOLED)
            plot_coverage(by_colour, table.by("colour"), _POOLED)
            plot_coverage(by_order, table.by("order"), _OTHERS)
            for axes, kind in ((by_g, "G"), (by_colour, "colour"), (by_order, "order")):
                axes.set_xlabel(_AXES[kind])
            by_order.set_title("all coefficients", loc="left", fontsize=7.0)
            handles = {
                label: handle
                for axes in (by_g, by_order)
                for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
            }
            legend = part.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=4)
            legend.set_title(
                f"{name}: {table.n_stars:,} stars; filled: inside one sigma, open: two; shaded: nominal within 2 %"
            )
            legend.get_title().set_fontsize(7.5)
    return figure
