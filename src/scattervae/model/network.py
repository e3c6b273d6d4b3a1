"""The scatter VAE: an encoder, two decoders of plain or residual layers, and how likely stars are under both.

Laroche & Speagle (2023), sect. 2.2 and fig. 1.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int64
from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator
from torch import Tensor, nn

from scattervae.arrays import Coeffs, Latents, PerStar
from scattervae.settings import Settings

LARGEST_ERROR = 1e3  # training standard deviations; nothing is known of a coefficient with such an error
SMALLEST_ERROR = 1e-6
FEATURES_A_COEFF = 3
ACTIVE_ABOVE_NATS = 0.1
Coupling = Float[Tensor, "star latent latent"]


class Posterior(NamedTuple):
    r"""A Gaussian over the latents of each star.

    .. math:: z = \mu + (1 + C)\, \mathrm{diag}(s)\, \epsilon, \qquad \epsilon \sim N(0, 1)

    With C strictly lower triangular every covariance can be written so, and its determinant is that of
    diag(s^2). The paper's posterior is independent: it has no C.

    Source:
        Laroche & Speagle (2023), sect. 2.2, for the independent one; Kingma & Welling (2019), sect. 2.5.1, for a
        full covariance.
    """

    mean: Latents  # :math:`\mu`
    log_variance: Latents  # :math:`\ln s^2`, the variance of a latent given those before it
    coupling: Coupling | None = None  # C; None where the latents are independent

    @classmethod
    def of_root(cls, mean: Latents, root: Coupling) -> "Posterior":
        """The Gaussian of this mean whose covariance is L L^T, with L lower triangular."""
        sd = root.diagonal(dim1=1, dim2=2)
        coupling = (root / sd[:, None, :]).tril(-1)
        return cls(mean, 2.0 * sd.log().to(mean), coupling.to(mean))

    @property
    def noise_sd(self) -> Latents:
        """Standard deviation s of each latent's own noise."""
        return (0.5 * self.log_variance).exp()

    @property
    def sd(self) -> Latents:
        """Standard deviation of each latent, whatever the others are."""
        return self.noise_sd if self.coupling is None else self.variance.sqrt()

    @property
    def variance(self) -> Latents:
        """Variance of each latent, whatever the others are."""
        own = self.log_variance.exp()
        if self.coupling is None:
            return own
        return own + (self.coupling.square() * own[:, None, :]).sum(dim=-1)

    @property
    def root(self) -> Coupling:
        """The lower triangular L = (1 + C) diag(s) of the covariance L L^T."""
        diagonal = self.noise_sd.diag_embed()
        return diagonal if self.coupling is None else diagonal + self.coupling * self.noise_sd[:, None, :]

    @property
    def covariance(self) -> Coupling:
        """Covariance of the latents of each star."""
        return self.root @ self.root.mT

    def at(self, noise: Latents) -> Latents:
        """The draw that standard normal noise gives (Kingma & Welling 2013, sect. 2.4)."""
        if self.coupling is None:
            return self.mean + self.noise_sd * noise
        scaled = self.noise_sd * noise
        return self.mean + scaled + torch.bmm(self.coupling, scaled[:, :, None])[:, :, 0]

    def sample(self, generator: torch.Generator) -> Latents:
        """One draw a star."""
        noise = torch.randn(self.mean.shape, generator=generator, dtype=self.mean.dtype)
        return self.at(noise.to(self.mean.device))

    def log_density(self, z: Latents) -> Float[Tensor, " star"]:
        r"""Natural logarithm of the density at one latent vector a star, :math:`\ln 2\pi` included."""
        scaled = z - self.mean
        if self.coupling is not None:
            scaled = torch.linalg.solve_triangular(self.root, scaled[:, :, None], upper=False)[:, :, 0]
        else:
            scaled = scaled / self.noise_sd
        constant = self.mean.shape[1] * math.log(2.0 * math.pi)
        return -0.5 * (scaled.square().sum(dim=-1) + self.log_variance.sum(dim=-1) + constant)

    def kl(self) -> Latents:
        r"""Kullback-Leibler divergence from the standard normal prior in nats, latent by latent.

        .. math:: \tfrac12 \left[ \mu_k^2 + \Sigma_{kk} - 1 - \ln s_k^2 \right]

        The sum over latents is the divergence of the whole Gaussian, correlated or not.

        Source:
            Laroche & Speagle (2023), eq. 5, before the mean over latents.
        """
        return 0.5 * (self.mean.square() + self.variance - 1.0 - self.log_variance)

    def kl_per_latent(self) -> list[float]:
        """Divergence of each latent in nats, averaged over the stars that could be encoded."""
        kl: list[float] = self.kl().double().nanmean(dim=0).tolist()
        return kl

    def active_latents(self) -> list[int]:
        """The latents that carry information, counted from 0: a mean divergence above 0.1 nats, the largest first."""
        kl = self.kl_per_latent()
        return sorted((k for k in range(len(kl)) if kl[k] > ACTIVE_ABOVE_NATS), key=lambda k: -kl[k])

    def each(self, change: Callable[[Tensor], Tensor]) -> "Posterior":
        """The same change made to mean, log variance and coupling: rows taken, a device, a type."""
        coupling = None if self.coupling is None else change(self.coupling)
        return Posterior(change(self.mean), change(self.log_variance), coupling)

    @staticmethod
    def concatenate(parts: "Sequence[Posterior]") -> "Posterior":
        """The stars of all parts in order; at least one part, all correlated or none."""
        couplings = [part.coupling for part in parts if part.coupling is not None]
        return Posterior(
            torch.cat([part.mean for part in parts]),
            torch.cat([part.log_variance for part in parts]),
            torch.cat(couplings) if couplings else None,
        )


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


class GaussianTerms(NamedTuple):
    r"""The parts of each star's likelihood under independent Gaussians; what is missing adds nothing to any of them."""

    chi2: PerStar  # :math:`\sum_i (x_i - m_i)^2 / v_i`
    log_det: PerStar  # :math:`\sum_i \ln v_i`
    n_known: Int64[Tensor, " star"]  # how many coefficients are not missing
    log_variance: Coeffs  # :math:`\ln v_i` of each coefficient; 0 where missing

    @property
    def nll(self) -> PerStar:
        r"""Negative log-likelihood of each star; :math:`\tfrac12 N \ln 2\pi` is left out."""
        return 0.5 * (self.chi2 + self.log_det)


def gaussian_terms(
    x: Coeffs, mean: Coeffs, variance: Coeffs, *, dtype: torch.dtype | None = None
) -> GaussianTerms:
    """Chi^2 and log determinant of each star.

    Args:
        x: Observed coefficients; any number where missing.
        mean: Predicted coefficients, same units.
        variance: Of error and scatter together, same units squared; above 0, infinite where a coefficient is missing.
        dtype: What sums over coefficients are computed in; that of the arguments where None.

    Source:
        Laroche & Speagle (2023), eqs. 3 and 4, as sums over coefficients.
    """
    chi2 = (x - mean).square_().div_(variance).sum(dim=-1, dtype=dtype)
    log_variance = variance.log()
    log_det = log_variance.sum(dim=-1, dtype=dtype)
    n_known = torch.full_like(log_det, x.shape[-1], dtype=torch.int64)
    if log_det.isinf().any():
        missing = variance.isinf()
        log_variance = log_variance.masked_fill(missing, 0.0)
        log_det, n_known = log_variance.sum(dim=-1, dtype=dtype), (~missing).sum(dim=-1)
    return GaussianTerms(chi2, log_det, n_known, log_variance)
