"""The paper's fig. 1: the architecture with an example spectrum, and the Cannon on the same star."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure, SubFigure

from scattervae.errors import DataError
from scattervae.model.checkpoint import Checkpoint
from scattervae.model.network import Reconstruction
from scattervae.science.cannon.model import Cannon
from scattervae.show.compose import draw_coefficients, star_title
from scattervae.show.data import FigureData, median_star
from scattervae.show.plots import architecture
from scattervae.show.plots.coefficients import Curve
from scattervae.show.style import OBSERVED, PAGE_WIDTH, house_style
from scattervae.spectra.labels import LABEL_NAMES
from scattervae.spectra.normalization import Normalization
from scattervae.spectra.spectra import Spectra

_HEIGHTS = (2.55, 5.3)


def architecture_figure(data: FigureData) -> Figure:
    """The network around one star's coefficients; below, what it and the Cannon tell of them.

    Raises:
        DataError: There is no Cannon, or the star lacks one of its labels.
    """
    cannon, (name, model) = data.require_cannon(), data.first_model
    row = _row(data, cannon)
    star = data.spectra.take(slice(row, row + 1))
    (encoded,) = model.encode_batches([star])
    told = {
        name: _curve(encoded.reconstruction, model.normalization),
        "The Cannon": _curve(_of_cannon(cannon, data, row), cannon.normalization),
    }
    with house_style():
        figure = Figure(figsize=(PAGE_WIDTH, sum(_HEIGHTS)), layout="constrained")
        parts: Any = figure.subfigures(2, 1, height_ratios=_HEIGHTS)  # annotated as one of three kinds
        above, below = parts
        _draw_network(above, model, star, told[name])
        grid = below.add_gridspec(3, 2, height_ratios=[2.3, 1.5, 1.3])
        draw_coefficients(below, grid, star, told)
        figure.suptitle(star_title(data, row))
    return figure


def _row(data: FigureData, cannon: Cannon) -> int:
    known = np.isfinite(np.stack([data.labels[name] for name in cannon.settings.labels], axis=1)).all(axis=1)
    names = ", ".join(cannon.settings.labels)
    if data.source_id is None:
        if not (known & data.spectra.usable).any():
            raise DataError(f"no usable star has all of {names}, which the Cannon needs; give labelled stars")
        return median_star(data.spectra, known)
    if not known[data.star]:
        raise DataError(f"source_id {data.source_id}: lacks one of {names}, which the Cannon needs")
    return data.star


def _of_cannon(cannon: Cannon, data: FigureData, row: int) -> Reconstruction:
    columns = [LABEL_NAMES.index(name) for name in cannon.settings.labels]
    values, errors = data.labels.values[row : row + 1, columns], data.labels.errors[row : row + 1, columns]
    return cannon.predict(values, errors if cannon.settings.propagate_label_errors else None)


def _curve(told: Reconstruction, normalization: Normalization) -> Curve:
    """Coefficients and scatter in units of the G flux, NaN for coefficients that the model does not use."""
    values, sigma = (np.full(normalization.basis.n_coeffs, np.nan) for _ in range(2))
    values[normalization.columns] = normalization.invert(told.mean, np.ones(1))[0]
    sigma[normalization.columns] = normalization.invert_errors(told.scatter, np.ones(1))[0]
    return Curve(values, sigma)


def _draw_network(figure: SubFigure, model: Checkpoint, star: Spectra, told: Curve) -> None:
    n_bp = star.basis.n_bp
    observed = Curve(star.coeffs[0] / star.g_flux[0], star.errors[0] / star.g_flux[0])
    linear_below = 10.0 ** np.floor(np.log10(np.median(observed.sigma)))
    grid = figure.add_gridspec(4, 3, width_ratios=[1.0, 2.6, 1.0])
    given = figure.add_subplot(grid[1:3, 0])
    architecture.plot_all_coefficients(
        given, observed, n_bp=n_bp, linear_below=linear_below, colour=OBSERVED, title="observed coefficients"
    )
    architecture.plot_network(
        figure.add_subplot(grid[:, 1]), model.recipe.network, model.normalization.n_coeffs
    )
    made = figure.add_subplot(grid[:2, 2])
    architecture.plot_all_coefficients(
        made,
        Curve(told.values, np.zeros_like(told.sigma)),
        n_bp=n_bp,
        linear_below=linear_below,
        colour=architecture.DECODER,
        title="reconstruction",
    )
    made.set_ylim(given.get_ylim())
    architecture.plot_all_sigmas(
        figure.add_subplot(grid[2:, 2]),
        told,
        observed,
        n_bp=n_bp,
        colour=architecture.SCATTER,
        title="scatter (grey: error)",
    )
