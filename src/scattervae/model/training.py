"""Training: gradient steps over batches, one record an epoch, stopped at any batch and resumed to the same bits.

Laroche & Speagle (2023), sect. 2.3.
"""

import json
import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from scattervae.arrays import Coeffs, Latents
from scattervae.errors import CheckpointError, ScatterVaeError, TrainingError
from scattervae.files import StoredTensors, read_tensors, write_tensors
from scattervae.model.batches import STREAMED, Batch, TrainingStars
from scattervae.model.checkpoint import EpochRecord, Progress
from scattervae.model.covariance import CorrelatedNoise
from scattervae.model.distributed import ALONE, World
from scattervae.model.loss import LossTerms, loss_terms, objective
from scattervae.model.network import ScatterVAE
from scattervae.model.optimizers import Optimizers
from scattervae.model.recipe import Recipe
from scattervae.seeds import stream

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_SAVES = 5.0
_STARS_A_THREAD = 256  # of a batch: with fewer, threads wait for each other longer than they compute


class LossOfBatch(nn.Module):
    """From the stars of a batch to their loss terms, as one module: what DistributedDataParallel wraps."""

    def __init__(self, network: ScatterVAE) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, x: Coeffs, errors: Coeffs, noise: Latents, correlated: CorrelatedNoise | None = None
    ) -> LossTerms:
        posterior = self.network.encode(x, errors)
        reconstruction = self.network.decode(posterior.at(noise))
        return loss_terms(x, errors, posterior, reconstruction, correlated=correlated)


class TrainingState:
    """Network, optimiser, schedule and the epoch begun; saved and restored bit for bit, without pickle."""

    def __init__(
        self, stars: TrainingStars, recipe: Recipe, *, file: Path | None = None, world: World = ALONE
    ) -> None:
        settings = recipe.training
        self.recipe = recipe
        self.world = world
        self.stars = stars.identity
        self.network = initial_network(stars.n_coeffs, recipe).to(stars.device)
        self.parameters = list(self.network.parameters())
        self.loss_of_batch = world.shared(LossOfBatch(self.network))
        steps_an_epoch = math.ceil(len(stars) / settings.batch_size)
        self.optimizers = Optimizers(self.network, settings, settings.epochs * steps_an_epoch)
        self.records: list[EpochRecord] = []  # of the epochs that are finished
        self.n_epochs_resumed = 0
        self.file = file  # where the state is kept; nowhere where None
        self.saved_at = time.monotonic()  # when it was last written
        self.n_stars_seen = 0  # since this object was made, once an epoch each
        self.n_batches_done = 0  # of the epoch that is not finished
        self.sums = torch.zeros(4, dtype=torch.float64)  # of loss and loss terms over the stars of these
        self.draws = torch.Generator()  # where the epoch's latent noise comes from
        self.degradation = torch.Generator()  # where the epoch's degradation comes from

    @property
    def is_sound(self) -> bool:
        """True where all weights are numbers."""
        return all(bool(torch.isfinite(weights).all()) for weights in self.parameters)

    def begin_epoch(self) -> None:
        seed, epoch = self.recipe.training.seed, len(self.records) + 1
        self.draws = stream(seed, "latents", epoch)
        self.degradation = stream(seed, "degradation", epoch)
        self.sums = torch.zeros(4, dtype=torch.float64)

    def finish_epoch(self, record: EpochRecord) -> None:
        self.records.append(record)
        self.n_batches_done = 0

    def save(self, path: Path) -> None:
        """Write everything to one safetensors file, whole or not at all."""
        tensors = {f"network/{name}": value for name, value in self.network.state_dict().items()}
        tensors |= {f"steps/{name}": value for name, value in self.optimizers.tensors().items()}
        tensors |= {
            "epoch/sums": self.sums,
            "epoch/draws": self.draws.get_state(),
            "epoch/degradation": self.degradation.get_state(),
        }
        notes = {
            "recipe": self.recipe.model_dump_json(),
            "stars": self.stars,
            "steps": self.optimizers.notes(),
            "records": json.dumps([asdict(record) for record in self.records]),
            "n_batches_done": str(self.n_batches_done),
        }
        write_tensors(path, {name: value.cpu() for name, value in tensors.items()}, notes)

    def restore(self, saved: StoredTensors) -> None:
        """Go on from what `save` wrote.

        Raises:
            CheckpointError: It is not a state of this recipe on these stars.
        """
        notes = saved.notes
        if notes.get("recipe") != self.recipe.model_dump_json():
            raise CheckpointError(
                f"{saved.path}: left by another recipe; start again, or give the one it began with"
            )
        if notes.get("stars") != self.stars:
            raise CheckpointError(
                f"{saved.path}: left by a run on other stars ({notes.get('stars')}, now {self.stars}); "
                "start again, or give the store it began with"
            )
        network, steps, epoch = (
            {name: torch.from_numpy(values) for name, values in saved.under(prefix).items()}
            for prefix in ("network/", "steps/", "epoch/")
        )
        self.network.load_state_dict(network)
        self.optimizers.restore(steps, notes["steps"])
        self.records = [EpochRecord(**record) for record in json.loads(notes["records"])]
        self.n_epochs_resumed = len(self.records)
        self.n_batches_done = int(notes["n_batches_done"])
        self.sums = epoch["sums"]
        self.draws.set_state(epoch["draws"])
        self.degradation.set_state(epoch["degradation"])


def read_state(path: Path) -> StoredTensors:
    """What `TrainingState.save` wrote.

    Raises:
        CheckpointError: The file is nothing of the kind.
    """
    try:
        return read_tensors(path)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; not a training state: start again") from error


def was_streamed(saved: StoredTensors) -> bool:
    """True where the run read its stars from disk in every epoch."""
    return saved.notes.get("stars", "").endswith(STREAMED)


def initial_network(n_coeffs: int, recipe: Recipe) -> ScatterVAE:
    """A network with PyTorch's default initial weights, drawn from the recipe's own stream."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(recipe.training.seed, "weights").initial_seed())
        return ScatterVAE(n_coeffs, recipe.network)


def fit_network(
    stars: TrainingStars,
    recipe: Recipe,
    *,
    state_file: Path | None = None,
    progress: Progress | None = None,
    world: World = ALONE,
) -> TrainingState:
    """Train a network on these stars, or go on where `state_file` says an earlier run stopped.

    Args:
        state_file: Where the run's state is kept and looked for; nowhere where None.
        progress: Called with each epoch's record, also for epochs that an earlier run finished.
        world: The processes that train together; the first of them reads and writes the state.

    Raises:
        TrainingError: There are no stars, or the loss stops being a number.
        CheckpointError: `state_file` is the state of something else.
    """
    if len(stars) == 0:
        raise TrainingError("no star is left to train on; `scattervae info` on the store says why")
    state = TrainingState(stars, recipe, file=state_file, world=world)
    saved = world.from_first(lambda: _resume(state))
    if saved is not None and not world.is_first:
        state.restore(saved)
    progress = progress or (lambda _record: None)
    for record in state.records:
        progress(record)
    with _computing_with(training_threads(recipe)):
        for epoch in range(len(state.records) + 1, recipe.training.epochs + 1):
            record = _run_epoch(state, stars, epoch)
            state.finish_epoch(record)
            progress(record)
            _save_if_due(state, at_once=epoch == recipe.training.epochs)
    return state


def training_threads(recipe: Recipe) -> int:
    """CPU threads that share a gradient step: one for every 256 stars of a batch, up to what torch may use."""
    return min(torch.get_num_threads(), max(1, recipe.training.batch_size // _STARS_A_THREAD))


@contextmanager
def _computing_with(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _resume(state: TrainingState) -> StoredTensors | None:
    """What is in the state's file, restored; None where there is none."""
    if state.file is None or not state.file.exists():
        return None
    saved = read_state(state.file)
    state.restore(saved)
    logger.info(
        "%s: going on after epoch %d and %d batches", state.file, len(state.records), state.n_batches_done
    )
    return saved


def _run_epoch(state: TrainingState, stars: TrainingStars, epoch: int) -> EpochRecord:
    state.network.train()
    if state.n_batches_done == 0:
        state.begin_epoch()
    settings = state.recipe.training
    for batch in stars.batches(settings, epoch, first=state.n_batches_done, world=state.world):
        state.sums += _step(state, batch)
        if not torch.isfinite(state.sums[0]):
            raise state.world.reported_once(_diverged(epoch, f"the loss is {state.sums[0].item()}"))
        state.n_batches_done += 1
        state.n_stars_seen += batch.n_stars
        _save_if_due(state)
    if not state.is_sound:  # a gradient overflowed where the loss did not
        raise state.world.reported_once(_diverged(epoch, "a weight is not a number"))
    mean, chi2, penalty, kl = (state.sums / len(stars)).tolist()
    return EpochRecord(
        epoch=epoch,
        objective=mean,
        chi2=chi2,
        penalty=penalty,
        kl=kl,
        negative_elbo=chi2 + penalty + kl,
        learning_rate=state.optimizers.learning_rate,
    )


def _step(state: TrainingState, batch: Batch) -> Tensor:
    """Move the weights along the gradient of the batch's mean loss; gives the sums of loss and loss terms.

    Each process adds its stars' part, and DistributedDataParallel takes the mean over processes.
    """
    settings, shape = state.recipe.training, state.network.shape
    batch = batch.degraded(state.recipe.degradation, state.degradation)
    noise = batch.noise(shape.n_latent, state.draws)
    terms = state.loss_of_batch(batch.x, batch.errors, noise, batch.correlated)
    losses = objective(terms, state.recipe.objective, n_coeffs=batch.x.shape[1], n_latent=shape.n_latent)
    state.optimizers.zero_grad()
    (losses.sum() / (batch.n_stars / state.world.size)).backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(state.parameters, settings.gradient_clip, error_if_nonfinite=False)
    state.optimizers.step()
    sums = torch.stack([term.detach().double().sum() for term in (losses, *terms)])
    return state.world.total(sums).cpu()


def _save_if_due(state: TrainingState, *, at_once: bool = False) -> None:
    """Write the state every few seconds, in the first process alone, where it is fit to go on from."""
    if state.file is None or not state.world.is_first:
        return
    if (at_once or time.monotonic() - state.saved_at > _SECONDS_BETWEEN_SAVES) and state.is_sound:
        state.save(state.file)
        state.saved_at = time.monotonic()


def _diverged(epoch: int, what: str) -> ScatterVaeError:
    return TrainingError(
        f"epoch {epoch}: {what}; lower training.learning_rate or training.gradient_clip, "
        "or look for stars with extreme errors (`scattervae info STORE`)"
    )
