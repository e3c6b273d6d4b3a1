"""What is measured of a star to compare it with others: where it lies in the latents, and how well it is decoded."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64

from scattervae.arrays import StarArray
from scattervae.gaia.basis import g_mag_of, is_known
from scattervae.gaia.flux import design
from scattervae.model.checkpoint import Checkpoint, Prediction
from scattervae.spectra.columns import StoredSpectra
from scattervae.spectra.normalization import Inputs
from scattervae.spectra.spectra import Spectra
from scattervae.spectra.star_tables import StarTable


@dataclass(frozen=True)
class StarParts(StarTable):
    """What the parts of some stars are computed from; stars that cannot be encoded are left out."""

    g_mag: StarArray  # G magnitude [mag]
    latents: Float64[np.ndarray, "star latent"]  # posterior means
    sd: Float64[np.ndarray, "star latent"]  # their posterior standard deviations
    # log10 of the reduced chi^2 with errors alone, of that with scatter, of the largest squared normalised residual,
    # of the scatter over errors; and the likelihood [nat per coefficient, over that of a perfect fit without scatter]
    fits: Float64[np.ndarray, "star fit"]
    worst: np.ndarray  # index of the coefficient with the largest residual
    worst_sigma: StarArray  # that residual, in units of error and scatter in quadrature
    worst_nm: (
        StarArray  # where the flux differs most from the decoded one, in units of its error and scatter [nm]
    )

    @staticmethod
    def of(model: Checkpoint, chunks: Iterable[Spectra]) -> "StarParts":
        """The parts of all stars of these chunks.

        Raises:
            DataError: The stars are of another basis than the model's.
        """
        rows = [
            StarParts.of_batch(
                model, batch.spectra, batch.inputs, Prediction(batch.posterior, batch.reconstruction)
            )
            for batch in model.encode_batches(chunks, quick=True)
        ]
        if not rows:
            none, no_star = np.empty((0, model.n_latent)), np.empty(0)
            return StarParts(
                no_star.astype(np.int64),
                no_star,
                none,
                none,
                np.empty((0, 5)),
                no_star.astype(int),
                *[no_star] * 2,
            )
        return StarParts.concatenate(rows)

    @staticmethod
    def of_batch(
        model: Checkpoint, stars: Spectra | StoredSpectra, inputs: Inputs, predicted: Prediction
    ) -> "StarParts":
        """The parts of stars that were encoded together."""
        posterior = predicted.posterior.each(lambda values: values.cpu())
        keep = torch.isfinite(posterior.mean[:, 0])
        encoded = keep.numpy()
        x, errors, mean, scatter = (
            values.cpu()[keep].double() for values in (inputs.x, inputs.errors, *predicted.reconstruction)
        )
        known = torch.isfinite(errors)
        n_known = known.sum(dim=1)
        residual = torch.where(known, x - mean, 0.0)
        error2 = torch.where(known, errors.square(), 1.0)
        variance = error2 + scatter.square()
        chi2 = residual.square() / variance

        def averaged(values: torch.Tensor) -> torch.Tensor:
            return torch.where(known, values, 0.0).sum(dim=1) / n_known

        fits = torch.stack(
            [
                averaged(residual.square() / error2).log10(),
                averaged(chi2).log10(),
                chi2.amax(dim=1).log10(),
                averaged(scatter.square() / error2).log10() / 2,
                averaged(chi2 + (variance / error2).log()) / 2,
            ],
            dim=1,
        )
        worst = chi2.argmax(dim=1)
        rows = torch.arange(len(worst))
        return StarParts(
            source_id=stars.source_id[encoded],
            g_mag=np.asarray(g_mag_of(stars.g_flux[encoded])),
            latents=posterior.mean[keep].double().numpy(),
            sd=posterior.sd[keep].double().numpy(),
            fits=fits.numpy(),
            worst=model.normalization.columns[worst.numpy()],
            worst_sigma=(residual[rows, worst] / variance[rows, worst].sqrt()).numpy(),
            worst_nm=_worst_wavelength(model, residual.numpy(), variance.numpy()),
        )


@dataclass(frozen=True)
class Features(StarTable):
    """What stars are compared by; stars that cannot be encoded are left out."""

    g_mag: StarArray  # G magnitude [mag]
    latents: Float64[np.ndarray, "star latent"]  # posterior means
    covariance: Float64[np.ndarray, "star latent latent"]  # of the posteriors
    # what is left of each coefficient, over error and scatter in quadrature; 0 where it is missing
    residuals: Float64[np.ndarray, "star coeff"]

    @staticmethod
    def of(model: Checkpoint, chunks: Iterable[Spectra]) -> "Iterator[Features]":
        """The features of these stars, batch by batch.

        Raises:
            DataError: They are of another basis than the model's.
        """
        for encoded in model.encode_batches(chunks):
            inputs, posterior, made = encoded.inputs, encoded.posterior, encoded.reconstruction
            keep = torch.isfinite(posterior.mean[:, 0])
            sd = torch.hypot(inputs.errors, made.scatter)
            residuals = torch.where(torch.isfinite(inputs.errors), (inputs.x - made.mean) / sd, 0.0)
            spectra = encoded.spectra.take(keep.numpy())
            yield Features(
                spectra.source_id,
                np.asarray(g_mag_of(spectra.g_flux)),
                *(
                    values[keep].double().numpy()
                    for values in (posterior.mean, posterior.covariance, residuals)
                ),
            )


def _worst_wavelength(
    model: Checkpoint, residual: Float[np.ndarray, "star coeff"], variance: Float[np.ndarray, "star coeff"]
) -> StarArray:
    """Where the residual's flux is largest in units of its standard deviation [nm]; NaN for an unknown basis."""
    normalization = model.normalization
    if not is_known(normalization.basis):
        return np.full(len(residual), np.nan)
    grid = design(normalization.basis)
    matrix = grid.matrix[:, normalization.columns] * normalization.std
    flux, sd = residual @ matrix.T, np.sqrt(variance @ np.square(matrix).T)
    worst: StarArray = grid.grid_nm[np.argmax(np.abs(flux) / sd, axis=1)]
    return worst


def counting(chunks: Iterable[Spectra], progress: Callable[[int], None]) -> Iterator[Spectra]:
    """The same chunks; `progress` is called after each with its number of stars."""
    for chunk in chunks:
        yield chunk
        progress(len(chunk))
