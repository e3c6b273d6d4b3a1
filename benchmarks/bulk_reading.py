"""Stars a second from bulk csv.gz files: `read_bulk` against decompression alone and four other readers, in one run.

    python benchmarks/bulk_reading.py [N_STARS] [N_STARS_OF_THE_SLOW_READERS]

Each process reads a file of its own, and every figure is the best of three. The stars are random numbers with as many
digits as the archive writes, in all 26 columns, packed as zlib does by default. Prints stars/s, the share of what
decompression alone reaches with as many processes, how many times as fast `read_bulk` is with as many processes,
processor time a star (which a busy machine spoils less), and the peak memory of a process. The readers compared with:

- polars: `read_csv` with the arrays as text, then split and cast, on one thread;
- pandas: `read_csv` with the arrays as text, then `json.loads` of every cell;
- GaiaXPy: its own parser, of the unpacked file; it reads correlations in any case;
- astropy: `Table.read` of ECSV, all columns.
"""

import gzip
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ARRAYS = [f"{band}_{name}" for band in ("bp", "rp") for name in ("coefficients", "coefficient_errors")]
TYPES = {
    "basis_function_id": "int16",
    "degrees_of_freedom": "int16",
    "n_parameters": "int8",
    "n_measurements": "int16",
    "n_rejected_measurements": "int16",
    "standard_deviation": "float32",
    "chi_squared": "float32",
    "coefficients": "float64[null]",
    "coefficient_errors": "float32[null]",
    "coefficient_correlations": "float32[null]",
    "n_relevant_bases": "int16",
    "relative_shrinking": "float32",
}
WANTED = 0.65
N_DISTINCT = 200
REPEATS = 3


class Timing(NamedTuple):
    """Stars a second of all processes together; processor time a star [us] and peak memory [MB] of one."""

    rate: float
    cpu_us: float
    peak_mb: float


def write_file(path: Path, n: int) -> Path:
    """A file of n stars, 200 different spectra over and over."""
    columns = {"source_id": "int64", "solution_id": "int64"}
    columns |= {f"{band}_{name}": kind for band in ("bp", "rp") for name, kind in TYPES.items()}
    lines = ["# %ECSV 1.0", "# ---", "# delimiter: ','", "# meta: !!omap"]
    lines += ["# - TABLE: xp_continuous_mean_spectrum", "# datatype:"]
    for name, kind in columns.items():
        lines += ["# -", f"#   name: {name}"]
        is_array = kind.endswith("[null]")
        lines += ["#   datatype: string", f"#   subtype: '{kind}'"] if is_array else [f"#   datatype: {kind}"]
    rng = np.random.default_rng(0)
    spectra = [
        f"4545469030156206081,{band_text(rng, 56)},{band_text(rng, 57)}\n" for _ in range(min(n, N_DISTINCT))
    ]
    with gzip.open(path, "wb", compresslevel=6) as file:
        file.write("\n".join([*lines, ",".join(columns), ""]).encode())
        for row in range(n):
            file.write(f"{4295806720 + 2**22 * row},{spectra[row % N_DISTINCT]}".encode())
    return path


def band_text(rng: np.random.Generator, basis_id: int) -> str:
    coeffs = rng.normal(size=55) * 100 / np.arange(1, 56)
    errors = rng.uniform(0.05, 0.6, size=55)
    pairs = rng.normal(scale=0.1, size=55 * 54 // 2)
    arrays = [
        '"[' + ",".join(form % x for x in values) + ']"'
        for form, values in (("%.16g", coeffs), ("%.8g", errors), ("%.8g", pairs))
    ]
    return f"{basis_id},931,55,986,10,0.9934199,918.78815,{','.join(arrays)},2,0.99963146"


def decompress_only(path: Path) -> int:
    from isal import igzip

    with igzip.open(path) as file:
        for _ in iter(lambda: file.read(2**20), b""):
            pass
    return 0


def with_read_bulk(path: Path) -> int:
    from scattervae.gaia.bulk.reading import read_bulk

    return sum(len(chunk.spectra) for chunk in read_bulk(path))


def with_correlations(path: Path) -> int:
    from scattervae.gaia.bulk.reading import read_bulk

    return sum(len(chunk.spectra) for chunk in read_bulk(path, correlations=True))


def with_polars(path: Path) -> int:
    import polars as pl

    frame = pl.read_csv(path, comment_prefix="#", columns=["source_id", *ARRAYS])
    lists = frame.with_columns(pl.col(ARRAYS).str.strip_chars("[]").str.split(",").cast(pl.List(pl.Float64)))
    return len(np.hstack([lists[name].explode().to_numpy().reshape(-1, 55) for name in ARRAYS]))


def with_pandas(path: Path) -> int:
    import pandas as pd

    frame = pd.read_csv(path, comment="#", usecols=["source_id", *ARRAYS])
    return len(np.hstack([np.array([json.loads(cell) for cell in frame[name]]) for name in ARRAYS]))


def with_gaiaxpy(path: Path) -> int:
    from gaiaxpy.file_parser.parse_internal_continuous import InternalContinuousParser

    return len(InternalContinuousParser().parse_file(str(path.with_suffix("")), disable_info=True)[0])


def with_astropy(path: Path) -> int:
    from astropy.table import Table

    return len(Table.read(path, format="ascii.ecsv"))


LIMIT, PACKAGE = "decompression alone", "read_bulk"
READERS: dict[str, Callable[[Path], int]] = {
    LIMIT: decompress_only,
    PACKAGE: with_read_bulk,
    "read_bulk, correlations": with_correlations,
    "polars": with_polars,
    "pandas": with_pandas,
    "GaiaXPy": with_gaiaxpy,
    "astropy": with_astropy,
}
SLOW = ("GaiaXPy", "astropy")


def measure(name: str, files: list[Path], n: int) -> Timing:
    """Read all these files at once, each in a process that has read a small one before."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(len(files)), context.Queue()
    workers = [context.Process(target=time_reader, args=(name, file, barrier, results)) for file in files]
    for worker in workers:
        worker.start()
    found = [results.get() for _ in workers]
    for worker in workers:
        worker.join()
    slowest = np.max([seconds for seconds, _, _ in found], axis=0)
    return Timing(
        rate=n * len(files) / slowest.min(),
        cpu_us=1e6 * min(min(cpu) for _, cpu, _ in found) / n,
        peak_mb=max(peak for _, _, peak in found),
    )


def time_reader(name: str, path: Path, barrier: Barrier, results: Any) -> None:
    warnings.simplefilter("ignore")
    read = READERS[name]
    read(path.parent / "small.csv.gz")
    seconds, cpu_seconds = [], []
    for _ in range(REPEATS):
        barrier.wait()
        started, cpu_started = time.perf_counter(), time.process_time()
        read(path)
        seconds.append(time.perf_counter() - started)
        cpu_seconds.append(time.process_time() - cpu_started)
    results.put((seconds, cpu_seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def write_files(folder: Path, n: int, n_slow: int) -> tuple[list[Path], Path]:
    """Two files of n stars and one of n_slow, which is there unpacked too."""
    for name, stars in (("small.csv.gz", 20), ("first.csv.gz", n), ("slow.csv.gz", n_slow)):
        write_file(folder / name, stars)
    for name in ("small.csv.gz", "slow.csv.gz"):
        (folder / name).with_suffix("").write_bytes(gzip.decompress((folder / name).read_bytes()))
    second = folder / "second.csv.gz"
    second.write_bytes((folder / "first.csv.gz").read_bytes())
    return [folder / "first.csv.gz", second], folder / "slow.csv.gz"


def main() -> None:
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 8000
    n_slow = int(sys.argv[2]) if len(sys.argv) > 2 else min(n, 500)
    os.environ |= {"POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        files, slow_file = write_files(Path(folder), n, n_slow)
        print(
            f"{n} stars a file of {files[0].stat().st_size / n:,.0f} bytes each, {os.cpu_count()} processors"
        )
        for n_processes in (1, 2):
            timings = {}
            for name in READERS:
                if name not in SLOW:
                    timings[name] = measure(name, files[:n_processes], n)
                elif n_processes == 1:
                    timings[name] = measure(name, [slow_file], n_slow)
            print_table(timings, n_processes)


def print_table(timings: dict[str, Timing], n_processes: int) -> None:
    print(f"\n{n_processes} process{'es' if n_processes > 1 else ''}")
    print(f"{'':24s} {'stars/s':>10s} {'share':>8s} {'read_bulk':>10s} {'us/star':>8s} {'MB':>6s}")
    for name, timing in timings.items():
        share, times = timing.rate / timings[LIMIT].rate, timings[PACKAGE].rate / timing.rate
        print(
            f"{name:24s} {timing.rate:10,.0f} {share:8.3f} {times:8.2f} x {timing.cpu_us:8.1f} {timing.peak_mb:6.0f}"
        )
    share = timings[PACKAGE].rate / timings[LIMIT].rate
    by_cpu = timings[LIMIT].cpu_us / timings[PACKAGE].cpu_us
    print(
        f"read_bulk: {share:.1%} of decompression alone, {by_cpu:.1%} by processor time ({WANTED:.0%} wanted)"
    )


if __name__ == "__main__":
    main()
