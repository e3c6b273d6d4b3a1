"""A Cannon whose fit, and whose predictions, count the errors of the labels: the Cannon page's other variant."""

import math
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from scattervae.arrays import Coeffs, LabelArray
from scattervae.model.network import Reconstruction
from scattervae.science.cannon.fit import ScaledLabels, Theta, features, fit_polynomial
from scattervae.science.cannon.model import Cannon, labelled
from scattervae.spectra.spectra import Spectra
from scattervae.spectra.star_tables import StellarLabels

_ROUNDS = 60
_CHANGE_LEFT = 1e-5  # of a training standard deviation, in the prediction of any training star


def feature_gradients(labels: ScaledLabels) -> Float[Tensor, "star feature label"]:
    """The derivative of each feature by each label."""
    n_stars, n_labels = labels.shape
    first, second = torch.triu_indices(n_labels, n_labels)
    unit = torch.eye(n_labels, dtype=labels.dtype)
    pairs = unit[first] * labels[:, second, None] + unit[second] * labels[:, first, None]
    flat = torch.cat([torch.zeros_like(unit[:1]), unit]).expand(n_stars, -1, -1)
    return torch.cat([flat, pairs], dim=1)


def propagated_variance(labels: ScaledLabels, label_errors: ScaledLabels, theta: Theta) -> Coeffs:
    r"""The variance that errors of the labels give each coefficient of the spectrum, to first order.

    .. math:: \sum_k (\partial f_j / \partial \ell_k)^2 \, \sigma_{\ell_k}^2

    Errors of different labels are taken as independent.
    """
    variance = torch.zeros(len(labels), theta.shape[1], dtype=theta.dtype)
    gradients = feature_gradients(labels)
    for k in range(labels.shape[1]):
        variance += ((gradients[:, :, k] @ theta) * label_errors[:, k, None]).square()
    return variance


def with_label_errors(cannon: Cannon, spectra: Spectra, labels: StellarLabels) -> Cannon:
    r"""The Cannon fitted anew with errors of its training labels as errors of the coefficients.

    The variance of a value also holds :math:`\tau_i^2`, `propagated_variance` at the polynomial of the round before.

    Args:
        cannon: Fitted to these stars without errors of labels.
        spectra: Its training stars.
        labels: Labels of any stars, joined by source_id, all with errors.
    """
    labels = labels.aligned_to(spectra.source_id)
    taken = labelled(spectra, labels, cannon.settings)
    values, errors = (of[taken][:, cannon.settings.columns] for of in (labels.values, labels.errors))
    inputs = cannon.normalization.apply(spectra.take(taken), dtype=torch.float64)
    scaled, scaled_errors = (
        cannon.label_range.scaled(values),
        torch.from_numpy(errors / cannon.label_range.std),
    )
    theta, f = cannon.theta, features(scaled)
    n_rounds, moved = 1, math.inf
    while moved >= _CHANGE_LEFT and n_rounds < _ROUNDS:
        variance = inputs.errors.square() + propagated_variance(scaled, scaled_errors, theta)
        fit = fit_polynomial(inputs.x, variance.sqrt(), scaled)
        moved, theta = (f @ (fit.theta - theta)).abs().max().item(), fit.theta
        n_rounds += 1
    return replace(cannon, theta=theta, scatter=fit.scatter, counts=replace(cannon.counts, rounds=n_rounds))


def predict(cannon: Cannon, values: LabelArray, errors: LabelArray) -> Reconstruction:
    """Coefficients and scatter at these labels, what their errors add in the scatter."""
    predicted = cannon.predict(values)
    scaled_errors = torch.from_numpy(errors / cannon.label_range.std)
    added = propagated_variance(cannon.label_range.scaled(values), scaled_errors, cannon.theta)
    return Reconstruction(predicted.mean, (predicted.scatter.square() + added).sqrt())
