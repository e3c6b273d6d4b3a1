"""Bulk files written by worker processes, with the archive's list of checksums."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from hashlib import file_digest
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from simulated_archive.sky import file_range, place
from simulated_archive.sources_file import Filler, Sources, write_sources
from simulated_archive.spectra_file import CorrelationPool, Correlations, write_spectra
from simulated_archive.stars import FAINTEST, StarMaker

SPECTRA = Path("gdr3/Spectroscopy/xp_continuous_mean_spectrum")
SOURCES = Path("gdr3/gaia_source")


@dataclass(frozen=True)
class FileJob:
    """One file of each product to be written.

    Attributes:
        index: Its number, which fixes its part of the sky and its seed.
        n_stars: Stars with a spectrum.
        n_sources: All sources, those stars among them.
    """

    index: int
    n_stars: int
    n_sources: int


class _Maker:
    """What a worker keeps between files."""

    def __init__(self, model: Path, stars: Path) -> None:
        self.stars = StarMaker.load(model, stars)
        rng = np.random.default_rng(0)
        self.pools = [CorrelationPool.make(rng) for _ in range(2)]
        self.filler = Filler.make(rng)

    def write(self, job: FileJob, root: Path) -> list[tuple[Path, str]]:
        rng = np.random.default_rng(job.index)
        pixels = file_range(job.index)
        everything = place(pixels, job.n_sources, rng)
        with_spectrum = np.zeros(job.n_sources, dtype=bool)
        with_spectrum[rng.choice(job.n_sources, job.n_stars, replace=False)] = True
        drawn = self.stars.draw(job.n_stars, seed=job.index)
        g_mag = rng.uniform(FAINTEST, 21.0, job.n_sources)
        g_mag[with_spectrum] = drawn.g_mag
        spectra = root / SPECTRA / f"XpContinuousMeanSpectrum_{pixels.stem}.csv.gz"
        sources = root / SOURCES / f"GaiaSource_{pixels.stem}.csv.gz"
        with spectra.open("wb") as file:
            correlations = Correlations.draw(self.pools, job.n_stars, rng)
            write_spectra(file, everything.take(with_spectrum), drawn, correlations, rng=rng)
        with sources.open("wb") as file:
            write_sources(file, Sources(everything, g_mag, with_spectrum), self.filler, rng)
        return [(path, _md5(path)) for path in (spectra, sources)]


_maker: _Maker | None = None


def _start(model: Path, stars: Path) -> None:
    global _maker  # noqa: PLW0603 - a worker's own
    import torch

    torch.set_num_threads(1)
    _maker = _Maker(model, stars)


def _write(job: FileJob, root: Path) -> list[tuple[Path, str]]:
    assert _maker is not None
    return _maker.write(job, root)


def jobs(n_stars: int, stars_a_file: int, sources_a_star: float) -> Iterator[FileJob]:
    """Files for `n_stars` stars, all but the last of the same size."""
    for index, start in enumerate(range(0, n_stars, stars_a_file)):
        n = min(stars_a_file, n_stars - start)
        yield FileJob(index, n, round(n * sources_a_star))


class Workers:
    """Processes that write files, started once."""

    def __init__(self, model: Path, stars: Path, n: int) -> None:
        self._pool = ProcessPoolExecutor(n, get_context("spawn"), initializer=_start, initargs=(model, stars))

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def write(self, jobs: Sequence[FileJob], root: Path) -> list[Path]:
        """Write these files and the lists of their checksums below `root`."""
        for folder in (SPECTRA, SOURCES):
            (root / folder).mkdir(parents=True, exist_ok=True)
        futures = [self._pool.submit(_write, job, root) for job in jobs]
        written = [entry for future in futures for entry in future.result()]
        for folder in (SPECTRA, SOURCES):
            lines = [f"{digest}  {path.name}\n" for path, digest in written if path.parent == root / folder]
            (root / folder / "_MD5SUM.txt").write_text("".join(lines))
        return [path for path, _ in written]


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "md5").hexdigest()
