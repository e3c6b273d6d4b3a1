"""*The Cannon*: coefficients as a quadratic in stellar labels, with one intrinsic scatter a coefficient.

The supervised model that the scatter VAE is measured against (Laroche & Speagle 2023, sect. 3; Ness et al.
2015). It works in the VAE's normalised units, so that likelihoods of the two are in the same nats.
"""

import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from pydantic import Field, NonNegativeInt, TypeAdapter, field_validator
from scipy.spatial import ConvexHull

from scattervae.arrays import LabelArray, StarMask
from scattervae.errors import CheckpointError, DataError
from scattervae.files import (
    CREDIT,
    DIGESTS,
    read_json,
    read_tensors,
    software_versions,
    verified_folder,
    write_json,
    write_tensors,
    written_folder,
)
from scattervae.model.network import Reconstruction
from scattervae.model.training_stars import data_digest
from scattervae.science.cannon.fit import (
    PerCoeff,
    ScaledLabels,
    Theta,
    features,
    fit_polynomial,
    n_features,
)
from scattervae.settings import Settings
from scattervae.spectra.normalization import Normalization
from scattervae.spectra.spectra import Basis, Spectra
from scattervae.spectra.star_tables import LABEL_NAMES, StellarLabels

_N_CORNERS = 64
_NO_SPREAD = 1e-12  # of the mean: what rounding leaves of the standard deviation of equal numbers
_ON_A_FACE = 1e-9  # in standard deviations: rounding puts a corner of the hull on either side
_ROWS = 4096
_RANGE = ("mean", "std", "faces", "corners")
_NORMALIZATION = ("columns", "mean", "std")

logger = logging.getLogger(__name__)

CONFIG = "config.json"
ARRAYS = "cannon.safetensors"
PROVENANCE = "provenance.json"
_FORMAT = 2  # 1 had no digests


@dataclass(frozen=True)
class LabelRange:
    """Where the labels of the training stars lie."""

    mean: Float64[
        np.ndarray, " label"
    ]  # of each label, in the label's unit; labels are scaled by it and `std`
    std: Float64[np.ndarray, " label"]  # standard deviation of each
    # outward normal and offset of each face of the convex hull of the scaled labels
    faces: Float64[np.ndarray, "face side"]
    # scaled labels of training stars far from each other: starts for a search
    corners: Float64[np.ndarray, "corner label"]

    @classmethod
    def of(cls, values: LabelArray, names: tuple[str, ...]) -> "LabelRange":
        """The range of these training labels, none missing.

        Raises:
            DataError: Too few stars for a quadratic, or a label that is the same in all or follows from others.
        """
        n_stars, n_terms = len(values), n_features(len(names))
        if n_stars < 2 * n_terms:
            raise DataError(
                f"{n_stars} usable stars have all of {', '.join(names)}; a quadratic in {len(names)} labels "
                f"has {n_terms} terms and needs at least {2 * n_terms} stars: give more stars or fewer labels"
            )
        mean, std = values.mean(axis=0), values.std(axis=0)
        for name, middle, spread in zip(names, mean, std, strict=True):
            if not spread > _NO_SPREAD * abs(middle):
                raise DataError(f"{name} is {middle:g} in all {n_stars} training stars; leave it out")
        scaled = (values - mean) / std
        return cls(mean=mean, std=std, faces=_faces(scaled), corners=_corners(scaled))

    def scaled(self, values: LabelArray) -> ScaledLabels:
        """Labels in the training stars' standard deviations from their mean."""
        return torch.from_numpy((values - self.mean) / self.std)

    def outside(self, values: LabelArray) -> StarMask:
        """True for labels outside the convex hull of the training labels: the polynomial extrapolates there.

        The hull has no holes: between dwarfs and giants it holds labels that no training star has. False
        where a label is missing.
        """
        scaled = (values - self.mean) / self.std
        outside = np.zeros(len(values), dtype=bool)
        for start in range(0, len(values), _ROWS):  # stars x faces would not fit in memory
            rows = slice(start, start + _ROWS)
            heights = scaled[rows] @ self.faces[:, :-1].T + self.faces[:, -1]
            outside[rows] = (heights > _ON_A_FACE).any(axis=1)
        return outside


class CannonSettings(Settings):
    """What the Cannon is fitted to; the defaults are Laroche & Speagle's labels and the plain model."""

    # which labels, of `LABEL_NAMES`
    labels: tuple[str, ...] = Field(default=("teff", "logg", "fe_h"), min_length=1)
    # the robust model: a value (one coefficient of one star) further than this from the model does not count in
    # its fit. Values and not stars, since every coefficient is a fit of its own. Not below 3: there the cut
    # starts to eat into a Gaussian's own scatter (1 % at 3).
    clip_sigma: float | None = Field(default=None, ge=3.0)

    @field_validator("labels")
    @classmethod
    def _known(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        if not set(labels) <= set(LABEL_NAMES) or len(set(labels)) < len(labels):
            raise ValueError(f"labels are some of {', '.join(LABEL_NAMES)}, each once")
        return labels

    @property
    def columns(self) -> list[int]:
        """Of `labels`, in a table of labels."""
        return [LABEL_NAMES.index(name) for name in self.labels]


@dataclass(frozen=True)
class CannonCounts:
    """How many of the stars that a Cannon was given it was trained on."""

    given: int  # all of them
    unusable: int  # dropped: a band, an error or the G flux is missing or bad, or a better twin is there
    unlabelled: int  # dropped: usable, but one of the labels is missing
    trained_on: int  # all others
    clipped_values: int  # values (one coefficient of one star) that the robust fit left out
    rounds: int  # rounds of clipping; 1 where it was not asked for


@dataclass(frozen=True)
class Cannon:
    """A fitted Cannon: spectra from labels."""

    settings: CannonSettings  # its labels and the kind of fit
    normalization: Normalization  # from archive units to those of `theta` and `scatter`
    label_range: LabelRange  # scale and reach of the training labels
    theta: Theta  # coefficients of the polynomial in scaled labels
    scatter: PerCoeff  # intrinsic scatter of each coefficient of the spectrum
    counts: CannonCounts  # stars given, dropped and trained on
    provenance: dict[str, Any]  # versions, digest of the data, seconds; readable JSON values

    @classmethod
    def fit(
        cls,
        spectra: Spectra,
        labels: StellarLabels,
        normalization: Normalization,
        settings: CannonSettings | None = None,
    ) -> "Cannon":
        """A Cannon fitted to the usable ones of these stars that have every label.

        Args:
            spectra: Training stars; take the test fold out first (`scattervae.seeds.folds`).
            labels: Labels of any stars, joined by source_id.
            normalization: The one of the model it is to be compared with.
            settings: The default is the plain model of three labels.

        Raises:
            DataError: Too few stars with all labels, labels that determine no quadratic, or another basis.
        """
        started = time.perf_counter()
        settings = settings or CannonSettings()
        labels = labels.aligned_to(spectra.source_id)
        taken = labelled(spectra, labels, settings)
        stars = spectra.take(taken)
        values = labels.values[taken][:, settings.columns]
        label_range = LabelRange.of(values, settings.labels)
        inputs = normalization.apply(stars, dtype=torch.float64)
        scaled = label_range.scaled(values)
        fit = fit_polynomial(inputs.x, inputs.errors, scaled, clip_sigma=settings.clip_sigma)
        if not fit.converged:
            logger.warning("the Cannon still changes after %d rounds", fit.n_rounds)
        n_usable = int(spectra.usable.sum())
        counts = CannonCounts(
            given=len(spectra),
            unusable=len(spectra) - n_usable,
            unlabelled=n_usable - len(stars),
            trained_on=len(stars),
            clipped_values=fit.n_clipped,
            rounds=fit.n_rounds,
        )
        logger.info("%s", counts)
        provenance = {
            "versions": software_versions(),
            "data": {"digest": data_digest(stars)},
            "seconds": round(time.perf_counter() - started, 3),
            "credit": CREDIT,
        }
        return cls(settings, normalization, label_range, fit.theta, fit.scatter, counts, provenance)

    def predict(self, values: LabelArray) -> Reconstruction:
        """Coefficients and scatter at these labels, float64, in training standard deviations.

        Args:
            values: Labels in their units, in the order of `settings.labels`.
        """
        mean = features(self.label_range.scaled(values)) @ self.theta
        return Reconstruction(mean, self.scatter.expand_as(mean))

    def save(self, folder: Path) -> None:
        """Write the folder, whole or not at all.

        Raises:
            CheckpointError: The folder is there and is no Cannon.
        """
        if folder.exists() and not (folder / ARRAYS).is_file():
            raise CheckpointError(f"{folder}: exists and is no Cannon; nothing was removed, name another")
        config = {
            "format": _FORMAT,
            "settings": self.settings.model_dump(mode="json"),
            "basis": vars(self.normalization.basis),
            "n_stars": self.normalization.n_stars,
            "n_g_flux_from_table": self.normalization.n_g_flux_from_table,
            "counts": asdict(self.counts),
        }
        arrays = {
            "theta": self.theta.contiguous().numpy(),
            "scatter": self.scatter.numpy(),
            **{f"labels.{name}": getattr(self.label_range, name) for name in _RANGE},
            **{f"normalization.{name}": getattr(self.normalization, name) for name in _NORMALIZATION},
        }
        with written_folder(folder) as partial:
            write_json(partial / CONFIG, config)
            write_tensors(partial / ARRAYS, arrays)
            write_json(partial / PROVENANCE, self.provenance)

    @classmethod
    def load(cls, folder: str | Path) -> "Cannon":
        """Read a saved Cannon.

        Raises:
            CheckpointError: A file is missing, unreadable, or does not fit the others.
        """
        folder = verified_folder(folder, (CONFIG, ARRAYS, PROVENANCE), "a Cannon")
        config = read_json(folder / CONFIG, _Config.model_validate, formats=(1, _FORMAT))
        if config.format > 1 and not (folder / DIGESTS).is_file():
            raise CheckpointError(f"{folder}: no {DIGESTS}; copy the folder again")
        provenance = read_json(folder / PROVENANCE, TypeAdapter(dict[str, Any]).validate_python)
        try:
            return cls._of(config, read_tensors(folder / ARRAYS).arrays, provenance)
        except (LookupError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{folder}: its files are broken or do not fit each other: {error}"
            ) from error

    @classmethod
    def _of(cls, config: "_Config", arrays: dict[str, Any], provenance: dict[str, Any]) -> "Cannon":
        settings = config.settings
        normalization = Normalization.of(
            config.basis,
            {name: arrays[f"normalization.{name}"] for name in _NORMALIZATION},
            n_stars=config.n_stars,
            n_g_flux_from_table=config.n_g_flux_from_table,
        )
        of_label, of_coeff = (len(settings.labels),), (normalization.n_coeffs,)
        expected = {
            "theta": (n_features(*of_label), *of_coeff),
            "scatter": of_coeff,
            "labels.mean": of_label,
            "labels.std": of_label,
            "normalization.mean": of_coeff,
            "normalization.std": of_coeff,
        }
        for name, shape in expected.items():
            if arrays[name].shape != shape:
                raise ValueError(f"{name} has shape {arrays[name].shape}, the settings say {shape}")
        return cls(
            settings=settings,
            normalization=normalization,
            label_range=LabelRange(**{name: arrays[f"labels.{name}"] for name in _RANGE}),
            theta=torch.from_numpy(arrays["theta"]),
            scatter=torch.from_numpy(arrays["scatter"]),
            counts=config.counts,
            provenance=provenance,
        )


class _Config(Settings):
    """``config.json`` of a Cannon."""

    format: int
    settings: CannonSettings
    basis: Basis
    n_stars: NonNegativeInt
    n_g_flux_from_table: NonNegativeInt
    counts: CannonCounts


def labelled(spectra: Spectra, labels: StellarLabels, settings: CannonSettings) -> StarMask:
    """The stars that a Cannon of these settings can be fitted to or scored on: usable, with every label.

    Labels are of the same stars in the same order.
    """
    complete: StarMask = spectra.usable & np.isfinite(labels.values[:, settings.columns]).all(axis=1)
    return complete


def _faces(scaled: LabelArray) -> Float64[np.ndarray, "face side"]:
    if scaled.shape[1] == 1:  # Qhull needs a plane at least; a line has two ends
        return np.array([[1.0, -scaled.max()], [-1.0, scaled.min()]])
    try:
        faces: Float64[np.ndarray, "face side"] = ConvexHull(scaled).equations
    except RuntimeError as error:  # Qhull's own error is one
        reason = " ".join(str(error).split())[:80]
        raise DataError(f"the training labels have no hull, one follows from the others: {reason}") from error
    return np.unique(faces, axis=0)  # Qhull cuts a flat face into triangles


def _corners(scaled: LabelArray) -> Float64[np.ndarray, "corner label"]:
    """The star furthest from the mean, then each time the one furthest from all taken (Gonzalez 1985)."""
    taken = [int(np.square(scaled).sum(axis=1).argmax())]
    distance = np.full(len(scaled), np.inf)
    while len(taken) < min(_N_CORNERS, len(scaled)):
        distance = np.minimum(distance, np.square(scaled - scaled[taken[-1]]).sum(axis=1))
        taken.append(int(distance.argmax()))
    corners: Float64[np.ndarray, "corner label"] = scaled[taken]
    return corners
