"""Training: gradient steps over batches, one record an epoch, and a run that can be stopped and resumed.

Laroche & Speagle (2023), sect. 2.3.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from scattervae.errors import ScatterVaeError, TrainingError
from scattervae.model.batches import Batch, TrainingStars
from scattervae.model.distributed import ALONE, World
from scattervae.model.loss import objective
from scattervae.model.recipe import Recipe
from scattervae.model.records import EpochRecord, Progress
from scattervae.model.training_state import SavedState, TrainingState

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_SAVES = 5.0
_STARS_A_THREAD = 256  # of a batch: with fewer, threads wait for each other longer than they compute


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
        stars: Training stars, all of them encodable.
        recipe: All settings.
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
    report = progress or (lambda _record: None)
    for record in state.records:
        report(record)
    with _computing_with(training_threads(recipe)):
        for epoch in range(len(state.records) + 1, recipe.training.epochs + 1):
            record = _run_epoch(state, stars, epoch)
            state.finish_epoch(record)
            report(record)
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


def _resume(state: TrainingState) -> SavedState | None:
    """Restore the state from its file, where there is one, and hand on what was in it."""
    if state.file is None or not state.file.exists():
        return None
    saved = SavedState.read(state.file)
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
            raise state.world.told_once(_diverged(epoch, f"the loss is {state.sums[0].item()}"))
        state.n_batches_done += 1
        state.n_stars_seen += batch.n_stars
        _save_if_due(state)
    if not state.is_sound:  # a gradient overflowed where the loss did not
        raise state.world.told_once(_diverged(epoch, "a weight is not a number"))
    mean, chi2, penalty, kl = (state.sums / len(stars)).tolist()
    return EpochRecord(
        epoch=epoch,
        objective=mean,
        chi2=chi2,
        penalty=penalty,
        kl=kl,
        negative_elbo=chi2 + penalty + kl,
        learning_rate=state.steps.learning_rate,
    )


def _step(state: TrainingState, batch: Batch) -> Tensor:
    """Move the weights once; gives the sums of loss and loss terms over the batch.

    The gradient is that of the mean over the whole batch: each process adds its stars' part, and
    DistributedDataParallel takes the mean over processes.
    """
    settings, shape = state.recipe.training, state.network.shape
    batch = batch.degraded(state.recipe.degradation, state.damage)
    noise = batch.noise(shape.n_latent, state.draws)
    terms = state.loss_of_batch(batch.x, batch.errors, noise, batch.correlated)
    losses = objective(terms, state.recipe.objective, n_coeffs=batch.x.shape[1], n_latent=shape.n_latent)
    state.steps.forget_gradients()
    (losses.sum() / (batch.n_stars / state.world.size)).backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(state.parameters, settings.gradient_clip, error_if_nonfinite=False)
    state.steps.take()
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
