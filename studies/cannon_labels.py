"""Labels of new stars from their spectra: the Cannon's second step, for many stars at once."""

from dataclasses import dataclass, fields
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from scattervae.arrays import Coeffs, LabelArray, PerStar, StarArray, StarMask
from scattervae.science.cannon.fit import ScaledLabels, Theta, features
from scattervae.science.cannon.model import Cannon
from scattervae.spectra.normalization import Inputs
from studies.cannon_label_errors import feature_gradients

_ROWS = 4096
_MAX_ITERATIONS = 100
_N_TRIED = 2
_GAIN_LEFT = 1e-8  # in chi^2: a ten-thousandth of the labels' errors
_DAMPING, _LEAST_DAMPING = 1e-3, 1e-12
_GROW, _SHRINK = 10.0, 0.1

LabelMatrix: TypeAlias = Float[Tensor, "star label label"]


@dataclass(frozen=True)
class InferredLabels:
    """Labels that a Cannon finds for stars, NaN for a star that cannot be encoded.

    Attributes:
        names: Which labels, in the order of the columns.
        values: The most likely labels, in their units.
        covariance: Of the values, by the Fisher matrix, same units. It takes the scatter of a star's
            coefficients as independent, which real scatter is not: real errors are larger.
        chi2: Sum of squared normalised errors at `values`; about `n_coeffs` less the number of labels
            where the Cannon describes the star.
        converged: The search came to rest, and the covariance exists.
        extrapolated: `values` lie outside the convex hull of the training labels.
        n_iterations: Steps tried, of all starts together.
    """

    names: tuple[str, ...]
    values: LabelArray
    covariance: Float64[np.ndarray, "star label label"]
    chi2: StarArray
    converged: StarMask
    extrapolated: StarMask
    n_iterations: Int64[np.ndarray, " star"]

    @property
    def errors(self) -> LabelArray:
        """One standard deviation of each label."""
        errors: LabelArray = np.sqrt(np.diagonal(self.covariance, axis1=1, axis2=2))
        return errors


def infer_labels(cannon: Cannon, inputs: Inputs) -> InferredLabels:
    r"""The labels under which each star's coefficients are most likely.

    .. math:: \min_\ell \sum_j (x_j - f_j(\ell))^2 / (\sigma_j^2 + s_j^2)

    The search starts at the best two of 64 training stars that lie far from each other, so that a dwarf is
    not sought among giants, and goes on by damped Gauss-Newton steps, all stars at once. Where chi^2 curves
    upwards the polynomial's second derivatives are counted too: without them one star in twenty creeps along
    a valley for hundreds of steps. There is no prior, and nothing holds the labels inside those of the
    training stars: see `extrapolated`.

    Args:
        cannon: The fitted model.
        inputs: Stars as `cannon.normalization` gives them.

    Source:
        Ness et al. (2015), arXiv:1501.07604, test step; Levenberg (1944) with Marquardt's (1963) scaling.
    """
    n = len(inputs)
    parts = [_infer(cannon, inputs, slice(start, start + _ROWS)) for start in range(0, max(n, 1), _ROWS)]
    columns = {
        f.name: np.concatenate([getattr(part, f.name) for part in parts])
        for f in fields(InferredLabels)
        if f.name != "names"
    }
    return InferredLabels(names=cannon.settings.labels, **columns)


def _infer(cannon: Cannon, inputs: Inputs, rows: slice) -> InferredLabels:
    x, errors = inputs.x[rows].double(), inputs.errors[rows].double()
    known = (x.isfinite() & errors.isfinite()).all(dim=1)
    stars = _Stars(
        x=torch.where(known[:, None], x, 0.0),
        weights=1.0 / (torch.where(known[:, None], errors, 1.0).square() + cannon.scatter.square()),
        theta=cannon.theta,
        starts=torch.from_numpy(cannon.label_range.corners),
    )
    labels, at_rest, n_iterations = stars.search()
    inverse, singular = torch.linalg.inv_ex(stars.expand(labels).fisher)
    scale = torch.from_numpy(cannon.label_range.std)
    covariance = inverse * scale[:, None] * scale
    lost = (~known | (singular > 0))[:, None]
    scaled = labels.masked_fill(~known[:, None], torch.nan).numpy()
    values = scaled * cannon.label_range.std + cannon.label_range.mean
    return InferredLabels(
        names=cannon.settings.labels,
        values=values,
        covariance=covariance.masked_fill(lost[:, :, None], torch.nan).numpy(),
        chi2=stars.chi2(labels).masked_fill(~known, torch.nan).numpy(),
        converged=(at_rest & ~lost[:, 0]).numpy(),
        extrapolated=cannon.label_range.outside(values),
        n_iterations=n_iterations.numpy(),
    )


class _Expansion(NamedTuple):
    """Half of chi^2 about some labels.

    Attributes:
        downhill: Minus its gradient.
        fisher: Its curvature without the residuals' part, as Gauss and Newton have it.
        curvature: All of its curvature where chi^2 curves upwards, `fisher` elsewhere.
    """

    downhill: ScaledLabels
    fisher: LabelMatrix
    curvature: LabelMatrix


class _Descent(NamedTuple):
    labels: ScaledLabels
    at_rest: Bool[Tensor, " star"]
    n_iterations: Tensor


@dataclass(frozen=True)
class _Stars:
    """Spectra to be explained by labels; `weights` are one over the variance."""

    x: Coeffs
    weights: Coeffs
    theta: Theta
    starts: Float[Tensor, "corner label"]

    def chi2(self, labels: ScaledLabels) -> PerStar:
        chi2: Tensor = (self.weights * (self.x - features(labels) @ self.theta).square()).sum(dim=1)
        return chi2

    def best_starts(self) -> list[ScaledLabels]:
        """For each star the starts with the smallest chi^2, by two matrix products; the best comes first."""
        predicted = features(self.starts) @ self.theta
        chi2 = (
            self.weights @ predicted.square().T - 2.0 * (self.weights * self.x) @ predicted.T
        )  # but for a constant
        n_tried = min(_N_TRIED, len(self.starts))
        best = chi2.topk(n_tried, dim=1, largest=False, sorted=True).indices
        return list(self.starts[best].unbind(dim=1))

    def search(self) -> "_Descent":
        """The lowest of the descents from the best starts."""
        lowest, *others = [self.descend(start) for start in self.best_starts()]
        for other in others:
            lower = self.chi2(other.labels) < self.chi2(lowest.labels)
            lowest = _Descent(
                labels=torch.where(lower[:, None], other.labels, lowest.labels),
                at_rest=torch.where(lower, other.at_rest, lowest.at_rest),
                n_iterations=lowest.n_iterations + other.n_iterations,
            )
        return lowest

    def expand(self, labels: ScaledLabels) -> _Expansion:
        jacobian = torch.einsum("sfl,fc->scl", feature_gradients(labels), self.theta)
        weighted = (self.weights[:, :, None] * jacobian).mT
        residual = self.x - features(labels) @ self.theta
        fisher = weighted @ jacobian
        full = fisher - torch.einsum("sc,klc->skl", self.weights * residual, self._second_derivatives())
        upwards = torch.linalg.cholesky_ex(full).info == 0
        return _Expansion(
            downhill=(weighted @ residual[:, :, None])[:, :, 0],
            fisher=fisher,
            curvature=torch.where(upwards[:, None, None], full, fisher),
        )

    def _second_derivatives(self) -> Float[Tensor, "label label coeff"]:
        """Of the polynomial: they are the same at all labels."""
        n_labels = self.starts.shape[1]
        first, second = torch.triu_indices(n_labels, n_labels)
        derivatives = torch.zeros(n_labels, n_labels, self.theta.shape[1], dtype=self.theta.dtype)
        derivatives[first, second] += self.theta[1 + n_labels :]
        derivatives[second, first] += self.theta[1 + n_labels :]
        return derivatives

    def descend(self, labels: ScaledLabels) -> _Descent:
        """Damped steps: one that lowers chi^2 is taken and the damping eased, else the damping is raised."""
        chi2 = self.chi2(labels)
        damping = torch.full_like(chi2, _DAMPING)
        at_rest = torch.zeros_like(chi2, dtype=torch.bool)
        n_iterations = torch.zeros_like(chi2, dtype=torch.int64)
        for _ in range(_MAX_ITERATIONS):
            downhill, fisher, curvature = self.expand(labels)
            damped = curvature + torch.diag_embed(damping[:, None] * fisher.diagonal(dim1=1, dim2=2))
            step = torch.linalg.solve_ex(damped, downhill).result
            at_rest |= ((step * downhill).sum(dim=1) < _GAIN_LEFT) & (damping <= 1.0)
            n_iterations += ~at_rest
            if at_rest.all():
                break
            tried = labels + step
            chi2_tried = self.chi2(tried)
            better = (chi2_tried <= chi2) & ~at_rest
            labels = torch.where(better[:, None], tried, labels)
            chi2 = torch.where(better, chi2_tried, chi2)
            damping = (damping * torch.where(better, _SHRINK, _GROW)).clamp(min=_LEAST_DAMPING)
        return _Descent(labels, at_rest, n_iterations)
