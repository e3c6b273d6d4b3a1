"""The coefficients of one band for all rows of a file, in the basis that most of them have."""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from jaxtyping import Float32, Float64, Int16, Int64

from scattervae.arrays import StarMask
from scattervae.gaia.facts import BANDS, DR3_BASIS
from scattervae.gaia.files.cells import Arrays, Integers, arrays, floats, integers
from scattervae.gaia.files.columns import FIT_COLUMNS, Columns
from scattervae.gaia.files.correlations import read_correlations
from scattervae.gaia.files.skips import Skips
from scattervae.spectra.spectra import Basis

_FIT_ROUNDING = 1e-3
Numbers = TypeVar("Numbers", float, Float64[np.ndarray, " star"])


@dataclass(frozen=True)
class Band:
    """BP or RP of all rows of a file.

    Attributes:
        coeffs: Coefficients, NaN where the band is missing or contradicts itself.
        errors: Their errors.
        n_relevant_bases: Recommended truncation, -1 where not given.
        basis_id: Identifier of the basis functions, None where the file has none.
        contradicted: True where there are other than the stated number of coefficients, or where what the file says
            of their fit cannot be as it was written.
        correlations: Correlations of the coefficients, None where the file has none.
        is_told: True where some row tells the size and the id.
    """

    coeffs: Float64[np.ndarray, "star coeff"]
    errors: Float64[np.ndarray, "star coeff"]
    n_relevant_bases: Int16[np.ndarray, " star"]
    basis_id: int | None
    contradicted: StarMask
    correlations: Float32[np.ndarray, "star pair"] | None
    is_told: bool

    @property
    def size(self) -> int:
        return int(self.coeffs.shape[1])


def read_band(columns: Columns, band: str, skips: Skips, *, basis: Basis | None = None) -> Band:
    """One band of a file; rows whose coefficients are unreadable or of another basis are skipped.

    Args:
        columns: Rows of the file.
        band: ``bp`` or ``rp``.
        skips: Takes the rows that cannot be used.
        basis: Basis of the file; where None, that of most of these rows, and DR3's size where none has the band.
    """
    name = f"{band}_coefficients"
    coeffs = without_padding(arrays(columns.cells[name]), _sizes(columns, band))
    errors = without_padding(arrays(columns.cells[f"{band}_coefficient_errors"]), coeffs.lengths)
    for column, read in ((name, coeffs), (f"{band}_coefficient_errors", errors)):
        skips.add_unreadable(column, read)
    present = coeffs.lengths > 0
    stated = _integers_or_none(columns, f"{band}_n_parameters", present, skips)
    ids = _integers_or_none(columns, f"{band}_basis_function_id", present, skips)
    contradicted = present & stated.known & (stated.values != coeffs.lengths)
    sound = present & ~contradicted
    voters = sound & skips.kept
    if basis is None:
        size = _most_common(coeffs.lengths[voters]) or _width(coeffs) or getattr(DR3_BASIS, f"n_{band}")
        basis_id = _most_common(ids.values[voters & ids.known])
    else:
        size, basis_id = getattr(basis, f"n_{band}"), getattr(basis, f"{band}_id")
    skips.add(sound & (coeffs.lengths != size), f"{{}} {name} where most rows have {size}", coeffs.lengths)
    if basis_id is not None:
        other = sound & ids.known & (ids.values != basis_id)
        skips.add(other, f"{band}_basis_function_id {{}} where most rows have {basis_id}", ids.values)
    missing = (contradicted | ~present)[:, None]
    matrix, error_matrix = (np.where(missing, np.nan, read.matrix(size)) for read in (coeffs, errors))
    return Band(
        coeffs=matrix,
        errors=error_matrix,
        n_relevant_bases=_relevant_bases(columns, band),
        basis_id=basis_id,
        contradicted=contradicted | (present & _disagrees(columns, band)),
        correlations=read_correlations(columns, band, errors=error_matrix, present=sound, skips=skips),
        is_told=bool(voters.any()),
    )


def _sizes(columns: Columns, band: str) -> Int64[np.ndarray, " star"]:
    """How many coefficients of a band the rows of a file have: as it says, else as DR3 has."""
    name, usual = f"{band}_n_parameters", getattr(DR3_BASIS, f"n_{band}")
    if name not in columns:
        return np.full(len(columns), usual, dtype=np.int64)
    stated = integers(columns.cells[name])
    return np.where(stated.known, stated.values, usual)


def without_padding(read: Arrays, sizes: Int64[np.ndarray, " star"]) -> Arrays:
    """The same arrays without what fills a column of fixed width: zeros or NaN behind the stated size, or throughout.

    An array of nothing else is that of a missing band: no star has a coefficient of exactly zero in all orders.
    """
    if isinstance(read.rows, np.ndarray):
        last = read.rows[:, -1] if read.rows.shape[1] else np.ones(len(read.rows))
    else:
        last = np.array([1.0 if row is None or not len(row) else row[-1] for row in read.rows])
    padded = np.flatnonzero(np.nan_to_num(last) == 0)
    if not len(padded):
        return read
    lengths, rows = read.lengths.copy(), list(read.rows)
    for place in padded.tolist():
        row, size = rows[place], max(int(sizes[place]), 0)
        if not np.nan_to_num(row).any():
            lengths[place], rows[place] = 0, None
        elif not np.nan_to_num(row[size:]).any():
            lengths[place], rows[place] = min(size, len(row)), row[:size]
    return Arrays(lengths, rows, read.why)


def _integers_or_none(columns: Columns, name: str, present: StarMask, skips: Skips) -> Integers:
    """A column that a file may lack; rows with the band where it is no integer are skipped."""
    if name not in columns:
        nowhere = np.zeros(len(columns), dtype=bool)
        return Integers(np.zeros(len(columns), dtype=np.int64), nowhere)
    read = integers(columns.cells[name])
    skips.add_unreadable(name, read, among=present)
    return read


def _most_common(values: np.ndarray) -> int | None:
    """The value that most rows have, the smallest of equals; None where there is no row."""
    if not len(values):
        return None
    found, counts = np.unique(values, return_counts=True)
    return int(found[counts.argmax()])


def _width(read: Arrays) -> int:
    """The width of a matrix without a single number, 0 for arrays of their own lengths."""
    return int(read.rows.shape[1]) if isinstance(read.rows, np.ndarray) else 0


def _disagrees(columns: Columns, band: str) -> StarMask:
    """True where standard deviation, chi squared and degrees of freedom disagree: one of them has been changed."""
    names = FIT_COLUMNS[BANDS.index(band)]
    if not all(name in columns for name in names):
        return np.zeros(len(columns), dtype=bool)
    with np.errstate(all="ignore"):
        return np.asarray(fit_disagrees(*(floats(columns.cells[name]) for name in names)))


def fit_disagrees(deviation: Numbers, chi_squared: Numbers, degrees_of_freedom: Numbers) -> StarMask | bool:
    r"""True where :math:`s^2 \ne \chi^2 / n` by more than the rounding of a table; False where one is missing.

    Source:
        Gaia DR3 data model, xp_continuous_mean_spectrum, ``bp_standard_deviation``; the archive's files agree to 2e-7.
    """
    expected = deviation * deviation * degrees_of_freedom
    disagrees: StarMask | bool = abs(expected - chi_squared) > _FIT_ROUNDING * abs(chi_squared)
    return disagrees


def _relevant_bases(columns: Columns, band: str) -> Int16[np.ndarray, " star"]:
    name = f"{band}_n_relevant_bases"
    if name not in columns:
        return np.full(len(columns), -1, dtype=np.int16)
    read = integers(columns.cells[name])
    fits = read.known & (np.abs(read.values) < 2**15)
    return np.where(fits, read.values, -1).astype(np.int16)
