"""Training: batches by index from memory, one record an epoch, and a run that can be stopped and resumed.

Laroche & Speagle (2023), sect. 2.3.
"""

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from scattervae.errors import CheckpointError, TrainingError
from scattervae.folders import written_aside
from scattervae.model.loss import loss_terms, objective
from scattervae.model.network import ScatterVAE
from scattervae.model.recipe import Recipe, TrainingSettings
from scattervae.seeds import stream
from scattervae.spectra.normalization import Inputs

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_SAVES = 5.0


@dataclass(frozen=True)
class EpochRecord:
    """Means over the stars of one epoch, in nats per star; the same whatever the objective weighs.

    Attributes:
        epoch: Counted from 1.
        objective: What was minimised.
        chi2: Half the squared normalised errors, summed over coefficients.
        penalty: Half the log variances, summed over coefficients.
        kl: Divergence from the prior, summed over latents.
        negative_elbo: chi2 + penalty + kl.
        learning_rate: At the epoch's last step.
    """

    epoch: int
    objective: float
    chi2: float
    penalty: float
    kl: float
    negative_elbo: float
    learning_rate: float


Progress = Callable[[EpochRecord], None]


class TrainingState:
    """Network, optimiser and schedule in mid-run; saved and restored bit for bit, without pickle.

    Random numbers need no state: each epoch draws from streams named for it.
    """

    def __init__(self, inputs: Inputs, recipe: Recipe) -> None:
        settings = recipe.training
        self.recipe = recipe
        self.stars = _digest(inputs)
        self.network = initial_network(inputs.x.shape[1], recipe).to(inputs.x.device)
        self.optimizer = _optimizer(self.network, settings)
        steps_an_epoch = math.ceil(len(inputs) / settings.batch_size)
        self.schedule = _schedule(self.optimizer, settings, settings.epochs * steps_an_epoch)
        self.records: list[EpochRecord] = []
        self.n_epochs_resumed = 0

    def save(self, path: Path) -> None:
        """Write everything to one safetensors file, whole or not at all."""
        optimizer = self.optimizer.state_dict()
        tensors = {f"network/{name}": value for name, value in self.network.state_dict().items()}
        for index, state in optimizer["state"].items():
            tensors |= {f"optimizer/{index}/{name}": value for name, value in state.items()}
        notes = {
            "recipe": self.recipe.model_dump_json(),
            "stars": self.stars,
            "param_groups": json.dumps(optimizer["param_groups"]),
            "schedule": json.dumps(self.schedule.state_dict()),
            "records": json.dumps([asdict(record) for record in self.records]),
        }
        with written_aside(path) as partial:
            save_file({name: value.contiguous() for name, value in tensors.items()}, partial, notes)

    def restore(self, path: Path) -> None:
        """Go on from a saved state.

        Raises:
            CheckpointError: The file is not a state of this recipe on these stars.
        """
        try:
            with safe_open(path, framework="pt") as file:
                notes = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path}: not a training state ({error}); start again") from error
        if notes.get("recipe") != self.recipe.model_dump_json():
            raise CheckpointError(
                f"{path}: left by another recipe; start again, or give the one it began with"
            )
        if notes.get("stars") != self.stars:
            raise CheckpointError(
                f"{path}: left by a run on other stars ({notes.get('stars')}, now {self.stars}); "
                "start again, or give the store it began with"
            )
        self.network.load_state_dict(_under("network/", tensors))
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in _under("optimizer/", tensors).items():
            index, _, key = name.partition("/")
            state.setdefault(int(index), {})[key] = value
        self.optimizer.load_state_dict({"state": state, "param_groups": json.loads(notes["param_groups"])})
        self.schedule.load_state_dict(json.loads(notes["schedule"]))
        self.records = [EpochRecord(**record) for record in json.loads(notes["records"])]
        self.n_epochs_resumed = len(self.records)


def write_records(path: Path, records: Iterable[EpochRecord]) -> None:
    """Write one JSON line an epoch."""
    path.write_text("".join(json.dumps(asdict(record)) + "\n" for record in records), encoding="utf-8")


def read_records(path: Path) -> tuple[EpochRecord, ...]:
    """The records that `write_records` wrote."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return tuple(EpochRecord(**json.loads(line)) for line in lines)


def initial_network(n_coeffs: int, recipe: Recipe) -> ScatterVAE:
    """A network with PyTorch's default initial weights, drawn from the recipe's own stream."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(recipe.training.seed, "weights").initial_seed())
        return ScatterVAE(n_coeffs, recipe.network)


def fit_network(
    inputs: Inputs,
    recipe: Recipe,
    *,
    state_file: Path | None = None,
    progress: Progress | None = None,
) -> TrainingState:
    """Train a network on these stars, or go on where `state_file` says an earlier run stopped.

    Args:
        inputs: Training stars, all of them encodable, on the device to train on.
        recipe: All settings.
        state_file: Where the run's state is kept and looked for; nowhere where None.
        progress: Called with each epoch's record, also for epochs that an earlier run finished.

    Raises:
        TrainingError: There are no stars, or the loss stops being a number.
        CheckpointError: `state_file` is the state of something else.
    """
    if len(inputs) == 0:
        raise TrainingError("no star is left to train on; `scattervae info` on the store says why")
    state = TrainingState(inputs, recipe)
    if state_file is not None and state_file.exists():
        state.restore(state_file)
        logger.info("%s: going on after epoch %d", state_file, len(state.records))
    report = progress or (lambda _record: None)
    for record in state.records:
        report(record)
    saved_at = time.monotonic()
    for epoch in range(len(state.records) + 1, recipe.training.epochs + 1):
        record = _run_epoch(state, inputs, epoch)
        state.records.append(record)
        report(record)
        last = epoch == recipe.training.epochs
        if state_file is not None and (last or time.monotonic() - saved_at > _SECONDS_BETWEEN_SAVES):
            state.save(state_file)
            saved_at = time.monotonic()
    return state


def _run_epoch(state: TrainingState, inputs: Inputs, epoch: int) -> EpochRecord:
    settings = state.recipe.training
    order = torch.randperm(len(inputs), generator=stream(settings.seed, "shuffle", epoch))
    draws = stream(settings.seed, "latents", epoch)
    sums = torch.zeros(4, dtype=torch.float64)
    parameters = list(state.network.parameters())
    state.network.train()
    for batch in torch.split(order, settings.batch_size):
        rows = batch.to(inputs.x.device)
        x, errors = inputs.x[rows], inputs.errors[rows]
        posterior = state.network.encode(x)
        terms = loss_terms(x, errors, posterior, state.network.decode(posterior.sample(draws)))
        losses = objective(
            terms, state.recipe.objective, n_coeffs=x.shape[1], n_latent=state.network.shape.n_latent
        )
        state.optimizer.zero_grad(set_to_none=True)
        losses.mean().backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, settings.gradient_clip, error_if_nonfinite=False)
        state.optimizer.step()
        state.schedule.step()
        sums += torch.stack([term.detach().double().sum() for term in (losses, *terms)]).cpu()
        if not torch.isfinite(sums[0]):
            raise _diverged(epoch, f"the loss is {sums[0].item()}")
    if not all(torch.isfinite(weights).all() for weights in parameters):
        raise _diverged(epoch, "a weight is not a number")  # a gradient overflowed where the loss did not
    mean, chi2, penalty, kl = (sums / len(inputs)).tolist()
    return EpochRecord(
        epoch=epoch,
        objective=mean,
        chi2=chi2,
        penalty=penalty,
        kl=kl,
        negative_elbo=chi2 + penalty + kl,
        learning_rate=state.optimizer.param_groups[0]["lr"],
    )


def _diverged(epoch: int, what: str) -> TrainingError:
    return TrainingError(
        f"epoch {epoch}: {what}; lower training.learning_rate or training.gradient_clip, "
        "or look for stars with extreme errors (`scattervae info STORE`)"
    )


def _optimizer(network: ScatterVAE, settings: TrainingSettings) -> torch.optim.Optimizer:
    if settings.optimizer == "sgd":
        return torch.optim.SGD(
            network.parameters(), lr=settings.learning_rate, momentum=settings.momentum, fused=True
        )
    return torch.optim.AdamW(
        network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )


def _schedule(
    optimizer: torch.optim.Optimizer, settings: TrainingSettings, n_steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    if settings.schedule == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=n_steps)
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=settings.learning_rate, total_steps=n_steps + 1
    )


def _digest(inputs: Inputs) -> str:
    sha = hashlib.sha256()
    for values in (inputs.x, inputs.errors):
        sha.update(values.cpu().contiguous().numpy().tobytes())
    return f"{len(inputs)} with digest {sha.hexdigest()[:16]}"


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
