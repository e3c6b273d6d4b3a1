"""The network of the labels: the encoder's trunk, which knows spectra already, and a head on top."""

import copy
from typing import NamedTuple

import torch
from torch import nn

from scattervae.arrays import Coeffs
from scattervae.model.network import ResidualBlock, ScatterVAE, with_errors
from scattervae.science.labels.targets import LabelTensor

_LOG_VARIANCE_LIMITS = (-12.0, 8.0)


class ScaledLabels(NamedTuple):
    """Predicted scaled labels of some stars; the variance is without the errors of the labels it was trained on."""

    mean: LabelTensor
    variance: LabelTensor


class LabelNetwork(nn.Module):
    """A copy of an encoder without its last layer, residual blocks, and a linear layer that begins at 0.

    The last layer of the encoder, which makes latents of the trunk's features, is linear: whatever a linear layer can
    predict from the latents, it can predict from the features.
    """

    def __init__(self, network: ScatterVAE, n_labels: int, n_blocks: int = 0) -> None:
        super().__init__()
        self.sees_errors = network.sees_errors
        self.n_blocks = n_blocks
        self.trunk = copy.deepcopy(network.encoder[:-1]).cpu()
        width = network.shape.hidden[-1]
        blocks = [ResidualBlock(width) for _ in range(n_blocks)]
        self.blocks = nn.Sequential(*blocks, *([nn.LayerNorm(width)] if blocks else []))
        self.last = nn.Linear(width, 2 * n_labels)
        for weights in self.last.parameters():
            nn.init.zeros_(weights)

    def forward(self, x: Coeffs, errors: Coeffs) -> ScaledLabels:
        """Scaled labels of these stars; `x` is 0 and the error infinite where a coefficient is missing."""
        features = self.trunk(with_errors(x, errors) if self.sees_errors else x)
        mean, log_variance = self.last(self.blocks(features)).chunk(2, dim=-1)
        return ScaledLabels(mean, log_variance.clamp(*_LOG_VARIANCE_LIMITS).exp())


@torch.no_grad()
def predict(network: LabelNetwork, x: Coeffs, errors: Coeffs, *, batch: int = 4096) -> ScaledLabels:
    """Scaled labels of any number of stars, in batches."""
    batches = zip(torch.split(x, batch), torch.split(errors, batch), strict=True)
    mean, variance = zip(*(network(*stars) for stars in batches), strict=True)
    return ScaledLabels(torch.cat(mean), torch.cat(variance))
