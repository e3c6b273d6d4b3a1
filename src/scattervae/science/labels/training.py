"""The network that predicts labels, and its training with label errors, noise and wrong labels in mind."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int64
from pydantic import AliasChoices, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from scattervae.arrays import Coeffs, StarArray
from scattervae.model.network import ResidualBlock, ScatterVAE, inner_matrices, with_errors
from scattervae.model.optimizers import MUON_MOMENTUM, Muon, trapezoid_schedule
from scattervae.model.recipe import DegradationSettings, draw_degradation
from scattervae.science.labels.targets import LabelTensor, ScaledTargets
from scattervae.seeds import stream
from scattervae.settings import Settings
from scattervae.spectra.normalization import Inputs

_LOG_VARIANCE_LIMITS = (-12.0, 8.0)


class ScaledLabels(NamedTuple):
    """Predicted scaled labels of some stars; the variance is without the errors of the labels it was trained on."""

    mean: LabelTensor
    variance: LabelTensor


class LabelNetwork(nn.Module):
    """A copy of an encoder without its last layer, residual blocks, and a linear layer that begins at 0.

    The last layer of the encoder, which makes latents of the trunk's features, is linear: whatever a linear layer can
    predict from the latents, it can predict from the features.
    """

    def __init__(self, network: ScatterVAE, n_labels: int, n_blocks: int = 0) -> None:
        super().__init__()
        self.sees_errors = network.sees_errors
        self.n_blocks = n_blocks
        self.trunk = copy.deepcopy(network.encoder[:-1]).cpu()
        width = network.shape.hidden[-1]
        blocks = [ResidualBlock(width) for _ in range(n_blocks)]
        self.blocks = nn.Sequential(*blocks, *([nn.LayerNorm(width)] if blocks else []))
        self.last = nn.Linear(width, 2 * n_labels)
        for weights in self.last.parameters():
            nn.init.zeros_(weights)

    def forward(self, x: Coeffs, errors: Coeffs) -> ScaledLabels:
        """Scaled labels of these stars; `x` is 0 and the error infinite where a coefficient is missing."""
        features = self.trunk(with_errors(x, errors) if self.sees_errors else x)
        mean, log_variance = self.last(self.blocks(features)).chunk(2, dim=-1)
        return ScaledLabels(mean, log_variance.clamp(*_LOG_VARIANCE_LIMITS).exp())


@torch.no_grad()
def predict(network: LabelNetwork, x: Coeffs, errors: Coeffs, *, batch: int = 4096) -> ScaledLabels:
    """Scaled labels of any number of stars, in batches."""
    batches = zip(torch.split(x, batch), torch.split(errors, batch), strict=True)
    mean, variance = zip(*(network(*stars) for stars in batches), strict=True)
    return ScaledLabels(torch.cat(mean), torch.cat(variance))


class LabelSettings(Settings):
    """How a label model is fitted; the lengths of a fit follow from the number of labelled stars."""

    # Networks whose predictions are averaged; each is trained without one fold of the labelled stars. Where
    # None, six for fewer than 3,000 labelled stars and two for more.
    networks: PositiveInt | None = Field(default=None, validation_alias=AliasChoices("networks", "members"))
    # of the labelled stars; what a network predicts of the one that it has not seen calibrates intervals
    folds: int = Field(default=10, ge=2)
    # residual blocks of each head; where None, one for fewer than 3,000 labelled stars and two for more
    blocks: NonNegativeInt | None = None
    # gradient steps of each network; where None, 300 for 100 labelled stars, and more for more of them
    steps: PositiveInt | None = None
    batch_size: PositiveInt = 512  # largest number of stars in a batch
    learning_rate: PositiveFloat = 2e-3  # peak for vectors and the outer layers, AdamW's
    matrix_learning_rate: PositiveFloat = 1e-2  # peak for the weights between hidden layers, Muon's
    # The trunk's learning rates over the head's, network after network in turn. A slow trunk holds on to
    # what the encoder knows, which helps with few stars; with many a fast one loses less.
    trunk_rates: tuple[NonNegativeFloat, ...] = Field(default=(0.3, 1.0), min_length=1)
    weight_decay: NonNegativeFloat = 0.05  # of both optimisers
    # of stars while the networks learn: fainter, and some with gaps
    degradation: DegradationSettings = DegradationSettings(
        share=1.0, noise_factor=20.0, without_band=0.04, without_orders=0.03, without_coeffs=0.03
    )
    # of the Student t that a label is drawn from about its prediction: wrong labels then count for little
    degrees_of_freedom: PositiveFloat = 5.0
    # of the expected variance, by which a star's Teff counts for more: without it hot stars, whose Teff is predicted
    # worst, count for next to nothing; 0 weighs all alike
    spread_power: NonNegativeFloat = 0.5
    seed: int = 0  # of folds, batches and noise

    def trunk_rate(self, index: int) -> float:
        """Of one of the networks."""
        return self.trunk_rates[index % len(self.trunk_rates)]


_CLIP = 1.0
_FEW = 3000


@dataclass(frozen=True)
class LabelledBatches:
    """Labelled stars, and the batches that a network learns from."""

    inputs: Inputs  # their spectra, all of them usable; gaps where a star has one band
    targets: ScaledTargets  # their scaled labels
    g_flux: StarArray  # their mean G flux [electron/s]
    bands: tuple[int, int]  # how many coefficients of BP and of RP there are

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, rows: Bool[Tensor, " star"]) -> "LabelledBatches":
        """The stars where `rows` is true."""
        here = torch.nonzero(rows)[:, 0]
        targets = ScaledTargets(*(part[here] for part in self.targets))
        return LabelledBatches(self.inputs.take(here), targets, self.g_flux[rows.numpy()], self.bands)

    def rows(self, schedule: "Schedule", generator: torch.Generator) -> "list[Int64[Tensor, ' row']]":
        """Rows of each step: epochs in another order each, cut into whole batches."""
        batch = min(schedule.batch, len(self))
        per_epoch = len(self) // batch
        epochs = math.ceil(schedule.steps / per_epoch)
        orders = [torch.randperm(len(self), generator=generator) for _ in range(epochs)]
        batches = [b for order in orders for b in order[: per_epoch * batch].view(per_epoch, -1)]
        return batches[: schedule.steps]


class Schedule(NamedTuple):
    """How long a fit is."""

    networks: int  # how many
    blocks: int  # residual blocks of each head
    steps: int  # gradient steps of each
    batch: int  # stars in a batch

    @classmethod
    def of(cls, n_stars: int, settings: LabelSettings) -> "Schedule":
        """For so many labelled stars: what was best on the validation fold for 100 to 28,000 of them."""
        size = max(n_stars / 100, 1.0)
        few = n_stars < _FEW
        return cls(
            networks=min(settings.networks or (6 if few else 2), settings.folds),
            blocks=settings.blocks if settings.blocks is not None else (1 if few else 2),
            steps=settings.steps or round(300 * size**0.45),
            batch=min(settings.batch_size, n_stars, round(64 * size ** (1 / 3))),
        )


def student_t_nll(predicted: ScaledLabels, targets: ScaledTargets, degrees_of_freedom: float) -> LabelTensor:
    r"""Negative log-likelihood of each known label under a Student t; 0 where a label is missing.

    .. math:: \frac{\nu + 1}{2} \ln\left(1 + \frac{(y - \mu)^2}{\nu (v + \sigma_y^2)}\right) + \frac12 \ln (v +
        \sigma_y^2)

    with :math:`\mu` and v predicted, y and :math:`\sigma_y` the target and its error. The constant is left out.

    Source:
        Lange, Little & Taylor (1989), JASA 84, 881.
    """
    spread = predicted.variance + targets.errors.square()
    ratio = (targets.values - predicted.mean).square() / (degrees_of_freedom * spread)
    nll = 0.5 * (degrees_of_freedom + 1.0) * ratio.log1p() + 0.5 * spread.log()
    return torch.where(targets.known, nll, 0.0)


def spread_weights(predicted: ScaledLabels, targets: ScaledTargets, power: float) -> LabelTensor:
    r"""What the likelihood of each label counts for: 1, and for the first one, Teff, more where it is spread.

    .. math:: 1 + (v + \sigma_y^2)^p / \langle (v + \sigma_y^2)^p \rangle

    The gradient of a likelihood is the residual over the variance, so that stars of which little is expected teach
    nothing; half of the loss gives that back. No gradient runs through the weights.

    Source:
        Seitzer et al. (2022), arXiv:2203.09168, eq. 5, whose loss is the second term alone.
    """
    weights = torch.ones_like(predicted.mean)
    if power > 0:
        known = targets.known[:, 0].to(weights.dtype)
        spread = (predicted.variance[:, 0] + targets.errors[:, 0].square()).detach() ** power
        usual = (spread * known).sum() / known.sum().clamp(min=1.0)
        weights[:, 0] += spread / usual.clamp(min=1e-12)
    return weights


def train_network(
    encoder: ScatterVAE, stars: LabelledBatches, settings: LabelSettings, schedule: Schedule, *, index: int
) -> LabelNetwork:
    """One network trained on all these stars, in evaluation mode.

    Args:
        index: Which of the networks it is; another has other batches and noise.
    """
    network = new_network(
        encoder, stars.targets.values.shape[1], schedule, generator=stream(settings.seed, "head", index)
    )
    degradations = fitting(settings.degradation, network)
    noise = stream(settings.seed, "label noise", index)
    rows = stars.rows(schedule, stream(settings.seed, "label batches", index))

    def loss(step: int) -> Tensor:
        here = rows[step]
        degradation = draw_degradation(degradations, len(here), stars.bands, noise)
        x, errors = degradation.apply(stars.inputs.x[here], stars.inputs.errors[here])
        targets = ScaledTargets(*(part[here] for part in stars.targets))
        predicted = network(x, errors)
        nll = student_t_nll(predicted, targets, settings.degrees_of_freedom)
        weights = spread_weights(predicted, targets, settings.spread_power)
        return (weights * nll).sum(dim=1).mean()

    return descend(network, loss, settings, n_steps=len(rows), trunk_rate=settings.trunk_rate(index))


def new_network(
    encoder: ScatterVAE, n_labels: int, schedule: Schedule, *, generator: torch.Generator
) -> LabelNetwork:
    """A network with the encoder's trunk and a head drawn by this generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
        return LabelNetwork(encoder, n_labels, schedule.blocks).train()


def fitting(degradation: DegradationSettings, network: LabelNetwork) -> DegradationSettings:
    """The noise alone for a network that sees no errors, to which a missing coefficient looks like a mean one."""
    none = {"without_band": 0.0, "without_orders": 0.0, "without_coeffs": 0.0}
    return degradation if network.sees_errors else degradation.model_copy(update=none)


def descend(
    network: LabelNetwork,
    loss: Callable[[int], Tensor],
    settings: LabelSettings,
    *,
    n_steps: int,
    trunk_rate: float,
) -> LabelNetwork:
    """The network after so many gradient steps on the loss of each, in evaluation mode."""
    optimizers = _optimizers(network, settings, trunk_rate)
    rates = [trapezoid_schedule(optimizer, n_steps) for optimizer in optimizers]
    parameters = [weights for weights in network.parameters() if weights.requires_grad]
    for step in range(n_steps):
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss(step).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, _CLIP)
        for optimizer, rate in zip(optimizers, rates, strict=True):
            optimizer.step()
            rate.step()
    return network.eval()


def _optimizers(
    network: LabelNetwork, settings: LabelSettings, trunk_rate: float
) -> list[torch.optim.Optimizer]:
    trunk = {id(weights) for weights in network.trunk.parameters()}
    if trunk_rate == 0:
        network.trunk.requires_grad_(requires_grad=False)
    inner = {id(weights) for weights in inner_matrices(network.trunk, network.blocks)}

    def groups(rate: float, *, matrices: bool) -> list[dict[str, object]]:
        chosen = [w for w in network.parameters() if (id(w) in inner) == matrices and w.requires_grad]
        of_head_and_trunk = (
            {"params": [w for w in chosen if id(w) not in trunk], "lr": rate},
            {"params": [w for w in chosen if id(w) in trunk], "lr": rate * trunk_rate},
        )
        return [group for group in of_head_and_trunk if group["params"]]

    decay = settings.weight_decay
    vectors = groups(settings.learning_rate, matrices=False)
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(vectors, weight_decay=decay, fused=True)]
    if matrices := groups(settings.matrix_learning_rate, matrices=True):
        optimizers.append(Muon(matrices, weight_decay=decay, momentum=MUON_MOMENTUM))
    return optimizers
