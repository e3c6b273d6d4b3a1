"""The whole way of an archive at a size of your choice: bulk files, fetch, ingest, train, encode.

    python benchmarks/archive_scale.py --work DIR [--stars N] [--model MODEL] [--like STARS] [--round-of GB] [--keep]
    python benchmarks/archive_scale.py --report DIR/result.json

Makes stars from a trained model, with errors like real stars', in the archive's own files; serves them on
loopback; and runs each command as a user would, in a process of its own, measuring its time on the clock and on
the cores, its memory and its bytes. The files come in rounds, so that the disk never holds all of them. Without
--model one is trained for a few epochs on the demo's stars. Prints tables in Markdown and writes DIR/result.json.

What the files share with the archive's: columns, order, header, quoting, digits, gzip, names, checksums, 8.3
sources of gaia_source a star, and coefficients and errors of each star's own. What they do not: correlations are
drawn from 256 sets a band, and most of the 152 columns of gaia_source from 2,048 rows.
"""

import argparse
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Not the folder of this file: its coverage.py would be taken for the package of that name.
sys.path = [path for path in sys.path if Path(path) != ROOT / "benchmarks"]
sys.path += [str(ROOT / "tests" / "gaia"), str(ROOT / "benchmarks" / "archive")]

from archive.server import FileServer  # noqa: E402 - the tests' server, which plays the archive
from simulated_archive.extrapolation import GB, Assumptions, report  # noqa: E402
from simulated_archive.measuring import Stage, command, n_bytes  # noqa: E402
from simulated_archive.sky import SOURCES_A_STAR, STARS_A_FILE  # noqa: E402
from simulated_archive.writing import FileJob, Workers, jobs  # noqa: E402

BYTES_A_STAR = 21_000  # of both products, to cut rounds
RECIPE = "elbo"  # the network that docs/measurements/scale.md speaks of
MODEL_EPOCHS = 20
PAIRS = 10_000


class Way:
    """The stages of a run, in its folder."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self.work: Path = given.work
        self.store, self.model = self.work / "store", self.work / "model"
        self.stages: dict[str, Stage] = {}
        self.simulating = 0.0

    def stage(self, name: str) -> Stage:
        return self.stages.setdefault(name, Stage(name))

    def run(self) -> None:
        maker, stars = self._maker()
        wanted = list(jobs(self.given.stars, self.given.stars_a_file, self.given.sources_a_star))
        size = max(1, int(self.given.round_of * GB / BYTES_A_STAR / self.given.stars_a_file))
        with Workers(maker, stars, self.given.workers) as workers:
            for start in range(0, len(wanted), size):
                self._round(workers, wanted[start : start + size])
        self._train()
        self._encode("encode", self.work / "latents")
        self._encode(
            "encode, dask", self.work / "latents_dask", "--engine", "dask", "--workers", self.given.workers
        )
        self._crossmatch()
        self._write()

    def _maker(self) -> tuple[Path, Path]:
        """The model that makes the stars, and the real stars that they are like."""
        from simulated_archive.stars import StarMaker

        from scattervae.gaia import reading
        from scattervae.science.trained import load_model

        like = self.given.like or reading.demo_file()
        if not like.is_dir():
            like, file = self.work / "real_stars", like
            if not like.exists():
                print_stage(f"reading {file.name}")
                command("ingest", file, "--out", like)
        model = self.given.model or self.work / "maker"
        if not model.exists():
            print_stage("training the model that makes the stars")
            command("train", like, "--recipe", RECIPE, "--out", model, "--epochs", MODEL_EPOCHS)
        saved = self.work / "real_stars.npz"
        StarMaker.like(load_model(model), reading.load(like).spectra).save(saved)
        return model, saved

    def _round(self, workers: Workers, jobs: Sequence[FileJob]) -> None:
        """Make files, fetch and ingest them, and remove them."""
        n = sum(job.n_stars for job in jobs)
        served, fetched = self.work / "served", self.work / "fetched"
        print_stage(f"files {jobs[0].index} to {jobs[-1].index}: {n:,} stars")
        started = time.perf_counter()
        files = workers.write(jobs, served)
        self.simulating += time.perf_counter() - started
        size = n_bytes(*files)
        with FileServer(served) as server:
            run = command(
                *("fetch", "bulk", "--base-url", server.url, "--out", fetched),
                *("--workers", self.given.workers),
            )
        self.stage("fetch").add(run, stars=n, bytes_in=size, bytes_out=size)
        shutil.rmtree(served)
        spectra = sorted((fetched / "xp_continuous_mean_spectrum").glob("*.csv.gz"))
        assert len(spectra) == len(jobs), f"{len(spectra)} of {len(jobs)} files were fetched"
        before = n_bytes(self.store) if self.store.exists() else 0
        run = command(
            *("ingest", *spectra, "--sources", fetched / "gaia_source", "--out", self.store),
            *("--workers", self.given.workers),
        )
        self.stage("ingest").add(run, stars=n, bytes_in=size, bytes_out=n_bytes(self.store) - before)
        if not self.given.keep:
            shutil.rmtree(fetched)

    def _train(self) -> None:
        """A model trained on the store as one that no memory holds."""
        print_stage("training")
        epochs = self.given.epochs
        run = command(
            *("train", self.store, "--recipe", RECIPE, "--out", self.model),
            *("--epochs", epochs, "--memory", 0),
            *("--threads", self.given.workers),
        )
        self.stage("train").add(
            run,
            stars=epochs * self.given.stars,
            bytes_in=epochs * n_bytes(self.store),
            bytes_out=n_bytes(self.model),
        )

    def _encode(self, name: str, out: Path, *options: object) -> None:
        print_stage(name)
        run = command("encode", self.model, self.store, "--out", out, *options)
        self.stage(name).add(
            run, stars=self.given.stars, bytes_in=n_bytes(self.store), bytes_out=n_bytes(out)
        )
        n_rows = n_stars_of(out)
        assert n_rows == self.given.stars, f"{out} has {n_rows} rows"

    def _crossmatch(self) -> None:
        """The catalogue with a list of some of its own stars, each a tenth of an arcsec away."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        from scattervae.spectra.hats import HatsFolder

        print_stage("crossmatch")
        folder = HatsFolder.read(self.work / "latents")
        files = [file for partition in folder.partitions for file in folder.files_of(partition)]
        places = pa.concat_tables(
            [pq.read_table(file, columns=["ra", "dec"], partitioning=None) for file in files]
        )
        step = max(1, len(places) // PAIRS)
        some = places.take(list(range(0, len(places), step)))
        shifted = pa.table({"ra": some["ra"], "dec": pa.array(some["dec"].to_numpy() + 0.1 / 3600)})
        listing, out = self.work / "list.parquet", self.work / "matched.parquet"
        pq.write_table(shifted, listing)
        run = command("crossmatch", self.work / "latents", listing, "--out", out)
        self.stage("crossmatch").add(
            run, stars=self.given.stars, bytes_in=n_bytes(self.work / "latents"), bytes_out=n_bytes(out)
        )
        assert pq.read_metadata(out).num_rows >= len(shifted)

    def _write(self) -> None:
        result = {
            "n_stars": self.given.stars,
            "machine": {
                "cores": os.cpu_count(),
                "processor": processor(),
                "python": platform.python_version(),
                **{name: version(name) for name in ("scattervae", "torch", "pyarrow", "lsdb")},
            },
            "simulating_seconds": self.simulating,
            "stages": [asdict(stage) for stage in self.stages.values()],
        }
        (self.work / "result.json").write_text(json.dumps(result, indent=2) + "\n")
        print(f"\nsimulated at {self.given.stars / self.simulating:,.0f} stars/s\n")
        print(report(result, Assumptions()))


def n_stars_of(folder: Path) -> int:
    from scattervae.spectra.hats import HatsFolder

    return sum(partition.n_rows for partition in HatsFolder.read(folder).partitions)


def processor() -> str:
    """The name of the processor, where the system gives it."""
    with_name = Path("/proc/cpuinfo")
    lines = with_name.read_text().splitlines() if with_name.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def print_stage(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {what}", flush=True)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, help="a new folder for everything")
    parser.add_argument("--report", type=Path, metavar="JSON", help="only print the tables of an earlier run")
    parser.add_argument("--stars", type=int, default=2_000_000)
    parser.add_argument("--model", type=Path, help="a trained model that makes the stars")
    parser.add_argument("--like", type=Path, help="real stars, a file or store; the demo's where not given")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--round-of", type=float, default=12.0, metavar="GB")
    parser.add_argument("--stars-a-file", type=int, default=STARS_A_FILE)
    parser.add_argument("--sources-a-star", type=float, default=SOURCES_A_STAR)
    parser.add_argument("--keep", action="store_true", help="keep the fetched files")
    given = parser.parse_args(arguments)
    if (given.work is None) == (given.report is None):
        parser.error("give either --work or --report")
    return given


def main() -> None:
    given = parse()
    if given.report is not None:
        print(report(json.loads(given.report.read_text()), Assumptions()))
        return
    if given.work.exists() and any(given.work.iterdir()):
        sys.exit(f"{given.work}: holds something; give a new folder")
    given.work.mkdir(parents=True, exist_ok=True)
    Way(given).run()


if __name__ == "__main__":
    main()
