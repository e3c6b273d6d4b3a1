"""Stars made from plain arrays, and their text as the archive writes it."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

HEADER = "source_id,bp_basis_function_id,bp_n_parameters,bp_coefficients,bp_coefficient_errors,"
HEADER += "rp_basis_function_id,rp_n_parameters,rp_coefficients,rp_coefficient_errors"


@dataclass
class ToyStars:
    """What every file made of these stars must give back."""

    n: int = 3
    n_bp: int = 55
    n_rp: int = 55
    seed: int = 0
    source_id: np.ndarray = field(init=False)
    bp: np.ndarray = field(init=False)
    rp: np.ndarray = field(init=False)
    bp_errors: np.ndarray = field(init=False)
    rp_errors: np.ndarray = field(init=False)

    def __post_init__(self):
        rng = np.random.default_rng(self.seed)
        # odd and above 2**53: such an identifier does not survive float64
        self.source_id = 5853498713190525697 + 2 * rng.permutation(self.n).astype(np.int64)
        self.bp = rng.normal(scale=100.0, size=(self.n, self.n_bp))
        self.rp = rng.normal(scale=100.0, size=(self.n, self.n_rp))
        self.bp_errors = rng.uniform(0.1, 1.0, size=self.bp.shape)
        self.rp_errors = rng.uniform(0.1, 1.0, size=self.rp.shape)

    @property
    def coeffs(self):
        return np.concatenate([self.bp, self.rp], axis=1)

    @property
    def errors(self):
        return np.concatenate([self.bp_errors, self.rp_errors], axis=1)

    def columns(self):
        """Columns by the archive's names, two-dimensional where cells are arrays."""
        return {
            "source_id": self.source_id,
            "bp_basis_function_id": np.full(self.n, 56, dtype=np.int16),
            "bp_n_parameters": np.full(self.n, self.n_bp, dtype=np.int16),
            "bp_coefficients": self.bp,
            "bp_coefficient_errors": self.bp_errors,
            "rp_basis_function_id": np.full(self.n, 57, dtype=np.int16),
            "rp_n_parameters": np.full(self.n, self.n_rp, dtype=np.int16),
            "rp_coefficients": self.rp,
            "rp_coefficient_errors": self.rp_errors,
        }

    def cells(self):
        """Rows of the archive's csv, each a list of texts in the order of `HEADER`."""
        columns = self.columns()
        return [[as_text(columns[name][row]) for name in HEADER.split(",")] for row in range(self.n)]

    def csv(self):
        return csv_of(self.cells())


def as_text(value):
    if np.ndim(value):
        return '"(' + ", ".join(repr(float(x)) for x in value) + ')"'
    return str(value)


def csv_of(rows, header=HEADER):
    return "\n".join([header, *(",".join(row) for row in rows)]) + "\n"


def set_cell(rows, row, name, text):
    rows[row][HEADER.split(",").index(name)] = text


def write(folder: Path, content, name="spectra.dat"):
    """A file whose name says nothing of its kind."""
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path
