"""Labels as they are predicted against labels as they are known, and the error against the number of labelled stars."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm

from scattervae.arrays import StarArray
from scattervae.show.normalised_errors import DENSITY_MAP
from scattervae.show.style import MODEL_MARKERS, QUIET, model_colour

NAMES = {
    "teff": "$T_\\mathrm{eff}$ [K]",
    "logg": "$\\log\\,g$ [dex]",
    "fe_h": "[Fe/H] [dex]",
    "alpha_m": "[$\\alpha$/M] [dex]",
    "a_k": "$A_K$ [mag]",
}
_CELLS = 80
_SHOWN = (0.1, 99.9)


class ErrorsByNumber(NamedTuple):
    """Errors of one way to predict a label.

    Attributes:
        n_stars: Labelled stars it was trained on, ascending.
        errors: What is left of the label's error with so many, a row for each choice of the stars.
    """

    n_stars: Sequence[int]
    errors: Float64[np.ndarray, "choice number"]


def plot_predicted(axes: Axes, known: StarArray, predicted: StarArray, *, label: str, note: str = "") -> None:
    """Density of stars over known and predicted label, with the line where both agree.

    Args:
        axes: Where to draw.
        known: The label as it was measured; NaN where a star lacks it.
        predicted: The label as it is predicted.
        label: Its name.
        note: Written into the corner, as the error.
    """
    both = np.isfinite(known) & np.isfinite(predicted)
    x, y = known[both], predicted[both]
    low, high = np.percentile(x, _SHOWN) if len(x) else (0.0, 1.0)
    edges = np.linspace(low, high, _CELLS + 1)
    counts, _, _ = np.histogram2d(x, y, bins=(edges, edges))
    axes.pcolormesh(
        edges,
        edges,
        np.ma.masked_equal(counts.T, 0.0),
        cmap=DENSITY_MAP,
        norm=LogNorm(1.0, max(counts.max(), 2.0)),
        rasterized=True,
    )
    axes.plot([low, high], [low, high], color=model_colour(1), linewidth=0.8)
    axes.set_xlabel(f"known {NAMES.get(label, label)}")
    axes.set_ylabel(f"predicted {NAMES.get(label, label)}")
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    axes.text(0.04, 0.96, note, transform=axes.transAxes, va="top", fontsize=7)


def plot_errors_by_number(axes: Axes, errors: Mapping[str, ErrorsByNumber], *, label: str) -> None:
    """The error of a label against the number of labelled stars, for each way to predict it.

    Args:
        axes: Where to draw.
        errors: By the name of the way; a line runs through the mean over choices of labelled stars.
        label: Its name.
    """
    for index, (name, predicted) in enumerate(errors.items()):
        colour = model_colour(index)
        for row in predicted.errors:
            axes.plot(
                predicted.n_stars, row, linestyle="none", marker=".", markersize=3, color=colour, alpha=0.5
            )
        mean = predicted.errors.mean(axis=0)
        style = {
            "marker": MODEL_MARKERS[index % len(MODEL_MARKERS)],
            "markersize": 3.5,
            "color": colour,
            "label": name,
        }
        axes.plot(predicted.n_stars, mean, **style)  # type: ignore[arg-type]
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("stars with labels")
    axes.set_ylabel(f"error of {NAMES.get(label, label)}")
    axes.grid(visible=True, which="both", color=QUIET, alpha=0.15, linewidth=0.4)
