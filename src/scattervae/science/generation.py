"""Spectra and scatter from anywhere in the latent space: the prior, the survey, a star, between two stars.

Laroche & Speagle (2023), sect. 2.2: after training, coefficients and scatter come from an arbitrary latent
vector.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Float64
from scipy.spatial import KDTree
from torch import Tensor

from scattervae.arrays import CoeffArray, LabelArray, Latents, StarArray, Wavelengths
from scattervae.display import Shown
from scattervae.errors import CheckpointError, DataError, counted
from scattervae.files import read_tensors, write_tensors
from scattervae.gaia.basis import g_mag_of
from scattervae.gaia.facts import DR3_BASIS
from scattervae.gaia.flux import SampledFlux, flux_from_coeffs, scale_to
from scattervae.gaia.transport import design_at
from scattervae.model.checkpoint import Checkpoint
from scattervae.model.flow import Context, FlowSettings, LatentFlow, Report, fit_to_posteriors
from scattervae.model.network import Posterior
from scattervae.science.calibration.calibrated import is_calibrated
from scattervae.science.labels.support import RELIABLE_ABOVE
from scattervae.science.labels.targets import LabelScales, TargetLabels
from scattervae.seeds import folds, numpy_stream, stream
from scattervae.spectra.spectra import Basis, Spectra
from scattervae.spectra.tables import result_table

GIVEN_LABELS = ("teff", "logg", "fe_h", "alpha_m")  # that `generate` takes
LABEL_FLOW = "label_flow.safetensors"
UNUSUAL_BELOW = RELIABLE_ABOVE
FITTED_STARS = 14_000
"""Labelled stars that `generate` fits a flow to: all 40,000 of the demo gain 0.3 nat a star in three times the time."""
EPOCHS = 60
_MOST_LABELLED, _MOST_WITH_ERRORS = 10_000, 500
_ARRAYS = ("labels", "g_mag", "latents", "log_errors")
_SHARE_UNKNOWN = 0.3  # of known labels that each epoch of fitting takes away
_NEIGHBOURS, _LIKE_MAG = 10, 0.5


@dataclass(frozen=True, repr=False)
class GeneratedSpectra(Shown):
    """Spectra that a model made, in archive units."""

    z: Latents  #: the latent vectors they were made from
    coeffs: CoeffArray  #: coefficients, BP then RP [electron/s in the basis]
    scatter: CoeffArray  #: intrinsic scatter of each, one standard deviation, same units
    g_flux: StarArray  #: the G flux they were scaled to [electron/s]
    basis: Basis  #: sizes and ids of the coefficients
    errors: CoeffArray | None = None  #: measurement errors of which a draw was added; None for none

    def __len__(self) -> int:
        return len(self.g_flux)

    def __repr__(self) -> str:
        return f"<{counted(len(self), 'generated spectrum', 'generated spectra')} of {self.basis}>"

    @property
    def coefficients(self) -> CoeffArray:
        """`coeffs` by the archive's word."""
        return self.coeffs

    def flux(self, grid_nm: Wavelengths | Sequence[float] | None = None) -> SampledFlux:
        """Flux and its scatter [W m^-2 nm^-1] on these wavelengths [nm]; on Gaia's 336 to 1020 nm where None.

        Raises:
            DataError: The basis is not one that GaiaXPy knows, or not that of DR3 where wavelengths are given; or
                wavelengths lie outside the instrument's.
        """
        if grid_nm is None:
            return flux_from_coeffs(self.coeffs, self.scatter, self.basis)
        if not DR3_BASIS.agrees_with(self.basis):
            raise DataError(f"{self.basis}: flux on any wavelengths is of {DR3_BASIS} alone; leave them out")
        grid = np.atleast_1d(np.asarray(grid_nm, dtype=np.float64))
        matrix = design_at(grid).matrix
        return SampledFlux(grid, self.coeffs @ matrix.T, np.sqrt(self.scatter**2 @ (matrix**2).T))


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


@dataclass(frozen=True)
class LabelFlow:
    """Where stars of given labels lie in the latents, learnt from labelled stars; any of the labels may be unknown."""

    flow: LatentFlow  # p(z | labels): of scaled labels, 0 where unknown, and whether each is known
    names: tuple[str, ...]  # the labels
    scales: LabelScales  # from their units to the flow's
    # scaled, of some of the stars it was fitted to, NaN where a star lacks one
    labels: Float64[np.ndarray, "labelled label"]
    g_mag: StarArray  # of stars whose errors are kept [mag]
    latents: Float64[np.ndarray, "star latent"]  # their posterior means
    log_errors: CoeffArray  # ln of the errors of their coefficients, over G flux

    @staticmethod
    def fit(
        model: Checkpoint,
        spectra: Spectra,
        labels: TargetLabels,
        settings: FlowSettings | None = None,
        *,
        progress: Report | None = None,
    ) -> "LabelFlow":
        """The flow of these stars; the test fold is left out, and the validation fold decides when to stop.

        Raises:
            DataError: Too few stars have labels, or a label that nothing can be learnt of.
            TrainingError: No star of one of the two folds can be encoded.
        """
        settings = settings or FlowSettings(epochs=EPOCHS)
        stars = spectra.take(model.usable(spectra))
        known = labels.aligned_to(stars.source_id)
        stars, known = stars.take(known.any_known), known.take(known.any_known)
        fold = folds(stars.source_id)
        scales = LabelScales.fit(known.take(fold.train))
        scaled = _linear_labels(scales, known.values)
        parts = [np.flatnonzero(rows) for rows in (fold.train, fold.validation)]
        training, validation = (model.encode(stars.take(rows)) for rows in parts)
        contexts = tuple(partial(_with_gaps, torch.from_numpy(scaled[rows])) for rows in parts)
        flow = fit_to_posteriors(
            training,
            validation,
            settings,
            model=model.latent_digest,
            contexts=(contexts[0], contexts[1]),
            progress=progress,
        )
        order = numpy_stream(settings.seed, "label flow").permutation(len(parts[0]))
        some = order[:_MOST_WITH_ERRORS]
        errors = stars.errors[parts[0][some]][:, model.normalization.columns]
        whole = np.isfinite(errors).all(axis=1)
        some, errors = some[whole], errors[whole]
        g_flux = stars.g_flux[parts[0][some]]
        return LabelFlow(
            flow,
            known.names,
            scales,
            scaled[parts[0][order[:_MOST_LABELLED]]],
            np.asarray(g_mag_of(g_flux)),
            training.mean[some].double().numpy(),
            np.log(errors / g_flux[:, None]),
        )

    def reliability(self, labels: Mapping[str, float]) -> float:
        r"""How ordinary these labels are among labelled stars, as :math:`(1 + \#\{d_i \ge d\}) / (1 + n)`.

        d is the distance to the tenth nearest star in the scaled labels that are given. For labels drawn as those of
        labelled stars are it is uniform; the smallest possible where they lie farther out than any labelled star.

        Source:
            As `LabelledVolume`: Vovk, Gammerman & Shafer (2005), sect. 2.2.
        """
        at = self._scaled(labels)
        given = np.isfinite(at)
        stars = self.labels[:, given]
        stars = stars[np.isfinite(stars).all(axis=1)]
        if len(stars) <= _NEIGHBOURS:
            return 0.0
        tree = KDTree(stars)
        own = tree.query(stars, k=[_NEIGHBOURS + 1])[0][:, 0]
        distance = tree.query(at[given], k=[_NEIGHBOURS])[0][0]
        return float((1 + (own >= distance).sum()) / (1 + len(stars)))

    def nearest(self, labels: Mapping[str, float]) -> dict[str, float]:
        """The labels, of those given, of the labelled star nearest to them."""
        at = self._scaled(labels)
        given = np.isfinite(at)
        squares = np.square(self.labels[:, given] - at[given]).sum(axis=1)
        star = self.scales.invert(self.labels[[np.nanargmin(squares)]])[0]
        return {name: float(star[self.names.index(name)]) for name in labels}

    def sample(self, labels: Mapping[str, float], n: int, *, seed: int = 0) -> Latents:
        """`n` latent vectors of stars with these labels; as spread as labels that are not given leave them.

        Raises:
            DataError: A label is unknown or not finite, or they lie farther out than those of any labelled star.
        """
        if self.reliability(labels) <= 1.5 / (1 + len(self.labels)):
            near = ", ".join(f"{name} {value:.4g}" for name, value in self.nearest(labels).items())
            asked = ", ".join(f"{name} {value:g}" for name, value in labels.items())
            raise DataError(f"{asked}: farther out than any labelled star; the nearest one has {near}")
        row = np.array([[labels.get(name, np.nan) for name in self.names]])
        return self.flow.sample(n, stream(seed, "labels"), self.context(row).expand(n, -1))

    def context(self, values: LabelArray) -> Context:
        """What the flow is conditional on, of stars with these labels in the order of `names`, NaN where unknown."""
        return _with_marks(torch.from_numpy(_linear_labels(self.scales, values)).float())

    def errors_like(self, z: Latents, g_mag: float) -> CoeffArray:
        """Errors over G flux that stars of this G have, of those near it the one nearest in latents.

        Raises:
            DataError: No star has its errors kept within half a magnitude.
        """
        near = np.flatnonzero(np.abs(self.g_mag - g_mag) < _LIKE_MAG)
        if not len(near):
            low, high = self.g_mag.min(), self.g_mag.max()
            raise DataError(
                f"no errors known of stars of G = {g_mag:g}; they are from {low:.1f} to {high:.1f}"
            )
        star = near[KDTree(self.latents[near]).query(z.double().numpy())[1]]
        errors: CoeffArray = np.exp(self.log_errors[star])
        return errors

    def save(self, folder: Path) -> None:
        """Write it into the folder of its model, in one file that appears whole."""
        tensors, notes = self.flow.stored()
        arrays = {name: np.nan_to_num(getattr(self, name)).astype(np.float32) for name in _ARRAYS}
        arrays |= {f"label_{name}": values for name, values in self.scales._asdict().items()}
        arrays["known"] = np.isfinite(self.labels)
        write_tensors(folder / LABEL_FLOW, tensors | arrays, notes | {"labels": ",".join(self.names)})

    @staticmethod
    def load(folder: Path, model: Checkpoint) -> "LabelFlow":
        """The one in the folder of this model.

        Raises:
            CheckpointError: There is none, it is broken, or of another model.
        """
        path = folder / LABEL_FLOW
        if not path.is_file():
            raise CheckpointError(
                f"{folder}: has no {LABEL_FLOW}; give labelled stars to fit one to, with --stars STORE"
            )
        stored = read_tensors(path)
        names = tuple(stored.notes.get("labels", "").split(","))
        flow = LatentFlow.of(stored, model, n_context=2 * len(names))
        try:
            arrays = [stored.arrays[name].astype(np.float64) for name in _ARRAYS]
            scales = LabelScales(*(stored.arrays[f"label_{name}"] for name in LabelScales._fields))
            known = stored.arrays["known"]
        except KeyError as error:
            raise CheckpointError(f"{path}: broken: lacks {error}; fit it again") from error
        labels, g_mag, latents, log_errors = arrays
        fits, n_labels = known.shape == labels.shape, len(scales.centre)
        shapes = (fits, labels.shape[1:], latents.shape, log_errors.shape, n_labels)
        n = len(g_mag), model.normalization.n_coeffs
        if shapes != (True, (len(names),), (n[0], model.n_latent), n, len(names)) or not len(labels):
            raise CheckpointError(f"{path}: broken: its arrays do not fit each other; fit it again")
        labels[~known] = np.nan
        return LabelFlow(flow, names, scales, *arrays)

    def _scaled(self, labels: Mapping[str, float]) -> Float64[np.ndarray, " label"]:
        if (unknown := sorted(set(labels) - set(self.names))) or not labels:
            raise DataError(f"{', '.join(unknown) or 'no label'}: expected one of {', '.join(self.names)}")
        if wrong := [f"{name} {value}" for name, value in labels.items() if not np.isfinite(value)]:
            raise DataError(f"{wrong[0]}: expected a finite number; leave out a label that is open")
        row = np.array([[labels.get(name, np.nan) for name in self.names]])
        return np.asarray(_linear_labels(self.scales, row)[0])


def _linear_labels(scales: LabelScales, values: LabelArray) -> LabelArray:
    """Scaled labels, NaN where unknown."""
    names = tuple(map(str, range(values.shape[1])))
    ids = np.arange(len(values), dtype=np.int64)
    scaled = scales.apply(TargetLabels(ids, names, values, np.zeros_like(values)))
    labels: LabelArray = np.where(scaled.known.numpy(), scaled.values.double().numpy(), np.nan)
    return labels


def _with_gaps(labels: Float[Tensor, "star label"], generator: torch.Generator) -> Context:
    """The context of these labels, some of each star's taken away at random."""
    gone = torch.rand(labels.shape, generator=generator) < _SHARE_UNKNOWN
    return _with_marks(labels.masked_fill(gone, torch.nan).float())


def _with_marks(labels: Float[Tensor, "star label"]) -> Context:
    known = labels.isfinite()
    return torch.cat([labels.masked_fill(~known, 0.0), known.float()], dim=1)


def between(
    start: Float[Tensor, "1 latent"], end: Float[Tensor, "1 latent"], n: int
) -> Float[Tensor, "step latent"]:
    """`n` latent vectors in equal steps along the straight line between two, both ends included.

    Args:
        n: How many, 2 or more.
    """
    steps = torch.linspace(0.0, 1.0, n)[:, None]
    return start + steps * (end - start)


def generate(
    checkpoint: Checkpoint,
    z: Latents,
    g_flux: StarArray,
    *,
    noise_seed: int | None = None,
    to_g: bool = True,
) -> GeneratedSpectra:
    """Coefficients and scatter at these latent vectors, for stars of this G flux.

    Args:
        z: One latent vector a spectrum.
        g_flux: The G flux to scale each to [electron/s].
        noise_seed: Add a draw of the intrinsic scatter to the coefficients; the mean spectrum where None. Of a
            calibrated model only the scatter that its calibration could measure, a third of the errors or more: drawn
            elsewhere, where it is a guess, it makes fluxes far below 0.
        to_g: Scale each so that it integrates to its G flux; False for what is held beside a measured spectrum.

    Source:
        Laroche & Speagle (2023), sect. 2.2 and fig. 1 (teal).
    """
    normalization = checkpoint.normalization
    mean, scatter = checkpoint.reconstruct(z)
    n_all = normalization.basis.n_coeffs
    coeffs, widths = np.zeros((len(z), n_all)), np.zeros((len(z), n_all))
    coeffs[:, normalization.columns] = normalization.invert(mean, g_flux)
    scale = scale_to(g_flux, coeffs, normalization.basis) if to_g else np.ones((len(z), 1))
    if noise_seed is not None:
        drawn = scatter * torch.randn(mean.shape, generator=stream(noise_seed, "scatter"))
        if is_calibrated(checkpoint):
            drawn *= checkpoint.scatter_factor.cpu() != 1.0
        coeffs[:, normalization.columns] = normalization.invert(mean + drawn, g_flux)
    widths[:, normalization.columns] = normalization.invert_errors(scatter, g_flux)
    return GeneratedSpectra(z, scale * coeffs, scale * widths, g_flux, normalization.basis)


def with_errors(
    checkpoint: Checkpoint, spectra: GeneratedSpectra, errors: CoeffArray, *, seed: int = 0
) -> GeneratedSpectra:
    """The same spectra measured with these errors over G flux, of the coefficients that the model has."""
    errors_of_all = np.zeros_like(spectra.coeffs)
    errors_of_all[:, checkpoint.normalization.columns] = errors * spectra.g_flux[:, None]
    noise = numpy_stream(seed, "errors").normal(size=spectra.coeffs.shape)
    return replace(spectra, coeffs=spectra.coeffs + errors_of_all * noise, errors=errors_of_all)


def generated_table(
    checkpoint: Checkpoint, spectra: GeneratedSpectra, flux: SampledFlux | None = None
) -> pa.Table:
    """Generated spectra as a table by the archive's column names, with units and descriptions.

    Args:
        checkpoint: The model that made them, named in the table's metadata.
        flux: The same on a wavelength grid, where wanted.
    """

    columns = {
        "latent": ("", "latent vector", spectra.z.numpy()),
        "phot_g_mean_flux": ("electron/s", "G flux the spectrum is scaled to", spectra.g_flux),
    }
    for band, where in (("bp", spectra.basis.bp), ("rp", spectra.basis.rp)):
        for name, text, values in (
            ("coefficients", "generated coefficients", spectra.coeffs),
            ("coefficient_scatter", "intrinsic scatter (one sigma) of the coefficients", spectra.scatter),
            (
                "coefficient_errors",
                "error (one sigma) of which a draw is in the coefficients",
                spectra.errors,
            ),
        ):
            if values is not None:
                about = f"{band.upper()}: {text}"
                columns[f"{band}_{name}"] = "electron/s in the basis", about, values[:, where]
    notes = checkpoint.about
    if flux is not None:
        unit = "W m^-2 nm^-1"
        columns["flux"] = unit, "generated flux", flux.flux
        columns["flux_scatter"] = unit, "one sigma of intrinsic scatter", flux.errors
        notes["wavelength_nm"] = flux.grid_nm.tolist()
    return result_table(columns, {"scattervae.generated": json.dumps(notes)}, double=["phot_g_mean_flux"])
