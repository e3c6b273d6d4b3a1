"""The variance of a model's residuals in three parts: latents, published errors times k, own scatter times a.

k is found for bins of G and groups of orders; a for types of stars, which are regions of the latent space, and the
same groups of orders.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float64, Int64
from pydantic import PositiveInt
from scipy.cluster.vq import kmeans2

from scattervae.arrays import Coeffs, StarArray
from scattervae.errors import DataError, counted
from scattervae.gaia.basis import g_mag_of
from scattervae.model.checkpoint import Checkpoint
from scattervae.science.scatter.leave_one_out import Residuals, leave_one_out
from scattervae.science.scatter.separation import Groups, PerCell, Separation, StarCells, separate
from scattervae.seeds import numpy_stream
from scattervae.settings import Settings
from scattervae.spectra.normalization import Normalization
from scattervae.spectra.spectra import Spectra

_SMALLEST_OWN = 0.1


class ScatterSettings(Settings):
    """How finely k and a are resolved."""

    # limits of the bins of G
    g_edges: tuple[float, ...] = (5.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0, 16.0, 17.0, 18.0, 20.0)
    # the first order of each group but the first, in either band, counted from 0
    order_edges: tuple[PositiveInt, ...] = (5, 10, 20, 35)
    n_types: PositiveInt = 6  # regions of the latent space, by k-means
    fewest_stars: PositiveInt = 50  # a bin with fewer is dropped
    # each after the first fits the latents with the k and a of the one before (k where it is above 1)
    rounds: PositiveInt = 3


class OrderGroup(NamedTuple):
    """Neighbouring orders of a band, counted from 1."""

    band: str
    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.band.upper()} {self.first}-{self.last}"


@dataclass(frozen=True)
class ScatterParts:
    """Errors and own scatter separated."""

    separation: Separation  # both factors, by group, and by bin of G or type
    groups: tuple[OrderGroup, ...]  # the groups of orders
    n_stars: Int64[np.ndarray, " cell"]  # stars in each bin of G
    median_g: Float64[np.ndarray, " cell"]  # their median G; NaN in a bin without stars
    # root mean square of the residuals over what the model expects with k = a = 1, by group and bin
    spread: PerCell
    error_share: PerCell  # share of the published variance in what the model expects so, by group and bin
    n_usable: int  # usable stars, in a bin or not


def separate_scatter(
    model: Checkpoint, spectra: Spectra, *, settings: ScatterSettings | None = None
) -> ScatterParts:
    """k on the published errors and a on the own scatter, from the usable ones of these stars.

    The own scatter is what keeps its size in units of the G flux as stars get fainter. It holds errors in
    proportion to the flux too: of the G flux, of the sensitivity, of the part of calibration that no number of
    transits averages out. A network that sees errors knows how bright a star is, and its scatter can hold part of
    what k should: so k is a lower estimate where the model was trained on the same errors.

    Residuals of stars that the model was trained on are too small: give others.

    Raises:
        DataError: No bin of G has enough stars.
    """
    settings = settings or ScatterSettings()
    stars = spectra.take(spectra.usable)
    g_mag = np.asarray(g_mag_of(stars.g_flux))
    error_cell = _bins_of_g(g_mag, settings)
    groups, columns = order_groups(model.normalization, settings.order_edges)
    own_cell = _types(model, stars, settings.n_types)
    inputs = model.normalization.apply(stars)
    k, a = (torch.ones_like(inputs.x, dtype=torch.float64) for _ in range(2))
    for _ in range(settings.rounds):
        residuals = leave_one_out(model, inputs, error_factor=k, own_factor=a)
        separation = separate(residuals, error_cell, own_cell, columns)
        k = _spread_out(separation.error.value, error_cell, columns).clamp(min=1.0)
        a = _spread_out(separation.own.value, own_cell, columns).clamp(min=_SMALLEST_OWN)
    by_bin = [g_mag[error_cell == b] for b in range(int(error_cell.max()) + 1)]
    means = _cell_means(residuals, error_cell, columns, (len(groups), len(by_bin)))
    return ScatterParts(
        separation=separation,
        groups=groups,
        n_stars=np.array([len(g) for g in by_bin]),
        median_g=np.array([np.median(g) if len(g) else np.nan for g in by_bin]),
        spread=np.sqrt(means[0]),
        error_share=means[1],
        n_usable=len(stars),
    )


def order_groups(
    normalization: Normalization, edges: tuple[int, ...]
) -> tuple[tuple[OrderGroup, ...], Groups]:
    """The groups of orders of both bands (`ScatterSettings.order_edges`), and the one of each model coefficient."""
    groups: list[OrderGroup] = []
    of_coeff = np.full(normalization.n_coeffs, -1)
    for band, where in (("bp", normalization.bp), ("rp", normalization.rp)):
        n = where.stop - where.start
        for first, last in pairwise((0, *(edge for edge in edges if edge < n), n)):
            of_coeff[where.start + first : where.start + last] = len(groups)
            groups.append(OrderGroup(band, first + 1, last))
    return tuple(groups), of_coeff


def _bins_of_g(g_mag: StarArray, settings: ScatterSettings) -> StarCells:
    """The bin of each star; -1 where it is in none that has enough stars."""
    cell = np.full(len(g_mag), -1)
    for index, (low, high) in enumerate(pairwise(settings.g_edges)):
        inside = (low <= g_mag) & (g_mag < high)
        if inside.sum() >= settings.fewest_stars:
            cell[inside] = index
    if (cell < 0).all():
        raise DataError(
            f"{counted(len(g_mag), 'star')}: fewer than {settings.fewest_stars} in every bin of G; give more stars, "
            "wider g_edges or a smaller fewest_stars"
        )
    return cell


def _types(model: Checkpoint, stars: Spectra, n_types: int) -> StarCells:
    if n_types == 1:
        return np.zeros(len(stars), dtype=np.int64)
    z = model.encode(stars).mean.double().numpy()
    label = kmeans2(z, n_types, minit="++", seed=numpy_stream(0, "types"))[1]
    return np.unique(label, return_inverse=True)[1].astype(np.int64)


def _spread_out(factors: PerCell, cell: StarCells, columns: Groups) -> Coeffs:
    """The factor of each coefficient of each star; 1 where there is none."""
    values = np.nan_to_num(factors, nan=1.0)[columns][:, cell].T
    values[cell < 0] = 1.0
    return torch.from_numpy(values)


def _cell_means(
    residuals: Residuals, cell: StarCells, columns: Groups, shape: tuple[int, int]
) -> Float64[np.ndarray, "2 group cell"]:
    """Mean squared normalised residual, and mean share of the published variance."""
    values = np.stack([residuals.normalised**2, residuals.errors**2 / residuals.variance])
    means = np.full((2, *shape), np.nan)
    for b in np.unique(cell[cell >= 0]):
        in_cell = values[:, cell == b]
        for g in range(shape[0]):
            means[:, g, b] = in_cell[:, :, columns == g].mean(axis=(1, 2))
    return means
