"""Stars a second out of a store: in order, shuffled window by window, and gathered from memory; then training.

    python benchmarks/shuffled_reading.py [--stars N] [--threads N] [--store FOLDER] [--epochs N]

Makes a store of N synthetic stars of the basis of Gaia DR3 (in a temporary folder where none is named) and reads
all of it each way, in one run, with as many threads as are given. Prints each rate and its ratio to parquet read
in order. In the first epoch the memory of two windows is asked for; the more stars, the less that counts. With
--epochs 0 nothing is trained.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from scattervae.model.batches import StarsInMemory, StarsOnDisk
from scattervae.model.recipe import RECIPES, Recipe
from scattervae.model.training import fit_network
from scattervae.parallel import in_threads
from scattervae.spectra.columns import StoredSpectra
from scattervae.spectra.manifest import FileEntry
from scattervae.spectra.normalization import Normalization
from scattervae.spectra.spectra import Basis, Spectra
from scattervae.spectra.staging import stage
from scattervae.spectra.star_tables import LABEL_NAMES, SourceColumns, StellarLabels
from scattervae.spectra.store import SpectrumStore
from scattervae.spectra.store_writer import StoreWriter
from scattervae.spectra.windows import ChosenStars

DR3 = Basis(55, 55, bp_id=56, rp_id=57)
ROWS = 65_536
NO_LABELS = StellarLabels(np.empty(0, dtype=np.int64), *np.empty((2, 0, len(LABEL_NAMES))))


def synthetic_stars(n_stars: int) -> Iterator[Spectra]:
    """Stars of three latents with noise, in the order of their source_ids, spread over the sky."""
    draws = np.random.default_rng(0)
    amplitudes = 0.5 / (1.0 + np.tile(np.arange(55), 2))
    directions = draws.normal(size=(3, 110))
    pixels = np.sort(draws.integers(12 * 4**12, size=n_stars))
    for start in range(0, n_stars, ROWS):
        source_id = pixels[start : start + ROWS] * 2**35 + np.arange(start, min(start + ROWS, n_stars))
        g_flux = 10.0 ** draws.uniform(3.5, 6.0, (len(source_id), 1))
        errors = amplitudes * np.sqrt(1e3 / g_flux)
        shapes = amplitudes * (1 + np.sin(draws.normal(size=(len(source_id), 3)) @ directions))
        coeffs = shapes + errors * draws.normal(size=shapes.shape)
        yield Spectra.of(source_id, coeffs * g_flux, errors * g_flux, basis=DR3, g_flux=g_flux[:, 0])


def make_store(folder: Path, n_stars: int) -> None:
    writer = StoreWriter(folder)
    chunks = ((spectra, NO_LABELS, SourceColumns.empty()) for spectra in synthetic_stars(n_stars))
    part = stage(writer.staged_path(0), chunks, correlations=False)
    writer.add(FileEntry(name="synthetic", digest=str(n_stars), n_rows=n_stars), part)
    writer.finish()


def everything(block: object) -> np.ndarray:
    return np.ones(len(block), dtype=bool)


def timed(name: str, n_stars: int, read: Callable[[], object], reference: float | None = None) -> float:
    started = time.perf_counter()
    read()
    rate = n_stars / (time.perf_counter() - started)
    ratio = "" if reference is None else f"  {rate / reference:6.2f} of parquet in order"
    print(f"{name:34s} {rate:12,.0f} stars/s{ratio}", flush=True)
    return rate


def exhaust(items: Iterator[object]) -> None:
    for _ in items:
        pass


def read_each_way(store: SpectrumStore, stars: ChosenStars, threads: int) -> StarsInMemory:
    n, settings = len(stars), RECIPES["elbo"].training
    exhaust(read_blocks(store, threads))  # the disk's cache is warm from here on
    in_order = timed("parquet in order", n, lambda: exhaust(read_blocks(store, threads)))
    timed("statistics for normalization", n, lambda: fit(store, threads), in_order)
    streamed = StarsOnDisk(stars, store.digest, torch.device("cpu"))
    timed("shuffled in batches, first epoch", n, lambda: exhaust(streamed.batches(settings, 1)), in_order)
    timed("shuffled in batches, later epochs", n, lambda: exhaust(streamed.batches(settings, 2)), in_order)
    held: list[StarsInMemory] = []
    timed(
        "read to memory, normalized",
        n,
        lambda: held.append(StarsInMemory(stars.read(), stars.normalization.bp.stop)),
        in_order,
    )
    timed("gathered from memory in batches", n, lambda: exhaust(held[0].batches(settings, 1)), in_order)
    return held[0]


def fit(store: SpectrumStore, threads: int) -> Normalization:
    return Normalization.fit(lambda: read_blocks(store, threads), basis=store.basis)


def read_blocks(store: SpectrumStore, threads: int) -> Iterator[StoredSpectra]:
    return (block for _, block in in_threads(store.read_row_group, store.row_groups, threads=threads))


def train_each_way(stars: ChosenStars, in_memory: StarsInMemory, store: SpectrumStore, epochs: int) -> None:
    recipe: Recipe = RECIPES["elbo"]
    recipe = recipe.model_copy(update={"training": recipe.training.model_copy(update={"epochs": epochs})})
    streamed = StarsOnDisk(stars, store.digest, torch.device("cpu"))
    rates = {
        name: timed(f"training, {name}", epochs * len(stars), lambda stars=stars: fit_network(stars, recipe))
        for name, stars in (("in memory", in_memory), ("streamed", streamed))
    }
    print(f"ratio streamed / in memory: {rates['streamed'] / rates['in memory']:.2f}")


@contextmanager
def folder_of(given: Path | None) -> Iterator[Path]:
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "store"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stars", type=int, default=1_000_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--epochs", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with folder_of(arguments.store) as folder:
        if not folder.exists():
            timed("store made", arguments.stars, lambda: make_store(folder, arguments.stars))
        store = SpectrumStore(folder)
        size = sum(file.stat().st_size for file in folder.rglob("*.parquet"))
        print(f"{len(store):,} stars, {size / len(store):.0f} bytes/star, {len(store.row_groups)} row groups")
        stars = ChosenStars(
            source=store,
            keep=everything,
            n_kept=np.array([row_group.n_rows for row_group in store.row_groups]),
            normalization=fit(store, arguments.threads),
            threads=arguments.threads,
        )
        in_memory = read_each_way(store, stars, arguments.threads)
        if arguments.epochs:
            train_each_way(stars, in_memory, store, arguments.epochs)


if __name__ == "__main__":
    main()
