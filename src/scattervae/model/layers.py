"""What the networks are made of: the paper's plain layers, and residual ones; and what an encoder is fed."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from scattervae.arrays import Coeffs

LARGEST_ERROR = 1e3  # training standard deviations; nothing is known of a coefficient with such an error
SMALLEST_ERROR = 1e-6
FEATURES_A_COEFF = 3


class ResidualBlock(nn.Module):
    """A layer-normalised two-layer network, added to what it was given.

    Source:
        He et al. (2016), arXiv:1603.05027, with the normalisation first; Ba et al. (2016), arXiv:1607.06450.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)
        )

    def forward(self, h: Float[Tensor, "star width"]) -> Float[Tensor, "star width"]:
        """The sum of both."""
        return h + self.layers(h)  # type: ignore[no-any-return]


def plain_layers(n_in: int, hidden: Sequence[int], n_out: int) -> nn.Sequential:
    """Linear layers with a GELU after each but the last (Laroche & Speagle 2023, fig. 1)."""
    layers: list[nn.Module] = []
    for before, after in pairwise([n_in, *hidden, n_out]):
        layers += [nn.Linear(before, after), nn.GELU()]
    return nn.Sequential(*layers[:-1])


def residual_layers(n_in: int, hidden: Sequence[int], n_out: int) -> nn.Sequential:
    """A linear layer, a residual block for each hidden width (all the same), a normalised linear layer."""
    width = hidden[0]
    blocks = [ResidualBlock(width) for _ in hidden]
    return nn.Sequential(nn.Linear(n_in, width), *blocks, nn.LayerNorm(width), nn.Linear(width, n_out))


def inner_matrices(*modules: nn.Module) -> list[nn.Parameter]:
    """The weights of all linear layers but the first of a network, whose parts are given in order.

    Muon is made for matrices that read many like numbers; first layers read data, or the latents.
    """
    linear = [layer for module in modules for layer in module.modules() if isinstance(layer, nn.Linear)]
    return [layer.get_parameter("weight") for layer in linear[1:]]


def with_errors(x: Coeffs, errors: Coeffs) -> Float[Tensor, "star feature"]:
    r"""Coefficients beside their errors, as an encoder sees both.

    .. math:: \frac{x}{1 + \sigma}, \quad \tfrac13 \sinh^{-1} 3x, \quad \ln\sigma

    The first shrinks what is noise, the second tames coefficients that lie a hundred standard deviations out, the
    third says how far to trust them. A missing coefficient has x = 0 and an infinite error, seen as 0, 0 and
    the logarithm of the largest error.
    """
    log_errors = errors.clamp(SMALLEST_ERROR, LARGEST_ERROR).log()
    return torch.cat([x / (1.0 + errors), torch.asinh(3.0 * x) / 3.0, log_errors], dim=-1)
