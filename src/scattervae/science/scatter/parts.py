"""The variance of a model's residuals in three parts: latents, published errors times k, own scatter times a.

k is found for bins of G, groups of orders and, where asked for, bins of colour; a for types of stars, which are
regions of the latent space, and the same groups of orders.
"""

from dataclasses import dataclass
from itertools import pairwise, product
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float64, Int64
from pydantic import PositiveInt
from scipy.cluster.vq import kmeans2

from scattervae.arrays import Coeffs, StarArray
from scattervae.errors import DataError, counted
from scattervae.gaia.facts import G_ZERO_POINT
from scattervae.model.checkpoint import Checkpoint
from scattervae.science.scatter.leave_one_out import Residuals, leave_one_out
from scattervae.science.scatter.separation import Factors, Groups, Separation, StarCells, separate
from scattervae.seeds import numpy_stream
from scattervae.settings import Settings
from scattervae.spectra.normalization import Normalization
from scattervae.spectra.spectra import Spectra

_FINITE = 1e300
_SMALLEST_OWN = 0.1


class ScatterSettings(Settings):
    """How finely k and a are asked for.

    Attributes:
        g_edges: Limits of the bins of G.
        colour_edges: Limits of the bins of colour, where a colour is given.
        order_edges: The first order of each group but the first, in either band, counted from 0.
        n_types: Regions of the latent space, by k-means.
        fewest_stars: A cell with fewer is left out.
        rounds: Each after the first fits the latents with the k and a of the one before (k where it is above 1).
    """

    g_edges: tuple[float, ...] = (5.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0, 16.0, 17.0, 18.0, 20.0)
    colour_edges: tuple[float, ...] = (-_FINITE, _FINITE)
    order_edges: tuple[PositiveInt, ...] = (5, 10, 20, 35)
    n_types: PositiveInt = 6
    fewest_stars: PositiveInt = 50
    rounds: PositiveInt = 3


class OrderGroup(NamedTuple):
    """Neighbouring orders of a band, counted from 1."""

    band: str
    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.band.upper()} {self.first}-{self.last}"


class BrightnessCell(NamedTuple):
    """Stars whose published errors have the same k."""

    g_low: float
    g_high: float
    colour_low: float = -_FINITE
    colour_high: float = _FINITE


@dataclass(frozen=True)
class ScatterParts:
    """Errors and own scatter told apart.

    Attributes:
        separation: Both factors, by group and cell.
        groups: The groups of orders.
        cells: The cells of brightness.
        n_stars: Stars in each cell of brightness.
        median_g: Their median G; NaN in a cell without stars.
        spread: Root mean square of the residuals over what the model expects with k = a = 1, by group and cell.
        error_share: Share of the published variance in what is expected so, mean over residuals; by group and cell.
        seen: The residuals of the last round, of usable stars in their order.
    """

    separation: Separation
    groups: tuple[OrderGroup, ...]
    cells: tuple[BrightnessCell, ...]
    n_stars: Int64[np.ndarray, " cell"]
    median_g: Float64[np.ndarray, " cell"]
    spread: Float64[np.ndarray, "group cell"]
    error_share: Float64[np.ndarray, "group cell"]
    seen: Residuals


def separate_scatter(
    model: Checkpoint,
    spectra: Spectra,
    *,
    settings: ScatterSettings | None = None,
    colour: StarArray | None = None,
    seed: int = 0,
) -> ScatterParts:
    """k on the published errors and a on the own scatter, from the usable ones of these stars.

    The own scatter is what keeps its size in units of the G flux as stars get fainter. It holds errors in
    proportion to the flux too: of the G flux, of the sensitivity, of the part of calibration that no number of
    transits averages out. A network that sees errors knows how bright a star is, and its scatter can hold part of
    what k should: so k is a lower estimate where the model was trained on the same errors.

    Args:
        model: Any scatter VAE.
        spectra: Stars that the model was not trained on; residuals of the others are too small.
        settings: How finely.
        colour: Of each star, where k may depend on it.
        seed: Of the types.

    Raises:
        DataError: No cell has enough stars.
    """
    settings = settings or ScatterSettings()
    stars = spectra.take(spectra.usable)
    g_mag = G_ZERO_POINT - 2.5 * np.log10(stars.g_flux)
    colours = np.zeros(len(stars)) if colour is None else colour[spectra.usable]
    cells, error_cell = _brightness_cells(g_mag, colours, settings)
    groups, columns = order_groups(model.normalization, settings.order_edges)
    own_cell = _types(model, stars, settings.n_types, seed)
    inputs = model.normalization.apply(stars)
    k, a = (torch.ones_like(inputs.x, dtype=torch.float64) for _ in range(2))
    for _ in range(settings.rounds):
        seen = leave_one_out(model, inputs, calibration=k, own=a)
        separation = separate(seen, error_cell, own_cell, columns)
        k = _spread_out(separation.calibration.value, error_cell, columns).clamp(min=1.0)
        a = _spread_out(separation.own.value, own_cell, columns).clamp(min=_SMALLEST_OWN)
    means = _cell_means(seen, error_cell, columns, (len(groups), len(cells)))
    present = [g_mag[error_cell == b] for b in range(len(cells))]
    return ScatterParts(
        separation=separation,
        groups=groups,
        cells=cells,
        n_stars=np.array([len(g) for g in present]),
        median_g=np.array([np.median(g) if len(g) else np.nan for g in present]),
        spread=np.sqrt(means[0]),
        error_share=means[1],
        seen=seen,
    )


def order_groups(
    normalization: Normalization, edges: tuple[int, ...]
) -> tuple[tuple[OrderGroup, ...], Groups]:
    """The groups of orders of both bands, and which of them each of the model's coefficients is in.

    Args:
        normalization: Says which coefficients the model uses.
        edges: The first order of each group but the first, counted from 0.
    """
    groups: list[OrderGroup] = []
    of_coeff = np.full(normalization.n_coeffs, -1)
    for band, where in (("bp", normalization.bp), ("rp", normalization.rp)):
        n = where.stop - where.start
        for first, last in pairwise((0, *(edge for edge in edges if edge < n), n)):
            of_coeff[where.start + first : where.start + last] = len(groups)
            groups.append(OrderGroup(band, first + 1, last))
    return tuple(groups), of_coeff


def _brightness_cells(
    g_mag: StarArray, colour: StarArray, settings: ScatterSettings
) -> tuple[tuple[BrightnessCell, ...], StarCells]:
    """The cells up to the faintest that has enough stars, and the one of each star; -1 where it is in none of those."""
    cells = tuple(
        BrightnessCell(*g, *c)
        for g, c in product(pairwise(settings.g_edges), pairwise(settings.colour_edges))
    )
    cell = np.full(len(g_mag), -1)
    for index, (g_low, g_high, colour_low, colour_high) in enumerate(cells):
        inside = (g_low <= g_mag) & (g_mag < g_high) & (colour_low <= colour) & (colour < colour_high)
        if inside.sum() >= settings.fewest_stars:
            cell[inside] = index
    if (cell < 0).all():
        raise DataError(
            f"{counted(len(g_mag), 'star')}: fewer than {settings.fewest_stars} in every bin of G; give more stars, "
            "wider g_edges or a smaller fewest_stars"
        )
    return cells[: int(cell.max()) + 1], cell


def _types(model: Checkpoint, stars: Spectra, n_types: int, seed: int) -> StarCells:
    z = model.encode(stars).mean.double().numpy()
    if n_types == 1:
        return np.zeros(len(z), dtype=np.int64)
    label = kmeans2(z, n_types, minit="++", seed=numpy_stream(seed, "types"))[1]
    return np.unique(label, return_inverse=True)[1].astype(np.int64)


def _spread_out(factors: Factors, cell: StarCells, columns: Groups) -> Coeffs:
    """The factor of each coefficient of each star; 1 where there is none."""
    values = np.nan_to_num(factors, nan=1.0)[columns][:, cell].T
    values[cell < 0] = 1.0
    return torch.from_numpy(values)


def _cell_means(
    seen: Residuals, error_cell: StarCells, columns: Groups, shape: tuple[int, int]
) -> Float64[np.ndarray, "2 group cell"]:
    """Mean squared normalised residual, and mean share of the published variance."""
    values = np.stack([seen.normalised**2, seen.errors**2 / seen.variance])
    means = np.full((2, *shape), np.nan)
    for b in np.unique(error_cell[error_cell >= 0]):
        of_cell = values[:, error_cell == b]
        for g in range(shape[0]):
            means[:, g, b] = of_cell[:, :, columns == g].mean(axis=(1, 2))
    return means
