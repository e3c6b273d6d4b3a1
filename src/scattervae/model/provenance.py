"""What a model keeps of its making: versions, data, machine, and how much each latent carries."""

import math
import subprocess
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from scattervae.model.batches import TrainingStars
from scattervae.model.checkpoint import Checkpoint, software_versions
from scattervae.model.network import ScatterVAE
from scattervae.model.posterior import Posterior
from scattervae.model.preparation import Prepared
from scattervae.model.recipe import Recipe

_STARS_FOR_DIVERGENCE = 524_288  # enough for the mean divergence of a latent to three digits


def provenance_of(checkpoint: Checkpoint, prepared: Prepared, training: dict[str, Any]) -> dict[str, Any]:
    """Readable JSON values.

    Args:
        checkpoint: The trained model.
        prepared: What it was trained on.
        training: How that went.
    """
    posterior = _posterior(checkpoint.network, prepared.stars, checkpoint.recipe)
    return {
        "versions": software_versions(),
        "commit": _commit(),
        "data": prepared.data,
        "training": {
            "device": str(checkpoint.device),
            **training,
            "active_latents": posterior.n_active(),
            "kl_per_latent": posterior.kl_per_latent(),
        },
        "credit": "ESA/Gaia/DPAC",
    }


@torch.no_grad()
def _posterior(network: ScatterVAE, stars: TrainingStars, recipe: Recipe) -> Posterior:
    """The posteriors of the training stars, or of half a million where there are more."""
    batches = stars.batches(recipe.training, epoch=0)
    n_batches = math.ceil(_STARS_FOR_DIVERGENCE / recipe.training.batch_size)
    parts = [network.encode(batch.x, batch.errors) for batch in islice(batches, n_batches)]
    return Posterior.concatenate(parts).each(lambda values: values.cpu())


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
