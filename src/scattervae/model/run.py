"""One training run, from stars to a trained folder: folds, normalization, network, provenance."""

import json
import logging
import math
import shutil
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from scattervae.arrays import StarArray
from scattervae.errors import CheckpointError, counted
from scattervae.files import CREDIT, commit, software_versions, sole_writer
from scattervae.model.batches import TrainingStars
from scattervae.model.checkpoint import Checkpoint, EpochRecord, Progress, read_checkpoint
from scattervae.model.network import Posterior, ScatterVAE
from scattervae.model.recipe import Recipe
from scattervae.model.training import fit_network, read_state, training_threads, was_streamed
from scattervae.model.training_stars import (
    Machine,
    Prepared,
    StoreStatistics,
    data_digest,
    prepare_spectra,
    prepare_store,
    training_stars,
)
from scattervae.spectra.spectra import Spectra
from scattervae.spectra.store import SpectrumStore

logger = logging.getLogger(__name__)

_STATE = "state.safetensors"
_LOG = "training.jsonl"
_STATISTICS = "statistics.safetensors"
_HERE = Machine()
_STARS_FOR_DIVERGENCE = 524_288  # enough for the mean divergence of a latent to three digits


@dataclass(frozen=True)
class RunFolder:
    """Where a model goes, and where its run keeps what it needs to be resumed.

    Example:
        >>> from pathlib import Path
        >>> import scattervae as sv
        >>> folder = sv.RunFolder(Path("long_run"), resume=True)
        >>> model = sv.train("store", "elbo", epochs=1, out=folder, progress=False)
        >>> folder.unfinished.exists()
        False
    """

    model: Path  #: the trained folder
    resume: bool = False  #: go on with an unfinished run, where there is one
    overwrite: bool = False  #: replace a finished model, or start an unfinished run again

    @property
    def unfinished(self) -> Path:
        return self.model.with_name(self.model.name + ".partial")

    def check(self) -> None:
        """Refuse what nobody asked to replace or resume, before any work is done.

        Raises:
            CheckpointError: A model or an unfinished run is there.
        """
        if self.model.exists() and not self.overwrite:
            raise CheckpointError(f"{self.model}: exists; give another --out, or --overwrite to replace it")
        if self.model.exists() and not Checkpoint.is_model(self.model):
            raise CheckpointError(
                f"{self.model}: exists and is no model; nothing was removed, give another --out"
            )
        if self.unfinished.exists() and not self.resume and not self.overwrite:
            raise CheckpointError(
                f"{self.unfinished}: an unfinished run; --resume to go on with it, or --overwrite to start again"
            )

    def take(self, held: ExitStack) -> None:
        """Check it, and let no other run write to it until `held` is closed."""
        held.enter_context(sole_writer(self.model))
        self.check()

    def open(self) -> Path:
        """The folder of the run's own files, made ready; an unfinished run is removed unless resumed."""
        self.check()
        if self.unfinished.exists() and not self.resume:
            shutil.rmtree(self.unfinished)
        self.unfinished.mkdir(parents=True, exist_ok=True)
        return self.unfinished


def train(
    stars: Spectra | SpectrumStore,
    recipe: Recipe,
    *,
    out: RunFolder | None = None,
    machine: Machine = _HERE,
    progress: Progress | None = None,
    g_flux_error: StarArray | None = None,
) -> Checkpoint:
    """A model trained on the usable stars outside the test fold.

    Args:
        stars: All stars; the folds are chosen here, by source_id. A store with more stars than the machine's
            memory may hold is streamed, shuffled window by window.
        out: Where the model is saved and the run can be resumed; kept in memory only where None.
        machine: What to train on. Where several processes train, each of them calls this; the first writes.
        g_flux_error: One standard deviation of the G flux of each of the spectra [electron/s], NaN where unknown,
            for the full likelihood; a store brings its own.

    Raises:
        TrainingError: No star is left to train on, the loss stops being a number, another process is gone, or the
            recipe's likelihood needs more memory than there is.
        CheckpointError: `out` holds something that nobody asked to replace or resume.
        BusyError: Another run trains there.
    """
    world = machine.world
    with ExitStack() as held:
        if out is not None:
            world.from_first(partial(out.take, held))
        prepared, work = _prepare(stars, recipe, out, machine, g_flux_error=g_flux_error)
        warning = few_stars_warning(prepared.data["n_trained_on"], prepared.normalization.n_coeffs)
        if warning is not None and world.is_first:
            logger.warning(warning)
        started = time.perf_counter()
        state = fit_network(
            prepared.stars,
            recipe,
            state_file=None if work is None else work / _STATE,
            progress=_reporting(progress, work if world.is_first else None),
            world=world,
        )
        seconds = time.perf_counter() - started
        network, records = state.network.eval(), tuple(state.records)
        checkpoint = Checkpoint(recipe, prepared.normalization, network, {}, records, prepared.source_id)
        if not world.is_first:
            return checkpoint
        training = {
            "stars": "streamed" if prepared.streamed else "in memory",
            "processes": world.size,
            "threads": training_threads(recipe),
            "seconds": round(seconds, 3),
            "stars_per_second": round(state.n_stars_seen / seconds),
        }
        checkpoint = replace(checkpoint, provenance=_provenance(checkpoint, prepared, training))
        n_active = checkpoint.provenance["training"]["active_latents"]
        warning = collapse_warning(n_active, recipe, prepared.normalization.n_coeffs)
        if warning is not None:
            logger.warning(warning)
        if out is not None and work is not None:
            checkpoint.save(out.model)
            shutil.rmtree(work)
        return checkpoint


def _reporting(progress: Progress | None, work: Path | None) -> Progress:
    """Passes each epoch's record on, and writes it to the log in the folder of the run's own files."""

    def report(record: EpochRecord) -> None:
        if work is not None:
            with (work / _LOG).open("w" if record.epoch == 1 else "a", encoding="utf-8") as log:
                log.write(json.dumps(asdict(record)) + "\n")
        if progress is not None:
            progress(record)

    return report


def _prepare(
    stars: Spectra | SpectrumStore,
    recipe: Recipe,
    out: RunFolder | None,
    machine: Machine,
    *,
    g_flux_error: StarArray | None,
) -> tuple[Prepared, Path | None]:
    """Stars ready to be trained on, and the folder of the run's own files, made when that went well."""
    world = machine.world
    if isinstance(stars, Spectra):
        prepared = world.each_own(lambda: prepare_spectra(stars, recipe, machine, g_flux_error=g_flux_error))
        return prepared, world.from_first(lambda: None if out is None else out.open())

    def read_once() -> tuple[StoreStatistics, bool, Path | None]:
        found, streamed = None, None
        if out is not None and out.resume:
            found = StoreStatistics.saved(out.unfinished / _STATISTICS, stars, recipe)
            state = out.unfinished / _STATE
            streamed = was_streamed(read_state(state)) if state.exists() else None
        if found is None:
            logger.info("%s: reading it once, to count and scale its stars", stars.path)
            found = StoreStatistics.of(stars, recipe)
        if streamed is None:
            streamed = not machine.holds(int(found.n_trained_on.sum()), found.normalization.n_coeffs)
        work = None if out is None else out.open()
        if work is not None:
            found.save(work / _STATISTICS, stars, recipe)
        return found, streamed, work

    found, streamed, work = world.from_first(read_once)
    return prepare_store(stars, recipe, machine, statistics=found, streamed=streamed), work


def train_once(
    spectra: Spectra, recipe: Recipe, folder: Path, *, progress: Progress | None = None
) -> Checkpoint:
    """The model of a recipe on these stars: the one in `folder` where it is that, else trained there.

    An unfinished run is gone on with; a model or an unfinished run of another recipe or of other stars is
    replaced.

    Raises:
        TrainingError: As `train`.
        CheckpointError: `folder` is there and is no model.
    """
    if Checkpoint.is_model(folder):
        model = read_checkpoint(folder)
        digest = data_digest(training_stars(spectra, recipe))
        if model.recipe == recipe and model.provenance.get("data", {}).get("digest") == digest:
            logger.info("%s: trained already", folder)
            return model
    try:
        return train(spectra, recipe, out=RunFolder(folder, resume=True, overwrite=True), progress=progress)
    except CheckpointError as error:
        logger.info("%s", error)
    return train(spectra, recipe, out=RunFolder(folder, overwrite=True), progress=progress)


def few_stars_warning(n_trained_on: int, n_coeffs: int) -> str | None:
    """What to warn of before training on fewer stars than each has coefficients; None when there are more."""
    if n_trained_on >= n_coeffs:
        return None
    return (
        f"{counted(n_trained_on, 'star')} to train on, of {n_coeffs} coefficients each: the model will know "
        "these and no others; thousands are needed"
    )


def collapse_warning(n_active: int, recipe: Recipe, n_coeffs: int) -> str | None:
    """What to warn of when fewer than half the latents carry information; None when all is well."""
    n_latent = recipe.network.n_latent
    if 2 * n_active >= n_latent:
        return None
    if recipe.objective == "printed":
        cause = (
            f"the loss as printed averages chi^2 over {n_coeffs} coefficients but the divergence over "
            f"{n_latent} latents, which weighs the divergence {n_coeffs / n_latent:.1f} times as much as the "
            "evidence lower bound does; --recipe elbo sums both"
        )
    else:
        cause = (
            "too few stars or epochs, or a learning rate that is too high, leave the decoder nothing to use"
        )
    return f"posterior collapse: {n_active} of {n_latent} latents are active (KL above 0.1 nats): {cause}"


def _provenance(checkpoint: Checkpoint, prepared: Prepared, training: dict[str, Any]) -> dict[str, Any]:
    """Readable JSON values: versions, data, machine, and how much each latent carries."""
    posterior = _posterior(checkpoint.network, prepared.stars, checkpoint.recipe)
    return {
        "versions": software_versions(),
        "commit": commit(),
        "data": prepared.data,
        "training": {
            "device": str(checkpoint.device),
            **training,
            "active_latents": len(posterior.active_latents()),
            "kl_per_latent": posterior.kl_per_latent(),
        },
        "credit": CREDIT,
    }


@torch.no_grad()
def _posterior(network: ScatterVAE, stars: TrainingStars, recipe: Recipe) -> Posterior:
    """The posteriors of the training stars, or of half a million where there are more."""
    batches = stars.batches(recipe.training, epoch=0)
    n_batches = math.ceil(_STARS_FOR_DIVERGENCE / recipe.training.batch_size)
    parts = [network.encode(batch.x, batch.errors) for batch in islice(batches, n_batches)]
    return Posterior.concatenate(parts).each(lambda values: values.cpu())
