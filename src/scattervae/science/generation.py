"""Spectra and scatter from anywhere in the latent space: the prior, the survey, a star, between two stars.

Laroche & Speagle (2023), sect. 2.2: after training, coefficients and scatter come from an arbitrary latent
vector.
"""

import json
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor

from scattervae.arrays import CoeffArray, Latents, StarArray
from scattervae.errors import DataError
from scattervae.gaia.basis import SampledFlux, flux_from_coeffs
from scattervae.model.checkpoint import Checkpoint
from scattervae.model.flow import LatentFlow
from scattervae.model.posterior import Posterior
from scattervae.provenance import software_versions
from scattervae.seeds import stream
from scattervae.spectra.columns import described, list_array
from scattervae.spectra.spectra import Basis


@dataclass(frozen=True)
class GeneratedSpectra:
    """Spectra that a model made, in archive units."""

    z: Latents  # the latent vectors they were made from
    coeffs: CoeffArray  # coefficients, BP then RP [electron/s in the basis]
    scatter: CoeffArray  # intrinsic scatter of each, one standard deviation, same units
    g_flux: StarArray  # the G flux they were scaled to [electron/s]
    basis: Basis  # sizes and ids of the coefficients

    def __len__(self) -> int:
        return len(self.g_flux)


def from_prior(checkpoint: Checkpoint, n: int, *, seed: int = 0) -> Latents:
    """Latent vectors drawn from the standard normal prior."""
    return torch.randn(n, checkpoint.n_latent, generator=stream(seed, "prior"))


def from_flow(flow: LatentFlow, n: int, *, seed: int = 0) -> Latents:
    """Latent vectors drawn from a flow fitted to a survey: as its stars lie, yet none of them."""
    return flow.sample(n, stream(seed, "flow"))


def from_aggregate(posterior: Posterior, n: int, *, seed: int = 0) -> Latents:
    """Latent vectors drawn from the mixture of these stars' posteriors.

    Of a survey's stars: spectra as the survey has them. Of one star: what it could be, given its spectrum.

    Raises:
        DataError: None of the stars could be encoded.
    """
    encoded = posterior.mean.isfinite().all(dim=1).nonzero()[:, 0]
    if len(encoded) == 0:
        raise DataError("none of the stars could be encoded: there is no aggregate posterior to draw from")
    generator = stream(seed, "aggregate")
    rows = encoded[torch.randint(len(encoded), (n,), generator=generator)]
    return posterior.each(lambda values: values[rows]).sample(generator)


def between(
    start: Float[Tensor, "1 latent"], end: Float[Tensor, "1 latent"], n: int
) -> Float[Tensor, "step latent"]:
    """`n` latent vectors in equal steps along the straight line between two, both ends included.

    Args:
        start: One latent vector.
        end: The other.
        n: How many, 2 or more.
    """
    steps = torch.linspace(0.0, 1.0, n)[:, None]
    return start + steps * (end - start)


def generate(
    checkpoint: Checkpoint, z: Latents, g_flux: StarArray, *, noise_seed: int | None = None
) -> GeneratedSpectra:
    """Coefficients and scatter at these latent vectors, for stars of this G flux.

    Args:
        checkpoint: The model.
        z: One latent vector a spectrum.
        g_flux: The G flux to scale each to [electron/s].
        noise_seed: Add a draw of the intrinsic scatter to the coefficients; the mean spectrum where None.

    Source:
        Laroche & Speagle (2023), sect. 2.2 and fig. 1 (teal).
    """
    normalization = checkpoint.normalization
    mean, scatter = checkpoint.reconstruct(z)
    if noise_seed is not None:
        mean = mean + scatter * torch.randn(mean.shape, generator=stream(noise_seed, "scatter"))
    n_all = normalization.basis.n_coeffs
    coeffs, widths = np.zeros((len(z), n_all)), np.zeros((len(z), n_all))
    coeffs[:, normalization.columns] = normalization.invert(mean, g_flux)
    widths[:, normalization.columns] = normalization.invert_errors(scatter, g_flux)
    return GeneratedSpectra(z=z, coeffs=coeffs, scatter=widths, g_flux=g_flux, basis=normalization.basis)


def flux_of(spectra: GeneratedSpectra) -> SampledFlux:
    """Generated spectra on Gaia's wavelength grid; errors are what the scatter, taken as independent, gives the flux.

    Raises:
        DataError: The basis is not one that GaiaXPy knows.
    """
    return flux_from_coeffs(spectra.coeffs, spectra.scatter, spectra.basis)


def generated_table(
    checkpoint: Checkpoint, spectra: GeneratedSpectra, flux: SampledFlux | None = None
) -> pa.Table:
    """Generated spectra as a table by the archive's column names, with units and descriptions.

    Args:
        checkpoint: The model that made them, named in the table's metadata.
        spectra: The spectra.
        flux: The same on a wavelength grid, where wanted.
    """

    def lists(name: str, unit: str, text: str, values: np.ndarray) -> tuple[pa.Field, pa.Array]:
        return described(name, pa.list_(pa.float32()), unit, text), list_array(values)

    text = "G flux the spectrum is scaled to"
    g_flux = described("phot_g_mean_flux", pa.float64(), "electron/s", text), pa.array(spectra.g_flux)
    columns = [lists("latent", "", "latent vector", spectra.z.numpy()), g_flux]
    for band, where in (("bp", spectra.basis.bp), ("rp", spectra.basis.rp)):
        for name, text, values in (
            ("coefficients", "generated coefficients", spectra.coeffs),
            ("coefficient_scatter", "intrinsic scatter (one sigma) of the coefficients", spectra.scatter),
        ):
            about = f"{band.upper()}: {text}"
            columns.append(lists(f"{band}_{name}", "electron/s in the basis", about, values[:, where]))
    notes = {"model": checkpoint.digest, "recipe": checkpoint.recipe.name, "versions": software_versions()}
    if flux is not None:
        unit, text = "W m^-2 nm^-1", "one sigma of intrinsic scatter"
        columns.append(lists("flux", unit, "generated flux", flux.flux))
        columns.append(lists("flux_scatter", unit, text, flux.errors))
        notes["wavelength_nm"] = flux.grid_nm.tolist()
    schema = pa.schema([f for f, _ in columns], metadata={"scattervae.generated": json.dumps(notes)})
    return pa.table([values for _, values in columns], schema=schema)
