"""One star: its coefficients and its flux, as observed, as models predict them, and what is left.

Laroche & Speagle (2023), fig. 1: amplitudes on a symmetric-log axis, errors and scatter in quadrature.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from matplotlib.gridspec import GridSpec
from matplotlib.ticker import NullLocator, SymmetricalLogLocator

from scattervae.arrays import StarMask, Wavelengths
from scattervae.errors import DataError, counted
from scattervae.gaia.basis import g_mag_of, is_known
from scattervae.gaia.flux import sample_flux
from scattervae.model.network import Reconstruction
from scattervae.science.generation import GeneratedSpectra, generate
from scattervae.seeds import folds
from scattervae.show.registry import FigureData
from scattervae.show.style import (
    FAINT,
    OBSERVED,
    PAGE_WIDTH,
    QUIET,
    explain,
    house_style,
    model_colour,
    model_marks,
    signed,
)
from scattervae.spectra.normalization import Normalization
from scattervae.spectra.spectra import Flag, Spectra

AMPLITUDE_LABEL = "coefficient / $G$ flux\n[archive units]"
SIGMA_LABEL = "$1\\sigma$ / $G$ flux\n[archive units]"
RESIDUAL_LABEL = "residual\n[error $\\oplus$ scatter]"
_SHIFT = 0.22  # orders between the markers of neighbouring models


@dataclass(frozen=True)
class Curve:
    """Values with one standard deviation each."""

    values: Float64[np.ndarray, " point"]  # observed or reconstructed
    sigma: Float64[np.ndarray, " point"]  # the measurement's error, or the model's scatter; same units


def plot_amplitudes(axes: Axes, observed: Curve, models: Mapping[str, Curve], *, linear_below: float) -> None:
    """Coefficients against order; bars are the measurement's error, and error and scatter in quadrature.
    Both are in units of the G flux, NaN where the star has none. The axis is linear below `linear_below` and
    logarithmic above.
    """
    orders = np.arange(1, len(observed.values) + 1)
    axes.axhline(0.0, color=FAINT, linewidth=0.6)
    axes.errorbar(
        orders,
        observed.values,
        yerr=observed.sigma,
        fmt=".",
        color=OBSERVED,
        markersize=3.0,
        elinewidth=0.7,
        label="observed",
        zorder=2,
    )
    for index, (name, model) in enumerate(models.items()):
        axes.errorbar(
            orders + _shift(index, len(models)),
            model.values,
            yerr=np.hypot(np.nan_to_num(observed.sigma), model.sigma),
            elinewidth=0.5,
            label=name,
            zorder=3 + index,
            **model_marks(index, 3.2),
        )
    axes.set_yscale("symlog", linthresh=linear_below, linscale=0.8)
    axes.yaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=linear_below))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlim(0, len(orders) + 1)


def plot_sigmas(axes: Axes, observed: Curve, models: Mapping[str, Curve]) -> None:
    """The measurement's error and each model's scatter against order, on a logarithmic axis.

    A scatter of zero, where errors explain all there is, has no mark.
    """
    orders = np.arange(1, len(observed.sigma) + 1)
    axes.plot(orders, observed.sigma, color=OBSERVED, drawstyle="steps-mid", linewidth=0.9, label="error")
    for index, (name, model) in enumerate(models.items()):
        style = model_marks(index, 2.6, edge=0.6) | {"linestyle": "-", "linewidth": 0.8}
        axes.plot(orders, np.where(model.sigma > 0, model.sigma, np.nan), label=name, **style)
    axes.set_yscale("log")
    axes.set_xlim(0, len(orders) + 1)


def plot_residuals(axes: Axes, observed: Curve, models: Mapping[str, Curve]) -> None:
    r"""Normalised errors against order, with the range of one standard deviation shaded.

    .. math:: (x_i - \hat x_i) / \sqrt{\sigma_{x,i}^2 + \hat\sigma_{s,i}^2}

    Source:
        Laroche & Speagle (2023), sect. 3 and fig. 2.
    """
    orders = np.arange(1, len(observed.values) + 1)
    axes.axhspan(-1.0, 1.0, color=FAINT, alpha=0.6, linewidth=0)
    axes.axhline(0.0, color=QUIET, linewidth=0.6)
    largest = 3.0
    for index, (name, model) in enumerate(models.items()):
        residual = (observed.values - model.values) / np.hypot(observed.sigma, model.sigma)
        largest = max(largest, 1.15 * float(np.nan_to_num(np.abs(residual)).max()))
        style = model_marks(index, 3.0, edge=0.8)
        axes.plot(orders + _shift(index, len(models)), residual, label=name, **style)
    axes.set_xlim(0, len(orders) + 1)
    axes.set_ylim(-largest, largest)


def _shift(index: int, n_models: int) -> float:
    return _SHIFT * (index - (n_models - 1) / 2) if n_models > 1 else 0.0


WAVELENGTH_LABEL = "wavelength [nm]"


def flux_label(what: str, power: int) -> str:
    """An axis label for flux that was divided by ten to this power."""
    return f"{what}\n[$10^{{{power}}}$ W m$^{{-2}}$ nm$^{{-1}}$]"


def power_of_ten(curve: Curve) -> int:
    """The power of ten to divide a flux by, so that its largest value lies between 1 and 10."""
    largest = float(np.nanmax(np.abs(curve.values)))
    return int(np.floor(np.log10(largest))) if largest > 0 else 0


def plot_flux(
    axes: Axes, grid_nm: Wavelengths, observed: Curve, models: Mapping[str, Curve], *, power: int
) -> None:
    """Flux against wavelength; shaded, each model's reconstruction within one standard deviation of scatter.
    Fluxes [W m^-2 nm^-1] are divided by ten to this power.
    """
    scale = 10.0**power
    for index, (name, model) in enumerate(models.items()):
        low, high = (model.values - model.sigma) / scale, (model.values + model.sigma) / scale
        axes.fill_between(grid_nm, low, high, color=model_colour(index), alpha=0.3, linewidth=0)
        axes.plot(grid_nm, model.values / scale, color=model_colour(index), label=name)
    axes.plot(grid_nm, observed.values / scale, color=OBSERVED, linestyle=(0, (1, 1.2)), label="observed")
    axes.set_xlim(grid_nm[0], grid_nm[-1])


def plot_flux_residuals(
    axes: Axes, grid_nm: Wavelengths, observed: Curve, models: Mapping[str, Curve], *, power: int
) -> None:
    """Observed minus reconstructed flux; shaded, each model's scatter; dashed, the measurement's error.

    Where a residual is far larger than the error, the axis is logarithmic beyond it: a good model can be seen
    beside a poor one.
    Arguments are those of `plot_flux`.
    """
    scale = 10.0**power
    linear_below = 10.0 ** np.ceil(np.log10(np.nanmedian(observed.sigma) / scale))
    axes.axhline(0.0, color=QUIET, linewidth=0.6)
    for index, (name, model) in enumerate(models.items()):
        sigma = model.sigma / scale
        axes.fill_between(grid_nm, -sigma, sigma, color=model_colour(index), alpha=0.2, linewidth=0)
        axes.plot(
            grid_nm,
            (observed.values - model.values) / scale,
            color=model_colour(index),
            linewidth=0.9,
            label=name,
        )
    for sign in (-1, 1):
        axes.plot(grid_nm, sign * observed.sigma / scale, color=OBSERVED, linestyle="--", linewidth=0.6)
    axes.set_xlim(grid_nm[0], grid_nm[-1])
    if max(abs(limit) for limit in axes.get_ylim()) > 3 * linear_below:
        axes.set_yscale("symlog", linthresh=linear_below)
        n_decades = int(np.log10(max(abs(limit) for limit in axes.get_ylim()) / linear_below))
        above = linear_below * 10.0 ** np.arange(0, n_decades + 1, 1 + n_decades // 3)
        axes.set_yticks([*-above[::-1], 0.0, *above])
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter("{x:g}")


_TITLE_LABELS = {
    "teff": ("$T_\\mathrm{{eff}}$ = {} K", 0),
    "logg": ("$\\log\\,g$ = {}", 2),
    "fe_h": ("[Fe/H] = {}", 2),
}

_COEFFICIENT_LABELS = (AMPLITUDE_LABEL, SIGMA_LABEL, RESIDUAL_LABEL)


def star_figure(data: FigureData) -> Figure:
    """One star: coefficients, errors and scatter, normalised residuals; below, flux where the basis is known.

    Raises:
        DataError: The star is absent or cannot be encoded, or a model is of another basis.
    """
    row = shown_star(data)
    star = data.spectra.take(slice(row, row + 1))
    made = {
        name: generate(model, model.encode(star).mean, star.g_flux, to_g=False)
        for name, model in data.models.items()
    }
    flux = _flux(star, made)  # before the style: GaiaXPy changes settings on import
    with house_style():
        figure = Figure(figsize=(PAGE_WIDTH, 8.2 if flux else 5.2), layout="constrained")
        heights = [2.3, 1.5, 1.3, 2.1, 1.2] if flux else [2.3, 1.5, 1.3]
        grid = figure.add_gridspec(len(heights), 2, height_ratios=heights)
        curves = {
            name: predicted_curve(model.reconstruct(made[name].z), model.normalization)
            for name, model in data.models.items()
        }
        draw_coefficients(figure, grid, star, curves)
        if flux is not None:
            _draw_flux(figure, grid, flux)
        else:
            figure.supxlabel(
                f"no flux panel: the basis functions of {star.basis} are not known", fontsize=7.5
            )
        figure.suptitle(star_title(data, row))
    return figure


def shown_star(data: FigureData) -> int:
    """The row of the star to show alone.

    Raises:
        DataError: It is not among the stars, or cannot be encoded; or no star can.
    """
    spectra, wanted = data.spectra, data.source_id
    if wanted is None:
        return median_star(spectra, np.ones(len(spectra), dtype=bool))
    rows = np.flatnonzero(spectra.source_id == wanted)
    if len(rows) == 0:
        raise DataError(f"source_id {wanted}: not among these {counted(len(spectra), 'star')}")
    readable = [model.usable(spectra.take(rows)) for model in data.models.values()]
    usable = rows[np.all(readable, axis=0)]
    if len(usable) == 0:
        flags = Flag(int(spectra.flags[rows[0]]))
        raise DataError(
            f"source_id {wanted}: cannot be shown, "
            + "; ".join(flag.meaning for flag in Flag if flag in flags)
            + (", and a model reads only stars with both" if np.any(readable) else "")
        )
    return int(usable[0])


def median_star(spectra: Spectra, among: StarMask) -> int:
    """The row of the usable test star of median G flux, of all usable stars where none is in the test fold.

    Raises:
        DataError: No star is usable.
    """
    rows = np.flatnonzero(among & spectra.usable & folds(spectra.source_id).test)
    if len(rows) == 0:
        rows = np.flatnonzero(among & spectra.usable)
    if len(rows) == 0:
        raise DataError(f"none of {counted(len(spectra), 'star')} is usable: no star to show")
    order = np.lexsort((spectra.source_id[rows], spectra.g_flux[rows]))
    return int(rows[order[(len(rows) - 1) // 2]])


def star_title(data: FigureData, row: int) -> str:
    """Which star it is, how bright, its labels, and whether it is of the test fold, on which no model trains."""
    g_mag = g_mag_of(data.spectra.g_flux[row])
    inferred = " (inferred coefficients)" if data.spectra.flags[row] & np.uint16(Flag.INFERRED) else ""
    parts = [f"Gaia source {data.spectra.source_id[row]}{inferred}", f"$G$ = {g_mag:.2f}"]
    for name, (text, digits) in _TITLE_LABELS.items():
        value = data.labels[name][row]
        if np.isfinite(value):
            parts.append(text.format(signed(value, digits)))
    if data.test[row]:
        parts.append("test fold")
    return ", ".join(parts)


def predicted_curve(decoded: Reconstruction, normalization: Normalization) -> Curve:
    """One star's coefficients and scatter in units of the G flux, NaN for coefficients that the model does not use."""
    values, sigma = (np.full(normalization.basis.n_coeffs, np.nan) for _ in range(2))
    values[normalization.columns] = normalization.invert(decoded.mean, np.ones(1))[0]
    sigma[normalization.columns] = normalization.invert_errors(decoded.scatter, np.ones(1))[0]
    return Curve(values, sigma)


def draw_coefficients(
    figure: FigureBase, grid: GridSpec, star: Spectra, predicted: Mapping[str, Curve]
) -> None:
    """One star's BP and RP coefficients in the first three rows of a grid: values, sigmas, residuals."""
    observed = Curve(star.coeffs[0] / star.g_flux[0], star.errors[0] / star.g_flux[0])
    linear_below = 10.0 ** np.floor(np.log10(np.nanmedian(observed.sigma)))
    rows: list[list[Axes]] = [[], [], []]
    for column, (title, band) in enumerate((("BP", star.basis.bp), ("RP", star.basis.rp))):
        seen = Curve(observed.values[band], observed.sigma[band])
        models = {name: Curve(curve.values[band], curve.sigma[band]) for name, curve in predicted.items()}
        for row in range(3):
            shared = rows[row][0] if column else None
            rows[row].append(figure.add_subplot(grid[row, column], sharey=shared))
        plot_amplitudes(rows[0][column], seen, models, linear_below=linear_below)
        plot_sigmas(rows[1][column], seen, models)
        plot_residuals(rows[2][column], seen, models)
        rows[2][column].set_xlabel(f"{title} coefficient")
    for axes, label in zip(rows, _COEFFICIENT_LABELS, strict=True):
        axes[0].set_ylabel(label)
        axes[1].tick_params(labelleft=False)
        lows, highs = zip(*(a.get_ylim() for a in axes), strict=True)
        axes[0].set_ylim(min(lows), max(highs))
    for axes_above in (*rows[0], *rows[1]):
        axes_above.tick_params(labelbottom=False)
    rows[0][0].legend(loc="upper right")
    zero = any((curve.sigma == 0).any() for curve in predicted.values())
    explain(
        rows[1][0], "steps: measurement error; markers: scatter" + (", none where it is 0" if zero else "")
    )


class _Flux(NamedTuple):
    """A star's flux on the grid, observed and as each model predicts it."""

    grid_nm: Wavelengths
    observed: Curve
    models: dict[str, Curve]
    caveat: str


def _flux(star: Spectra, made: dict[str, GeneratedSpectra]) -> _Flux | None:
    if not is_known(star.basis):
        return None
    sampled = sample_flux(star)
    fluxes = {name: spectra.flux() for name, spectra in made.items()}
    return _Flux(
        sampled.grid_nm,
        Curve(sampled.flux[0], sampled.errors[0]),
        {name: Curve(flux.flux[0], flux.errors[0]) for name, flux in fluxes.items()},
        ", coefficients taken as independent" if star.correlations is None else "",
    )


def _draw_flux(figure: Figure, grid: GridSpec, flux: _Flux) -> None:
    grid_nm, observed, models = flux.grid_nm, flux.observed, flux.models
    power = power_of_ten(observed)
    above = figure.add_subplot(grid[3, :])
    below = figure.add_subplot(grid[4, :], sharex=above)
    plot_flux(above, grid_nm, observed, models, power=power)
    above.tick_params(labelbottom=False)
    above.set_ylabel(flux_label("flux", power))
    explain(above, "dotted: observed; bands: $1\\sigma$ of scatter, coefficients taken as independent")
    plot_flux_residuals(below, grid_nm, observed, models, power=power)
    below.set_ylabel(flux_label("residual", power))
    explain(below, f"dashed: $1\\sigma$ of measurement error{flux.caveat}")
    below.set_xlabel(WAVELENGTH_LABEL)
