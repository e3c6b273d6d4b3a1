"""The Cannon's fit: a quadratic in labels and one intrinsic scatter a coefficient, by maximum likelihood.

Every coefficient of the spectrum is a fit of its own; all are solved at once.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from scattervae.arrays import Coeffs
from scattervae.errors import DataError

ScaledLabels: TypeAlias = Float[Tensor, "star label"]
Features: TypeAlias = Float[Tensor, "star feature"]
Theta: TypeAlias = Float[Tensor, "feature coeff"]
PerCoeff: TypeAlias = Float[Tensor, " coeff"]

_ROWS_A_SUM = 4096
_GRID = 12  # from no scatter to all the variance there is, in equal steps of ln(u + smallest variance)
_BEYOND = 16.0  # how far above the grid, in the same logarithm, a climb may go
_NEWTON_STEPS = 100
_STEP_LEFT = 1e-8  # Newton's steps shrink quadratically: after one this small there is nothing left to gain
_ROUNDS = 60
_CHANGE_LEFT = 1e-5  # of a training standard deviation, in the prediction of any training star
_SINGULAR = 1e-9
_MEDIAN_CHI2 = 0.4549364  # of one degree of freedom


def n_features(n_labels: int) -> int:
    """How many terms a quadratic in so many labels has."""
    return (n_labels + 1) * (n_labels + 2) // 2


def features(labels: ScaledLabels) -> Features:
    """1, each label, then the product of each pair, in the order of scikit-learn's ``PolynomialFeatures(2)``.

    Source:
        Ness et al. (2015), arXiv:1501.07604: the model is quadratic in the labels, cross terms included.
    """
    first, second = torch.triu_indices(labels.shape[1], labels.shape[1])
    return torch.cat([torch.ones_like(labels[:, :1]), labels, labels[:, first] * labels[:, second]], dim=1)


class Fit(NamedTuple):
    """The polynomial and scatter of largest likelihood."""

    theta: Theta  # the polynomial's coefficients
    scatter: PerCoeff  # of each coefficient of the spectrum; 0 where errors explain it all
    n_clipped: int  # values (one coefficient of one star) that did not count in the last round
    n_rounds: int  # rounds of clipping; 1 where it was not asked for
    converged: bool  # the last round changed nothing more


def fit_polynomial(
    x: Coeffs, errors: Coeffs, labels: ScaledLabels, *, clip_sigma: float | None = None
) -> Fit:
    r"""The polynomial and the scatter under which each coefficient of the training stars is most likely.

    .. math:: \max_{\theta, s} \; -\tfrac12 \sum_i \left[ (x_i - \theta \cdot f(\ell_i))^2 / v_i + \ln v_i
        \right], \qquad v_i = \sigma_i^2 + s^2

    For a given s the best theta is weighted least squares, and what is left is a function of s alone. A grid
    that starts at s = 0 names its highest hill; Newton's method inside a bracket finds the top.

    With `clip_sigma`, values further than that from the round before are left out of the next, and may come back;
    rounds go on until the same values are left out and no prediction moves.

    Args:
        x: Coefficients in training standard deviations, float64; `errors` are theirs.
        labels: Scaled labels, about zero mean and unit variance, none missing.
        clip_sigma: The largest normalised error of a value that counts; all count where None.

    Raises:
        DataError: The labels do not determine a quadratic.

    Source:
        Ness et al. (2015), arXiv:1501.07604, training step. Clipping is ours.
    """
    f = features(labels)
    orthonormal = _orthonormal(f)
    measured = errors.square()
    problem = _Problem(f @ orthonormal, x, measured)
    u = problem.highest()
    theta, n_rounds = orthonormal @ problem.sums(u).theta(), 1
    converged = clip_sigma is None
    while clip_sigma is not None and not converged and n_rounds < _ROUNDS:
        theta_before, kept_before = theta, problem.keep
        chi2 = (x - f @ theta).square() / (measured + u)
        # Outliers widen the plain fit until they hide in it: the first cut is measured by the median
        width = chi2.median(dim=0).values / _MEDIAN_CHI2 if n_rounds == 1 else 1.0
        keep = chi2 <= clip_sigma**2 * width
        problem = replace(problem, keep=keep)
        u = problem.climb(u)
        theta = orthonormal @ problem.sums(u).theta()
        n_rounds += 1
        same = kept_before is not None and torch.equal(keep, kept_before)
        converged = same and bool((f @ (theta - theta_before)).abs().max() < _CHANGE_LEFT)
    n_clipped = 0 if problem.keep is None else int((~problem.keep).sum())
    return Fit(theta, u.sqrt(), n_clipped, n_rounds, converged)


def _orthonormal(f: Features) -> Float[Tensor, "feature feature"]:
    """What turns the features into orthonormal ones, so that normal equations lose no digits."""
    triangle = torch.linalg.qr(f / math.sqrt(len(f)), mode="r").R
    diagonal = triangle.diagonal().abs()
    if not diagonal.min() > _SINGULAR * diagonal.max():
        raise DataError(
            "the labels of the training stars do not determine a quadratic: one label, or a product of two, "
            "is the same in all of them or follows from the others; use fewer labels, or other stars"
        )
    inverse: Tensor = torch.linalg.inv(triangle)
    return inverse


class _Sums(NamedTuple):
    """The weighted normal equations of every coefficient, and the likelihood at their solution."""

    matrix: Float[Tensor, "coeff feature feature"]
    right: Float[Tensor, "coeff feature"]
    squares: PerCoeff
    log_weights: PerCoeff

    def theta(self) -> Theta:
        theta: Tensor = torch.linalg.solve(self.matrix, self.right)
        return theta.T

    def log_likelihood(self) -> PerCoeff:
        # The sum of squared residuals is what the solution leaves of the sum of squares
        chi2 = self.squares - (self.theta().T * self.right).sum(dim=1)
        return 0.5 * (self.log_weights - chi2)


@dataclass(frozen=True)
class _Problem:
    """Values to explain; `variance` is all but the intrinsic scatter, `keep` says which values count."""

    f: Features
    x: Coeffs
    variance: Coeffs
    keep: Bool[Tensor, "star coeff"] | None = None

    def _slices(self) -> Iterator[slice]:
        for start in range(0, len(self.x), _ROWS_A_SUM):
            yield slice(start, start + _ROWS_A_SUM)

    def _weights(self, rows: slice, u: PerCoeff) -> Coeffs:
        """One over the variance, 0 for values that do not count."""
        weights = (self.variance[rows] + u).reciprocal_()
        return weights if self.keep is None else weights.mul_(self.keep[rows])

    def sums(self, u: PerCoeff) -> _Sums:
        """All sums over stars at this squared scatter."""
        n = self.f.shape[1]
        first, second = torch.triu_indices(n, n)
        pairs, right = (torch.zeros(len(u), m, dtype=self.x.dtype) for m in (len(first), n))
        squares, log_weights = torch.zeros(2, len(u), dtype=self.x.dtype)
        for rows in self._slices():
            f, x, w = self.f[rows], self.x[rows], self._weights(rows, u)
            wx = w * x
            pairs += w.T @ (f[:, first] * f[:, second])
            right += wx.T @ f
            squares += (wx * x).sum(dim=0)
            log_weights += (w if self.keep is None else w + ~self.keep[rows]).log_().sum(dim=0)
        matrix = torch.empty(len(u), n, n, dtype=self.x.dtype)
        matrix[:, first, second] = pairs
        matrix[:, second, first] = pairs
        return _Sums(matrix, right, squares, log_weights)

    def derivatives(self, u: PerCoeff) -> tuple[PerCoeff, PerCoeff]:
        r"""Slope and curvature of the log-likelihood along the ridge where theta is the best for each u = s^2.

        .. math:: \frac{dL}{du} = \tfrac12 \sum_i (r_i^2 w_i^2 - w_i), \qquad
            \frac{d^2 L}{du^2} = \tfrac12 \sum_i (w_i^2 - 2 r_i^2 w_i^3) + c^T A^{-1} c, \qquad
            c = \sum_i w_i^2 r_i f_i

        with w = 1 / v, r the residual and A the normal matrix.
        """
        sums = self.sums(u)
        theta = sums.theta()
        slope, curvature = torch.zeros(2, len(u), dtype=self.x.dtype)
        cross = torch.zeros_like(sums.right)
        for rows in self._slices():
            w = self._weights(rows, u)
            r = self.x[rows] - self.f[rows] @ theta
            wr = w * r
            chi2 = wr * r
            slope += (w * (chi2 - 1.0)).sum(dim=0)
            curvature += (w.square() * (1.0 - 2.0 * chi2)).sum(dim=0)
            cross += (w * wr).T @ self.f[rows]
        along = (cross * torch.linalg.solve(sums.matrix, cross)).sum(dim=1)
        return 0.5 * slope, 0.5 * curvature + along

    def highest(self) -> PerCoeff:
        """The u with the highest likelihood of all: the best point of a grid, then the top of its hill."""
        smallest = self.variance.min(dim=0).values
        spread = (self.x - self.x.mean(dim=0)).square().mean(dim=0)
        reach = torch.log1p(spread / smallest)
        steps = torch.linspace(0.0, 1.0, _GRID, dtype=reach.dtype)[:, None] * reach
        heights = torch.stack([self.sums(smallest * torch.expm1(step)).log_likelihood() for step in steps])
        best = heights.argmax(dim=0)
        return self.climb(smallest * torch.expm1(steps.gather(0, best[None])[0]))

    def climb(self, u: PerCoeff) -> PerCoeff:
        """The top of the hill on whose slope each u lies, by Newton's method on t = ln(1 + u / smallest).

        t ends at 0, where the scatter vanishes; the slope's sign narrows a bracket that holds every step.
        """
        smallest = self.variance.min(dim=0).values
        t = torch.log1p(u / smallest)
        low, high = torch.full_like(t, -1.0), t + _BEYOND  # -1: the slope at 0 is not known yet
        for _ in range(_NEWTON_STEPS):
            by_u, curvature_by_u = self.derivatives(smallest * torch.expm1(t))
            total = smallest * t.exp()  # du / dt
            slope = total * by_u
            curvature = slope + total.square() * curvature_by_u
            low, high = torch.where(slope > 0, t, low), torch.where(slope > 0, high, t)
            newton = t - slope / curvature
            newton = torch.where(low < 0, newton.clamp(min=0.0), newton)
            inside = (curvature < 0) & (newton >= low) & (newton <= high)
            step = torch.where(inside, newton, 0.5 * (low.clamp(min=0.0) + high)) - t
            t = t + step
            if step.abs().max() < _STEP_LEFT:
                break
        return torch.where(t < _STEP_LEFT, 0.0, smallest * torch.expm1(t))
