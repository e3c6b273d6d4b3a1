"""The Cannon's polynomial: all products of up to two scaled labels, and what label errors do to it."""

from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from scattervae.arrays import Coeffs

ScaledLabels: TypeAlias = Float[Tensor, "star label"]
Features: TypeAlias = Float[Tensor, "star feature"]
Theta: TypeAlias = Float[Tensor, "feature coeff"]


def n_features(n_labels: int) -> int:
    """How many terms a quadratic in so many labels has."""
    return (n_labels + 1) * (n_labels + 2) // 2


def features(labels: ScaledLabels) -> Features:
    """1, each label, then the product of each pair, a label with itself included.

    The order is that of scikit-learn's ``PolynomialFeatures(2)``.

    Source:
        Ness et al. (2015), arXiv:1501.07604: the model is quadratic in the labels, cross terms included.
    """
    first, second = torch.triu_indices(labels.shape[1], labels.shape[1])
    return torch.cat([torch.ones_like(labels[:, :1]), labels, labels[:, first] * labels[:, second]], dim=1)


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

    Args:
        labels: Scaled labels.
        label_errors: Their errors in the same scale, taken as independent of each other.
        theta: The polynomial's coefficients.

    Source:
        Linear propagation of errors, :math:`J C J^T` with a diagonal C.
    """
    variance = torch.zeros(len(labels), theta.shape[1], dtype=theta.dtype)
    gradients = feature_gradients(labels)
    for k in range(labels.shape[1]):
        variance += ((gradients[:, :, k] @ theta) * label_errors[:, k, None]).square()
    return variance
