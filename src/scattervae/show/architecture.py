"""The paper's fig. 1: the architecture with an example spectrum, and the Cannon on the same star."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Polygon
from matplotlib.ticker import FixedLocator, NullLocator

from scattervae.errors import DataError, counted
from scattervae.model.checkpoint import Checkpoint
from scattervae.model.network import FEATURES_A_COEFF, NetworkShape
from scattervae.science.cannon.model import Cannon
from scattervae.show.registry import FigureData
from scattervae.show.star_figure import (
    Curve,
    draw_coefficients,
    median_star,
    predicted_curve,
    shown_star,
    star_title,
)
from scattervae.show.style import FAINT, OBSERVED, PAGE_WIDTH, QUIET, house_style
from scattervae.spectra.spectra import Spectra

ENCODER, DECODER, SCATTER = "#E69F00", "#7B2D8B", "#009E73"
_BAR = 0.34
_TALLEST = 2.5
_SHORTEST = 0.5
_CENTRED: dict[str, Any] = {"ha": "center", "va": "center"}
_BRANCH = 1.65  # how far above and below the middle the two decoders lie


class _Layer(NamedTuple):
    x: float
    y: float
    width: int
    height: float


def plot_network(axes: Axes, shape: NetworkShape, n_coeffs: int) -> None:
    """Layers as bars with their number of units, the height its logarithm, and arrows from each to the next."""
    n_hidden = len(shape.hidden)
    sees_errors = shape.encoder_sees == "errors"
    n_seen = n_coeffs * (FEATURES_A_COEFF if sees_errors else 1)
    kind = "residual " if shape.layers == "residual" else ""
    middle = n_hidden + 2.05
    encoder = _layers([n_seen, *shape.hidden], 0.0, 0.0, n_seen)
    what = f"{kind}encoder" + (" of coefficients\nand errors" if sees_errors else "")
    _draw_stack(axes, encoder, ENCODER, what, above=True)
    widths = [n_coeffs, *shape.hidden]
    for sign, colour, name in ((1, DECODER, "decoder"), (-1, SCATTER, "scatter estimator")):
        stack = _layers(widths[::-1], middle + 1.2, sign * _BRANCH, n_seen)
        _draw_stack(axes, stack, colour, kind + name, above=sign > 0)
        _arrow(axes, (middle + 0.3, sign * 0.35), (stack[0].x - _BAR, stack[0].y))
        _arrow(axes, (stack[-1].x + _BAR, stack[-1].y), (stack[-1].x + 0.95, stack[-1].y), colour=colour)
    _arrow(axes, (-0.95, 0.0), (-_BAR, 0.0), colour=OBSERVED)
    _draw_latents(axes, shape, n_hidden + 0.95, middle)
    for y in (0.62, -0.62):
        _arrow(axes, (n_hidden + _BAR / 2, 0.0), (n_hidden + 0.55, y))
        _arrow(axes, (n_hidden + 1.35, y), (middle - 0.28, 0.2 * y))
    axes.set_xlim(-1.0, middle + 1.2 + n_hidden + 1.0)
    axes.set_ylim(-_BRANCH - 1.75, _BRANCH + 1.75)
    axes.set_axis_off()


def _layers(widths: Sequence[int], x: float, y: float, n_coeffs: int) -> list[_Layer]:
    scale = math.log(max(n_coeffs, *widths, 2))
    return [
        _Layer(x + k, y, w, _SHORTEST + (_TALLEST - _SHORTEST) * math.log(w) / scale)
        for k, w in enumerate(widths)
    ]


def _draw_stack(axes: Axes, stack: list[_Layer], colour: str, name: str, *, above: bool) -> None:
    outline = [(a.x, a.y + a.height / 2) for a in stack] + [(a.x, a.y - a.height / 2) for a in stack[::-1]]
    axes.add_patch(Polygon(outline, closed=True, facecolor=colour, alpha=0.18, linewidth=0))
    for layer in stack:
        _box(axes, (layer.x, layer.y), (_BAR, layer.height), colour)
        style: dict[str, Any] = {"color": "white", "fontsize": 6.5, "rotation": 90}
        axes.text(layer.x, layer.y, f"{layer.width}", **style, **_CENTRED)
    tallest = max(layer.height for layer in stack) / 2 + 0.12
    axes.text(
        0.5 * (stack[0].x + stack[-1].x),
        stack[0].y + (tallest if above else -tallest),
        name,
        color=colour if colour != ENCODER else "#8f6300",  # dark enough to read on white
        ha="center",
        va="bottom" if above else "top",
        fontsize=8.0,
    )


def _draw_latents(axes: Axes, shape: NetworkShape, parameters: float, middle: float) -> None:
    for y, text in ((0.62, "$\\mu$"), (-0.62, "$\\ln\\sigma^2$")):
        _box(axes, (parameters, y), (0.78, 0.66), ENCODER)
        axes.text(parameters, y, text, fontsize=7.0, **_CENTRED)
    _box(axes, (middle, 0.0), (0.5, 0.9), OBSERVED)
    axes.text(middle, 0.0, "$z$", color="white", fontsize=9.0, **_CENTRED)
    axes.text(
        middle + 0.45, 0.0, f"{counted(shape.n_latent, 'latent')}", ha="left", va="center", fontsize=7.0
    )
    coupled = "(1 + C)\\,\\sigma" if shape.n_couplings else "\\sigma"
    axes.text(parameters - 0.25, -1.45, f"$z = \\mu + {coupled}\\,\\epsilon$", fontsize=7.5, **_CENTRED)


def _box(axes: Axes, centre: tuple[float, float], size: tuple[float, float], colour: str) -> None:
    (x, y), (width, height) = centre, size
    axes.add_patch(
        FancyBboxPatch(
            (x - width / 2, y - height / 2),
            width,
            height,
            boxstyle="round,pad=0,rounding_size=0.1",
            facecolor=colour,
            linewidth=0,
            zorder=3,
        )
    )


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], *, colour: str = QUIET) -> None:
    axes.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle="-|>",
            mutation_scale=7,
            linewidth=0.9,
            color=colour,
            shrinkA=0,
            shrinkB=0,
            zorder=4,
        )
    )


def plot_all_coefficients(
    axes: Axes, curve: Curve, *, n_bp: int, linear_below: float, colour: str, title: str
) -> None:
    """Every coefficient of a star, BP then RP, with its bar, on a symmetric-log axis."""
    axes.axhline(0.0, color=FAINT, linewidth=0.6)
    axes.errorbar(
        np.arange(1, len(curve.values) + 1),
        curve.values,
        yerr=curve.sigma,
        fmt=".",
        color=colour,
        markersize=2.0,
        elinewidth=0.5,
    )
    axes.set_yscale("symlog", linthresh=linear_below, linscale=0.8)
    decades = linear_below * 10.0 ** np.arange(1, 12, 2)  # a small panel holds every other
    axes.yaxis.set_major_locator(FixedLocator([*-decades[::-1], 0.0, *decades]))
    axes.yaxis.set_minor_locator(NullLocator())
    _name_bands(axes, len(curve.values), n_bp, title)


def plot_all_sigmas(axes: Axes, scatter: Curve, errors: Curve, *, n_bp: int, colour: str, title: str) -> None:
    """Scatter of every coefficient of a star, with the measurement errors in grey, on a logarithmic axis."""
    orders = np.arange(1, len(errors.sigma) + 1)
    axes.plot(orders, errors.sigma, color=QUIET, linewidth=0.7, drawstyle="steps-mid")
    axes.plot(orders, scatter.sigma, ".", color=colour, markersize=2.0)
    axes.set_yscale("log")
    axes.yaxis.set_minor_locator(NullLocator())
    _name_bands(axes, len(orders), n_bp, title)


def _name_bands(axes: Axes, n_coeffs: int, n_bp: int, title: str) -> None:
    axes.axvline(n_bp + 0.5, color=FAINT, linewidth=0.6)
    axes.set_xlim(0, n_coeffs + 1)
    axes.xaxis.set_major_locator(FixedLocator([n_bp / 2, n_bp + (n_coeffs - n_bp) / 2]))
    axes.set_xticklabels([f"{n_bp} BP", f"{n_coeffs - n_bp} RP"])
    axes.tick_params(axis="x", length=0)
    axes.tick_params(axis="y", labelsize=6.0)
    axes.set_title(title, fontsize=7.5)


_HEIGHTS = (2.55, 5.3)


def architecture_figure(data: FigureData) -> Figure:
    """The network around one star's coefficients; below, what it and the Cannon predict of them.

    Raises:
        DataError: There is no Cannon, or the star lacks one of its labels.
    """
    cannon, (name, model) = data.require_cannon(), data.first_model
    row = _row(data, cannon)
    star = data.spectra.take(slice(row, row + 1))
    (encoded,) = model.encode_batches([star])
    labels = data.labels.values[row : row + 1, cannon.settings.columns]
    predicted = {
        name: predicted_curve(encoded.reconstruction, model.normalization),
        "The Cannon": predicted_curve(cannon.predict(labels), cannon.normalization),
    }
    with house_style():
        figure = Figure(figsize=(PAGE_WIDTH, sum(_HEIGHTS)), layout="constrained")
        parts: Any = figure.subfigures(2, 1, height_ratios=_HEIGHTS)  # annotated as one of three kinds
        above, below = parts
        _draw_network(above, model, star, predicted[name])
        grid = below.add_gridspec(3, 2, height_ratios=[2.3, 1.5, 1.3])
        draw_coefficients(below, grid, star, predicted)
        figure.suptitle(star_title(data, row))
    return figure


def _row(data: FigureData, cannon: Cannon) -> int:
    known = np.isfinite(data.labels.values[:, cannon.settings.columns]).all(axis=1)
    names = ", ".join(cannon.settings.labels)
    if data.source_id is None:
        if not (known & data.spectra.usable).any():
            raise DataError(f"no usable star has all of {names}, which the Cannon needs; give labelled stars")
        return median_star(data.spectra, known)
    row = shown_star(data)
    if not known[row]:
        raise DataError(f"source_id {data.source_id}: lacks one of {names}, which the Cannon needs")
    return row


def _draw_network(figure: SubFigure, model: Checkpoint, star: Spectra, made: Curve) -> None:
    n_bp = star.basis.n_bp
    observed = Curve(star.coeffs[0] / star.g_flux[0], star.errors[0] / star.g_flux[0])
    linear_below = 10.0 ** np.floor(np.log10(np.nanmedian(observed.sigma)))
    grid = figure.add_gridspec(4, 3, width_ratios=[1.0, 2.6, 1.0])
    given = figure.add_subplot(grid[1:3, 0])
    plot_all_coefficients(
        given, observed, n_bp=n_bp, linear_below=linear_below, colour=OBSERVED, title="observed coefficients"
    )
    plot_network(figure.add_subplot(grid[:, 1]), model.recipe.network, model.normalization.n_coeffs)
    above = figure.add_subplot(grid[:2, 2])
    plot_all_coefficients(
        above,
        Curve(made.values, np.zeros_like(made.sigma)),
        n_bp=n_bp,
        linear_below=linear_below,
        colour=DECODER,
        title="reconstruction",
    )
    above.set_ylim(given.get_ylim())
    plot_all_sigmas(
        figure.add_subplot(grid[2:, 2]),
        made,
        observed,
        n_bp=n_bp,
        colour=SCATTER,
        title="scatter (grey: error)",
    )
