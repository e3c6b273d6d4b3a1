"""The scatter VAE: an encoder, and two decoders that read the same latent vector, of plain layers or residual ones.

Laroche & Speagle (2023), sect. 2.2 and fig. 1.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator
from torch import Tensor, nn

from scattervae.arrays import Coeffs, Latents
from scattervae.model.posterior import Posterior
from scattervae.settings import Settings

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


class NetworkShape(Settings):
    """Shape of the scatter VAE; the defaults are the paper's where it says, ours where it does not."""

    n_latent: PositiveInt = 6  # dimensions of the latent space
    # widths of the encoder's hidden layers; decoder and scatter estimator run them backwards. With residual
    # layers, one width a block and all the same.
    hidden: tuple[PositiveInt, ...] = Field(default=(80, 50, 30), min_length=1, max_length=1000)
    # ``plain`` (paper), or ``residual``: blocks with layer normalisation, added to what they are given
    layers: Literal["plain", "residual"] = "plain"
    # ``coefficients`` alone (paper), or their ``errors`` too, which separates a faint star from an odd one
    # and a missing coefficient from a mean one
    encoder_sees: Literal["coefficients", "errors"] = "coefficients"
    # ``independent`` latents (paper), or ``correlated`` ones
    posterior: Literal["independent", "correlated"] = "independent"
    # what makes the scatter positive; the paper leaves it open. Softplus grows linearly, so an outlier pulls
    # on the weights in proportion; exp can overflow early in training; sigmoid caps the scatter at one
    # training standard deviation.
    scatter_link: Literal["softplus", "exp", "sigmoid"] = "softplus"
    # smallest scatter, in training standard deviations; keeps the likelihood of a coefficient with a tiny
    # error finite
    scatter_floor: PositiveFloat = 1e-4
    # the latent log variance is held inside these; outside, exp() leaves float32's comfortable range and one
    # star can undo an epoch
    log_variance_limits: tuple[float, float] = (-12.0, 6.0)

    @field_validator("log_variance_limits")
    @classmethod
    def _rising(cls, limits: tuple[float, float]) -> tuple[float, float]:
        if limits[0] >= limits[1]:
            raise ValueError("the first limit must lie below the second")
        return limits

    @model_validator(mode="after")
    def _one_width(self) -> "NetworkShape":
        if self.layers == "residual" and len(set(self.hidden)) > 1:
            raise ValueError(f"residual layers add up, so their widths are all the same, not {self.hidden}")
        return self

    @property
    def n_couplings(self) -> int:
        """How many numbers couple the latents of a star."""
        return self.n_latent * (self.n_latent - 1) // 2 if self.posterior == "correlated" else 0


class Reconstruction(NamedTuple):
    """Coefficients at a latent vector, and their scatter, in training standard deviations."""

    mean: Coeffs
    scatter: Coeffs

    def normalised_errors(self, x: Coeffs, errors: Coeffs) -> Coeffs:
        r"""Residuals over error and scatter in quadrature.

        .. math:: (x_i - \hat x_i) / \sqrt{\sigma_{x,i}^2 + \hat\sigma_{s,i}^2}

        Source:
            Laroche & Speagle (2023), sect. 3 and fig. 2.
        """
        return (x - self.mean) / (errors.square() + self.scatter.square()).sqrt()


class ScatterVAE(nn.Module):
    """Encoder, decoder and scatter estimator; 44,332 parameters with the paper's shape on 110 coefficients.

    Args:
        n_coeffs: Coefficients a star, BP and RP together.
        shape: Layers, latents and the link of the scatter.
    """

    def __init__(self, n_coeffs: int, shape: NetworkShape | None = None) -> None:
        super().__init__()
        self.n_coeffs = n_coeffs
        self.shape = shape or NetworkShape()
        backwards = self.shape.hidden[::-1]
        layers = plain_layers if self.shape.layers == "plain" else residual_layers
        n_seen = n_coeffs * (FEATURES_A_COEFF if self.sees_errors else 1)
        n_outputs = 2 * self.shape.n_latent + self.shape.n_couplings
        self.encoder = layers(n_seen, self.shape.hidden, n_outputs)
        self.decoder = layers(self.shape.n_latent, backwards, n_coeffs)
        self.scatter_estimator = layers(self.shape.n_latent, backwards, n_coeffs)
        if self.shape.layers == "residual":  # begin at the prior
            for weights in self.encoder[-1].parameters():
                nn.init.zeros_(weights)

    @property
    def sees_errors(self) -> bool:
        """True where the encoder is given the errors, and so can do with some coefficients missing."""
        return self.shape.encoder_sees == "errors"

    def encode(self, x: Coeffs, errors: Coeffs) -> Posterior:
        """The posterior over the latents of each star.

        Args:
            x: Coefficients, in training standard deviations; 0 where missing.
            errors: Their errors, same units; infinite where missing. The paper's encoder does not see them (its
                fig. 1).
        """
        n = self.shape.n_latent
        output = _through(self.encoder, with_errors(x, errors) if self.sees_errors else x)
        low, high = self.shape.log_variance_limits
        posterior = Posterior(output[:, :n], output[:, n : 2 * n].clamp(low, high))
        if self.shape.posterior == "independent":
            return posterior
        coupling = output.new_zeros(output.shape[0], n, n)  # of a tracer, any number of stars
        below = torch.tril_indices(n, n, offset=-1, device=output.device)
        coupling[:, below[0], below[1]] = output[:, 2 * n :]
        return posterior._replace(coupling=coupling)

    def decode(self, z: Latents) -> Reconstruction:
        """Coefficients and their intrinsic scatter at these latent vectors."""
        return Reconstruction(_through(self.decoder, z), self._positive(_through(self.scatter_estimator, z)))

    def _positive(self, raw: Tensor) -> Tensor:
        if self.shape.scatter_link == "softplus":
            positive = nn.functional.softplus(raw)
        elif self.shape.scatter_link == "exp":
            positive = raw.exp()
        else:
            positive = raw.sigmoid()
        return positive + self.shape.scatter_floor


def _through(layers: nn.Sequential, x: Tensor) -> Tensor:
    """What the layers make of `x`, on a CPU by oneDNN where no gradient is asked for.

    Its matrix products of this size take half the time of those that PyTorch takes by default; it knows no layer
    normalisation.
    """
    as_usual = torch.is_grad_enabled() or x.device.type != "cpu" or x.dtype != torch.float32 or len(x) == 0
    as_usual = as_usual or not all(isinstance(layer, nn.Linear | nn.GELU) for layer in layers)
    if as_usual or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return layers(x)  # type: ignore[no-any-return]
    return layers(x.to_mkldnn()).to_dense()  # type: ignore[no-any-return]
