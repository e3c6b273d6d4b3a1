"""The paper's outlook that relative differences between populations can be inferred from latents.

Laroche & Speagle (2023), sect. 4, on alpha-rich against alpha-poor giants.
"""

import numpy as np

from scattervae.errors import DataError
from scattervae.model.checkpoint import Checkpoint
from scattervae.science.latent_volume.comparison import GIANT_BELOW_LOGG
from scattervae.science.paper.claim import DOES_NOT_HOLD, HOLDS, NOT_TESTABLE, Claim, Table
from scattervae.science.relative.differences import (
    LatentDifference,
    flux_difference,
    latent_difference,
    observed_shapes,
)
from scattervae.science.relative.matching import Matched, covariates_of, match
from scattervae.spectra.labels import StellarLabels
from scattervae.spectra.spectra import Spectra

FE_H_RANGE = (-0.8, 0.1)
VALLEY, SLOPE, MARGIN = 0.14, -0.05, 0.02
"""The line between the two sequences, [alpha/M] = 0.14 - 0.05 [Fe/H], drawn through the gap that these APOGEE
giants show, and the margin left out on either side."""
_MATCHINGS = (("teff", "logg", "fe_h"), ("teff", "logg", "fe_h", "bp1_rp1"))


def relative_inference(model: Checkpoint, spectra: Spectra, labels: StellarLabels) -> Claim:
    """Whether latents tell alpha-rich from alpha-poor giants of the same Teff, log g and [Fe/H]."""
    title = "Largest difference of a mean latent, alpha-rich less alpha-poor giants, labels matched"
    paper = "inference in the latent space can identify relative differences between populations"
    stars = spectra.take(spectra.usable)
    own = labels.aligned_to(stars.source_id)
    fe_h, alpha_m = own["fe_h"], own["alpha_m"]
    giants = (own["logg"] < GIANT_BELOW_LOGG) & (fe_h > FE_H_RANGE[0]) & (fe_h < FE_H_RANGE[1])
    above = alpha_m - (VALLEY + SLOPE * fe_h)
    rich, poor = giants & (above > MARGIN), giants & (above < -MARGIN)
    posterior = model.encode(stars)
    shapes = observed_shapes(stars)
    found = []
    try:
        for names in _MATCHINGS:
            matched = match(covariates_of(stars, own, list(names)), rich, poor)
            latents = latent_difference(posterior, matched.groups)
            flux = flux_difference(shapes, matched.groups)
            found.append((names, matched, latents, flux))
    except DataError as error:
        return Claim("relative_inference", title, paper, None, None, NOT_TESTABLE, str(error))
    rows = tuple(
        (
            ", ".join(names),
            f"{matched.n_pairs:,}",
            f"{_imbalance(matched):.3f}",
            " ".join(f"{d:+.2f}{'*' if f else ''}" for d, f in zip(*_means(latents), strict=True)),
            f"{latents.energy.distance:.2f} (p = {latents.energy.p_value:.3f})",
            str(flux.contrast.n_found),
        )
        for names, matched, latents, flux in found
    )
    first, means = found[0][1], found[0][2].means
    largest = int(np.abs(means.difference).argmax())
    n_found = [flux.contrast.n_found for *_, flux in found]
    return Claim(
        id="relative_inference",
        title=title,
        paper=paper,
        measured=float(means.difference[largest]),
        interval=(float(means.low[largest]), float(means.high[largest])),
        verdict=_verdict({names: latents.energy.p_value for names, _, latents, _ in found}),
        note=(
            f"{first.n_pairs:,} pairs of {int(rich.sum()):,} rich and {int(poor.sum()):,} poor giants, latent "
            f"{largest + 1}. {n_found[0]} wavelengths differ at a false-discovery rate of 5 %, {n_found[1]} when a "
            "colour is matched too: what goes with colour can be extinction as well as chemistry."
        ),
        details=(
            Table(
                "Matched pairs; latents that differ at a false-discovery rate of 5 % have a star",
                (
                    "matched on",
                    "pairs",
                    "largest imbalance",
                    "mean latent differences",
                    "energy distance",
                    "wavelengths found, of 343",
                ),
                rows,
            ),
        ),
    )


def _verdict(p_values: dict[tuple[str, ...], float]) -> str:
    holding = [", ".join(names) for names, p in p_values.items() if p < 0.05]
    if len(holding) in (0, len(p_values)):
        return HOLDS if holding else DOES_NOT_HOLD
    return f"depends on what is matched: holds for {'; '.join(holding)}"


def _imbalance(matched: Matched) -> float:
    return float(np.abs(matched.balance.after).max())


def _means(latents: LatentDifference) -> tuple[np.ndarray, np.ndarray]:
    means = latents.means
    return means.difference, means.found
