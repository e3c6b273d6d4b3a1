"""One star's flux on the wavelength grid: observed, told by models with their scatter, and what is left.

Laroche & Speagle (2023), fig. 1, in the space where a spectrum can be read.
"""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator, SymmetricalLogLocator

from scattervae.arrays import Wavelengths
from scattervae.show.plots.coefficients import Curve
from scattervae.show.style import OBSERVED, QUIET, model_colour

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

    Args:
        axes: Where to draw.
        grid_nm: Wavelengths.
        observed: Flux and its error [W m^-2 nm^-1].
        models: Reconstruction and scatter by each model's name, same units.
        power: Of ten, to divide flux by.
    """
    scale = 10.0**power
    for index, (name, model) in enumerate(models.items()):
        low, high = (model.values - model.sigma) / scale, (model.values + model.sigma) / scale
        axes.fill_between(grid_nm, low, high, color=model_colour(index), alpha=0.3, linewidth=0)
        axes.plot(grid_nm, model.values / scale, color=model_colour(index), label=name)
    axes.plot(grid_nm, observed.values / scale, color=OBSERVED, linestyle=(0, (1, 1.2)), label="observed")
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.22 * (high - low))  # room for a note
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
        axes.yaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=linear_below))
        axes.yaxis.set_minor_locator(NullLocator())
