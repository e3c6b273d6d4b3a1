"""One star, for a person: where it lies, what labels it has and whether to believe them, how well it is reproduced."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from scattervae.errors import DataError, counted
from scattervae.gaia.basis import g_mag_of
from scattervae.model.checkpoint import Checkpoint
from scattervae.science.catalogue.encoding import catalogue
from scattervae.science.catalogue.training_flags import TRAINING_FLAGS, unlike_training_stars
from scattervae.science.labels.prediction import LabelFlag
from scattervae.science.trained import labels_of
from scattervae.spectra.spectra import Flag, Spectra
from scattervae.spectra.star_tables import LABEL_UNITS

_REASONS = {
    LabelFlag.NOT_REPRODUCED: "the model does not reproduce the spectrum",
    LabelFlag.BLENDED: "light of a neighbour is in the spectrum",
}


class BandFit(NamedTuple):
    """How well a band is reproduced at the posterior mean."""

    n_coeffs: int  # coefficients that the star has
    reduced_chi2: float  # mean squared residual over error and scatter in quadrature
    reduced_chi2_without_scatter: float  # mean squared residual over the error alone
    largest: float  # the largest residual in units of error and scatter in quadrature, with its sign


class LabelAnswer(NamedTuple):
    """One predicted label."""

    value: float  # the median
    unit: str  # its unit; empty where it has none
    low_68: float  # lower end of the interval that holds the truth in 68 %
    high_68: float  # upper end
    low_95: float  # lower end of that of 95 %
    high_95: float  # upper end
    doubts: tuple[str, ...]  # why not to believe it; empty where nothing speaks against it


@dataclass(frozen=True)
class StarAnswer:
    """All that a model answers about one star."""

    source_id: int  # the star
    g_mag: float  # its G magnitude [mag]
    flags: tuple[str, ...]  # meanings of its flags
    # posterior mean and standard deviation of each latent; empty where the star cannot be encoded
    latents: tuple[tuple[float, float], ...]
    labels: dict[str, LabelAnswer]  # predicted labels by name
    bands: dict[str, BandFit]  # the fit of BP and RP, of those that it has
    score: float | None  # share of stars of this model that fit worse; None without calibration
    # true where the latents are less well known than those of 99 % of labelled stars: intervals of labels are
    # wide, and hold
    faint: bool
    unlike: tuple[str, ...]  # what sets the star apart from those that the model was trained on

    def values(self) -> dict[str, Any]:
        """The same as JSON values; the source_id as a string."""
        return {
            "source_id": str(self.source_id),
            "g_mag": self.g_mag,
            "flags": list(self.flags),
            "latents": [{"mean": mean, "sd": sd} for mean, sd in self.latents],
            "labels": {
                n: label._asdict() | {"doubts": list(label.doubts)} for n, label in self.labels.items()
            },
            "fit": {band: fit._asdict() for band, fit in self.bands.items()},
            "spectrum_score": self.score,
            "faint_or_incomplete": self.faint,
            "unlike_training_stars": list(self.unlike),
        }


def choose_star(spectra: Spectra, source_id: int | None, where: str | Path) -> Spectra:
    """The star with this source_id; where None, the only one there is.

    Raises:
        DataError: There is none, or none is named and there are several.
    """
    if source_id is None and len(spectra) != 1:
        raise DataError(
            f"{where}: {counted(len(spectra), 'star')}; name one with --id"
            + (f", such as {spectra.source_id[0]}" if len(spectra) else "")
        )
    rows = np.arange(1) if source_id is None else np.flatnonzero(spectra.source_id == source_id)[:1]
    if len(rows) == 0:
        raise DataError(f"{where}: source_id {source_id} is not among its {counted(len(spectra), 'star')}")
    return spectra.take(rows)


def answer_star(model: Checkpoint, star: Spectra) -> StarAnswer:
    """All that the model answers about one star; numbers as in the catalogue.

    Raises:
        DataError: It is no single star, or of another basis than the model's.
    """
    if len(star) != 1:
        raise DataError(f"{counted(len(star), 'star')}; expected one")
    row = catalogue(model, star).to_pylist()[0]
    encoded = np.isfinite(row["latent_1_mean"])
    score = row.get("spectrum_score")
    names = () if labels_of(model) is None else labels_of(model).names  # type: ignore[union-attr]
    flags = Flag(int(star.flags[0]))
    return StarAnswer(
        source_id=int(star.source_id[0]),
        g_mag=float(g_mag_of(star.g_flux[0])),
        flags=tuple(flag.meaning for flag in Flag if flag in flags),
        latents=tuple((row[f"latent_{k}_mean"], row[f"latent_{k}_sd"]) for k in range(1, model.n_latent + 1))
        if encoded
        else (),
        labels={name: _label(row, name, bit) for bit, name in enumerate(names)} if encoded else {},
        bands=_bands(model, star) if encoded else {},
        score=score if encoded else None,
        faint=bool(row.get("label_flags", 0) & LabelFlag.FAINT),
        unlike=unlike_training_stars(star, row[TRAINING_FLAGS]),
    )


def _label(row: dict[str, Any], name: str, bit: int) -> LabelAnswer:
    low_68, high_68, low_95, high_95 = (
        row[f"{name}_{end}_{percent}"] for percent in (68, 95) for end in ("low", "high")
    )
    return LabelAnswer(
        row[name], LABEL_UNITS[name], low_68, high_68, low_95, high_95, _doubts(row["label_flags"], bit)
    )


def _doubts(flags: int, bit: int) -> tuple[str, ...]:
    """Why not to believe a label, of all that ``label_flags`` says; a faint star's interval is wide, and holds."""
    found = tuple(text for flag, text in _REASONS.items() if flags & flag)
    outside = flags & (1 << bit) and not flags & LabelFlag.NOT_REPRODUCED
    return (*(["it is outside the labelled kinds"] if outside else []), *found)


def _bands(model: Checkpoint, star: Spectra) -> dict[str, BandFit]:
    encoded = next(model.encode_batches([star]))
    residual = (encoded.inputs.x - encoded.reconstruction.mean)[0].double()
    error, scatter = encoded.inputs.errors[0].double(), encoded.reconstruction.scatter[0].double()
    fits = {}
    for name, band in (("BP", model.normalization.bp), ("RP", model.normalization.rp)):
        known = torch.isfinite(error[band])
        if known.any():
            left, sd = residual[band][known], error[band][known]
            normalised = left / torch.hypot(sd, scatter[band][known])
            fits[name] = BandFit(
                n_coeffs=int(known.sum()),
                reduced_chi2=float(normalised.square().mean()),
                reduced_chi2_without_scatter=float((left / sd).square().mean()),
                largest=float(normalised[normalised.abs().argmax()]),
            )
    return fits
