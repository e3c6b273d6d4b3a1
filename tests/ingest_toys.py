"""Bulk files of spectra and of ``gaia_source`` as the archive writes them, of toy stars in chosen parts of the sky."""

import gzip
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gaia.files_toys import HEADER, ToyStars
from scattervae.gaia.ingest import ingest

LEVEL8 = 2**43
SPECTRA_TOP = "# %ECSV 1.0\n# ---\n# delimiter: ','\n# meta: !!omap\n# - TABLE: xp_continuous_mean_spectrum\n"
SOURCE_TOP = SPECTRA_TOP.replace("xp_continuous_mean_spectrum", "gaia_source")
SOURCE_NAMES = (
    "ra",
    "dec",
    "parallax",
    "parallax_error",
    "ruwe",
    "phot_g_mean_flux",
    "phot_g_mean_flux_error",
    "phot_g_mean_mag",
    "phot_bp_rp_excess_factor",
    "bp_rp",
)
LOG = "ingest.log.jsonl"


def sky_stars(n: int, pixel: int = 0, seed: int = 0) -> ToyStars:
    """Toy stars with a positive G flux in a HEALPix pixel of level 8."""
    toy = ToyStars(n=n, seed=seed)
    toy.bp[:, 0] = toy.rp[:, 0] = 1e4
    rng = np.random.default_rng([seed, pixel])
    toy.source_id = pixel * LEVEL8 + np.sort(rng.choice(2**40, n, replace=False)).astype(np.int64) + 1
    return toy


def bulk_name(kind: str, first: int, last: int | None = None) -> str:
    return f"{kind}_{first:06d}-{first if last is None else last:06d}.csv.gz"


def bulk_rows(toy: ToyStars) -> list[str]:
    columns = toy.columns()

    def cell(value: object) -> str:
        return '"[' + ",".join(map(repr, value.tolist())) + ']"' if np.ndim(value) else str(value)

    return [",".join(cell(columns[name][row]) for name in HEADER.split(",")) for row in range(toy.n)]


def write_bulk(
    folder: Path, toy: ToyStars, *, pixel: int = 0, rows: list[str] | None = None, top: str = SPECTRA_TOP
) -> Path:
    """A bulk file of spectra, named after the one level-8 pixel that it holds."""
    text = top + "\n".join([HEADER, *(bulk_rows(toy) if rows is None else rows)]) + "\n"
    return write_zipped(folder / bulk_name("XpContinuousMeanSpectrum", pixel), text)


def source_columns(source_id: np.ndarray) -> dict[str, np.ndarray]:
    """What the toys' ``gaia_source`` says: a function of the source_id, so that any row can be checked."""
    ra = 10.0 + (source_id % 9973) / 9973 * 80
    dec = -45.0 + (source_id % 7919) / 7919 * 90
    values = {name: 1.0 + (source_id % (97 + k)) / 7.0 for k, name in enumerate(SOURCE_NAMES)}
    g_flux = 1.4e5 * (1.0 + (source_id % 97) / 970)  # near that of the toys' coefficients
    return {**values, "ra": ra, "dec": dec, "phot_g_mean_flux": g_flux}


def source_text(
    source_id: np.ndarray, *, nulls: dict[str, list[int]] | None = None, top: str = SOURCE_TOP
) -> str:
    """A file of ``gaia_source``; `nulls` are the rows in which a column has no value."""
    columns = source_columns(source_id)
    header = ",".join(["solution_id", "designation", "source_id", "random_index", *SOURCE_NAMES, "has_rvs"])
    lines = []
    for row, star in enumerate(source_id.tolist()):
        values = [
            "null" if row in (nulls or {}).get(name, []) else repr(float(columns[name][row]))
            for name in SOURCE_NAMES
        ]
        lines.append(
            ",".join(["1636148068921376768", f'"Gaia DR3 {star}"', str(star), "7", *values, '"False"'])
        )
    return top + "\n".join([header, *lines]) + "\n"


def write_sources(folder: Path, source_id: np.ndarray, *, pixel: int = 0, **how: object) -> Path:
    """A bulk file of ``gaia_source``, named after the one level-8 pixel that it holds."""
    return write_zipped(folder / bulk_name("GaiaSource", pixel), source_text(source_id, **how))


def write_zipped(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode(), mtime=0))
    return path


def contents(store: Path) -> dict[str, bytes]:
    """All bytes of a store but its log of times."""
    return {
        str(path.relative_to(store)): path.read_bytes()
        for path in sorted(store.rglob("*"))
        if path.is_file() and path.name != LOG
    }


_SCRIPT = """
import sys
from scattervae.gaia import ingest as ingesting
from scattervae.gaia.ingest import ingest

if __name__ == "__main__":
    store, workers, n_files, *names = sys.argv[1:]
BEFORE
    print("ready", flush=True)
    files, sources = names[: int(n_files)], names[int(n_files) :]
    ingest(files, store, sources=sources, workers=int(workers))
    print("done", flush=True)
"""


@dataclass(frozen=True)
class IngestedSky:
    """Files with their ``gaia_source``, one of them broken, and what a store of them holds.

    Attributes:
        files: Bulk files and a web page, the third of them.
        sources: A bulk file of ``gaia_source`` for the first, and a table for all.
        expected: All bytes that an undisturbed run left.
    """

    files: list[Path]
    sources: list[Path]
    expected: dict[str, bytes]

    @classmethod
    def make(cls, folder: Path) -> "IngestedSky":
        pixels = (100, 250, 400, 550)
        toys = [sky_stars(12, pixel=pixel, seed=pixel) for pixel in pixels]
        toys[2].source_id[4] = toys[0].source_id[3]
        files = [write_bulk(folder, toy, pixel=pixel) for toy, pixel in zip(toys, pixels, strict=True)]
        files.insert(2, folder / "page.csv")
        files[2].write_text("<html>503</html>")
        table = folder / "result.csv"
        table.write_text(source_text(np.concatenate([toy.source_id for toy in toys]), top=""))
        sources = [write_sources(folder, toys[0].source_id, pixel=pixels[0]), table]
        ingest(files, folder / "store", sources=sources)
        return cls(files, sources, contents(folder / "store"))

    def ingest(self, store: Path, **how: object) -> None:
        ingest(self.files, store, sources=self.sources, **how)

    def start(self, folder: Path, store: Path, *, workers: int, before: str = "") -> subprocess.Popen[str]:
        """The same in another process, which has been started when this returns."""
        script = folder / "run.py"
        script.write_text(_SCRIPT.replace("BEFORE", before))
        arguments = [script, store, workers, len(self.files), *self.files, *self.sources]
        run = subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert run.stdout.readline() == "ready\n"
        return run
