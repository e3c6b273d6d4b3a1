"""One factor on the published errors and one on the own scatter, from squared residuals alone.

They can be told apart where error over scatter varies: a published error shrinks as a star gets brighter, a scatter
in units of the G flux does not. An error in proportion to the flux is the same as scatter, here as anywhere.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy.optimize import nnls

from scattervae.science.scatter.leave_one_out import Residuals

StarCells = Int64[np.ndarray, " star"]
Groups = Int64[np.ndarray, " coeff"]
Factors = Float64[np.ndarray, "group cell"]
_Vector = Float64[np.ndarray, " parameter"]
_Matrix = Float64[np.ndarray, "parameter parameter"]
_Pairs = Float64[np.ndarray, " pair"]

CLIP_SIGMA = 5.0
_CLIP_PASSES = 3
_STEPS = 200
_TOLERANCE = 1e-7
_TINY = 1e-300


@dataclass(frozen=True)
class Multiples:
    """What a standard deviation is to be multiplied by, in each group of coefficients and cell of stars.

    Attributes:
        squared: Estimate of the square, 0 or more; NaN where there is nothing to tell it from.
        sd: Its standard deviation, from the scatter of the scores over stars.
        n_residuals: How many residuals bear on it.
    """

    squared: Factors
    sd: Factors
    n_residuals: Int64[np.ndarray, "group cell"]

    @property
    def value(self) -> Factors:
        """The factor itself."""
        factor: Factors = np.sqrt(self.squared)
        return factor

    def bounds(self, n_sd: float = 1.96) -> tuple[Factors, Factors]:
        """Lower and upper limit of the factor: 95 % where `n_sd` is 1.96."""
        low = np.sqrt(np.maximum(self.squared - n_sd * self.sd, 0.0))
        return low, np.sqrt(np.maximum(self.squared + n_sd * self.sd, 0.0))


@dataclass(frozen=True)
class Separation:
    """Variance told apart.

    Attributes:
        calibration: k, on the published errors, by group and brightness cell.
        own: a, on the model's scatter, by group and type cell.
        confusion: Correlation of each calibration estimate with the own-scatter estimate of its group that it is
            most confused with, from -1 to 0: near -1 the data tell only a sum of the two.
        clipped: Residuals left out as further than the clip from all that the fit allows, by group.
    """

    calibration: Multiples
    own: Multiples
    confusion: Factors
    clipped: Int64[np.ndarray, " group"]


def separate(
    seen: Residuals,
    error_cell: StarCells,
    own_cell: StarCells,
    groups: Groups,
    *,
    clip_sigma: float | None = CLIP_SIGMA,
) -> Separation:
    r"""The two factors of largest likelihood.

    With b the brightness cell and c the type cell of star n, g the group of coefficient i, and l the variance that
    the latents add, known:

    .. math:: r_{ni} \sim N(0,\; l_{ni} + k_{gb}^2 e_{ni}^2 + a_{gc}^2 s_{ni}^2)

    Standard deviations are of the sandwich kind, summed over the residuals of a star first, so they allow for
    residuals of a star that are correlated, and for tails that are not Gaussian.

    Args:
        seen: Residuals of coefficients that were hidden; NaN is left out.
        error_cell: The brightness cell of each star, from 0; -1 leaves the star out.
        own_cell: Its type cell, from 0; a type must hold stars of several brightnesses.
        groups: The group of each coefficient, from 0; -1 leaves it out.
        clip_sigma: Leave residuals beyond so many standard deviations of the fit out, and fit again; None keeps all.

    Source:
        Fisher scoring for variances that are linear in their parameters: Searle, Casella & McCulloch (1992),
        Variance Components, sect. 8.3; White (1982), Econometrica 50, 1, for the standard deviations.
    """
    n_groups, n_b, n_c = (int(cells.max(initial=-1)) + 1 for cells in (groups, error_cell, own_cell))
    kept_stars = (error_cell >= 0) & (own_cell >= 0)
    fits = []
    for g in range(n_groups):
        chosen = np.zeros(seen.residuals.shape, dtype=bool)
        chosen[np.ix_(kept_stars, groups == g)] = True
        terms = _Terms.of(seen, chosen & np.isfinite(seen.residuals), (error_cell, own_cell), (n_b, n_c))
        fits.append(_clipped_fit(terms, clip_sigma))
    squared, sd, n, confusion, clipped = (np.array(values) for values in zip(*fits, strict=True))
    error, own = slice(0, n_b), slice(n_b, n_b + n_c)
    return Separation(
        calibration=Multiples(squared[:, error], sd[:, error], n[:, error]),
        own=Multiples(squared[:, own], sd[:, own], n[:, own]),
        confusion=confusion,
        clipped=clipped,
    )


@dataclass(frozen=True)
class _Terms:
    """The residuals of one group, one a row: square, the three parts of its variance, and whose it is."""

    squared: _Pairs
    latent: _Pairs
    error: _Pairs
    own: _Pairs
    star: Int64[np.ndarray, " pair"]
    error_cell: StarCells
    own_cell: StarCells
    sizes: tuple[int, int]

    @classmethod
    def of(
        cls,
        seen: Residuals,
        chosen: Bool[np.ndarray, "star coeff"],
        cells: tuple[StarCells, StarCells],
        sizes: tuple[int, int],
    ) -> "_Terms":
        return cls(
            squared=seen.residuals[chosen] ** 2,
            latent=seen.latent_variance[chosen],
            error=seen.errors[chosen] ** 2,
            own=seen.scatter[chosen] ** 2,
            star=np.nonzero(chosen)[0],
            error_cell=cells[0],
            own_cell=cells[1],
            sizes=sizes,
        )

    def where(self, kept: Bool[np.ndarray, " pair"]) -> "_Terms":
        """The rows that are kept."""
        return replace(
            self,
            squared=self.squared[kept],
            latent=self.latent[kept],
            error=self.error[kept],
            own=self.own[kept],
            star=self.star[kept],
        )

    @property
    def cells(self) -> tuple[Int64[np.ndarray, " pair"], Int64[np.ndarray, " pair"]]:
        """Of each row."""
        return self.error_cell[self.star], self.own_cell[self.star]

    def counts(self) -> Int64[np.ndarray, " parameter"]:
        """Rows that bear on each parameter: errors' cells, then own scatter's."""
        return np.concatenate(
            [np.bincount(cell, minlength=size) for cell, size in zip(self.cells, self.sizes, strict=True)]
        )

    def variance(self, theta: _Vector) -> _Pairs:
        """Expected square of each residual."""
        b, c = self.cells
        values: _Pairs = self.latent + theta[b] * self.error + theta[self.sizes[0] + c] * self.own
        return values

    def information(self, weights: _Pairs) -> _Matrix:
        """The sum over rows of the outer product of what multiplies the parameters, so weighted."""
        (b, c), (n_b, n_c) = self.cells, self.sizes
        matrix = np.zeros((n_b + n_c, n_b + n_c))
        np.fill_diagonal(
            matrix, self.projected(weights * self.error, weights * self.own, self.error, self.own)
        )
        cross = np.bincount(b * n_c + c, weights * self.error * self.own, n_b * n_c).reshape(n_b, n_c)
        matrix[:n_b, n_b:], matrix[n_b:, :n_b] = cross, cross.T
        return matrix

    def projected(
        self, error: _Pairs, own: _Pairs, error_times: _Pairs | float = 1.0, own_times: _Pairs | float = 1.0
    ) -> _Vector:
        """Sums of one number a row over the errors' cells, and of another over own scatter's."""
        (b, c), (n_b, n_c) = self.cells, self.sizes
        return np.concatenate(
            [np.bincount(b, error * error_times, n_b), np.bincount(c, own * own_times, n_c)]
        )


def _clipped_fit(
    terms: _Terms, clip_sigma: float | None
) -> tuple[_Vector, _Vector, Int64[np.ndarray, " parameter"], Float64[np.ndarray, " cell"], int]:
    """Squares of the factors, their standard deviations, rows of each, confusion, and rows left out."""
    kept, theta = terms, _fit(terms)
    for _ in range(_CLIP_PASSES):
        if clip_sigma is None:
            break
        inside = terms.squared < clip_sigma**2 * terms.variance(theta)
        if inside.sum() == len(kept.squared):
            break
        kept = terms.where(inside)
        theta = _fit(kept)
    covariance = _sandwich(kept, theta)
    sd = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    n = kept.counts()
    n_b = terms.sizes[0]
    with np.errstate(divide="ignore", invalid="ignore"):
        correlation = (covariance / sd[:, None] / sd)[:n_b, n_b:]
    confusion = np.where(np.isfinite(correlation), correlation, 0.0).min(axis=1)
    unknown = n == 0
    theta, sd = np.where(unknown, np.nan, theta), np.where(unknown, np.nan, sd)
    return theta, sd, n, confusion, len(terms.squared) - len(kept.squared)


def _fit(terms: _Terms) -> _Vector:
    """Fisher scoring: least squares of the squares on the variances' parts, weighted by 1 / v^2, none below 0."""
    theta = np.ones(sum(terms.sizes))
    for _ in range(_STEPS):
        weights = 1.0 / np.maximum(terms.variance(theta), _TINY) ** 2
        excess = weights * (terms.squared - terms.latent)
        target = terms.projected(excess * terms.error, excess * terms.own)
        new = _nonnegative(terms.information(weights), target)
        moved = float(np.abs(new - theta).max() / np.abs(new).max(initial=_TINY))
        theta = 0.5 * (theta + new) if moved > 1.0 else new
        if moved < _TOLERANCE:
            break
    return theta


def _nonnegative(matrix: _Matrix, target: _Vector) -> _Vector:
    """The vector of no negative entry that solves ``matrix @ vector = target`` best, in the metric of `matrix`."""
    scale = np.sqrt(np.maximum(np.diag(matrix), _TINY))
    values, vectors = np.linalg.eigh(matrix / scale[:, None] / scale)
    known = values > 1e-12
    root = vectors[:, known] * np.sqrt(values[known])
    solution: _Vector = nnls(root.T, (vectors[:, known].T @ (target / scale)) / np.sqrt(values[known]))[0]
    return solution / scale


def _inverse(matrix: _Matrix) -> _Matrix:
    """The inverse, whatever the units of each parameter; 0 along what the data do not know."""
    scale = np.sqrt(np.maximum(np.diag(matrix), _TINY))
    inverse: _Matrix = np.linalg.pinv(matrix / scale[:, None] / scale, rcond=1e-12, hermitian=True)
    return inverse / scale[:, None] / scale


def _sandwich(terms: _Terms, theta: _Vector) -> _Matrix:
    """Covariance of the estimates, from how the score of a star varies between stars."""
    v = np.maximum(terms.variance(theta), _TINY)
    bread = _inverse(terms.information(1.0 / v**2))
    pull = (terms.squared - v) / v**2
    n_stars, (n_b, n_c) = len(terms.error_cell), terms.sizes
    of_error, of_own = (np.bincount(terms.star, pull * part, n_stars) for part in (terms.error, terms.own))
    b, c = np.maximum(terms.error_cell, 0), np.maximum(terms.own_cell, 0)  # stars left out have no score
    meat = np.zeros((n_b + n_c, n_b + n_c))
    np.fill_diagonal(meat, np.concatenate([np.bincount(b, of_error**2, n_b), np.bincount(c, of_own**2, n_c)]))
    cross = np.bincount(b * n_c + c, of_error * of_own, n_b * n_c).reshape(n_b, n_c)
    meat[:n_b, n_b:], meat[n_b:, :n_b] = cross, cross.T
    covariance: _Matrix = bread @ meat @ bread
    return covariance
