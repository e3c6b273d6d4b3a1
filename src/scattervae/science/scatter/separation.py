"""One factor on the published errors and one on the own scatter, from squared residuals alone.

They can be separated where error over scatter varies: a published error shrinks as a star gets brighter, a scatter
in units of the G flux does not. An error in proportion to the flux is the same as scatter, here as anywhere.
"""

from dataclasses import dataclass, fields, replace

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy.optimize import nnls

from scattervae.science.scatter.leave_one_out import Residuals

StarCells = Int64[np.ndarray, " star"]
Groups = Int64[np.ndarray, " coeff"]
PerCell = Float64[np.ndarray, "group cell"]
_Vector = Float64[np.ndarray, " parameter"]
_Matrix = Float64[np.ndarray, "parameter parameter"]
_Rows = Float64[np.ndarray, " row"]
_Cells = Int64[np.ndarray, " row"]

CLIP_SIGMA = 5.0
_CLIP_PASSES = 3
_STEPS = 200
_TOLERANCE = 1e-7
_TINY = 1e-300
_TWO_SIDED_95 = 1.96


@dataclass(frozen=True)
class Factors:
    """What a standard deviation is to be multiplied by, in each group of coefficients and cell of stars."""

    squared: PerCell  # estimate of the square, 0 or more; NaN in a cell without residuals
    sd: PerCell  # its standard deviation, from how scores vary between stars

    @property
    def value(self) -> PerCell:
        """The factor itself."""
        return np.asarray(np.sqrt(self.squared))

    def bounds(self) -> tuple[PerCell, PerCell]:
        """Lower and upper limit of the factor, 95 % between them."""
        low = np.sqrt(np.maximum(self.squared - _TWO_SIDED_95 * self.sd, 0.0))
        return low, np.sqrt(np.maximum(self.squared + _TWO_SIDED_95 * self.sd, 0.0))


@dataclass(frozen=True)
class Separation:
    """Variance separated."""

    error: Factors  # k, on the published errors, by group and brightness cell
    own: Factors  # a, on the model's scatter, by group and type cell
    # correlation of each k with the a of its group that it is most confused with, from -1 to 0: near -1 the
    # data give only a sum of the two
    confusion: PerCell
    # residuals dropped as further than the clip from all that the fit allows, by group
    clipped: Int64[np.ndarray, " group"]


def separate(
    residuals: Residuals,
    error_cell: StarCells,
    own_cell: StarCells,
    groups: Groups,
    *,
    clip_sigma: float = CLIP_SIGMA,
) -> Separation:
    r"""The two factors of largest likelihood.

    With b the brightness cell and c the type cell of star n, g the group of coefficient i, and l the variance that
    the latents add, known:

    .. math:: r_{ni} \sim N(0,\; l_{ni} + k_{gb}^2 e_{ni}^2 + a_{gc}^2 s_{ni}^2)

    Standard deviations are of the sandwich kind, summed over the residuals of a star first, so they allow for
    residuals of a star that are correlated, and for tails that are not Gaussian.

    Args:
        residuals: Of coefficients that were left out of their prediction; NaN is dropped.
        error_cell: The brightness cell of each star, from 0; -1 drops the star.
        own_cell: Its type cell, from 0; a type must hold stars of several brightnesses.
        groups: The group of each coefficient, from 0; -1 drops it.
        clip_sigma: Drop residuals beyond so many standard deviations of the fit, and fit again.

    Source:
        Fisher scoring for variances that are linear in their parameters: Searle, Casella & McCulloch (1992),
        Variance Components, sect. 8.3; White (1982), Econometrica 50, 1, for the standard deviations.
    """
    n_groups, n_b, n_c = (int(cells.max(initial=-1)) + 1 for cells in (groups, error_cell, own_cell))
    stars = (error_cell >= 0) & (own_cell >= 0)
    fits = []
    for g in range(n_groups):
        chosen = (stars[:, None] & (groups == g)) & np.isfinite(residuals.residuals)
        fits.append(_clipped_fit(_terms(residuals, chosen, (error_cell, own_cell), (n_b, n_c)), clip_sigma))
    squared, sd, confusion, clipped = (np.array(values) for values in zip(*fits, strict=True))
    return Separation(
        error=Factors(squared[:, :n_b], sd[:, :n_b]),
        own=Factors(squared[:, n_b:], sd[:, n_b:]),
        confusion=confusion,
        clipped=clipped,
    )


@dataclass(frozen=True)
class _Terms:
    """The residuals of one group, one a row: square, the three parts of its variance, its star and cells."""

    squared: _Rows
    latent: _Rows
    error: _Rows
    own: _Rows
    star: _Cells
    error_cell: _Cells
    own_cell: _Cells
    sizes: tuple[int, int]

    def where(self, kept: Bool[np.ndarray, " row"]) -> "_Terms":
        """The rows that are kept."""
        rows = {
            field.name: getattr(self, field.name)[kept] for field in fields(self) if field.name != "sizes"
        }
        return replace(self, **rows)

    def variance(self, theta: _Vector) -> _Rows:
        """Expected square of each residual."""
        return np.asarray(
            self.latent
            + theta[self.error_cell] * self.error
            + theta[self.sizes[0] + self.own_cell] * self.own
        )

    def sums(self, of_error: _Rows, of_own: _Rows) -> _Vector:
        """One number a row summed over the errors' cells, and another over own scatter's."""
        n_b, n_c = self.sizes
        return np.concatenate(
            [np.bincount(self.error_cell, of_error, n_b), np.bincount(self.own_cell, of_own, n_c)]
        )

    def information(self, weights: _Rows) -> _Matrix:
        """The sum over rows of the outer product of what multiplies the parameters, so weighted."""
        by_error, by_own = weights * self.error, weights * self.own
        diagonal = self.sums(by_error * self.error, by_own * self.own)
        return _bordered(diagonal, (self.error_cell, self.own_cell), by_error * self.own, self.sizes)


def _terms(
    residuals: Residuals,
    chosen: Bool[np.ndarray, "star coeff"],
    cells: tuple[StarCells, StarCells],
    sizes: tuple[int, int],
) -> _Terms:
    star = np.nonzero(chosen)[0]
    return _Terms(
        squared=residuals.residuals[chosen] ** 2,
        latent=residuals.latent_variance[chosen],
        error=residuals.errors[chosen] ** 2,
        own=residuals.scatter[chosen] ** 2,
        star=star,
        error_cell=cells[0][star],
        own_cell=cells[1][star],
        sizes=sizes,
    )


def _clipped_fit(
    terms: _Terms, clip_sigma: float
) -> tuple[_Vector, _Vector, Float64[np.ndarray, " cell"], int]:
    """Squares of the factors, their standard deviations, confusion, and the number of rows dropped."""
    kept, theta = terms, _fit(terms)
    for _ in range(_CLIP_PASSES):
        inside = terms.squared < clip_sigma**2 * terms.variance(theta)
        if inside.sum() == len(kept.squared):
            break
        kept = terms.where(inside)
        theta = _fit(kept)
    covariance = _sandwich(kept, theta)
    sd = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    n_b = terms.sizes[0]
    with np.errstate(divide="ignore", invalid="ignore"):
        correlation = (covariance / sd[:, None] / sd)[:n_b, n_b:]
    confusion = np.where(np.isfinite(correlation), correlation, 0.0).min(axis=1)
    ones = np.ones_like(kept.squared)
    empty = kept.sums(ones, ones) == 0
    theta, sd = np.where(empty, np.nan, theta), np.where(empty, np.nan, sd)
    return theta, sd, confusion, len(terms.squared) - len(kept.squared)


def _fit(terms: _Terms) -> _Vector:
    """Fisher scoring: least squares of the squares on the variances' parts, weighted by 1 / v^2, none below 0."""
    theta = np.ones(sum(terms.sizes))
    for _ in range(_STEPS):
        weights = 1.0 / np.maximum(terms.variance(theta), _TINY) ** 2
        excess = weights * (terms.squared - terms.latent)
        target = terms.sums(excess * terms.error, excess * terms.own)
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


def _sandwich(terms: _Terms, theta: _Vector) -> _Matrix:
    """Covariance of the estimates, from how the score of a star varies between stars."""
    v = np.maximum(terms.variance(theta), _TINY)
    bread = _inverse(terms.information(1.0 / v**2))
    pull = (terms.squared - v) / v**2
    stars, first, of_star = np.unique(terms.star, return_index=True, return_inverse=True)
    by_error, by_own = (np.bincount(of_star, pull * part, len(stars)) for part in (terms.error, terms.own))
    b, c = terms.error_cell[first], terms.own_cell[first]
    n_b, n_c = terms.sizes
    diagonal = np.concatenate([np.bincount(b, by_error**2, n_b), np.bincount(c, by_own**2, n_c)])
    meat = _bordered(diagonal, (b, c), by_error * by_own, terms.sizes)
    return np.asarray(bread @ meat @ bread)


def _bordered(
    diagonal: _Vector, cells: tuple[_Cells, _Cells], products: _Rows, sizes: tuple[int, int]
) -> _Matrix:
    """The symmetric matrix with this diagonal, and sums of products where an error's cell meets an own one."""
    (b, c), (n_b, n_c) = cells, sizes
    matrix = np.diag(diagonal)
    matrix[:n_b, n_b:] = np.bincount(b * n_c + c, products, n_b * n_c).reshape(n_b, n_c)
    matrix[n_b:, :n_b] = matrix[:n_b, n_b:].T
    return matrix


def _inverse(matrix: _Matrix) -> _Matrix:
    """The inverse, whatever the units of each parameter; 0 along what the data do not know."""
    scale = np.sqrt(np.maximum(np.diag(matrix), _TINY))
    inverse: _Matrix = np.linalg.pinv(matrix / scale[:, None] / scale, rcond=1e-12, hermitian=True)
    return inverse / scale[:, None] / scale
