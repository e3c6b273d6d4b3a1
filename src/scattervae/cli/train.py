"""``scattervae train``: a store to a model."""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scattervae.cli.console import AsJson, DeviceName, Epochs, Summary, Threads, choose_device
from scattervae.display import epoch_bar
from scattervae.errors import RecipeError, ScatterVaeError, counted

if TYPE_CHECKING:
    import torch

    from scattervae.model.checkpoint import Checkpoint
    from scattervae.model.distributed import World
    from scattervae.model.recipe import Recipe
    from scattervae.model.training_stars import Machine


def train(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="A store, or any readable file of spectra.")],
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="The model's folder.")],
    recipe: Annotated[
        str,
        typer.Option(
            "--recipe",
            "-r",
            metavar="NAME|FILE",
            help="best, elbo, elbo_sgd, paper2023, or a TOML file of settings.",
        ),
    ] = "best",
    seed: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Of every random number; the recipe's where not given."),
    ] = None,
    epochs: Epochs = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an unfinished run.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model that is there.")] = False,
    memory: Annotated[
        str,
        typer.Option(
            "--memory",
            metavar="SIZE",
            help="What training stars may take, as 4GB; a store with more is streamed, with 0 any store is. "
            "auto is half of what is free.",
        ),
    ] = "auto",
    device: DeviceName = "auto",
    threads: Threads = 0,
    as_json: AsJson = False,
) -> None:
    """Train the scatter VAE on the stars outside the test fold.

    best (default) sees the errors, has residual layers and eight correlated latents, and was chosen by
    ablations; it takes about three minutes for 40,000 stars. elbo is the paper's network with the evidence lower
    bound, in half a minute; paper2023 is Laroche & Speagle (2023) to the letter, which collapses on small samples
    and then says so; elbo_sgd differs from it in the loss alone. The model is a folder of JSON and safetensors
    files.

    There are three ways to train, and the model is as good by each. Stars that fit in memory are held there. A
    larger store is streamed: every epoch reads it in another order, half a million stars from all over the sky
    at a time, mixed in memory. And where torchrun starts the command, its processes share every batch, on
    several GPUs or machines. A stopped run resumes with --resume, within seconds of where it was.

    Examples:

        scattervae train store --out model

        scattervae train store --out model --resume     # go on after a stop

        scattervae train store --out wide --recipe wide.toml

        scattervae train store --out model --memory 4GB # stream what is larger

        torchrun --nproc-per-node 4 -m scattervae train store --out model
    """
    from scattervae.model.distributed import World
    from scattervae.science.trained import chosen_recipe

    world = World.of_environment()
    with _rank_zero_only(world):
        machine = _machine_of(world, device, threads, memory)
        with world.joined(machine.device):
            chosen = world.from_first(lambda: chosen_recipe(recipe, epochs=epochs, seed=seed))
            model = _trained(store, chosen, machine, out=out, resume=resume, overwrite=overwrite)
            if world.is_first:
                _summary(model, out).show(as_json=as_json)


def _machine_of(world: "World", device: str, threads: int, memory: str) -> "Machine":
    """The machine of this process; where several share one, each takes the GPU of its number."""
    import torch

    from scattervae.model.training_stars import Machine

    if world.size > 1 and device in ("auto", "cuda") and torch.cuda.is_available():
        device = f"cuda:{world.local_rank}"
    chosen = choose_device(device, threads)
    if chosen.index is not None:
        torch.cuda.set_device(chosen)
    return Machine(device=chosen, memory=memory_for_stars(memory, chosen), world=world)


def _trained(
    store: Path, recipe: "Recipe", machine: "Machine", *, out: Path, resume: bool, overwrite: bool
) -> "Checkpoint":
    from scattervae.model.run import RunFolder, train
    from scattervae.science.trained import training_input

    stars, g_flux_error = machine.world.each_own(lambda: training_input(store, recipe))
    trained = partial(
        train,
        stars,
        recipe,
        out=RunFolder(out, resume=resume, overwrite=overwrite),
        machine=machine,
        g_flux_error=g_flux_error,
    )
    if not machine.world.is_first:
        return trained()
    with epoch_bar(recipe.training.epochs) as progress:
        return trained(progress=progress)


@contextmanager
def _rank_zero_only(world: "World") -> Iterator[None]:
    """Only the first of several processes writes, the others no more than an error of their own."""
    if world.is_first:
        yield
        return
    from scattervae.model.distributed import AlreadyReportedError

    logging.getLogger("scattervae").setLevel(logging.ERROR)
    try:
        yield
    except AlreadyReportedError:
        raise typer.Exit(1) from None
    except ScatterVaeError as error:
        raise type(error)(f"rank {world.rank}: {error}") from error


def _summary(model: "Checkpoint", out: Path) -> Summary:
    facts = model.provenance
    training, data = facts["training"], facts["data"]
    final = model.records[-1]
    how = training["stars"]
    used = f"{data['n_usable']:,} usable"
    if data["n_one_band"]:
        used = f"{data['n_one_band']:,} with one band; {used} with both"
    if training["processes"] > 1:
        how += f", {counted(training['processes'], 'process', 'processes')}"
    if training["stars_per_second"]:  # none where an earlier run had done all epochs
        how += f": {training['stars_per_second']:,} stars/s"
    return Summary(
        {"out": str(out), "recipe": model.recipe.name, **facts, "final_epoch": vars(final)},
        (
            f"trained {model.recipe.name} on {data['n_trained_on']:,} of {counted(data['n_stars'], 'star')} "
            f"({used}; the test fold is left out), "
            f"{counted(model.recipe.training.epochs, 'epoch')} in {training['seconds']:.1f} s ({how})",
            f"negative ELBO {final.negative_elbo:.2f} nats per training star; "
            f"{training['active_latents']} of {counted(model.n_latent, 'latent')} active",
            f"wrote {out}",
        ),
    )


_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_MEMORY_IF_UNKNOWN = 8 * 10**9
_LIMIT_FILES = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))


def memory_for_stars(size: str, device: "torch.device") -> int:
    """Bytes that training stars may take on this machine.

    Args:
        size: A number with a unit, as ``4GB``, or ``auto``.
        device: Where they are kept; the memory of a GPU counts too.
    """
    if size != "auto":
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)b?", size.strip().lower())
        if found is None:
            raise RecipeError(f"--memory {size}: not a size; give a number with a unit, as 4GB, or auto")
        return int(float(found[1]) * _UNITS[found[2]])
    free = free_memory()
    if device.type == "cuda":
        import torch

        free = min(free, torch.cuda.mem_get_info(device)[0])
    return free // 2


def free_memory(root: Path = Path("/")) -> int:
    """Bytes that this process may still take before the machine swaps or a batch system ends it.

    Args:
        root: Where the system's ``proc`` and ``sys`` are.
    """
    return min([_free_on_machine(root), *_free_in_groups(root)])


def _free_on_machine(root: Path) -> int:
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB", (root / "proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    if found is not None:
        return int(found[1]) * 1024
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return _MEMORY_IF_UNKNOWN


def _free_in_groups(root: Path) -> Iterator[int]:
    """What each limited control group that the process is in leaves it; containers and batch jobs set them."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        top = root / "sys/fs/cgroup" / controllers
        own = top / path.lstrip("/")
        for group in (own, *own.parents):
            for limit, used in _LIMIT_FILES:
                try:
                    free = int((group / limit).read_text()) - int((group / used).read_text())
                except (OSError, ValueError):  # no such file, or "max"
                    continue
                yield max(0, free + _reclaimable(group))
            if group == top:
                break


def _reclaimable(group: Path) -> int:
    """Files kept in memory, which the system lets go of where memory is asked for."""
    try:
        stat = (group / "memory.stat").read_text()
    except OSError:
        return 0
    found = re.search(r"^(?:total_)?inactive_file (\d+)$", stat, re.MULTILINE)
    return 0 if found is None else int(found[1])
