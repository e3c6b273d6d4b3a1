r"""A star's posterior beyond its encoder: refined, drawn from by weight, and integrated to the evidence ln p(x).

An encoder answers for all stars at once and is a little wrong for each. From its answer the latents of a star are
improved with the decoder's derivatives, and their covariance follows from the same derivatives. Weighted draws around
it stand for the exact posterior; their mean weight is how probable the model finds the star, whatever the encoder.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor

from scattervae.arrays import Coeffs, Latents, PerStar
from scattervae.model.checkpoint import Checkpoint
from scattervae.model.network import Coupling, Posterior, Reconstruction, gaussian_terms
from scattervae.seeds import stream
from scattervae.spectra.normalization import Inputs
from scattervae.spectra.spectra import Spectra

Decode = Callable[[Tensor], Reconstruction]
# of latents: decoders curve over tenths, and rounding must not show
_STEP = {torch.float32: 0.01, torch.float64: 1e-4}

N_STEPS = 4
BATCH = 1024


class Refined(NamedTuple):
    r"""Posteriors after refinement."""

    # of each star, correlated; as it was where a star has no inputs or no posterior to begin with
    posterior: Posterior
    n_steps: Int[Tensor, " star"]  # how many steps were taken for each star
    # by how many nats :math:`-\ln p(x, z)` fell from the first mean to the last; NaN for such a star
    gain: PerStar


def refine(
    checkpoint: Checkpoint,
    inputs: Inputs,
    posterior: Posterior,
    *,
    n_steps: int = N_STEPS,
    batch: int = BATCH,
) -> Refined:
    """The posterior of each star, improved from the encoder's with `refine_means`, `batch` stars at a time."""
    device = checkpoint.device
    network = copy.deepcopy(checkpoint.network).requires_grad_(requires_grad=False)
    mean, log_variance = posterior.mean.clone(), posterior.log_variance.clone()
    coupling = (
        torch.zeros_like(mean.diag_embed()) if posterior.coupling is None else posterior.coupling.clone()
    )
    n_taken = torch.zeros(len(mean), dtype=torch.int64)
    gain = torch.full((len(mean),), math.nan, dtype=torch.float64)
    known = mean.isfinite().all(dim=1) & ~inputs.x.isnan().any(dim=1)
    for rows in torch.split(known.nonzero()[:, 0], batch):
        x, errors = inputs.x[rows].to(device), inputs.errors[rows].to(device)
        part = refine_means(network.decode, x, errors, mean[rows].to(device), n_steps=n_steps)
        assert part.posterior.coupling is not None
        mean[rows], log_variance[rows] = part.posterior.mean.to(mean), part.posterior.log_variance.to(mean)
        coupling[rows] = part.posterior.coupling.to(mean)
        n_taken[rows], gain[rows] = part.n_steps.cpu(), part.gain.cpu()
    return Refined(Posterior(mean, log_variance, coupling), n_taken, gain)


def refine_means(
    decode: Decode, x: Coeffs, errors: Coeffs, mean: Latents, *, n_steps: int = N_STEPS
) -> Refined:
    r"""Gauss and Newton's steps to each star's most probable latents, and Laplace's Gaussian there.

    .. math::

        \mu' = \mu - \rho\, F^{-1} \nabla [-\ln p(x, z)], \qquad
        F = J_m^T V^{-1} J_m + 2\, J_s^T s^2 V^{-2} J_s + 1, \qquad V = \sigma^2 + s^2

    with m and s the decoder's mean and scatter, J their derivatives with respect to the latents, and F the Fisher
    information of the star's coefficients and of the prior, positive definite everywhere. A star takes a step only
    where that makes its :math:`-\ln p(x, z)` smaller; else its :math:`\rho`, 1 at first, is halved. The covariance is
    :math:`F^{-1}` at the last mean.

    Args:
        decode: From latents to coefficients and scatter; differentiable, each star by itself.
        x: Coefficients, in training standard deviations; any number where missing.
        errors: Their errors; infinite where missing.
        mean: Where to begin.
        n_steps: Steps to try; each costs the decoder's derivatives once, and so does the beginning.

    Source:
        Nocedal & Wright (2006), Numerical Optimization, sect. 10.3, for the steps; MacKay (2003), Information Theory,
        Inference, and Learning Algorithms, ch. 27, for Laplace's method.
    """
    first = _look(decode, x, errors, mean)
    here, taken = _descended(lambda z, _: _look(decode, x, errors, z), first, n_steps)
    return Refined(Posterior.of_root(here.mean, here.root), taken, first.loss - here.loss)


N_CHEAP_STEPS, BLOCK = 4, 256


def refine_cheaply(checkpoint: Checkpoint, inputs: Inputs, posterior: Posterior) -> Posterior:
    """Posteriors nearly as `refine` finds them, for a third of its time; NaN where they were.

    Four steps by gradients alone, in units of the covariance that the encoder gives, lead near the most probable
    latents; there the decoder's derivatives are taken once, for a last step and for the covariance. Stars are taken in
    blocks of one size, the last padded: matrix products round differently for other numbers of rows.
    """
    parts = []
    inputs, mean, root = inputs.to(checkpoint.device), posterior.mean, posterior.root
    with torch.inference_mode(mode=False), torch.no_grad():
        for start in range(0, len(mean), BLOCK):
            rows = torch.arange(start, start + BLOCK, device=mean.device).clamp(max=len(mean) - 1)
            block = inputs.take(rows)
            parts.append(_refined_block(checkpoint.network.decode, block, mean[rows], root[rows].double()))
    return Posterior.concatenate(parts).each(lambda values: values[: len(mean)])


def _refined_block(decode: Decode, inputs: Inputs, mean: Latents, root: Coupling) -> Posterior:
    unknown = inputs.x.isnan().any(dim=1) | mean.isnan().any(dim=1)
    x, mean, root = (values.nan_to_num() for values in (inputs.x, mean, root))
    errors = inputs.errors.nan_to_num(nan=1.0, posinf=torch.inf)

    def slope(z: Latents, root: Coupling) -> _Place:
        with torch.enable_grad():
            at = z.detach().clone().requires_grad_()
            loss = _loss(decode(at), x, errors, at)[0]
            (gradient,) = torch.autograd.grad(loss.sum(), at)
        return _Place(z, loss.detach(), gradient.double(), root)

    near, _ = _descended(slope, slope(mean, root), N_CHEAP_STEPS)
    here = _look(decode, x, errors, near.mean)
    last, _ = _descended(slope, here, 1)
    known = torch.where(unknown, torch.nan, 1.0).to(mean)[:, None]
    return Posterior.of_root(last.mean * known, here.root * known[:, None])


def _descended(
    look: Callable[[Latents, Coupling], "_Place"], here: "_Place", n_steps: int
) -> tuple["_Place", Int64[Tensor, " star"]]:
    """Where so many steps lead, and how many each star took; a step that makes a star no more probable is not taken."""
    step = torch.ones_like(here.loss)
    taken = torch.zeros(len(step), dtype=torch.int64, device=step.device)
    for _ in range(n_steps):
        move = (here.root @ (here.root.mT @ here.gradient[:, :, None]))[:, :, 0]
        there = look(here.mean - (step[:, None] * move).to(here.mean), here.root)
        better = (there.loss < here.loss) & there.gradient.isfinite().all(dim=1)  # False for NaN
        here = here.where(better, there)
        taken += better
        step = torch.where(better, 1.0, 0.5 * step)
    return here, taken


def root_of_inverse(precision: Coupling) -> Coupling:
    """The lower triangular L with L L^T the inverse of each matrix."""
    # P = U U^T with U upper triangular: the inverse is U^-T U^-1, and U^-T is lower triangular
    upper = torch.linalg.cholesky_ex(precision.flip(1, 2)).L.flip(1, 2)  # of NaN, NaN
    one = torch.eye(precision.shape[1], dtype=precision.dtype, device=precision.device).expand_as(upper)
    inverse: Tensor = torch.linalg.solve_triangular(upper, one, upper=True)
    return inverse.mT


class _Place(NamedTuple):
    """What the decoder says of each star at one latent vector."""

    mean: Latents  # the latent vector
    loss: PerStar  # -ln p(x, z) there, constants left out
    gradient: Latents  # of that
    root: Coupling  # lower triangular L, L L^T the inverse Fisher information, that of the prior included

    def where(self, better: Bool[Tensor, " star"], other: "_Place") -> "_Place":
        """The stars of `other` where `better`, of this one elsewhere."""
        pairs = zip(self, other, strict=True)
        return _Place(*(torch.where(better.view(-1, *[1] * (a.ndim - 1)), b, a) for a, b in pairs))


def _look(decode: Decode, x: Coeffs, errors: Coeffs, z: Latents) -> _Place:
    predicted, slopes = with_slopes(decode, z)
    loss, weight, residual, chi2 = _loss(predicted, x, errors, z)
    pull = torch.cat([-residual * weight, predicted.scatter * weight * (1.0 - chi2)], dim=1)
    gradient = torch.bmm(slopes, pull[:, :, None])[:, :, 0] + z
    scaled = slopes * torch.cat([weight.sqrt(), math.sqrt(2.0) * predicted.scatter * weight], dim=1)[:, None]
    fisher = torch.bmm(scaled, scaled.mT).double()
    one = torch.eye(z.shape[1], dtype=torch.float64, device=z.device)
    return _Place(z, loss, gradient.double(), root_of_inverse(fisher + one))


def _loss(
    predicted: Reconstruction, x: Coeffs, errors: Coeffs, z: Latents
) -> tuple[PerStar, Coeffs, Coeffs, Coeffs]:
    """-ln p(x, z), as `gaussian_terms` has it; and each coefficient's weight, residual and chi^2, for derivatives."""
    residual = x - predicted.mean
    missing = errors.isinf()  # variance 1 and weight 0, so that no derivative is infinite there
    variance = (errors.square() + predicted.scatter.square()).where(~missing, 1.0)
    weight = (1.0 / variance).masked_fill(missing, 0.0)
    chi2 = residual.square() * weight
    loss = 0.5 * ((chi2 + variance.log()).sum(dim=1, dtype=torch.float64) + z.double().square().sum(dim=1))
    return loss, weight, residual, chi2


def with_slopes(
    decode: Decode, z: Latents
) -> tuple[Reconstruction, Float[Tensor, "star latent coeffs_and_scatters"]]:
    """What the decoder says at `z`, and its derivatives, as central differences.

    PyTorch's forward mode takes twice the time, and knows one thread a process.
    """
    step = _STEP[z.dtype]
    slopes = []
    for move in step * torch.eye(z.shape[1], dtype=z.dtype, device=z.device):
        up, down = (torch.cat([*decode(at)], dim=1) for at in (z + move, z - move))
        slopes.append((up - down) / (2.0 * step))
    return decode(z), torch.stack(slopes, dim=1)


N_DRAWS = 32
_WIDER = 1.5  # the tails of what is drawn from must reach over those of the posterior
_HALF_LN_2_PI = 0.5 * math.log(2.0 * math.pi)


class WeightedDraws(NamedTuple):
    """Draws of each star's latents that stand for its posterior by their weights."""

    z: Float[Tensor, "draw star latent"]  # the draws
    weights: Float[Tensor, "draw star"]  # of each star's draws; they add up to 1

    def take(self, rows: Int64[Tensor, " row"]) -> "WeightedDraws":
        """Those of these stars."""
        return WeightedDraws(self.z[:, rows], self.weights[:, rows])

    def one(self, generator: torch.Generator) -> Latents:
        """One draw a star, chosen by its weight: a draw from the posterior."""
        chosen: Int64[Tensor, " star"] = torch.multinomial(self.weights.T, 1, generator=generator)[:, 0]
        return self.z[chosen, torch.arange(self.z.shape[1])]


@torch.no_grad()
def posterior_draws(
    checkpoint: Checkpoint,
    inputs: Inputs,
    start: Posterior,
    generator: torch.Generator,
    *,
    n_draws: int = N_DRAWS,
) -> WeightedDraws:
    r"""Draws from the posterior of each star under the model's prior and decoder, whatever its encoder.

    From the encoder's answer the most probable latents are found (`refine`); draws around them get the weights

    .. math:: w \propto p(x | z)\, p(z) / g(z)

    with g the Gaussian found, a little widened.

    Args:
        inputs: Stars; missing coefficients have infinite errors.
        start: What its encoder says of them.

    Source:
        Rubin (1988), sampling importance resampling; Bishop (2006), Pattern Recognition and Machine Learning,
        sect. 11.1.5.
    """
    near = refine(checkpoint, inputs, start).posterior
    wide = near._replace(log_variance=near.log_variance + 2.0 * math.log(_WIDER))
    drawn, log_weights = [], []
    for _ in range(n_draws):
        z = wide.sample(generator)
        predicted = checkpoint.reconstruct(z)
        variance = inputs.errors.square() + predicted.scatter.square()
        terms = gaussian_terms(inputs.x, predicted.mean, variance, dtype=torch.float64)
        prior = -0.5 * z.double().square().sum(dim=1) - _HALF_LN_2_PI * z.shape[1]
        log_weights.append(-terms.nll + prior - wide.log_density(z).double())
        drawn.append(z)
    return WeightedDraws(torch.stack(drawn), torch.softmax(torch.stack(log_weights), dim=0))


LogDensity = Callable[[Tensor], Tensor]
Proposals = Literal["encoder", "refined"]

N_EVIDENCE_DRAWS = 200


@dataclass(frozen=True)
class Evidence:
    """ln p(x) of each star, estimated.

    Source:
        Kong (1992) for the effective number, 1 / sum of squares of the normalised weights.
    """

    # in nats, of coefficients in training standard deviations, without the constant with ln 2 pi of the
    # coefficients: comparable with minus the negative evidence lower bound of `evaluate`. NaN for a star that
    # cannot be encoded.
    log_evidence: PerStar
    # how many equally weighted draws would be worth as much; where few, the estimate is too low
    effective_draws: PerStar
    n_draws: int  # how many were made for each star

    @property
    def mean(self) -> float:
        """Mean over the stars that could be encoded."""
        return self.log_evidence.nanmean().item()


def log_evidence(
    checkpoint: Checkpoint,
    spectra: Spectra,
    n_draws: int = N_EVIDENCE_DRAWS,
    *,
    proposals: Proposals = "refined",
    prior: LogDensity | None = None,
    seed: int = 0,
) -> Evidence:
    """ln p(x) of each star under a model, from weighted draws near its posterior.

    Args:
        proposals: Whose posterior the draws come from; ``refined`` (`refine`) lies closer.
        prior: Natural logarithm of a density over latents, instead of the standard normal prior's, such as
            `scattervae.model.flow.LatentFlow.log_density`.

    Raises:
        DataError: The spectra are of another basis.
    """
    generator = stream(seed, "evidence")
    none = torch.empty(0, dtype=torch.float64)
    parts = [Evidence(none, none, n_draws)]
    for encoded in checkpoint.encode_batches([spectra]):
        inputs, posterior = encoded.inputs, encoded.posterior
        if proposals == "refined":
            posterior = refine(checkpoint, inputs, posterior).posterior
        x, errors = inputs.x, inputs.errors

        def log_joint(z: Latents, x: Coeffs = x, errors: Coeffs = errors) -> PerStar:
            log_prior = prior(z) if prior is not None else standard_normal(z)
            return log_likelihood(x, errors, checkpoint.reconstruct(z)) + log_prior.double()

        parts.append(importance_weighted(log_joint, posterior, n_draws, generator))
    return Evidence(
        torch.cat([part.log_evidence for part in parts]),
        torch.cat([part.effective_draws for part in parts]),
        n_draws,
    )


@torch.no_grad()
def importance_weighted(
    log_joint: LogDensity, posterior: Posterior, n_draws: int, generator: torch.Generator
) -> Evidence:
    r"""ln p(x) of each star from draws of a Gaussian near its posterior.

    .. math:: \ln \hat p(x) = \ln \frac1K \sum_{k=1}^K w_k, \qquad w_k = \frac{p(x, z_k)}{q(z_k | x)}, \quad z_k \sim q

    Sums are float64 of logarithms. The estimate of p(x) is unbiased; its logarithm is a lower bound on average, and
    higher the more draws there are.

    Args:
        log_joint: From one latent vector a star to ln p(x, z).
        posterior: q, where the draws come from.

    Source:
        Burda et al. (2015), arXiv:1509.00519, eq. 8.
    """
    first = torch.full_like(posterior.mean[:, 0], -math.inf, dtype=torch.float64)
    total, squares = first, first.clone()
    for _ in range(n_draws):
        z = posterior.sample(generator)
        log_weight = log_joint(z).double() - posterior.log_density(z).double()
        total = torch.logaddexp(total, log_weight)
        squares = torch.logaddexp(squares, 2.0 * log_weight)
    return Evidence(total - math.log(n_draws), (2.0 * total - squares).exp(), n_draws)


def log_likelihood(x: Coeffs, errors: Coeffs, predicted: Reconstruction) -> PerStar:
    r"""ln p(x | z) of each star in float64, :math:`\tfrac12 N \ln 2\pi` left out; missing coefficients add nothing."""
    variance = errors.double().square() + predicted.scatter.double().square()
    return -gaussian_terms(x.double(), predicted.mean.double(), variance).nll


def standard_normal(z: Latents) -> PerStar:
    """Natural logarithm of the prior's density."""
    return -0.5 * (z.double().square() + math.log(2.0 * math.pi)).sum(dim=1)
