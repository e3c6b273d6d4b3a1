"""Stars made from plain arrays, as bulk files of the archive are written."""

import gzip
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from scattervae.gaia.bulk.reading import read_bulk
from scattervae.spectra.spectra import Spectra

_OF_BAND = (
    "basis_function_id",
    "degrees_of_freedom",
    "n_parameters",
    "n_measurements",
    "n_rejected_measurements",
    "standard_deviation",
    "chi_squared",
    "coefficients",
    "coefficient_errors",
    "coefficient_correlations",
    "n_relevant_bases",
    "relative_shrinking",
)
# The order of the archive: the header of XpContinuousMeanSpectrum_000000-003111.csv.gz.
COLUMNS = ("source_id", "solution_id", *(f"{band}_{name}" for band in ("bp", "rp") for name in _OF_BAND))
ARRAYS = tuple(name for name in COLUMNS if "coefficient" in name)
COMMENTS = (
    "# %ECSV 1.0",
    "# ---",
    "# delimiter: ','",
    "# meta: !!omap",
    "# - TABLE: xp_continuous_mean_spectrum",
)


@dataclass(frozen=True)
class BulkToy:
    """Stars in archive units with the text of each cell, which a test may change before it is written."""

    n: int = 5
    n_bp: int = 5
    n_rp: int = 4
    seed: int = 0
    cells: list[dict[str, str]] = field(init=False)
    source_id: np.ndarray = field(init=False)
    coeffs: np.ndarray = field(init=False)
    errors: np.ndarray = field(init=False)
    correlations: tuple[np.ndarray, np.ndarray] = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        sizes = (self.n_bp, self.n_rp)
        ids = np.sort(rng.choice(2**40, size=self.n, replace=False)) * 2**22 + 4295806721  # odd, to 19 digits
        coeffs = [rng.normal(scale=10.0 ** rng.integers(-5, 4), size=(self.n, m)) for m in sizes]
        errors = [rng.uniform(1e-5, 1.0, size=(self.n, m)).astype(np.float32) for m in sizes]
        pairs = [rng.uniform(-1, 1, size=(self.n, m * (m - 1) // 2)).astype(np.float32) for m in sizes]
        cells: list[dict[str, str]] = []
        for row in range(self.n):
            line = {"source_id": str(ids[row]), "solution_id": "4545469030156206081"}
            for i, band in enumerate(("bp", "rp")):
                values = {
                    "basis_function_id": str(56 + i),
                    "degrees_of_freedom": "931",
                    "n_parameters": str(sizes[i]),
                    "n_measurements": "986",
                    "n_rejected_measurements": "10",
                    "standard_deviation": "0.9934199",
                    "chi_squared": "918.78815",
                    "coefficients": as_text(coeffs[i][row]),
                    "coefficient_errors": as_text(errors[i][row]),
                    "coefficient_correlations": as_text(pairs[i][row]),
                    "n_relevant_bases": str(2 + row % 3),
                    "relative_shrinking": "0.99963146",
                }
                line |= {f"{band}_{name}": text for name, text in values.items()}
            cells.append(line)
        made = {
            "cells": cells,
            "source_id": ids,
            "coeffs": np.hstack(coeffs),
            "errors": np.hstack(errors).astype(np.float64),
            "correlations": tuple(pairs),
        }
        for name, value in made.items():
            object.__setattr__(self, name, value)

    def without_band(self, row: int, band: str, *, text: str = "") -> None:
        """Empty the cells of a band, as the archive writes a star that has none."""
        for name in _OF_BAND:
            self.cells[row][f"{band}_{name}"] = text

    def lines(self, columns: tuple[str, ...] = COLUMNS) -> list[str]:
        return [",".join(line.get(name, "7.5") for name in columns) for line in self.cells]

    def text(self, columns: tuple[str, ...] = COLUMNS, newline: str = "\n") -> bytes:
        return text_of(self.lines(columns), columns, newline)


def text_of(lines: list[str], columns: tuple[str, ...] = COLUMNS, newline: str = "\n") -> bytes:
    return newline.join([*COMMENTS, ",".join(columns), *lines, ""]).encode()


def as_text(values: np.ndarray) -> str:
    """An array as a bulk file has it; numbers with as many digits as separate them from their neighbours."""
    return '"[' + ",".join(str(value) for value in values) + ']"'


def write(folder: Path, content: bytes, name: str = "XpContinuousMeanSpectrum.csv.gz") -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(content, 1) if name.endswith(".gz") else content)
    return path


def read_whole(path: Path, **options) -> tuple[Spectra, list[tuple[int, str]]]:
    """All stars and all skipped rows of a file that `read_bulk` reads in chunks."""
    chunks = list(read_bulk(path, **options))
    skipped = [(row.row, row.reason) for chunk in chunks for row in chunk.skipped]
    return Spectra.concatenate([chunk.spectra for chunk in chunks]), skipped


def assert_same(found: Spectra, wanted: Spectra) -> None:
    """Equal to the last bit: a zero keeps its sign, a NaN its place, an array its type."""
    assert found.basis == wanted.basis
    assert (found.correlations is None) == (wanted.correlations is None)
    columns = ["source_id", "coeffs", "errors", "flags", "g_flux", "g_flux_source", "n_relevant_bases"]
    pairs = [(getattr(found, name), getattr(wanted, name)) for name in columns]
    if found.correlations is not None and wanted.correlations is not None:
        pairs += [(getattr(found.correlations, b), getattr(wanted.correlations, b)) for b in ("bp", "rp")]
    for our, their in pairs:
        assert our.dtype == their.dtype
        np.testing.assert_array_equal(our, their)
        if our.dtype.kind == "f":
            np.testing.assert_array_equal(np.signbit(our[our == 0]), np.signbit(their[their == 0]))


__all__ = [
    "ARRAYS",
    "COLUMNS",
    "COMMENTS",
    "BulkToy",
    "as_text",
    "assert_same",
    "read_whole",
    "replace",
    "text_of",
    "write",
]
