"""Mean and standard deviation of coefficients over G flux, streamed, with any chunk size giving the same bits."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from scattervae.arrays import CoeffVector, SourceIds, StarArray
from scattervae.errors import DataError
from scattervae.spectra.row_groups import StoredSpectra
from scattervae.spectra.spectra import Basis, GFluxSource, Spectra

_ROWS_A_SUM = 8192
FARTHEST = 1e5
"""A star with a coefficient further from the median than so many interquartile ranges is left out of training. In
39,851 real stars none reaches 1,000."""
MOST_NATS, STANDS_ALONE = 0.5, 10.0
"""A star is left out, too, where statistics without it differ by more than `MOST_NATS` and by more than
`STANDS_ALONE` times what the star of the third largest influence makes. Single real stars make up to 5 of 40,000 stars
and 70 of 300, but others come close to them."""
_KEPT_A_BLOCK, _KEPT = 4, 4096


class Quotients(NamedTuple):
    """Coefficients over G flux of some usable stars.

    Attributes:
        values: The quotients; whoever takes them may overwrite them.
        source_id: Whose they are.
    """

    values: Float64[np.ndarray, "star coeff"]
    source_id: SourceIds


@dataclass
class Seen:
    """What passes on the way to the statistics: the basis, and how many usable stars of which G flux.

    Attributes:
        basis: Sizes and ids of the coefficients, as far as they are known.
        n_bp: Use only the first so many BP coefficients; all where None.
        n_rp: The same for RP.
        n_stars: Usable stars so far, of one band or both.
        n_g_flux_from_table: How many of them had their G flux from a table.
        left_out: Stars that do not count.
        far: Stars that were passed over because they lie too far out.
    """

    basis: Basis | None
    n_bp: int | None = None
    n_rp: int | None = None
    n_stars: int = 0
    n_g_flux_from_table: int = 0
    left_out: Int64[np.ndarray, " outlier"] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    far: list[int] = field(default_factory=list)

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

    def usable_rows(self, chunk: Spectra | StoredSpectra) -> Int64[np.ndarray, " row"]:
        """The rows that count, noted."""
        if isinstance(chunk, Spectra):
            basis = self.basis or chunk.basis
            if not basis.joins(chunk.basis):
                raise DataError(f"training stars of {basis} together with stars of {chunk.basis}")
            self.basis = basis.completed_by(chunk.basis)
        rows = np.flatnonzero(chunk.usable_with_one_band)
        if len(self.left_out):
            rows = rows[~np.isin(chunk.source_id[rows], self.left_out)]
        self.n_stars += len(rows)
        self.n_g_flux_from_table += int((chunk.g_flux_source[rows] == GFluxSource.TABLE).sum())
        return rows


@dataclass
class Moments:
    """Mean and squares about it of each column, block after block.

    NaN is no value: a column with none in it has a mean and a standard deviation of 0.

    Blocks are merged by the update of Chan, Golub & LeVeque (1983), eqs. 2.1, which loses no digits.
    """

    n: np.ndarray = field(default_factory=lambda: np.zeros(()))
    mean: np.ndarray = field(default_factory=lambda: np.zeros(()))
    squares: np.ndarray = field(default_factory=lambda: np.zeros(()))

    def add(
        self, values: np.ndarray, *, low: CoeffVector | None = None, high: CoeffVector | None = None
    ) -> StarArray:
        """Take a block, and overwrite it; gives each row's share of the block's squares, summed over columns."""
        has_gaps = bool(np.isnan(values.sum(axis=0)).any())
        inside = ~np.isnan(values) if has_gaps else np.True_
        if low is not None and high is not None:
            inside = (values >= low) & (values <= high)
        n_block = np.broadcast_to(inside, values.shape).sum(axis=0)
        mean_block = values.sum(axis=0, where=inside) / np.maximum(n_block, 1)
        residuals = np.subtract(values, mean_block, out=values)
        squares = np.square(residuals, out=residuals)
        squares_block = squares.sum(axis=0, where=inside)
        self.squares = self.squares + squares_block
        total = np.maximum(self.n + n_block, 1)
        self.squares += np.square(mean_block - self.mean) * self.n * n_block / total
        self.mean = self.mean + (mean_block - self.mean) * n_block / total
        self.n = self.n + n_block
        if has_gaps:
            squares[~inside] = 0.0
        shares: StarArray = squares @ (1.0 / np.where(squares_block > 0, squares_block, np.inf))
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


def clipped_moments(blocks: Iterable[Quotients], low: CoeffVector, high: CoeffVector) -> Moments:
    """Moments of each column over its values between `low` and `high`; overwrites them."""
    moments = Moments()
    for block in blocks:
        moments.add(block.values, low=low, high=high)
    return moments


def moments_and_outliers(blocks: Iterable[Quotients]) -> tuple[Moments, SourceIds]:
    """Moments of each column over all stars, and the stars that alone move them by more than others do.

    The values are overwritten. In memory are those stars of each block that its squares owe most to.
    """
    moments, kept = Moments(), _Extremes()
    for block in blocks:
        raw = block.values.copy()
        shares = moments.add(block.values)
        kept.add(block._replace(values=raw), shares, moments)
    return moments, kept.standing_alone(moments)


@dataclass
class _Extremes:
    """The stars of largest influence so far."""

    values: list[np.ndarray] = field(default_factory=list)
    source_id: list[SourceIds] = field(default_factory=list)

    def add(self, block: Quotients, shares: StarArray, moments: Moments) -> None:
        """Keep those of a block with the largest shares, and few enough in all."""
        top = np.argsort(-shares, kind="stable")[:_KEPT_A_BLOCK]
        self.values.append(block.values[top])
        self.source_id.append(block.source_id[top])
        if len(self.values) * _KEPT_A_BLOCK > _KEPT:
            values, ids = np.concatenate(self.values), np.concatenate(self.source_id)
            top = np.argsort(-moments.influence(values), kind="stable")[:_KEPT_A_BLOCK]
            self.values, self.source_id = [values[top]], [ids[top]]

    def standing_alone(self, moments: Moments) -> SourceIds:
        """The stars beyond `MOST_NATS` and `STANDS_ALONE`: two at most, since it takes a third to compare with."""
        if not self.values or sum(map(len, self.values)) < 3:
            return np.empty(0, dtype=np.int64)
        influence = moments.influence(np.concatenate(self.values))
        limit = max(MOST_NATS, STANDS_ALONE * float(np.sort(influence)[-3]))
        return np.concatenate(self.source_id)[influence > limit]


def quotients(chunks: Iterable[Spectra | StoredSpectra], seen: Seen) -> Iterator[Quotients]:
    """Coefficients over G flux of the usable stars, a fixed number of stars at a time, in one buffer.

    Stars beyond `FARTHEST` are passed over and noted.

    Raises:
        DataError: There is no usable star, or one of another basis, or fewer coefficients than asked for.
    """
    reach: _Reach | None = None
    for block in _full_blocks(chunks, seen):
        reach = reach or _Reach.of(block.values)
        yield reach.without_far(block, seen)


@dataclass(frozen=True)
class _Reach:
    """How far from the median of the first block a star may lie."""

    low: CoeffVector
    high: CoeffVector

    @classmethod
    @np.errstate(over="ignore", invalid="ignore")
    def of(cls, values: Float64[np.ndarray, "star coeff"]) -> "_Reach":
        quantile = np.nanquantile if (gaps := np.isnan(values)).any() else np.quantile
        known = np.where(gaps.all(axis=0), 0.0, values)
        first, median, third = quantile(known, [0.25, 0.5, 0.75], axis=0)
        most = np.finfo(float).max  # where the middle half is equal, any finite value will do
        reach = np.where(third > first, FARTHEST * (third - first), most)
        return cls(np.maximum(median - reach, -most), np.minimum(median + reach, most))

    def without_far(self, block: Quotients, seen: Seen) -> Quotients:
        values = block.values
        if (values.min(axis=0) >= self.low).all() and (values.max(axis=0) <= self.high).all():
            return block
        near = ~((values < self.low) | (values > self.high)).any(axis=1)
        seen.far += block.source_id[~near].tolist()
        return Quotients(values[near], block.source_id[near])


def _full_blocks(chunks: Iterable[Spectra | StoredSpectra], seen: Seen) -> Iterator[Quotients]:
    buffer, ids, n_waiting = np.empty((0, 0)), np.empty(_ROWS_A_SUM, dtype=np.int64), 0
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
            with np.errstate(over="ignore"):
                values /= chunk.g_flux[rows[:n], None]
            ids[n_waiting : n_waiting + n] = chunk.source_id[rows[:n]]
            rows, n_waiting = rows[n:], n_waiting + n
            if n_waiting == _ROWS_A_SUM:
                yield Quotients(buffer, ids)
                n_waiting = 0
    if n_waiting:
        yield Quotients(buffer[:n_waiting], ids[:n_waiting])
    if seen.n_stars == 0:
        raise DataError("no usable star to compute mean and variance of the coefficients on")
