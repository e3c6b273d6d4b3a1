"""``XpContinuousMeanSpectrum_*.csv.gz`` as the archive writes it: an ECSV header, 26 columns, quoted arrays."""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BufferedIOBase

import numpy as np

from simulated_archive.gzip_splice import Cell, SplicedGzip
from simulated_archive.sky import Placed
from simulated_archive.stars import Drawn
from simulated_archive.text import array, java

N_COEFFS = 55
POOL = 256
_SOLUTION = 4545469030156206081
_BASIS = {"bp": 56, "rp": 57}
_KINDS = {  # columns of a band, with their types and what their UCDs are
    "basis_function_id": ("int16", "meta.id"),
    "degrees_of_freedom": ("int16", "stat.fit.dof"),
    "n_parameters": ("int8", "stat.fit.param"),
    "n_measurements": ("int16", "meta.number"),
    "n_rejected_measurements": ("int16", "meta.number"),
    "standard_deviation": ("float32", "stat.stdev"),
    "chi_squared": ("float32", "stat.fit.chi2"),
    "coefficients": ("float64[null]", "stat.fit.param"),
    "coefficient_errors": ("float32[null]", "stat.error"),
    "coefficient_correlations": ("float32[null]", "stat.correlation"),
    "n_relevant_bases": ("int16", "meta.number"),
    "relative_shrinking": ("float32", "stat.fit.param"),
}
COLUMNS = ("source_id", "solution_id", *(f"{band}_{name}" for band in _BASIS for name in _KINDS))


@dataclass(frozen=True)
class CorrelationPool:
    """Correlations of the coefficients of a band, as cells that stars share.

    Attributes:
        values: The strict lower triangle row by row, "cell pair".
        cells: Their text, quoted and compressed.
    """

    values: np.ndarray
    cells: tuple[Cell, ...]

    @classmethod
    def make(cls, rng: np.random.Generator, n: int = POOL) -> "CorrelationPool":
        """Correlations about as large as in real stars, 0.1, between orders near and far; positive definite."""
        lower = np.tril_indices(N_COEFFS, -1)
        values = np.empty((n, len(lower[0])), dtype=np.float32)
        for row in values:
            mixing = np.eye(N_COEFFS) + 0.06 * rng.standard_normal((N_COEFFS, N_COEFFS))
            covariance = mixing @ mixing.T
            sigma = np.sqrt(covariance.diagonal())
            row[:] = (covariance / sigma / sigma[:, None])[lower]
        texts = (",".join(map(java, row)) for row in values)
        return cls(values, tuple(Cell.of(f'"[{text}]"'.encode()) for text in texts))


@dataclass(frozen=True)
class Correlations:
    """Correlations of both bands, and the number of each star's cells: "star band"."""

    pools: Sequence[CorrelationPool]
    chosen: np.ndarray

    @classmethod
    def draw(cls, pools: Sequence[CorrelationPool], n: int, rng: np.random.Generator) -> "Correlations":
        return cls(pools, rng.integers(len(pools[0].cells), size=(n, len(pools))))


def write_spectra(
    file: BufferedIOBase,
    placed: Placed,
    drawn: Drawn,
    correlations: Correlations,
    *,
    rng: np.random.Generator,
) -> None:
    """Write the file; coefficients and errors are each star's own, correlations those of `correlations`."""
    numbers = [_numbers(band, drawn, rng) for band in _BASIS]
    errors = drawn.errors.astype(np.float32)
    with SplicedGzip(file) as out:
        out.write(header())
        for star, source_id in enumerate(placed.source_id.tolist()):
            out.write(b"%d,%d" % (source_id, _SOLUTION))
            for band, (before, after) in enumerate(numbers):
                own = slice(band * N_COEFFS, (band + 1) * N_COEFFS)
                coeffs, sigmas = array(drawn.coeffs[star, own]), array(errors[star, own])
                out.write(b'%b,"%b","%b",' % (before[star], coeffs, sigmas))
                out.splice(correlations.pools[band].cells[correlations.chosen[star, band]])
                out.write(after[star])
            out.write(b"\n")


def header() -> bytes:
    """The comments before the table, and its line of column names."""
    lines = [
        "%ECSV 1.0",
        "---",
        "delimiter: ','",
        "meta: !!omap",
        "- RELEASE: simulated, in the form of Gaia DR3",
        "- TABLE: xp_continuous_mean_spectrum",
        "datatype:",
        *_described("source_id", "int64", "meta.id;meta.main"),
        *_described("solution_id", "int64", "meta.version"),
    ]
    for band in _BASIS:
        for name, (kind, ucd) in _KINDS.items():
            lines += _described(f"{band}_{name}", kind, ucd)
    return "".join(f"# {line}\n" for line in lines).encode() + ",".join(COLUMNS).encode() + b"\n"


def _described(name: str, kind: str, ucd: str) -> list[str]:
    types = (
        ["  datatype: string ", f"  subtype: '{kind}' "] if kind.endswith("]") else [f"  datatype: {kind}"]
    )
    return ["- ", f"  name: {name}", *types, "  meta:", f"    ucd: {ucd}"]


def _numbers(band: str, drawn: Drawn, rng: np.random.Generator) -> tuple[list[bytes], list[bytes]]:
    """The cells of each star before and after the arrays of a band, each with the commas around it."""
    n = len(drawn.g_mag)
    freedom = rng.integers(200, 1500, n)
    rejected = rng.integers(0, 40, n)
    deviation = (1 + 0.08 * rng.standard_normal(n) + 10 ** (0.2 * (8 - drawn.g_mag))).astype(np.float32)
    relevant = np.clip(rng.poisson(2 + 8 * 10 ** (0.12 * (12 - drawn.g_mag))), 2, 53)
    shrinking = (1 - 10 ** rng.uniform(-4, -2, n)).astype(np.float32)
    before = [
        f",{_BASIS[band]},{dof},{N_COEFFS},{dof + N_COEFFS},{bad},{s},{np.float32(dof) * s * s}".encode()
        for dof, bad, s in zip(freedom.tolist(), rejected.tolist(), deviation, strict=True)
    ]
    after = [f",{k},{s}".encode() for k, s in zip(relevant.tolist(), shrinking, strict=True)]
    return before, after
