"""How figures look: sizes of a journal's page, colours that everyone can distinguish, settings kept local."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib import style
from matplotlib.axes import Axes

PAGE_WIDTH = 7.1
"""Two columns of a journal page [inches]."""

DPI = 200

OBSERVED = "#000000"
QUIET = "#8c8c8c"
FAINT = "#d9d9d9"
MODEL_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe & Ito's colours without black and yellow, the most distant first.

Source:
    Okabe & Ito (2008), Color Universal Design, jfly.uni-koeln.de/color.
"""
MODEL_MARKERS = ("o", "s", "^", "D", "v", "P")

_SETTINGS: dict[str, Any] = {
    "font.size": 8.0,
    "axes.labelsize": 8.0,
    "axes.titlesize": 8.0,
    "figure.titlesize": 7.5,  # a star with all its labels fits one line
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "axes.linewidth": 0.6,
    "xtick.direction": "in",
    "ytick.direction": "in",
    "xtick.top": True,
    "ytick.right": True,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.1,
    "axes.axisbelow": True,
    "savefig.dpi": DPI,
    "svg.hashsalt": "scattervae",
    "pdf.fonttype": 42,
}


@contextmanager
def house_style() -> Iterator[None]:
    """Our settings over matplotlib's own defaults, so that nobody's configuration changes a figure."""
    with style.context(["default", _SETTINGS]):
        matplotlib.rcParams["axes.formatter.useoffset"] = False
        yield


def model_colour(index: int) -> str:
    """The colour of the model at this place; they repeat after six."""
    return MODEL_COLOURS[index % len(MODEL_COLOURS)]


def model_marks(index: int, size: float, *, filled: bool = False, edge: float = 0.7) -> dict[str, Any]:
    """Marks of the model at this place, of a marker of its own for who sees no colours; no line between them."""
    colour = model_colour(index)
    face = {} if filled else {"markerfacecolor": "none", "markeredgewidth": edge}
    marker = MODEL_MARKERS[index % len(MODEL_MARKERS)]
    return {"linestyle": "none", "marker": marker, "color": colour, "markersize": size, **face}


def signed(value: float, digits: int) -> str:
    """A number with a true minus sign."""
    return f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def explain(axes: Axes, text: str) -> None:
    """What the marks in a panel are, above it, where no data are."""
    axes.set_title(text, loc="left", fontsize=7.0, pad=3.0)


def note(axes: Axes, text: str, *, x: float = 0.02, y: float = 0.95) -> None:
    """A remark inside a panel, in axes units, on a background that keeps it legible."""
    axes.text(
        x,
        y,
        text,
        transform=axes.transAxes,
        ha="left" if x < 0.5 else "right",
        va="top" if y > 0.5 else "bottom",
        fontsize=7.0,
        zorder=10,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.0},
    )
