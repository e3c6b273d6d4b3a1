"""Whole figures: panels side by side, with the values that the models give for them."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure, FigureBase
from matplotlib.gridspec import GridSpec

from scattervae.arrays import StarArray, Wavelengths
from scattervae.gaia.basis import sample_flux
from scattervae.gaia.facts import DR3_BASIS, G_ZERO_POINT
from scattervae.model.checkpoint import Checkpoint
from scattervae.science.generation import GeneratedSpectra, flux_of, generate
from scattervae.show.data import FigureData
from scattervae.show.plots import coefficients, latents, spectrum, training
from scattervae.show.plots.coefficients import Curve
from scattervae.show.style import PAGE_WIDTH, house_style, note, signed
from scattervae.spectra.flags import Flag
from scattervae.spectra.spectra import Spectra

COLOURED_BY = ("teff", "logg", "fe_h")
_TITLE_LABELS = {
    "teff": ("$T_\\mathrm{{eff}}$ = {} K", 0),
    "logg": ("$\\log\\,g$ = {}", 2),
    "fe_h": ("[Fe/H] = {}", 2),
}
_COUNTED = {"teff": "$T_\\mathrm{eff}$", "logg": "$\\log\\,g$", "fe_h": "[Fe/H]"}
_COEFFICIENT_LABELS = (coefficients.AMPLITUDE_LABEL, coefficients.SIGMA_LABEL, coefficients.RESIDUAL_LABEL)


def star_figure(data: FigureData) -> Figure:
    """One star: coefficients, errors and scatter, normalised residuals; below, flux where the basis is known.

    Raises:
        DataError: The star is absent or cannot be encoded, or a model is of another basis.
    """
    row = data.star
    star = data.spectra.take(slice(row, row + 1))
    told = {
        name: generate(model, model.encode(star).mean, star.g_flux) for name, model in data.models.items()
    }
    flux_known = star.basis.agrees_with(DR3_BASIS)
    flux = _flux(star, told) if flux_known else None  # before the style: GaiaXPy changes settings on import
    with house_style():
        figure = Figure(figsize=(PAGE_WIDTH, 8.2 if flux_known else 5.2), layout="constrained")
        heights = [2.3, 1.5, 1.3, 2.1, 1.2] if flux_known else [2.3, 1.5, 1.3]
        grid = figure.add_gridspec(len(heights), 2, height_ratios=heights)
        curves = {name: _curve(data.models[name], made) for name, made in told.items()}
        draw_coefficients(figure, grid, star, curves)
        if flux is not None:
            _draw_flux(figure, grid, flux)
        else:
            figure.supxlabel(
                f"no flux panel: the basis functions of {star.basis} are not known", fontsize=7.5
            )
        figure.suptitle(star_title(data, row))
    return figure


def training_figure(data: FigureData) -> Figure:
    """Training curves of all models: negative ELBO with its held-out value, its terms, the learning rate."""
    records = {name: model.records for name, model in data.models.items()}
    small: tuple[training.Quantity, ...] = ("chi2", "penalty", "kl", "learning_rate")
    with house_style():
        figure = Figure(figsize=(PAGE_WIDTH, 3.6), layout="constrained")
        grid = figure.add_gridspec(2, 3, width_ratios=[1.5, 1, 1])
        main = figure.add_subplot(grid[:, 0])
        training.plot_curve(main, records, "negative_elbo")
        training.mark_held_out(main, records, data.held_out)
        figure.legend(*main.get_legend_handles_labels(), loc="outside upper center", ncols=4)
        main.set_xlabel("epoch")
        for index, quantity in enumerate(small):
            axes = figure.add_subplot(grid[index // 2, 1 + index % 2])
            training.plot_curve(axes, records, quantity)
            if quantity == "chi2":
                for n in sorted({model.normalization.n_coeffs for model in data.models.values()}):
                    training.mark_expected_chi2(axes, n)
            if index < 2:
                axes.tick_params(labelbottom=False)
            else:
                axes.set_xlabel("epoch")
        silent = [name for name, epochs in records.items() if not epochs]
        if silent:
            note(main, f"no training records: {', '.join(silent)}", y=0.04)
    return figure


class _LatentRow(NamedTuple):
    """One row of panels: a pair of a model's latents, or its only active one, or none."""

    means: list[StarArray]
    names: list[str]
    remark: str


def latents_figure(data: FigureData) -> Figure:
    """The most informative pairs of each model's latents, coloured by Teff, log g and [Fe/H].

    A model with one active latent has no pair: it is shown against each label. One with none is told of.
    """
    rows = [row for name, model in data.models.items() for row in _latent_rows(name, model, data.spectra)]
    drawn = [row for row in rows if row.means]
    with house_style():
        figure = Figure(figsize=(PAGE_WIDTH, 0.7 + 2.05 * max(len(drawn), 1)), layout="constrained")
        if drawn:
            _draw_latents(figure, data, drawn)
        silent = "; ".join(row.remark for row in rows if not row.means)
        figure.supxlabel(" ".join(filter(None, [silent, _count_note(data)])), fontsize=7.0)
    return figure


def star_title(data: FigureData, row: int) -> str:
    """Which star it is, how bright, its labels, and its fold."""
    g_mag = G_ZERO_POINT - 2.5 * np.log10(data.spectra.g_flux[row])
    inferred = " (inferred coefficients)" if data.spectra.flags[row] & np.uint16(Flag.INFERRED) else ""
    parts = [f"Gaia source {data.spectra.source_id[row]}{inferred}", f"$G$ = {g_mag:.2f}"]
    for name, (text, digits) in _TITLE_LABELS.items():
        value = data.labels[name][row]
        if np.isfinite(value):
            parts.append(text.format(signed(value, digits)))
    parts.append("test fold" if data.test[row] else "not in the test fold")
    return ", ".join(parts)


def _curve(model: Checkpoint, made: GeneratedSpectra) -> Curve:
    """Coefficients and scatter in units of the G flux, NaN for coefficients that the model does not use."""
    columns = model.normalization.columns
    values, sigma = (np.full(made.basis.n_coeffs, np.nan) for _ in range(2))
    values[columns] = made.coeffs[0, columns] / made.g_flux[0]
    sigma[columns] = made.scatter[0, columns] / made.g_flux[0]
    return Curve(values, sigma)


def draw_coefficients(figure: FigureBase, grid: GridSpec, star: Spectra, told: Mapping[str, Curve]) -> None:
    """One star's BP and RP coefficients in the first three rows of a grid: values, sigmas, residuals."""
    observed = Curve(star.coeffs[0] / star.g_flux[0], star.errors[0] / star.g_flux[0])
    linear_below = 10.0 ** np.floor(np.log10(np.median(observed.sigma)))
    rows: list[list[Axes]] = [[], [], []]
    for column, (title, band) in enumerate((("BP", star.basis.bp), ("RP", star.basis.rp))):
        seen = Curve(observed.values[band], observed.sigma[band])
        models = {name: Curve(curve.values[band], curve.sigma[band]) for name, curve in told.items()}
        for row in range(3):
            shared = rows[row][0] if column else None
            rows[row].append(figure.add_subplot(grid[row, column], sharey=shared))
        coefficients.plot_amplitudes(rows[0][column], seen, models, linear_below=linear_below)
        coefficients.plot_sigmas(rows[1][column], seen, models)
        coefficients.plot_residuals(rows[2][column], seen, models)
        rows[2][column].set_xlabel(f"{title} coefficient")
    for axes, label in zip(rows, _COEFFICIENT_LABELS, strict=True):
        axes[0].set_ylabel(label)
        axes[1].tick_params(labelleft=False)
        lows, highs = zip(*(a.get_ylim() for a in axes), strict=True)
        axes[0].set_ylim(min(lows), max(highs))
    for axes_above in (*rows[0], *rows[1]):
        axes_above.tick_params(labelbottom=False)
    rows[0][0].legend(loc="upper right")
    zero = any((curve.sigma == 0).any() for curve in told.values())
    note(
        rows[1][0],
        "steps: measurement error\nmarkers: scatter" + (", none where it is 0" if zero else ""),
        y=0.05,
    )


class _Flux(NamedTuple):
    """A star's flux on the grid, observed and as each model tells it."""

    grid_nm: Wavelengths
    observed: Curve
    models: dict[str, Curve]
    caveat: str


def _flux(star: Spectra, told: dict[str, GeneratedSpectra]) -> _Flux:
    sampled = sample_flux(star)
    made = {name: flux_of(spectra) for name, spectra in told.items()}
    return _Flux(
        sampled.grid_nm,
        Curve(sampled.flux[0], sampled.errors[0]),
        {name: Curve(flux.flux[0], flux.scatter[0]) for name, flux in made.items()},
        ", coefficients taken as independent" if star.correlations is None else "",
    )


def _draw_flux(figure: Figure, grid: GridSpec, flux: _Flux) -> None:
    grid_nm, observed, models = flux.grid_nm, flux.observed, flux.models
    power = spectrum.power_of_ten(observed)
    above = figure.add_subplot(grid[3, :])
    below = figure.add_subplot(grid[4, :], sharex=above)
    spectrum.plot_flux(above, grid_nm, observed, models, power=power)
    above.tick_params(labelbottom=False)
    above.set_ylabel(spectrum.flux_label("flux", power))
    note(
        above,
        "dotted: observed; bands: $1\\sigma$ of scatter, coefficients taken as independent\n"
        f"dashed (below): $1\\sigma$ of measurement error{flux.caveat}",
    )
    spectrum.plot_flux_residuals(below, grid_nm, observed, models, power=power)
    below.set_ylabel(spectrum.flux_label("residual", power))
    below.set_xlabel(spectrum.WAVELENGTH_LABEL)


def _latent_rows(name: str, model: Checkpoint, spectra: Spectra) -> list[_LatentRow]:
    posterior = model.encode(spectra)
    kl = posterior.kl_per_latent()
    means = posterior.mean.double().numpy()
    active = latents.active_latents(kl)
    titles = [f"latent {k + 1} ({kl[k]:.1f} nats)" for k in range(model.n_latent)]
    pairs = latents.informative_pairs(kl)
    remark = f"{name}: {len(active)} of {model.n_latent} latents active"
    if pairs:
        return [
            _LatentRow([means[:, k] for k in pair], [titles[k] for k in pair], "" if index else remark)
            for index, pair in enumerate(pairs)
        ]
    remark += ", no pair to show"
    if active:
        remark += "; the one against each label, darker where there are more stars"
    return [_LatentRow([means[:, k] for k in active], [titles[k] for k in active], remark)]


def _draw_latents(figure: Figure, data: FigureData, rows: list[_LatentRow]) -> None:
    grid = figure.add_gridspec(len(rows), len(COLOURED_BY))
    limits = {name: latents.colour_limits(data.labels[name]) for name in COLOURED_BY}
    columns: list[list[Axes]] = [[] for _ in COLOURED_BY]
    for index, row in enumerate(rows):
        for column, name in enumerate(COLOURED_BY):
            axes = figure.add_subplot(grid[index, column])
            columns[column].append(axes)
            if len(row.means) == 2:
                latents.plot_pair(
                    axes,
                    row.means[0],
                    row.means[1],
                    data.labels[name],
                    colours=limits[name],
                    colour_map=latents.LABEL_MAPS[name],
                )
                axes.tick_params(labelleft=column == 0)
                axes.set_ylabel(row.names[1] if column == 0 else "")

            else:
                latents.plot_against_label(axes, row.means[0], data.labels[name])
                axes.set_ylabel(latents.LABEL_TITLES[name])
            axes.set_xlabel(row.names[0])
        if row.remark:
            left = columns[0][-1]
            left.set_title(" ")  # keeps room for the remark, which may run over its neighbours
            left.text(0.0, 1.03, row.remark, transform=left.transAxes, in_layout=False)
    for name, axes_of_label in zip(COLOURED_BY, columns, strict=True):
        colours = Normalize(limits[name].low, limits[name].high)
        bar = figure.colorbar(
            ScalarMappable(colours, latents.LABEL_MAPS[name]),
            ax=axes_of_label,
            location="top",
            extend="both",
            aspect=25,
            pad=0.02,
        )
        bar.set_label(latents.LABEL_TITLES[name])


def _count_note(data: FigureData) -> str:
    n = len(data.spectra)
    missing = [
        f"{int(np.isnan(data.labels[name]).sum()):,} without {text}" for name, text in _COUNTED.items()
    ]
    return (
        f"{n:,} stars, {', '.join(missing)}; hexagons: mean label, light grey where no star has it\n"
        "nats: divergence of a latent from the prior; each axis holds 99.6 % of the stars"
    )
