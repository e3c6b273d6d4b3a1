"""What one of several processes does in the tests of distributed training, and how they are started.

    python -m model.ranks FOLDER          # trains in several ways and writes what came of it to FOLDER
    python -m model.ranks cli ARGUMENTS   # the command line, its state saved after every batch

Each process reads its number by the variables that ``torchrun`` sets.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from scattervae.errors import CheckpointError, TrainingError
from scattervae.model import training
from scattervae.model.batches import StarsInMemory, StarsOnDisk
from scattervae.model.distributed import AlreadyReportedError, World
from scattervae.spectra.normalization import Inputs, Normalization
from scattervae.spectra.windows import ChosenStars
from spectra.row_group_toys import ToyRowGroups
from toy import toy_best, toy_recipe, toy_sky

TESTS = Path(__file__).parents[1]
SPECTRA = toy_sky(150).spectra
NORMALIZATION = Normalization.fit(lambda: [SPECTRA])
RECIPE = toy_recipe(epochs=4, batch_size=31)  # uneven for two, and the last batch has 26 stars
DEGRADED = toy_best(epochs=3, batch_size=31, optimizer="adamw")  # Muon computes in bfloat16
ONE_MORE = toy_recipe(epochs=3, batch_size=149)  # the last batch has one star, and a process none


def in_memory() -> StarsInMemory:
    return StarsInMemory(NORMALIZATION.apply(SPECTRA), NORMALIZATION.bp.stop)


def on_disk() -> StarsOnDisk:
    sizes = [30, 50, 10, 60]
    chosen = ChosenStars(ToyRowGroups(SPECTRA, sizes), everything, np.array(sizes), NORMALIZATION, window=80)
    return StarsOnDisk(chosen, "digest", torch.device("cpu"))


def everything(block: object) -> np.ndarray:
    return np.ones(len(block), dtype=bool)


def broken() -> StarsInMemory:
    """One star of the first batch is no number, so that one process alone meets it."""
    inputs = NORMALIZATION.apply(SPECTRA)
    x = inputs.x.clone()
    x[next(in_memory().batches(RECIPE.training, 1)).rows[0]] = torch.nan
    return StarsInMemory(Inputs(x, inputs.errors), NORMALIZATION.bp.stop)


def started(rank: int, size: int, port: int, *arguments: object) -> subprocess.Popen[str]:
    """A process of that number, its output kept."""
    environment = {
        **os.environ,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join((str(TESTS), os.environ.get("PYTHONPATH", ""))),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "model.ranks", *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def trained(stars: object, recipe: object, world: World, file: Path | None = None) -> dict[str, object]:
    state = training.fit_network(stars, recipe, world=world, state_file=file)
    weights = torch.cat([weights.detach().flatten() for weights in state.network.parameters()])
    return {"records": [vars(record) for record in state.records], "weights": weights.tolist()}


def refusal(world: World, what: object) -> list[str]:
    try:
        world.from_first(what)
    except (TrainingError, CheckpointError) as error:
        return [type(error).__name__, str(error)]
    return []


def refused() -> None:
    raise CheckpointError("the model exists")


def work(folder: Path) -> None:
    world = World.of_environment()
    torch.set_num_threads(1)
    with world.joined(torch.device("cpu")):
        found = {
            "world": [world.rank, world.size, world.local_rank, world.local_size],
            "total": world.total(torch.tensor([1.0, world.rank])).tolist(),
            "first": world.from_first(lambda: f"made by {world.rank}"),
            "refused": refusal(world, refused),
            "memory": trained(in_memory(), RECIPE, world, folder / f"state{world.rank}"),
            "disk": trained(on_disk(), RECIPE, world),
            "degraded": trained(on_disk(), DEGRADED, world),
            "one more": trained(in_memory(), ONE_MORE, world),
        }
        try:
            trained(broken(), RECIPE, world)
        except TrainingError as error:
            found["broken"] = [isinstance(error, AlreadyReportedError), str(error)]
    (folder / f"rank{world.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    if sys.argv[1] == "cli":
        from scattervae.cli.application import main

        training._SECONDS_BETWEEN_SAVES = 0.0
        main(sys.argv[2:])
    else:
        work(Path(sys.argv[1]))
