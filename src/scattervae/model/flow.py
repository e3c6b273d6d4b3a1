"""A prior that fits: a normalising flow through the latents that a survey's stars have.

A trained model's stars do not fill the standard normal prior. A flow fitted to draws from their posteriors gives
the density of their latents, and draws latents, and so spectra, that look like the survey.
"""

import copy
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, TypeAdapter, ValidationError
from torch import Tensor, nn

from scattervae.arrays import Latents, PerStar
from scattervae.errors import CheckpointError, TrainingError
from scattervae.files import StoredTensors, problems, read_tensors, write_tensors
from scattervae.model.checkpoint import Checkpoint, on_cpu, require_finite
from scattervae.model.network import Posterior
from scattervae.seeds import folds, stream
from scattervae.settings import Settings
from scattervae.spectra.spectra import Spectra

FLOW = "flow.safetensors"
_FORMAT = 1
_NETWORK = "network/"
_VALIDATION_DRAWS = 4
_CHUNK = 8192
_LARGEST_GRADIENT = 5.0
_LN_2_PI = math.log(2.0 * math.pi)

Vector = Float[Tensor, " latent"]
Context = Float[Tensor, "star context"]
Contexts = Callable[[torch.Generator], Context]
"""What each star's density is conditional on, drawn anew in each epoch: which of it is known may change."""
Report = Callable[["FlowEpoch"], None]


class FlowSettings(Settings):
    """Shape of a flow, and how it is fitted."""

    # neural spline transforms, one after the other, each of every latent given those before it
    transforms: PositiveInt = 3
    # widths of the network that gives a transform its splines
    hidden: tuple[PositiveInt, ...] = Field(default=(64, 64), max_length=1000)
    bins: PositiveInt = 8  # intervals of a spline
    epochs: PositiveInt = 40  # passes over the training stars, at most; each with new draws
    patience: PositiveInt = 8  # epochs without a better validation density after which fitting stops
    batch_size: PositiveInt = 512  # stars a step
    learning_rate: PositiveFloat = 3e-3  # of Adam at the start; it falls to zero as a cosine
    seed: NonNegativeInt = 0  # of every random number

    def fits(self, shapes: Mapping[str, tuple[int, ...]]) -> bool:
        """True where weights of these shapes can be a flow of these settings, as none of many more numbers can."""
        held = sum(math.prod(shape) for shape in shapes.values())
        return self.transforms * (self.bins + sum(a * b for a, b in pairwise((1, *self.hidden, 1)))) <= held


class FlowEpoch(NamedTuple):
    """Mean -ln density of draws after an epoch of fitting, in nats a star."""

    epoch: int
    training: float
    validation: float


@dataclass(frozen=True)
class FlowFit:
    """How a flow was fitted, in nats a star where not said otherwise."""

    n_training: int  # stars it was fitted to
    n_validation: int  # stars that decided when to stop
    epochs: int  # passes until then
    validation: float  # mean -ln density of the validation stars' draws under the flow
    # the same under the standard normal prior. The difference is by how much the negative evidence lower
    # bound of these stars falls with the flow in the prior's place.
    validation_of_prior: float

    @property
    def gain(self) -> float:
        """Nats a star that the flow gains over the standard normal prior."""
        return self.validation_of_prior - self.validation


@dataclass(frozen=True)
class LatentFlow:
    """A density over latents, fitted to a survey; of a conditional one, for each context another.

    Source:
        Durkan et al. (2019), arXiv:1906.04032, for the splines; Papamakarios et al. (2017), arXiv:1705.07057, for
        their order; the package zuko for both.
    """

    settings: FlowSettings  # its shape and how it was fitted
    network: nn.Module  # a neural spline flow over standardised latents
    centre: Vector  # mean of the latents it was fitted to
    scale: Vector  # their standard deviations
    model: str  # `Checkpoint.latent_digest` of the model whose latents these are
    fit: FlowFit  # how well it fits

    def log_density(self, z: Latents, context: Context | None = None) -> PerStar:
        """Natural logarithm of the density at each latent vector, given its context; NaN where a latent is."""
        known = z.isfinite().all(dim=1)
        standardised = (torch.where(known[:, None], z, self.centre) - self.centre) / self.scale
        return (_log_density(self.network, standardised, context) - self.scale.log().sum()).masked_fill(
            ~known, math.nan
        )

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator, context: Context | None = None) -> Latents:
        """`n` latent vectors, one a row of the context where there is one."""
        noise = torch.randn(n, len(self.centre), generator=generator)
        given = [None] * n if context is None else torch.split(context, _CHUNK)
        parts = [
            self.network(here).transform.inv(part)
            for part, here in zip(torch.split(noise, _CHUNK), given, strict=False)
        ]
        return self.centre + self.scale * torch.cat(parts)

    def save(self, folder: Path) -> Path:
        """Write the flow into the folder of its model, in one file that appears whole; gives its path."""
        tensors, notes = self.stored()
        write_tensors(folder / FLOW, tensors, notes)
        return folder / FLOW

    def stored(self) -> tuple[dict[str, Any], dict[str, str]]:
        """All that it is, as tensors and notes of a file."""
        notes = {"format": str(_FORMAT), "settings": self.settings.model_dump_json()}
        notes |= {"model": self.model, "fit": json.dumps(asdict(self.fit))}
        tensors = {f"{_NETWORK}{name}": w for name, w in on_cpu(self.network).items()}
        return tensors | {"centre": self.centre, "scale": self.scale}, notes

    @classmethod
    def load(cls, folder: str | Path, checkpoint: Checkpoint) -> "LatentFlow":
        """The flow in the folder of this model.

        Raises:
            CheckpointError: There is none, it is broken, or of another model.
        """
        path = Path(folder) / FLOW
        if not path.is_file():
            raise CheckpointError(
                f"{folder}: has no {FLOW}; fit a flow, with `scattervae generate {folder} --flow --stars STORE`"
            )
        return cls.of(read_tensors(path), checkpoint)

    @classmethod
    def of(cls, stored: StoredTensors, checkpoint: Checkpoint, *, n_context: int = 0) -> "LatentFlow":
        """The flow of this model that `stored` gave.

        Raises:
            CheckpointError: It is broken, or of another model.
        """
        path, notes = stored.path, stored.notes
        if notes.get("format") != str(_FORMAT):
            raise CheckpointError(
                f"{path}: format {notes.get('format')}, this version reads {_FORMAT}; fit the flow again"
            )
        if notes.get("model") != checkpoint.latent_digest:
            raise CheckpointError(f"{path}: fitted to the latents of another model; fit the flow again")
        require_finite(stored.arrays, path)
        try:
            settings = FlowSettings.model_validate_json(notes["settings"])
            fit = TypeAdapter(FlowFit).validate_json(notes["fit"])
            centre, scale = (torch.from_numpy(stored.arrays[name]) for name in ("centre", "scale"))
            weights = {name: torch.from_numpy(w) for name, w in stored.under(_NETWORK).items()}
            if not settings.fits({name: tuple(w.shape) for name, w in weights.items()}):
                raise LookupError("its settings ask for another network than its weights are of")
            network = _spline_flow(checkpoint.n_latent, settings, n_context)
            network.load_state_dict(weights)
        except (ValidationError, RuntimeError, LookupError) as error:
            reason = problems(error) if isinstance(error, ValidationError) else " ".join(str(error).split())
            raise CheckpointError(f"{path}: broken: {reason}; fit the flow again") from error
        if not (centre.shape == scale.shape == (checkpoint.n_latent,) and bool((scale > 0).all())):
            raise CheckpointError(f"{path}: broken: its scales are not above 0; fit the flow again")
        return cls(settings, network.eval(), centre, scale, notes["model"], fit)


def fit_flow(
    checkpoint: Checkpoint,
    spectra: Spectra,
    settings: FlowSettings | None = None,
    *,
    progress: Report | None = None,
) -> LatentFlow:
    """A flow fitted to the posteriors of a survey's stars, as `fit_to_posteriors` does; the test fold is left out.

    Args:
        checkpoint: The model whose latents they are.
        spectra: The survey's stars; those that cannot be encoded are left out.

    Raises:
        TrainingError: No star of one of the two folds can be encoded.
    """
    settings = settings or FlowSettings()
    stars = spectra.take(checkpoint.usable(spectra))
    fold = folds(stars.source_id)
    training, validation = (checkpoint.encode(stars.take(rows)) for rows in (fold.train, fold.validation))
    return fit_to_posteriors(
        training, validation, settings, model=checkpoint.latent_digest, progress=progress
    )


def fit_to_posteriors(
    training: Posterior,
    validation: Posterior,
    settings: FlowSettings,
    *,
    model: str = "",
    contexts: tuple[Contexts, Contexts] | None = None,
    progress: Report | None = None,
) -> LatentFlow:
    """A flow fitted to draws from the training posteriors, drawn anew in each epoch; validation decides when to stop.

    Args:
        training: Of the stars to fit to.
        validation: Of other stars.
        model: Digest of the model whose latents they are.
        contexts: What the density is conditional on, of the training and of the validation stars.

    Raises:
        TrainingError: One of the two has no star.
    """
    for name, posterior in (("training", training), ("validation", validation)):
        if len(posterior.mean) == 0:
            raise TrainingError(
                f"no star of the {name} fold can be encoded: a flow needs stars of both folds"
            )
    centre = training.mean.mean(dim=0)
    scale = (training.variance.mean(dim=0) + training.mean.var(dim=0, correction=0)).sqrt()
    generator = stream(settings.seed, "flow", "validation")
    held_out = torch.cat([validation.sample(generator) for _ in range(_VALIDATION_DRAWS)])
    given = contexts and torch.cat([contexts[1](generator) for _ in range(_VALIDATION_DRAWS)])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(settings.seed, "flow", "weights").initial_seed())
        network = _spline_flow(len(centre), settings, 0 if given is None else given.shape[1])
    log_scale = scale.log().sum().item()
    best, best_epoch, weights = math.inf, 0, network.state_dict()
    standardised = _standardised(training, centre, scale)
    epochs = _epochs(network, standardised, settings, contexts and contexts[0])
    for epoch, loss in enumerate(epochs, start=1):
        density = _log_density(network, (held_out - centre) / scale, given)
        validated = log_scale - density.double().mean().item()
        if progress is not None:
            progress(FlowEpoch(epoch, loss + log_scale, validated))
        if validated < best:
            best, best_epoch, weights = validated, epoch, copy.deepcopy(network.state_dict())
        elif epoch - best_epoch >= settings.patience:
            break
    network.load_state_dict(weights)
    prior = 0.5 * (held_out.double().square().sum(dim=1).mean().item() + len(centre) * _LN_2_PI)
    fit = FlowFit(len(training.mean), len(validation.mean), best_epoch, best, prior)
    return LatentFlow(settings, network.eval(), centre, scale, model, fit)


def _spline_flow(n_latent: int, settings: FlowSettings, n_context: int) -> nn.Module:
    # imported only where needed, since that turns off the checks of all of torch.distributions
    from zuko.flows import NSF

    shape = {"transforms": settings.transforms, "bins": settings.bins, "hidden_features": settings.hidden}
    flow: nn.Module = NSF(n_latent, n_context, **shape, randperm=True)
    return flow


def _epochs(
    network: nn.Module, posterior: Posterior, settings: FlowSettings, contexts: Contexts | None
) -> Iterator[float]:
    """Train the network, epoch by epoch; gives the mean loss of each."""
    n = len(posterior.mean)
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.learning_rate)
    steps = settings.epochs * math.ceil(n / settings.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for epoch in range(settings.epochs):
        generator = stream(settings.seed, "flow", epoch)
        z, order = posterior.sample(generator), torch.randperm(n, generator=generator)
        context = contexts and contexts(generator)
        total = 0.0
        for rows in torch.split(order, settings.batch_size):
            loss = -network(None if context is None else context[rows]).log_prob(z[rows])
            optimizer.zero_grad()
            loss.mean().backward()
            nn.utils.clip_grad_norm_(network.parameters(), _LARGEST_GRADIENT)
            optimizer.step()
            schedule.step()
            total += loss.detach().double().sum().item()
        yield total / n


@torch.no_grad()
def _log_density(network: nn.Module, z: Latents, context: Context | None = None) -> PerStar:
    given = [None] * len(z) if context is None else torch.split(context, _CHUNK)
    parts = zip(torch.split(z, _CHUNK), given, strict=False)
    return torch.cat([network(here).log_prob(part) for part, here in parts])


def _standardised(posterior: Posterior, centre: Vector, scale: Vector) -> Posterior:
    """The same Gaussians over (z - centre) / scale."""
    coupling = posterior.coupling
    if coupling is not None:
        coupling = coupling * scale[None, None, :] / scale[None, :, None]
    return Posterior((posterior.mean - centre) / scale, posterior.log_variance - 2.0 * scale.log(), coupling)
