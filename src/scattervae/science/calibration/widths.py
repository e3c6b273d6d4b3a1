"""Widths of posteriors, corrected where stars made fainter show them to be wrong."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from scipy.stats import chi2
from torch import Tensor

from scattervae.arrays import Coeffs, Latents
from scattervae.model.checkpoint import BATCH, Checkpoint
from scattervae.model.network import Posterior
from scattervae.science.calibration.coverage import INSIDE_1_SIGMA
from scattervae.science.exact_posterior import posterior_draws
from scattervae.seeds import stream
from scattervae.spectra.normalization import Inputs

FACTORS = (2.0, 3.0, 5.0, 10.0, 20.0)
FAINTER = (3.0, 10.0)
KINDS = 3
"""Stars with both bands, without BP, without RP."""
_DRAWS = 4  # of each complete star
_STEPS = 150
_LEARNING_RATE = 0.02
_SMALLEST = 1e-12

Kinds = Int64[Tensor, " star"]


class WidthLaw(NamedTuple):
    r"""What the width of each latent is multiplied by: :math:`e^{a_k} w_k^{b_k}`, by which bands a star has."""

    # :math:`a_k` of each kind of star, or one row for all; 0 leaves widths as they are, with a slope of 0
    offset: Float[Tensor, "kind latent"]
    slope: Float[Tensor, "kind latent"]  # :math:`b_k`

    def arrays(self, prefix: str) -> dict[str, Tensor]:
        """What is stored and hashed, by name."""
        return {prefix + name: values.cpu() for name, values in self._asdict().items()}

    def to(self, device: torch.device) -> "WidthLaw":
        """The same on another device."""
        return WidthLaw(*(values.to(device) for values in self))

    def apply(self, posterior: Posterior, kinds: Kinds) -> Posterior:
        """The posterior with its latents scaled about their means; correlations between latents stay."""
        rows = kinds.clamp(max=len(self.offset) - 1)
        log_scale = self.offset[rows] + self.slope[rows] * posterior.sd.log()
        coupling = posterior.coupling
        if coupling is not None:
            coupling = coupling * (log_scale[:, :, None] - log_scale[:, None, :]).exp()
        return Posterior(posterior.mean, posterior.log_variance + 2.0 * log_scale, coupling)


NO_LAW = WidthLaw(torch.zeros(1, 1), torch.zeros(1, 1))
"""Widths as they are, of any number of latents."""


def kinds_of(errors: Coeffs, n_bp: int) -> Kinds:
    """0 for a star with both bands, 1 without BP, 2 without RP; errors are infinite where a coefficient is missing."""
    no_bp, no_rp = (band.isinf().all(dim=1).long() for band in (errors[:, :n_bp], errors[:, n_bp:]))
    return (no_bp + 2 * no_rp) % KINDS


def fit_widths(checkpoint: Checkpoint, bright: Inputs, *, seed: int = 0) -> WidthLaw:
    r"""The law that brings draws from stars' posteriors into those of the same stars degraded 68.27 % of times.

    Worse is fainter; and for the laws of stars with one band, without the other, draws being from the exact posteriors
    of the stars with both.

    With :math:`d_k` the distance of a draw from the faint posterior's mean in units of the width of latent k, and
    :math:`d^2` its squared Mahalanobis distance, the law minimises the loss of the 68.27 % point of :math:`\ln d_k`,
    for every latent, and that of :math:`\ln d`, less its value if widths were right: one law cannot always satisfy
    all of them, and is a compromise.

    Args:
        bright: Real stars that it was not trained on.

    Source:
        Koenker & Bassett (1978), Econometrica 46, 33, for the loss of a quantile.
    """
    generator = stream(seed, "widths")
    posterior = encode(checkpoint, bright)
    faint = [encode(checkpoint, renoised(bright, factor, generator)) for factor in FACTORS]
    lines = [_line(Posterior.concatenate(faint), torch.cat([posterior.sample(generator) for _ in FACTORS]))]
    exact = posterior_draws(checkpoint, bright, posterior, generator)
    for lost in (checkpoint.normalization.bp, checkpoint.normalization.rp):
        without = encode(checkpoint, without_band(bright, lost))
        z = torch.cat([exact.one(generator) for _ in range(_DRAWS)])
        lines.append(_line(Posterior.concatenate([without] * _DRAWS), z))
    return WidthLaw(*torch.stack(lines, dim=1))


def _line(faint: Posterior, z: Latents) -> Float[Tensor, "2 latent"]:
    """Offset and slope that bring 68.27 % of these latents, one a posterior, into the posteriors' widths."""
    kinds = torch.zeros(len(z), dtype=torch.int64)
    away, log_width = (z - faint.mean).abs().clamp(min=_SMALLEST).log(), faint.sd.log()
    n = z.shape[1]
    edge = float(chi2.ppf(INSIDE_1_SIGMA, n))
    centre = log_width.mean(dim=0)
    line = torch.zeros(2, n, requires_grad=True)
    optimizer = torch.optim.Adam([line], lr=_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=_STEPS)
    for _ in range(_STEPS):
        law = WidthLaw((line[0] - line[1] * centre)[None], line[1][None])
        each = away - log_width - (law.offset + law.slope * log_width)
        jointly = 0.5 * (distances(law.apply(faint, kinds), z) / edge).clamp(min=_SMALLEST).log()
        loss = _loss(each).sum() + _loss(jointly[:, None]).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    level, slope = line.detach()
    return torch.stack([level - slope * centre, slope])


def _loss(above: Float[Tensor, "draw kind"]) -> Float[Tensor, " kind"]:
    """Least where 68.27 % of the values lie below 0."""
    return torch.maximum(INSIDE_1_SIGMA * above, (INSIDE_1_SIGMA - 1.0) * above).mean(dim=0)


def distances(posterior: Posterior, z: Latents) -> Float[Tensor, " star"]:
    """Squared Mahalanobis distance of one latent vector a star from its posterior, in float64."""
    away = (z - posterior.mean).double()[:, :, None]
    scaled: Tensor = torch.linalg.solve_triangular(posterior.root.double(), away, upper=False)
    return scaled[:, :, 0].square().sum(dim=1)


def without_band(inputs: Inputs, lost: slice) -> Inputs:
    """The same stars without these coefficients."""
    x, errors = inputs.x.clone(), inputs.errors.clone()
    x[:, lost], errors[:, lost] = 0.0, math.inf
    return Inputs(x, errors)


def renoised(inputs: Inputs, factor: float, generator: torch.Generator) -> Inputs:
    """The same stars with all errors so many times as large, and noise to match."""
    noise = torch.randn(inputs.x.shape, generator=generator) * math.sqrt(factor**2 - 1.0)
    missing = inputs.errors.isinf()
    added = (inputs.errors.masked_fill(missing, 0.0)) * noise
    return Inputs(x=inputs.x + added, errors=inputs.errors * factor)


def encode(checkpoint: Checkpoint, inputs: Inputs) -> Posterior:
    """Posteriors of any number of stars, in memory."""
    parts = [
        checkpoint.predict(inputs[start : start + BATCH]).posterior.each(lambda values: values.cpu())
        for start in range(0, len(inputs), BATCH)
    ]
    return Posterior.concatenate(parts)


class LatentCoverage(NamedTuple):
    r"""How often latents fall where a posterior expects them."""

    per_latent: list[float]  # share inside the central 68.27 % of each latent
    # share of :math:`(z - \mu)^T \Sigma^{-1} (z - \mu)` below the 68.27 % point of its :math:`\chi^2`
    # distribution
    jointly: float
    mean_square: float  # mean of that form; the number of latents where widths are right
    n: int  # stars, or draws, that were counted


def latent_coverage(posterior: Posterior, z: Latents) -> LatentCoverage:
    """Coverage of these latents, one a star, by the stars' posteriors."""
    away = (z - posterior.mean).double()
    squares = distances(posterior, z)
    inside = (away.abs() <= posterior.sd.double()).double().mean(dim=0)
    edge = chi2.ppf(INSIDE_1_SIGMA, z.shape[1])
    return LatentCoverage(
        per_latent=inside.tolist(),
        jointly=(squares <= edge).double().mean().item(),
        mean_square=squares.mean().item(),
        n=len(z),
    )


@torch.no_grad()
def renoised_coverage(
    checkpoint: Checkpoint, bright: Inputs, factor: float, *, seed: int = 0
) -> LatentCoverage:
    r"""How often draws from stars' posteriors lie inside those of the same stars made fainter.

    .. math:: x' = x + \sigma \sqrt{f^2 - 1}\, \epsilon, \qquad \sigma' = f \sigma

    The bright star's noise is part of x', and its posterior's width part of the draw. Latents, bright star and
    faint star are a Markov chain: if both posteriors are Bayes' then a draw given the bright star is, over all
    bright stars that could have become this faint one, a draw given the faint one. So the expectation is 68.27 %
    with nothing to correct.

    Args:
        factor: By how much all errors grow.
    """
    generator = stream(seed, "renoise", str(factor))
    draws = encode(checkpoint, bright).sample(generator)
    return latent_coverage(encode(checkpoint, renoised(bright, factor, generator)), draws)


def faint_coverage(checkpoint: Checkpoint, bright: Inputs) -> dict[float, LatentCoverage]:
    """`renoised_coverage` for errors `FAINTER` times as large."""
    return {factor: renoised_coverage(checkpoint, bright, factor) for factor in FAINTER}
