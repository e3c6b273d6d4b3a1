"""How many coefficients lie inside the central 68 and 95 %, by G, by order and by colour."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from scattervae.arrays import StarArray
from scattervae.errors import DataError, counted
from scattervae.gaia.basis import g_mag_of
from scattervae.model.checkpoint import Checkpoint
from scattervae.model.network import Posterior, Reconstruction
from scattervae.science.exact_posterior import WeightedDraws, posterior_draws
from scattervae.seeds import stream
from scattervae.spectra.columns import xp_colour
from scattervae.spectra.normalization import Inputs, Normalization
from scattervae.spectra.spectra import Spectra
from scattervae.spectra.store import draw_rows

PitValues = Float64[Tensor, "star coeff"]

N_GROUPS = 10


class Pits(NamedTuple):
    r"""The share of its predictive distribution that lies below each coefficient; uniform where a model is right."""

    # predicted from the star's other coefficients alone, the latents' spread and all; NaN where it was not
    # hidden in any round
    hidden: PitValues
    # :math:`\Phi[(x - m) / \sqrt{\sigma^2 + s^2}]` at a draw of the latents from the posterior given all
    # coefficients. Under the model draw and truth are exchangeable, so these are uniform as well.
    drawn: PitValues
    stated: PitValues  # the same at a draw from the posterior that the model states, as a catalogue has it
    at_mean: (
        PitValues  # the same at the posterior mean: too central, since the star's own noise chose the mean
    )
    without_scatter: PitValues  # as `at_mean` with a scatter of 0
    scatter_over_error: PitValues  # of each coefficient, at the posterior mean; no transform


@torch.no_grad()
def pits(
    checkpoint: Checkpoint,
    inputs: Inputs,
    *,
    n_rounds: int = 1,
    seed: int = 0,
) -> Pits:
    """Transforms of the coefficients of stars, best of a fold that the model has not seen.

    An encoder answers for all stars at once, and is a little wrong for each; so the exact posteriors are
    asked (`posterior_draws`), and what is tested is decoder and scatter alone.

    Args:
        n_rounds: In each round every star is encoded again without another random tenth of its coefficients; after
            10 all have been hidden once.

    Source:
        Dawid (1984), J. R. Stat. Soc. A 147, 278, for the transforms; Johnson (2007), Bayesian Analysis 2, 719,
        for pivotal quantities at a posterior draw.
    """
    x, errors = inputs.x, inputs.errors
    generator = stream(seed, "pits")
    encoded = _encoded(checkpoint, inputs)
    draws = posterior_draws(checkpoint, inputs, encoded, generator)
    mean = (draws.z * draws.weights[:, :, None]).sum(dim=0)
    at_mean = checkpoint.reconstruct(mean.float())
    group = torch.rand(x.shape, generator=generator).argsort(dim=1) % N_GROUPS
    hidden = torch.full_like(x, torch.nan, dtype=torch.float64)
    for number in range(n_rounds):
        chosen = group == number
        shown = Inputs(x.masked_fill(chosen, 0.0), errors.masked_fill(chosen, torch.inf))
        start = encoded if not checkpoint.network.sees_errors else _encoded(checkpoint, shown)
        hidden_draws = posterior_draws(checkpoint, shown, start, generator)
        hidden[chosen] = _mixture(checkpoint, inputs, hidden_draws)[chosen]
    without = Reconstruction(at_mean.mean, torch.zeros_like(at_mean.scatter))
    return Pits(
        hidden=hidden,
        drawn=pit(inputs, checkpoint.reconstruct(draws.one(generator))),
        stated=pit(inputs, checkpoint.reconstruct(encoded.sample(stream(seed, "stated")))),
        at_mean=pit(inputs, at_mean),
        without_scatter=pit(inputs, without),
        scatter_over_error=(at_mean.scatter / errors).double(),
    )


def pit(inputs: Inputs, predicted: Reconstruction) -> PitValues:
    """Share of a Gaussian of error and scatter in quadrature that lies below each coefficient; NaN where missing."""
    values: Tensor = torch.special.ndtr(predicted.normalised_errors(inputs.x, inputs.errors).double())
    return values.masked_fill(inputs.errors.isinf(), torch.nan)


def _encoded(checkpoint: Checkpoint, inputs: Inputs) -> Posterior:
    answer = checkpoint.predict(inputs, batch=max(len(inputs), 1))
    return answer.posterior.each(lambda values: values.cpu())


def _mixture(checkpoint: Checkpoint, inputs: Inputs, draws: WeightedDraws) -> PitValues:
    """Weighted mean of the transforms over draws: that of the mixture of the Gaussians that the draws give."""
    total = torch.zeros_like(inputs.x, dtype=torch.float64)
    for z, weights in zip(draws.z, draws.weights, strict=True):
        total += weights[:, None] * pit(inputs, checkpoint.reconstruct(z))
    return total


INSIDE_1_SIGMA = 0.6827
INSIDE_2_SIGMA = 0.9545
FEWEST_STARS = 200
"""Bins with fewer are printed with the errors of their shares."""
MOST_STARS = 50_000
"""Of more, so many are drawn at random: shares of theirs are known to a few tenths of a per cent."""
N_BINS = 20
_EDGES = ((1 - INSIDE_1_SIGMA) / 2, (1 - INSIDE_2_SIGMA) / 2)
_G_EDGES = np.arange(-5.0, 26.0)
_ORDERS = (0, 5, 10, 20, 30, 40, 50)
_N_COLOURS = 5


class Share(NamedTuple):
    """Coverage of some coefficients, with the standard error of either share; NaN for fewer than two stars."""

    one: float  # inside the central 68.27 %
    two: float  # inside the central 95.45 %
    n: int  # of so many; both shares are NaN where 0
    one_error: float = math.nan
    two_error: float = math.nan

    @staticmethod
    def of(values: Float[np.ndarray, "star coeff"]) -> "Share":
        r"""Of these transforms; NaN ones do not count.

        Coefficients of one star go together, so errors are those of a ratio of sums over stars, with :math:`k_i` of
        :math:`n_i` coefficients inside:

        .. math:: \sigma^2 = \frac{S}{S - 1} \frac{\sum_i (k_i - p n_i)^2}{(\sum_i n_i)^2}, \qquad
            p = \frac{\sum_i k_i}{\sum_i n_i}

        Source:
            Cochran (1977), Sampling Techniques, 3rd ed., eq. 6.13, for stars drawn from many.
        """
        n = np.isfinite(values).sum(axis=1)
        n, values = n[n > 0], values[n > 0]
        if len(n) == 0:
            return Share(np.nan, np.nan, 0)
        inside = [((values > edge) & (values < 1 - edge)).sum(axis=1) for edge in _EDGES]
        one, two = (float(k.sum() / n.sum()) for k in inside)
        errors = [math.nan, math.nan]
        if len(n) > 1:
            squares = (
                float(((k - share * n) ** 2).sum()) for k, share in zip(inside, (one, two), strict=True)
            )
            errors = [math.sqrt(len(n) / (len(n) - 1) * s) / float(n.sum()) for s in squares]
        return Share(one, two, int(n.sum()), *errors)


@dataclass(frozen=True)
class CoverageRow:
    """Coverage of one kind of coefficients of one kind of stars."""

    by: str  # what the rows differ in: ``all``, ``G``, ``order``, ``colour``
    name: str  # which stars, or which coefficients
    n_stars: int
    # How many coefficients have a median scatter above their error among these stars: they are pooled. A
    # row of ``order`` pools all of its own.
    n_pooled: int
    hidden: Share  # pooled coefficients, predicted from the others of their star
    drawn: Share  # the same at a draw from the posterior
    stated: Share  # the same at a draw from the posterior as the model states it
    at_mean: Share  # the same at the posterior mean
    others: Share  # the coefficients that are not pooled, at a draw
    # the same at the posterior mean with a scatter of 0: above 68 %, their published errors are too large,
    # whatever the scatter
    others_without_scatter: Share


@dataclass(frozen=True)
class CoverageTable:
    """Coverage of a model's coefficients on some stars."""

    rows: tuple[CoverageRow, ...]  # all stars first, then by G, by order and by colour
    # histogram of the transforms of pooled hidden coefficients, in `N_BINS` equal bins
    hidden_counts: tuple[int, ...]
    drawn_counts: tuple[int, ...]  # the same at a draw
    n_stars: int

    def by(self, kind: str) -> tuple[CoverageRow, ...]:
        """The rows of one kind."""
        return tuple(row for row in self.rows if row.by == kind)


class DrawnStars(NamedTuple):
    """Usable stars that coverage is measured on, and as a model sees them."""

    spectra: Spectra
    inputs: Inputs

    @staticmethod
    def of(checkpoint: Checkpoint, spectra: Spectra) -> "DrawnStars":
        """The usable ones of these stars, in their order; of more than `MOST_STARS` so many, the same in each run.

        Raises:
            DataError: No star is usable, or the spectra are of another basis.
        """
        rows = draw_rows(spectra.usable, MOST_STARS)
        if len(rows) == 0:
            raise DataError(
                f"none of {counted(len(spectra), 'star')} is usable: nothing to measure coverage on"
            )
        drawn = spectra.take(rows)
        return DrawnStars(drawn, checkpoint.normalization.apply(drawn))


def coverage_table(checkpoint: Checkpoint, stars: DrawnStars, *, n_rounds: int = 1) -> CoverageTable:
    """Coverage of the coefficients of these stars.

    The colour is :math:`-2.5 \\log_{10}` of the first BP over the first RP coefficient, which hold most of each
    band's flux; its bins have equally many stars. G is that of the Vega system.
    """
    spectra = stars.spectra
    return tabulated(
        pits(checkpoint, stars.inputs, n_rounds=n_rounds),
        checkpoint.normalization,
        np.asarray(g_mag_of(spectra.g_flux)),
        xp_colour(spectra.coeffs, spectra.basis.n_bp),
    )


def tabulated(
    transforms: Pits, normalization: Normalization, g: StarArray, colours: StarArray
) -> CoverageTable:
    """The table of these transforms."""
    arrays = Pits(*(values.numpy() for values in transforms))  # type: ignore[arg-type]
    everything = np.ones(len(g), dtype=bool)
    rows = [_row("all", "all", arrays, everything)]
    for low in _G_EDGES:
        chosen = (g >= low) & (g < low + 1)
        if chosen.any():
            rows.append(_row("G", f"{low:.0f}-{low + 1:.0f}", arrays, chosen))
    for name, columns in order_groups(normalization):
        rows.append(_row("order", name, arrays, everything, columns=columns))
    rows += [_row("colour", name, arrays, chosen) for name, chosen in _colour_bins(colours)]
    pooled = _pooled(arrays, everything)
    counts = [
        np.histogram(values[:, pooled], bins=N_BINS, range=(0.0, 1.0))[0]
        for values in (arrays.hidden, arrays.drawn)
    ]
    hidden, drawn = (tuple(int(n) for n in found) for found in counts)
    return CoverageTable(tuple(rows), hidden, drawn, len(g))


def order_groups(normalization: Normalization) -> Iterator[tuple[str, Int64[np.ndarray, " column"]]]:
    """Names and columns of groups of neighbouring orders in each band, counted from 1."""
    for band, here in (("BP", normalization.bp), ("RP", normalization.rp)):
        size = here.stop - here.start
        for low, high in zip(_ORDERS, (*_ORDERS[1:], size), strict=True):
            if low < min(high, size):
                stop = min(high, size)
                yield f"{band} {low + 1}-{stop}", np.arange(here.start + low, here.start + stop)


def _colour_bins(colours: StarArray) -> Iterator[tuple[str, Bool[np.ndarray, " star"]]]:
    """Bins with equally many of the stars that have a colour."""
    known = np.isfinite(colours)
    if not known.any():
        return
    edges = np.quantile(colours[known], np.linspace(0, 1, _N_COLOURS + 1))
    bins = np.searchsorted(edges[1:-1], colours, side="right")
    for index in range(_N_COLOURS):
        chosen = known & (bins == index)
        if chosen.any():
            yield f"{edges[index]:.2f} to {edges[index + 1]:.2f}", chosen


def _pooled(arrays: Pits, stars: Bool[np.ndarray, " star"]) -> Bool[np.ndarray, " coeff"]:
    return np.asarray(np.nanmedian(np.asarray(arrays.scatter_over_error)[stars], axis=0) > 1.0)


def _row(
    by: str,
    name: str,
    arrays: Pits,
    stars: Bool[np.ndarray, " star"],
    *,
    columns: Int64[np.ndarray, " column"] | None = None,
) -> CoverageRow:
    if columns is None:
        pooled = _pooled(arrays, stars)
        others = ~pooled
    else:
        pooled, others = np.zeros((2, arrays.at_mean.shape[1]), dtype=bool)
        pooled[columns] = others[columns] = True
    of_pooled, of_others = np.ix_(stars, pooled), np.ix_(stars, others)
    return CoverageRow(
        by=by,
        name=name,
        n_stars=int(stars.sum()),
        n_pooled=int(pooled.sum()),
        hidden=Share.of(np.asarray(arrays.hidden)[of_pooled]),
        drawn=Share.of(np.asarray(arrays.drawn)[of_pooled]),
        stated=Share.of(np.asarray(arrays.stated)[of_pooled]),
        at_mean=Share.of(np.asarray(arrays.at_mean)[of_pooled]),
        others=Share.of(np.asarray(arrays.drawn)[of_others]),
        others_without_scatter=Share.of(np.asarray(arrays.without_scatter)[of_others]),
    )
