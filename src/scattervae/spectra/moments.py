"""Mean and standard deviation of coefficients over G flux, streamed, with any chunk size giving the same bits."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from scattervae.arrays import CoeffVector, SourceIds, StarArray
from scattervae.errors import DataError
from scattervae.spectra.columns import StoredSpectra
from scattervae.spectra.spectra import Basis, GFluxSource, Spectra

_ROWS_A_SUM = 8192
FARTHEST = 1e5
"""A star with a coefficient further from the median than so many interquartile ranges is left out of training. In
39,851 real stars none reaches 1,000."""
MOST_NATS, BEYOND_THIRD = 0.5, 10.0
"""A star is left out, too, where statistics without it differ by more than `MOST_NATS` and by more than
`BEYOND_THIRD` times what the star of the third largest influence makes. Single real stars make up to 5 of 40,000 stars
and 70 of 300, but others come close to them."""
_KEPT_A_CHUNK, _KEPT = 4, 4096


class Ratios(NamedTuple):
    """Coefficients over G flux of some usable stars; whoever takes them may overwrite them."""

    values: Float64[np.ndarray, "star coeff"]
    source_id: SourceIds


class FluxRatios:
    """Coefficients over G flux of the usable stars, a fixed number of stars at a time, and what passes on the way.

    A star with a coefficient beyond `FARTHEST` of the median of the first chunk is passed over, and noted in `far`.

    Args:
        basis: That of the stars, as far as it is known.
        columns: Which coefficients to use of a basis.
        outliers: Stars that do not count.
    """

    def __init__(
        self,
        basis: Basis | None,
        columns: Callable[[Basis], Int64[np.ndarray, " coeff"]],
        outliers: SourceIds,
    ) -> None:
        self.basis, self._columns, self._outliers = basis, columns, outliers
        self.n_stars = self.n_g_flux_from_table = 0
        self.far: list[int] = []

    @property
    def known_basis(self) -> Basis:
        if self.basis is None:
            raise TypeError("StoredSpectra do not name their basis; give it")
        return self.basis

    def ratios(self, chunks: Iterable[Spectra | StoredSpectra]) -> Iterator[Ratios]:
        """Ratios in one buffer, as many stars at a time."""
        reach = None
        for chunk in self._full_chunks(chunks):
            low, high = reach = reach or _reach(chunk.values)
            if (chunk.values.min(axis=0) >= low).all() and (chunk.values.max(axis=0) <= high).all():
                yield chunk
            else:
                near = ~((chunk.values < low) | (chunk.values > high)).any(axis=1)
                self.far += chunk.source_id[~near].tolist()
                yield Ratios(chunk.values[near], chunk.source_id[near])

    def _full_chunks(self, chunks: Iterable[Spectra | StoredSpectra]) -> Iterator[Ratios]:
        buffer, ids, n_waiting = np.empty((0, 0)), np.empty(_ROWS_A_SUM, dtype=np.int64), 0
        for chunk in chunks:
            rows = self._usable_rows(chunk)
            columns = self._columns(self.known_basis)
            buffer = buffer if buffer.size else np.empty((_ROWS_A_SUM, len(columns)))
            while len(rows):
                n = min(len(rows), _ROWS_A_SUM - n_waiting)
                values = buffer[n_waiting : n_waiting + n]
                coeffs = np.take(chunk.coeffs, rows[:n], axis=0)
                values[...] = coeffs if len(columns) == coeffs.shape[1] else coeffs[:, columns]
                with np.errstate(over="ignore"):
                    values /= chunk.g_flux[rows[:n], None]
                ids[n_waiting : n_waiting + n] = chunk.source_id[rows[:n]]
                rows, n_waiting = rows[n:], n_waiting + n
                if n_waiting == _ROWS_A_SUM:
                    yield Ratios(buffer, ids)
                    n_waiting = 0
        if n_waiting:
            yield Ratios(buffer[:n_waiting], ids[:n_waiting])
        if self.n_stars == 0:
            raise DataError("no usable star to compute mean and variance of the coefficients on")

    def _usable_rows(self, chunk: Spectra | StoredSpectra) -> Int64[np.ndarray, " row"]:
        if isinstance(chunk, Spectra):
            basis = self.basis or chunk.basis
            if not basis.joins(chunk.basis):
                raise DataError(f"training stars of {basis} together with stars of {chunk.basis}")
            self.basis = basis.completed_by(chunk.basis)
        rows = np.flatnonzero(chunk.usable_with_one_band)
        if len(self._outliers):
            rows = rows[~np.isin(chunk.source_id[rows], self._outliers)]
        self.n_stars += len(rows)
        self.n_g_flux_from_table += int((chunk.g_flux_source[rows] == GFluxSource.TABLE).sum())
        return rows


@np.errstate(over="ignore", invalid="ignore")
def _reach(values: Float64[np.ndarray, "star coeff"]) -> tuple[CoeffVector, CoeffVector]:
    """The lowest and the highest value that is not too far from the median of these stars."""
    quantile = np.nanquantile if (gaps := np.isnan(values)).any() else np.quantile
    known = np.where(gaps.all(axis=0), 0.0, values)
    first, median, third = quantile(known, [0.25, 0.5, 0.75], axis=0)
    most = np.finfo(float).max  # where the middle half is equal, any finite value will do
    reach = np.where(third > first, FARTHEST * (third - first), most)
    return np.maximum(median - reach, -most), np.minimum(median + reach, most)


@dataclass
class Moments:
    """Mean and squares about it of each column, chunk after chunk.

    NaN is no value: a column with none in it has a mean and a standard deviation of 0.

    Chunks are merged by the update of Chan, Golub & LeVeque (1983), eqs. 2.1, which loses no digits.
    """

    n: np.ndarray = field(default_factory=lambda: np.zeros(()))
    mean: np.ndarray = field(default_factory=lambda: np.zeros(()))
    squares: np.ndarray = field(default_factory=lambda: np.zeros(()))

    def add(
        self, values: np.ndarray, *, low: CoeffVector | None = None, high: CoeffVector | None = None
    ) -> StarArray:
        """Add a chunk, and overwrite it; gives each row's share of its squares, summed over columns."""
        has_gaps = bool(np.isnan(values.sum(axis=0)).any())
        inside = ~np.isnan(values) if has_gaps else np.True_
        if low is not None and high is not None:
            inside = (values >= low) & (values <= high)
        n_new = np.broadcast_to(inside, values.shape).sum(axis=0)
        mean_new = values.sum(axis=0, where=inside) / np.maximum(n_new, 1)
        residuals = np.subtract(values, mean_new, out=values)
        squares = np.square(residuals, out=residuals)
        squares_new = squares.sum(axis=0, where=inside)
        self.squares = self.squares + squares_new
        total = np.maximum(self.n + n_new, 1)
        self.squares += np.square(mean_new - self.mean) * self.n * n_new / total
        self.mean = self.mean + (mean_new - self.mean) * n_new / total
        self.n = self.n + n_new
        if has_gaps:
            squares[~inside] = 0.0
        shares: StarArray = squares @ (1.0 / np.where(squares_new > 0, squares_new, np.inf))
        return shares

    @property
    def std(self) -> np.ndarray:
        return np.asarray(np.sqrt(self.squares / np.maximum(self.n, 1)))

    def influence(self, values: Float64[np.ndarray, "star coeff"]) -> StarArray:
        r"""By how much each of these stars moves the logarithm of the standard deviations' product [nats].

        .. math:: -\tfrac12 \sum_j \ln \left(1 - \frac{n}{n-1} \frac{(x_j - m_j)^2}{S_j} \right)

        with S the sum of squares about the mean m of n stars, this one among them. A standard deviation that grows
        by a factor moves the likelihood of every star by its logarithm.
        """
        n = np.maximum(self.n, 2)
        share = np.square(values - self.mean) / np.where(self.squares > 0, self.squares, np.inf)
        left = np.maximum(1.0 - share * n / (n - 1), 1e-12)
        return np.asarray(-0.5 * np.nansum(np.log(left), axis=1))


def moments_and_outliers(chunks: Iterable[Ratios]) -> tuple[Moments, SourceIds]:
    """Moments of each column over all stars, and the stars that alone move them by more than others do.

    The values are overwritten. In memory are those stars of each chunk that its squares owe most to. The stars beyond
    `MOST_NATS` and `BEYOND_THIRD` are two at most, since it takes a third to compare with.
    """
    moments, values, ids = Moments(), list[np.ndarray](), list[SourceIds]()
    for chunk in chunks:
        raw = chunk.values.copy()
        top = np.argsort(-moments.add(chunk.values), kind="stable")[:_KEPT_A_CHUNK]
        values.append(raw[top])
        ids.append(chunk.source_id[top])
        if len(values) * _KEPT_A_CHUNK > _KEPT:
            joined, joined_ids = np.concatenate(values), np.concatenate(ids)
            top = np.argsort(-moments.influence(joined), kind="stable")[:_KEPT_A_CHUNK]
            values, ids = [joined[top]], [joined_ids[top]]
    if sum(map(len, values)) < 3:
        return moments, np.empty(0, dtype=np.int64)
    influence = moments.influence(np.concatenate(values))
    limit = max(MOST_NATS, BEYOND_THIRD * float(np.sort(influence)[-3]))
    return moments, np.concatenate(ids)[influence > limit]
