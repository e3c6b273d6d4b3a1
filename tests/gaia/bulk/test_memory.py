"""A file of any size is read in the memory of a chunk: measured in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest
from isal import igzip

from bulk.toys import COLUMNS, BulkToy, text_of

READ = """
import resource, sys
from scattervae.gaia.bulk.reading import read_bulk
path, correlations, rows = sys.argv[1:]
chunks = read_bulk(path, correlations=correlations == "True", rows=int(rows))
n = sum(len(chunk.spectra) for chunk in chunks)
print(n, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # kB
"""
WITHOUT_CORRELATIONS = tuple(name for name in COLUMNS if not name.endswith("correlations"))


def write_large(path: Path, n: int, columns: tuple[str, ...]) -> Path:
    """A file of n stars in DR3's sizes, a hundred different spectra over and over."""
    toy = BulkToy(n=100, n_bp=55, n_rp=55)
    lines = [line.split(",", 1)[1] for line in toy.lines(columns)]
    with igzip.open(path, "wb", 0) as file:
        file.write(text_of([], columns))
        for row in range(n):
            file.write(f"{1 + row},{lines[row % len(lines)]}\n".encode())
    return path


def peak_mb(path: Path, n: int, *, correlations: bool, rows: int) -> float:
    command = [sys.executable, "-c", READ, str(path), str(correlations), str(rows)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    n_read, peak = map(int, done.stdout.split())
    assert n_read == n
    return peak / 1024


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tmp_path):
    small, large = 1_000, 10_000
    peaks = [
        peak_mb(write_large(tmp_path / f"{n}.gz", n, WITHOUT_CORRELATIONS), n, correlations=False, rows=500)
        for n in (small, large)
    ]
    # 9,000 more stars are 16 MB of coefficients and errors, or 35 MB of text
    assert peaks[1] - peaks[0] < 8


@pytest.mark.slow
def test_peak_with_correlations_in_chunks_of_the_usual_size(tmp_path):
    n = 25_000
    assert peak_mb(write_large(tmp_path / "spectra.gz", n, COLUMNS), n, correlations=True, rows=8192) < 1500
