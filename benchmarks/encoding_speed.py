"""Stars a second to the catalogue: plain PyTorch, ours from memory, reading alone, ours from a store; in one run.

    python benchmarks/encoding_speed.py [--stars N] [--threads N] [--store FOLDER] [--repeats N]

Plain PyTorch has its inputs normalised, encodes and decodes them in batches of 4096 with its own threads, and stores
every output; it computes no statistic. Ours starts from coefficients in archive units and ends with every column
of the catalogue: from memory in a table, from a store (a temporary one of synthetic stars where none is named) in a
table and in a written HATS catalogue. Files are read from the system's cache where it holds them. Prints the best of
the repeats: stars/s on the clock, its ratio to plain PyTorch, and microseconds of all cores a star, which other
programs on the machine disturb less. The model has the paper's shape and initial weights.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from shuffled_reading import make_store
from torch.nn.functional import softplus

from scattervae.model.checkpoint import Checkpoint
from scattervae.model.network import ScatterVAE
from scattervae.model.recipe import RECIPES
from scattervae.model.training import initial_network
from scattervae.parallel import in_threads
from scattervae.science.catalogue.encoding import catalogue, chunks_of, rows_of
from scattervae.science.catalogue.hats_folder import encode_store
from scattervae.spectra.columns import StoredSpectra
from scattervae.spectra.normalization import Normalization
from scattervae.spectra.store import SpectrumStore

BATCH = 4096


def plain(network: ScatterVAE, x: torch.Tensor) -> None:
    """Encode, decode at the mean, keep everything; as written down without a thought for speed."""
    n, shape = len(x), network.shape
    latents, mean, scatter = (torch.empty(n, width) for width in (2 * shape.n_latent, x.shape[1], x.shape[1]))
    with torch.inference_mode():
        for start in range(0, n, BATCH):
            rows = slice(start, start + BATCH)
            latents[rows] = network.encoder(x[rows])
            z = latents[rows, : shape.n_latent]
            mean[rows] = network.decoder(z)
            scatter[rows] = softplus(network.scatter_estimator(z)) + shape.scatter_floor


def read_all(store: SpectrumStore, threads: int) -> StoredSpectra:
    """Every row group of the store, as encoding reads it; the stars in one."""
    groups = [group for _, group in in_threads(store.read_row_group, store.row_groups, threads=threads)]
    columns = {name: [getattr(group, name) for group in groups] for name in vars(groups[0])}
    return StoredSpectra(**{name: np.concatenate(values) for name, values in columns.items()})


def read_only(store: SpectrumStore, threads: int) -> None:
    for _ in in_threads(store.read_row_group, store.row_groups, threads=threads):
        pass


def encode_only(checkpoint: Checkpoint, store: SpectrumStore, threads: int) -> None:
    for _ in rows_of(checkpoint, chunks_of(checkpoint, store), threads=threads):
        pass


def encode_and_write(checkpoint: Checkpoint, store: SpectrumStore, out: Path) -> None:
    encode_store(checkpoint, store, out)
    shutil.rmtree(out)


def timed(work: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Seconds on the clock and of all cores, the least of the repeats."""
    clocks, cores = [], []
    for _ in range(repeats):
        clock, core = time.perf_counter(), time.process_time()
        work()
        clocks.append(time.perf_counter() - clock)
        cores.append(time.process_time() - core)
    return min(clocks), min(cores)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stars", type=int, default=2**19)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--store", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    threads = options.threads
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as scratch:
        if options.store is None:
            make_store(Path(scratch) / "store", options.stars)
        store = SpectrumStore(options.store or Path(scratch) / "store")
        group = read_all(store, threads)
        normalization = Normalization.fit(lambda: [group], basis=store.basis)
        network = initial_network(normalization.n_coeffs, RECIPES["elbo"]).eval()
        model = Checkpoint(RECIPES["elbo"], normalization, network, {})
        runs = {
            "plain PyTorch, from memory": partial(plain, network, normalization.apply(group).x),
            "ours, from memory": partial(catalogue, model, group),
            "reading alone": partial(read_only, store, threads),
            "ours, from the store": partial(encode_only, model, store, threads),
            "ours, store to HATS": partial(encode_and_write, model, store, Path(scratch) / "latents"),
        }
        print(f"{len(store):,} stars, {threads} threads, best of {options.repeats}")
        print(f"{'':28s} {'stars/s':>12s} {'/ plain':>8s} {'core us/star':>13s}")
        rates: dict[str, float] = {}
        for name, work in runs.items():
            seconds, cores = timed(work, options.repeats)
            rates[name] = len(store) / seconds
            ratio = rates[name] / rates["plain PyTorch, from memory"]
            print(
                f"{name:28s} {rates[name]:12,.0f} {ratio:8.2f} {cores / len(store) * 1e6:13.2f}", flush=True
            )


if __name__ == "__main__":
    main()
