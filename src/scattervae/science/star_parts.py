"""What is measured of a star to compare it with others: where it lies in the latents, and how well it is decoded."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Float64
from scipy.spatial import KDTree
from torch import nn

from scattervae.arrays import StarArray
from scattervae.errors import DataError
from scattervae.gaia.basis import g_mag_of, is_known
from scattervae.gaia.flux import design
from scattervae.gaia.reading import load_chunks
from scattervae.model.checkpoint import Checkpoint, Prediction
from scattervae.science.calibration.calibrated import CalibratedModel
from scattervae.seeds import stream
from scattervae.spectra.columns import StoredSpectra
from scattervae.spectra.hats import HatsFolder, open_parquet, read_groups
from scattervae.spectra.normalization import Inputs
from scattervae.spectra.spectra import Spectra
from scattervae.spectra.star_tables import StarTable
from scattervae.spectra.tables import CATALOGUE_NOTE, notes_at

CATALOGUE_COLUMNS = {
    "g_mag": ("mag", "G magnitude"),
    "worst_residual": ("", "largest residual, over error and scatter in quadrature"),
    "scatter_over_error": ("", "root mean square of scatter over error"),
    "likelihood_loss": (
        "nat",
        "minus log-likelihood of a coefficient, over that of a perfect fit without scatter",
    ),
    "components_chi2": (
        "",
        "mean squared residual to the principal components of the model's spectra, over error and 0.1 training "
        "standard deviations in quadrature",
    ),
}
"""Unit and description of what a catalogue has beside its other columns so that its stars can be a reference."""
Source = str | Path | Spectra | Iterable[Spectra]
_DRAWS = 4096  # of the prior, whose decoded spectra the components are of
_MOST_COMPONENTS = 10
_SCALED, _NEAREST, _CANDIDATES = 10, 5, 64  # stars whose distances are averaged, or looked at for the former
_LEAST_SPREAD = 0.1  # of a latent that no star uses
_FLOOR = 0.1  # training standard deviations within which a sum of components is near enough


@dataclass(frozen=True)
class StarParts(StarTable):
    """What the parts of some stars are computed from; stars that cannot be encoded are left out."""

    g_mag: StarArray  # G magnitude [mag]
    latents: Float64[np.ndarray, "star latent"]  # posterior means
    sd: Float64[np.ndarray, "star latent"]  # their posterior standard deviations
    # log10 of the reduced chi^2 with errors alone, of that with scatter, of the largest squared normalised residual,
    # of the scatter over errors; the likelihood [nat per coefficient, over that of a perfect fit without scatter];
    # and log10 of the reduced chi^2 of the `PrincipalComponents`
    fits: Float64[np.ndarray, "star fit"]
    worst: np.ndarray  # index of the coefficient with the largest residual
    worst_sigma: StarArray  # that residual, in units of error and scatter in quadrature
    # where the flux differs most from the decoded one, in units of its error and scatter [nm]
    worst_nm: StarArray

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
                np.empty((0, 6)),
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

        components_chi2 = averaged(_components_chi2(model, torch.where(known, x, mean), error2))
        components_chi2 = components_chi2.float().double()  # the last digits of a product depend on its rows
        fits = torch.stack(
            [
                averaged(residual.square() / error2).log10(),
                averaged(chi2).log10(),
                chi2.amax(dim=1).log10(),
                averaged(scatter.square() / error2).log10() / 2,
                averaged(chi2 + (variance / error2).log()) / 2,
                components_chi2.log10(),
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

    def catalogue_columns(self) -> dict[str, StarArray]:
        """What a catalogue says of these stars in `CATALOGUE_COLUMNS`."""
        own = self.g_mag, self.worst_sigma, 10.0 ** self.fits[:, 3], self.fits[:, 4], 10.0 ** self.fits[:, 5]
        return dict(zip(CATALOGUE_COLUMNS, own, strict=True))

    @staticmethod
    def of_ordinary(
        model: Checkpoint, stars: "Source", *, progress: Callable[[int], None] = lambda _: None
    ) -> "StarParts":
        """The parts of stars that are given as spectra, or as the catalogue that this model made of them.

        Raises:
            DataError: The spectra are of another basis than the model's, or the catalogue is of another model.
        """
        if isinstance(stars, str | Path) and CATALOGUE_NOTE in notes_at(Path(stars)):
            return StarParts.of_catalogue(model, Path(stars))
        return StarParts.of(model, counting(source_chunks(model, stars), progress))

    @staticmethod
    def of_catalogue(model: Checkpoint, path: Path) -> "StarParts":
        """The encoded stars of a catalogue; where their residuals are largest is not known.

        Raises:
            DataError: It is of another model, or lacks a column.
        """
        made_with = notes_at(path).get(CATALOGUE_NOTE, {}).get("model")
        if made_with != model.digest:
            raise DataError(
                f"{path}: a catalogue of model {made_with}, this one is {model.digest}; encode it again with "
                "this model, or give the spectra"
            )
        numbers = range(1, model.n_latent + 1)
        latents = [[f"latent_{k}_{what}" for k in numbers] for what in ("mean", "sd")]
        chi2_columns = "reduced_chi2_without_scatter", "reduced_chi2"
        wanted = ["source_id", *chi2_columns, *CATALOGUE_COLUMNS, *latents[0], *latents[1]]
        table = _catalogue(path, wanted)
        columns = {name: table[name].to_numpy() for name in table.column_names}
        encoded = np.isfinite(columns["latent_1_mean"])
        value = {name: column[encoded].astype(np.float64) for name, column in columns.items()}
        residual = value["worst_residual"]
        fits = [*(value[name] for name in chi2_columns), np.square(residual), value["scatter_over_error"]]
        mean, sd = (np.stack([value[name] for name in names], axis=1) for names in latents)
        unknown = np.full(len(residual), np.nan)
        components = np.log10(value["components_chi2"])
        return StarParts(
            columns["source_id"][encoded],
            value["g_mag"],
            mean,
            sd,
            np.column_stack([*np.log10(fits), value["likelihood_loss"], components]),
            np.full(len(residual), -1),
            residual,
            unknown,
        )


class PrincipalComponents(NamedTuple):
    """The first ten of the spectra that a model decodes from its prior, or half as many as there are coefficients.

    Stars that a model follows outside what it has learnt, by a larger scatter, are seldom sums of them.
    """

    centre: Float64[np.ndarray, " coeff"]
    axes: Float64[np.ndarray, "component coeff"]

    @staticmethod
    def of(model: Checkpoint) -> "PrincipalComponents":
        """Those of this model."""
        draws = torch.randn(_DRAWS, model.n_latent, generator=stream(0, "principal components"))
        decoded = model.reconstruct(draws).mean.double().numpy()
        centre = decoded.mean(axis=0)
        axes = np.linalg.svd(decoded - centre, full_matrices=False)[2]
        return PrincipalComponents(centre, axes[: min(_MOST_COMPONENTS, decoded.shape[1] // 2)])


_COMPONENTS: WeakKeyDictionary[nn.Module, PrincipalComponents] = WeakKeyDictionary()


def _components_chi2(model: Checkpoint, x: torch.Tensor, error2: torch.Tensor) -> torch.Tensor:
    """Squared residual of each coefficient to the model's components, over error and floor in quadrature."""
    if model.network not in _COMPONENTS:
        _COMPONENTS[model.network] = PrincipalComponents.of(model)
    centre, axes = map(torch.from_numpy, _COMPONENTS[model.network])
    off = x - centre
    left: torch.Tensor = off - off @ axes.T @ axes
    return left.square() / (error2 + _FLOOR**2)


def _catalogue(path: Path, names: list[str]) -> pa.Table:
    """These columns of all rows."""
    folder = HatsFolder.read(path) if path.is_dir() else None
    files = [path] if folder is None else [f for p in folder.partitions for f in folder.files_of(p)]
    tables = []
    for one in files:
        with open_parquet(one) as file:
            if lacking := [name for name in names if name not in file.schema_arrow.names]:
                raise DataError(
                    f"{path}: lacks {', '.join(lacking)}, which `encode` writes where the model's folder has ordinary "
                    "stars; give the spectra"
                )
            tables.append(read_groups(file, names))
    return pa.concat_tables(tables)


class Neighbours(NamedTuple):
    """Where some stars lie in the latents, to find those nearest to others."""

    stars: StarParts
    tree: KDTree  # of the latents
    whitening: Float64[np.ndarray, "latent latent"]  # makes their spread one in every direction
    whitened: KDTree  # of the latents times it

    @staticmethod
    def of(stars: StarParts) -> "Neighbours":
        """Those that these stars are to others, and each to the others among them."""
        spread = np.atleast_2d(np.cov(stars.latents.T)) + _LEAST_SPREAD**2 * np.eye(stars.latents.shape[1])
        whitening = np.linalg.cholesky(np.linalg.inv(spread))
        return Neighbours(stars, KDTree(stars.latents), whitening, KDTree(stars.latents @ whitening))

    def distances(self, stars: StarParts) -> Float64[np.ndarray, "star 3"]:
        """log10 of mean distances to the nearest of them: in units of both stars' widths, in latents, whitened."""
        n, known = min(_CANDIDATES + 1, len(self.stars)), self.stars
        distances = np.empty((len(stars), 3))
        for start in range(0, len(stars), 10_000):
            rows = slice(start, start + 10_000)
            own, latents = stars.source_id[rows, None], stars.latents[rows]
            plain, near = self.tree.query(latents, k=n)
            other = known.source_id[near] != own
            squares = (latents[:, None] - known.latents[near]) ** 2
            widths = stars.sd[rows, None] ** 2 + known.sd[near] ** 2
            scaled = np.where(other, np.sqrt((squares / widths).mean(axis=2)), np.inf)
            whitened, at = self.whitened.query(latents @ self.whitening, k=min(_NEAREST + 1, n))
            whitened = whitened.astype(np.float32)  # of a product, whose last digits depend on its rows
            plain = np.where(other, plain, np.inf)
            whitened = np.where(known.source_id[at] != own, whitened, np.inf)
            for column, (values, k) in enumerate(
                ((scaled, _SCALED), (plain, _NEAREST), (whitened, _NEAREST))
            ):
                distances[rows, column] = np.sort(values, axis=1)[:, :k].mean(axis=1)
        return np.log10(np.maximum(distances, 1e-6))


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
        """The features of these stars, batch by batch, by the encoder's own answers.

        A refined posterior takes up what the model does not reproduce, by which stars like the examples are found.

        Raises:
            DataError: They are of another basis than the model's.
        """
        if isinstance(model, CalibratedModel):
            model = replace(model, refined=None)
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


def source_chunks(model: Checkpoint, stars: Source) -> Iterable[Spectra]:
    """The stars of a store or file, or that are given, in chunks."""
    if isinstance(stars, str | Path):
        return load_chunks(stars, basis=model.normalization.basis)
    return [stars] if isinstance(stars, Spectra) else stars


def counting(chunks: Iterable[Spectra], progress: Callable[[int], None]) -> Iterator[Spectra]:
    """The same chunks; `progress` is called after each with its number of stars."""
    for chunk in chunks:
        yield chunk
        progress(len(chunk))
