"""One training run, from stars to a trained folder: folds, normalization, network, provenance."""

import hashlib
import json
import logging
import shutil
import subprocess
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scattervae.errors import CheckpointError, TrainingError
from scattervae.model.checkpoint import Checkpoint, software_versions
from scattervae.model.recipe import Recipe
from scattervae.model.train import EpochRecord, Progress, fit_network
from scattervae.seeds import folds
from scattervae.spectra.flags import Flag
from scattervae.spectra.normalization import Normalization
from scattervae.spectra.spectra import Spectra

logger = logging.getLogger(__name__)

_STATE = "state.safetensors"
_LOG = "training.jsonl"
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class RunFolder:
    """Where a model goes, and where its run keeps what it needs to be resumed.

    Attributes:
        model: The trained folder.
        resume: Go on with an unfinished run, where there is one.
        overwrite: Replace a finished model, or start an unfinished run again.
    """

    model: Path
    resume: bool = False
    overwrite: bool = False

    @property
    def unfinished(self) -> Path:
        return self.model.with_name(self.model.name + ".partial")

    def open(self) -> Path:
        """The folder of the run's own files, made ready.

        Raises:
            CheckpointError: A model or an unfinished run is there, and nobody said what to do with it.
        """
        if self.model.exists() and not self.overwrite:
            raise CheckpointError(f"{self.model}: exists; give another --out, or --overwrite to replace it")
        if self.model.exists() and not Checkpoint.is_model(self.model):
            raise CheckpointError(
                f"{self.model}: exists and is no model; nothing was removed, give another --out"
            )
        if self.unfinished.exists() and not self.resume:
            if not self.overwrite:
                raise CheckpointError(
                    f"{self.unfinished}: an unfinished run; --resume to go on with it, "
                    "or --overwrite to start again"
                )
            shutil.rmtree(self.unfinished)
        self.unfinished.mkdir(parents=True, exist_ok=True)
        return self.unfinished


def train(
    spectra: Spectra,
    recipe: Recipe,
    *,
    out: RunFolder | None = None,
    device: torch.device = _CPU,
    progress: Progress | None = None,
) -> Checkpoint:
    """A model trained on the usable stars outside the test fold.

    Args:
        spectra: All stars; the folds are chosen here, by source_id.
        recipe: Every setting.
        out: Where the model is saved and the run can be resumed; kept in memory only where None.
        device: Where the arithmetic is done.
        progress: Called with each epoch's record.

    Raises:
        TrainingError: No star is left to train on, or the loss stops being a number.
        CheckpointError: `out` holds something that nobody said to replace or resume.
    """
    stars = training_stars(spectra, recipe)
    if len(stars) == 0:
        raise TrainingError(
            f"none of {len(spectra)} stars can be trained on: {int(spectra.usable.sum())} are usable "
            "and not one of those is outside the test fold"
        )
    work = out.open() if out is not None else None
    normalization = Normalization.fit(lambda: [stars], recipe.normalization)
    started = time.perf_counter()
    records: list[EpochRecord] = []

    def report(record: EpochRecord) -> None:
        records.append(record)
        if work is not None:
            with (work / _LOG).open("w" if record.epoch == 1 else "a", encoding="utf-8") as log:
                log.write(json.dumps(asdict(record)) + "\n")
        if progress is not None:
            progress(record)

    state = fit_network(
        normalization.apply(stars).to(device),
        recipe,
        state_file=None if work is None else work / _STATE,
        progress=report,
    )
    checkpoint = Checkpoint(
        recipe=recipe,
        normalization=normalization,
        network=state.network.eval(),
        provenance={},
        records=tuple(records),
    )
    seconds = time.perf_counter() - started
    speed = len(stars) * (recipe.training.epochs - state.n_epochs_resumed) / seconds
    training = {"seconds": round(seconds, 3), "stars_per_second": round(speed)}
    checkpoint = replace(checkpoint, provenance=_provenance(checkpoint, stars, spectra, training))
    _warn_of_collapse(checkpoint)
    if out is not None and work is not None:
        checkpoint.save(out.model)
        shutil.rmtree(work)
    return checkpoint


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
        model = Checkpoint.load(folder)
        digest = data_digest(training_stars(spectra, recipe))
        if model.recipe == recipe and model.provenance.get("data", {}).get("digest") == digest:
            logger.info("%s: trained already", folder)
            return model
    try:
        return train(spectra, recipe, out=RunFolder(folder, resume=True, overwrite=True), progress=progress)
    except CheckpointError as error:
        logger.info("%s", error)
    return train(spectra, recipe, out=RunFolder(folder, overwrite=True), progress=progress)


def training_stars(spectra: Spectra, recipe: Recipe) -> Spectra:
    """The usable stars that a recipe trains on: all but the test fold, or all but test and validation."""
    fold = folds(spectra.source_id)
    train_on = fold.train if recipe.training.hold_out_validation else ~fold.test
    return spectra.take(train_on & spectra.usable)


def collapse_warning(n_active: int, recipe: Recipe, n_coeffs: int) -> str | None:
    """What to tell the user when fewer than half the latents carry information; None when all is well.

    Args:
        n_active: Latents with a mean divergence above 0.1 nats.
        recipe: What the model was trained with.
        n_coeffs: Coefficients a star.
    """
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


def _warn_of_collapse(checkpoint: Checkpoint) -> None:
    n_active = checkpoint.provenance["training"]["active_latents"]
    warning = collapse_warning(n_active, checkpoint.recipe, checkpoint.normalization.n_coeffs)
    if warning is not None:
        logger.warning(warning)


def _provenance(
    checkpoint: Checkpoint, stars: Spectra, spectra: Spectra, training: dict[str, Any]
) -> dict[str, Any]:
    posterior = checkpoint.encode(stars)
    return {
        "versions": software_versions(),
        "commit": _commit(),
        "data": {
            "digest": data_digest(stars),
            "n_stars": len(spectra),
            "n_usable": int(spectra.usable.sum()),
            "n_trained_on": len(stars),
            "n_inferred_coefficients": int(((stars.flags & np.uint16(Flag.INFERRED)) > 0).sum()),
            "n_g_flux_from_table": checkpoint.normalization.n_g_flux_from_table,
            "n_g_flux_from_coefficients": len(stars) - checkpoint.normalization.n_g_flux_from_table,
        },
        "training": {
            "device": str(checkpoint.device),
            "threads": torch.get_num_threads(),
            **training,
            "active_latents": posterior.n_active(),
            "kl_per_latent": posterior.kl_per_latent(),
        },
        "credit": "ESA/Gaia/DPAC",
    }


def data_digest(spectra: Spectra) -> str:
    """SHA-256 of ids, coefficients, errors and G flux, in hexadecimal."""
    digest = hashlib.sha256()
    for array in (spectra.source_id, spectra.coeffs, spectra.errors, spectra.g_flux):
        digest.update(array.tobytes())
    return digest.hexdigest()


def _commit() -> str | None:
    """The commit of the source tree that runs, or None where it is an installed package."""
    here = Path(__file__).resolve().parent
    try:
        done = subprocess.run(
            ["git", "-C", str(here), "log", "-1", "--format=%H", "--", str(here)],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
