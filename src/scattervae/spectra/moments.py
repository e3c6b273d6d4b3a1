"""Mean and standard deviation of coefficients over G flux, streamed, with any chunk size giving the same bits."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from scattervae.arrays import CoeffVector
from scattervae.errors import DataError
from scattervae.spectra.blocks import Block
from scattervae.spectra.flags import GFluxSource
from scattervae.spectra.spectra import Basis, Spectra

_ROWS_A_SUM = 8192


@dataclass
class Seen:
    """What passes on the way to the statistics: the basis, and how many usable stars of which G flux.

    Attributes:
        basis: Sizes and ids of the coefficients, as far as they are known.
        n_bp: Use only the first so many BP coefficients; all where None.
        n_rp: The same for RP.
        n_stars: Usable stars so far.
        n_g_flux_from_table: How many of them had their G flux from a table.
    """

    basis: Basis | None
    n_bp: int | None = None
    n_rp: int | None = None
    n_stars: int = 0
    n_g_flux_from_table: int = 0

    @property
    def known_basis(self) -> Basis:
        if self.basis is None:
            raise TypeError("blocks do not say their basis; give it")
        return self.basis

    @property
    def columns(self) -> Int64[np.ndarray, " coeff"]:
        """Which of the basis's coefficients are used.

        Raises:
            DataError: More are asked for than there are.
        """
        basis = self.known_basis
        n_bp = basis.n_bp if self.n_bp is None else self.n_bp
        n_rp = basis.n_rp if self.n_rp is None else self.n_rp
        if n_bp > basis.n_bp or n_rp > basis.n_rp:
            raise DataError(f"{n_bp} BP and {n_rp} RP coefficients asked for, but the spectra have {basis}")
        return np.concatenate([np.arange(n_bp), basis.n_bp + np.arange(n_rp)])

    def usable_rows(self, chunk: Spectra | Block) -> Int64[np.ndarray, " row"]:
        """The rows that count, noted."""
        if isinstance(chunk, Spectra):
            basis = self.basis or chunk.basis
            if not basis.agrees_with(chunk.basis):
                raise DataError(f"training stars of {basis} together with stars of {chunk.basis}")
            self.basis = basis.completed_by(chunk.basis)
        rows = np.flatnonzero(chunk.usable)
        self.n_stars += len(rows)
        self.n_g_flux_from_table += int((chunk.g_flux_source[rows] == GFluxSource.TABLE).sum())
        return rows


def mean_and_std(
    blocks: Iterable[np.ndarray],
    *,
    low: CoeffVector | None = None,
    high: CoeffVector | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each column over its values between `low` and `high`; overwrites them.

    Blocks are merged by the update of Chan, Golub & LeVeque (1983), eqs. 2.1, which loses no digits.
    """
    n, mean, squares = np.zeros(()), np.zeros(()), np.zeros(())
    for values in blocks:
        inside = np.True_ if low is None or high is None else (values >= low) & (values <= high)
        n_block = np.broadcast_to(inside, values.shape).sum(axis=0)
        mean_block = values.sum(axis=0, where=inside) / np.maximum(n_block, 1)
        residuals = np.subtract(values, mean_block, out=values)
        squares = squares + np.square(residuals, out=residuals).sum(axis=0, where=inside)
        total = np.maximum(n + n_block, 1)
        squares += np.square(mean_block - mean) * n * n_block / total
        mean = mean + (mean_block - mean) * n_block / total
        n = n + n_block
    return mean, np.sqrt(squares / np.maximum(n, 1))


def quotients(chunks: Iterable[Spectra | Block], seen: Seen) -> Iterator[Float64[np.ndarray, "row coeff"]]:
    """Coefficients over G flux of the usable stars, a fixed number of stars at a time, in one buffer.

    Raises:
        DataError: There is no usable star, or one of another basis, or fewer coefficients than asked for.
    """
    buffer, n_waiting = np.empty((0, 0)), 0
    for chunk in chunks:
        rows = seen.usable_rows(chunk)
        while len(rows):
            columns = seen.columns
            if buffer.size == 0:
                buffer = np.empty((_ROWS_A_SUM, len(columns)))
            n = min(len(rows), _ROWS_A_SUM - n_waiting)
            values = buffer[n_waiting : n_waiting + n]
            coeffs = np.take(chunk.coeffs, rows[:n], axis=0)
            values[...] = coeffs if len(columns) == coeffs.shape[1] else coeffs[:, columns]
            values /= chunk.g_flux[rows[:n], None]
            rows, n_waiting = rows[n:], n_waiting + n
            if n_waiting == _ROWS_A_SUM:
                yield buffer
                n_waiting = 0
    if n_waiting:
        yield buffer[:n_waiting]
    if seen.n_stars == 0:
        raise DataError("no usable star to compute mean and variance of the coefficients on")
