"""A training run in its midst: everything needed to stop it at any batch and go on to the same bits."""

import json
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from scattervae.arrays import Coeffs, Latents
from scattervae.errors import CheckpointError
from scattervae.files import read_tensors, write_tensors
from scattervae.model.batches import STREAMED, TrainingStars
from scattervae.model.correlated_noise import CorrelatedNoise
from scattervae.model.distributed import ALONE, World
from scattervae.model.loss import LossTerms, loss_terms
from scattervae.model.network import ScatterVAE
from scattervae.model.recipe import Recipe
from scattervae.model.records import EpochRecord
from scattervae.model.steps import Steps
from scattervae.seeds import stream


class SavedState(NamedTuple):
    """The file of a run that was stopped.

    Attributes:
        path: Where it is.
        notes: What it says of itself.
        tensors: Its numbers, by name.
    """

    path: Path
    notes: dict[str, str]
    tensors: dict[str, Tensor]

    @classmethod
    def read(cls, path: Path) -> "SavedState":
        """What `TrainingState.save` wrote.

        Raises:
            CheckpointError: The file is nothing of the kind.
        """
        try:
            stored = read_tensors(path)
        except CheckpointError as error:
            raise CheckpointError(f"{error}; not a training state: start again") from error
        return cls(
            path, stored.notes, {name: torch.from_numpy(array) for name, array in stored.arrays.items()}
        )

    @classmethod
    def read_if_there(cls, path: Path) -> "SavedState | None":
        """The same; None where there is no file."""
        return cls.read(path) if path.exists() else None

    @property
    def streamed(self) -> bool:
        """True where the run read its stars from disk in every epoch."""
        return self.notes.get("stars", "").endswith(STREAMED)

    def under(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names begin with this, by the rest of their names."""
        return {
            name.removeprefix(prefix): value
            for name, value in self.tensors.items()
            if name.startswith(prefix)
        }


class LossOfBatch(nn.Module):
    """From the stars of a batch to their loss terms, as one module: what DistributedDataParallel wraps."""

    def __init__(self, network: ScatterVAE) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, x: Coeffs, errors: Coeffs, noise: Latents, correlated: CorrelatedNoise | None = None
    ) -> LossTerms:
        """The terms at one latent vector a star, drawn from its posterior with this noise."""
        posterior = self.network.encode(x, errors)
        told = self.network.decode(posterior.at(noise))
        return loss_terms(x, errors, posterior, told, correlated=correlated)


class TrainingState:
    """Network, optimiser, schedule and the epoch begun; saved and restored bit for bit, without pickle.

    Attributes:
        records: Of the epochs that are finished.
        n_batches_done: Of the epoch that is not.
        sums: Loss and loss terms over the stars of these batches.
        draws: Where the epoch's latent noise comes from.
        damage: Where the epoch's degradation comes from.
        file: Where the state is kept; nowhere where None.
        saved_at: When it was last written, by the clock of `time.monotonic`.
        n_stars_seen: Stars that went through since this object was made, once an epoch each.
    """

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
        self.steps = Steps(self.network, settings, settings.epochs * steps_an_epoch)
        self.records: list[EpochRecord] = []
        self.n_epochs_resumed = 0
        self.file = file
        self.saved_at = time.monotonic()
        self.n_stars_seen = 0
        self.n_batches_done = 0
        self.sums = torch.zeros(4, dtype=torch.float64)
        self.draws = torch.Generator()
        self.damage = torch.Generator()

    @property
    def is_sound(self) -> bool:
        """False where a weight is not a number."""
        return all(bool(torch.isfinite(weights).all()) for weights in self.parameters)

    def begin_epoch(self) -> None:
        """Ready for the first batch of the epoch after those recorded."""
        seed, epoch = self.recipe.training.seed, len(self.records) + 1
        self.draws = stream(seed, "latents", epoch)
        self.damage = stream(seed, "degradation", epoch)
        self.sums = torch.zeros(4, dtype=torch.float64)

    def finish_epoch(self, record: EpochRecord) -> None:
        """Note a finished epoch."""
        self.records.append(record)
        self.n_batches_done = 0

    def save(self, path: Path) -> None:
        """Write everything to one safetensors file, whole or not at all."""
        tensors = {f"network/{name}": value for name, value in self.network.state_dict().items()}
        tensors |= {f"steps/{name}": value for name, value in self.steps.tensors().items()}
        tensors |= {
            "epoch/sums": self.sums,
            "epoch/draws": self.draws.get_state(),
            "epoch/damage": self.damage.get_state(),
        }
        notes = {
            "recipe": self.recipe.model_dump_json(),
            "stars": self.stars,
            "steps": self.steps.notes(),
            "records": json.dumps([asdict(record) for record in self.records]),
            "n_batches_done": str(self.n_batches_done),
        }
        write_tensors(path, {name: value.cpu() for name, value in tensors.items()}, notes)

    def restore(self, saved: SavedState) -> None:
        """Go on from a saved state.

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
        self.network.load_state_dict(saved.under("network/"))
        self.steps.restore(saved.under("steps/"), notes["steps"])
        self.records = [EpochRecord(**record) for record in json.loads(notes["records"])]
        self.n_epochs_resumed = len(self.records)
        self.n_batches_done = int(notes["n_batches_done"])
        self.sums = saved.tensors["epoch/sums"]
        self.draws.set_state(saved.tensors["epoch/draws"])
        self.damage.set_state(saved.tensors["epoch/damage"])


def initial_network(n_coeffs: int, recipe: Recipe) -> ScatterVAE:
    """A network with PyTorch's default initial weights, drawn from the recipe's own stream."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(recipe.training.seed, "weights").initial_seed())
        return ScatterVAE(n_coeffs, recipe.network)
