"""The paper's outlook that relative differences between populations can be inferred from latents.

Laroche & Speagle (2023), sect. 4, on alpha-rich against alpha-poor giants.
"""

import numpy as np

from scattervae.errors import DataError
from scattervae.model.checkpoint import Checkpoint
from scattervae.science.latent_volume.comparison import (
    GIANT_BELOW_LOGG,
    Projection,
    VolumeComparison,
    active_latents,
    compare_volumes,
    stated_selections,
)
from scattervae.science.latent_volume.richness import Estimate
from scattervae.science.paper.claim import DOES_NOT_HOLD, HOLDS, NOT_TESTABLE, Claim, Table
from scattervae.science.paper.comparison import CANNON_LABELS
from scattervae.science.relative.differences import (
    LatentDifference,
    flux_difference,
    latent_difference,
    observed_shapes,
)
from scattervae.science.relative.matching import Matched, covariates_of, match
from scattervae.spectra.spectra import Spectra
from scattervae.spectra.star_tables import StellarLabels

PAPER_DELTA_V = 0.30
PAPER_FACTOR = 65.0


def volumes(
    model: Checkpoint, spectra: Spectra, labels: StellarLabels, unlabelled: Spectra | None
) -> tuple[VolumeComparison, ...]:
    """Latent volumes: labelled against `unlabelled`, or stated selections of the labelled as an illustration.

    Labelled stars that are also in `unlabelled` count as labelled only, as the paper's outside the cross-match.

    Raises:
        DataError: Fewer than two latents are active, or a set has no encoded star.
    """
    posterior = model.encode(spectra.take(spectra.usable))
    active = active_latents(posterior)
    means = posterior.mean.double().numpy()
    own_labels = labels.aligned_to(spectra.source_id[spectra.usable])
    if unlabelled is not None:
        complete = np.isfinite(own_labels.values[:, : len(CANNON_LABELS)]).all(axis=1)
        outside = unlabelled.usable & ~np.isin(unlabelled.source_id, own_labels.source_id[complete])
        others = model.encode(unlabelled.take(outside)).mean.double().numpy()
        return (compare_volumes(means[complete], others, active),)
    selections = stated_selections(own_labels)
    return tuple(
        compare_volumes(means[s.labelled], means[s.unlabelled], active, selection=s.name) for s in selections
    )


def volume_claims(
    model: Checkpoint, spectra: Spectra, labels: StellarLabels, unlabelled: Spectra | None
) -> tuple[list[Claim], tuple[VolumeComparison, ...]]:
    """`coverage_delta_v` and `coverage_extrapolation`, and what they were computed from."""
    try:
        found = volumes(model, spectra, labels, unlabelled)
    except DataError as error:
        return [
            _untestable(name, str(error), ()) for name in ("coverage_delta_v", "coverage_extrapolation")
        ], ()
    details = tuple(table for compared in found for table in _tables(compared))
    if unlabelled is None:
        note = "No second set was given (--unlabelled); the tables show stated selections as an illustration only."
        names = ("coverage_delta_v", "coverage_extrapolation")
        return [_untestable(name, note, details) for name in names], found
    return [_delta_v(found[0], details), _extrapolation(found[0])], found


def _delta_v(compared: VolumeComparison, details: tuple[Table, ...]) -> Claim:
    pairs = compared.pairs
    new = [pair.equal_n.new for pair in pairs]
    middle = sorted(new, key=lambda e: e.value)[len(new) // 2]
    given = [100 * pair.as_given.new.value for pair in pairs]
    over_cells = [100 * overlap.new.value for pair in pairs for _, overlap in pair.over_cell]
    by_size = [pair.equal_n.new_by_size_alone for pair in pairs]
    real = all(size is None or size < e.low for size, e in zip(by_size, new, strict=True))
    if real and all(e.low <= PAPER_DELTA_V <= e.high for e in new):
        verdict = HOLDS
    elif not min(over_cells) <= 100 * PAPER_DELTA_V <= max(over_cells):
        verdict = DOES_NOT_HOLD
    else:
        verdict = "depends on the latents, the number of stars and the size of the cells"
    return Claim(
        id="coverage_delta_v",
        title="Latent volume of unlabelled stars beyond the labelled, over the labelled, at equal numbers",
        paper="about 30 %, for a million stars outside the cross-match",
        measured=middle.value,
        interval=(middle.low, middle.high),
        verdict=verdict,
        note=(
            f"Median of {len(pairs)} pairs of active latents; with all stars {min(given):.0f} to {max(given):.0f} % "
            f"by pair, and {min(over_cells):.0f} to {max(over_cells):.0f} % over cell sizes at equal numbers. "
            f"{compared.n_labelled:,} labelled and {compared.n_unlabelled:,} unlabelled stars. "
            + ("" if real else "Further labelled stars would open as much in at least one pair. ")
            + "Faint stars spread by their noise, which counts as volume."
        ),
        details=details,
    )


def _extrapolation(compared: VolumeComparison) -> Claim:
    """New volume grows with the number of stars, ever more slowly: the paper's line lies above it.

    So the claim is refuted where even the line stays below the paper's number, and never by the lower bound
    alone, which may be thousands of times beyond the sample.
    """
    projections = (*compared.pairs, compared.full)
    linear = float(np.median([p.extrapolation.linear for p in projections]))
    corrected = sorted((p.extrapolation.corrected for p in projections), key=lambda e: e.value)
    middle = corrected[len(corrected) // 2]
    at_most = np.median([p.as_given.new.high * p.extrapolation.times_the_sample for p in projections])
    reliable = all(p.extrapolation.reliable for p in projections)
    if at_most < PAPER_FACTOR or (reliable and not middle.low <= PAPER_FACTOR <= middle.high):
        verdict = DOES_NOT_HOLD
    else:
        verdict = HOLDS if reliable else "depends on the extrapolation"
    rows = tuple(
        (
            _name(p),
            f"{p.extrapolation.linear:.0f}",
            f"{p.extrapolation.corrected.value:.2f}",
            f"{p.extrapolation.corrected.low:.2f} to {p.extrapolation.corrected.high:.2f}",
        )
        for p in projections
    )
    first = compared.pairs[0].extrapolation
    return Claim(
        id="coverage_extrapolation",
        title="Latent volume added by all 220 million spectra, over the labelled, corrected for sample size",
        paper="x 65, by multiplying the first million's 30 % with 220",
        measured=middle.value,
        interval=(middle.low, middle.high),
        verdict=verdict,
        note=(
            f"The paper's linear rule gives {linear:.0f} here, an upper bound: every further star is taken to open "
            f"as much volume as the first ones. Corrected for sample size it is {middle.value:.1f}, a lower bound"
            + (
                ""
                if reliable
                else f", not to be trusted {first.times_the_sample:.0f} times beyond the sample"
            )
            + "."
        ),
        details=(
            Table(
                "Extrapolated to 220 million stars",
                ("latents", "linear (paper)", "corrected", "95 % interval"),
                rows,
            ),
        ),
    )


def _untestable(claim_id: str, note: str, details: tuple[Table, ...]) -> Claim:
    title, paper = {
        "coverage_delta_v": ("Latent volume of unlabelled stars beyond the labelled", "about 30 %"),
        "coverage_extrapolation": ("Latent volume added by all 220 million spectra", "x 65"),
    }[claim_id]
    return Claim(claim_id, title, paper, None, None, NOT_TESTABLE, note, details)


def _tables(compared: VolumeComparison) -> tuple[Table, ...]:
    sets = f"{compared.n_labelled:,} labelled, {compared.n_unlabelled:,} unlabelled"
    name = compared.selection or "unlabelled set"
    projections = (*compared.pairs, compared.full)
    volumes = tuple(
        (
            _name(p),
            f"{p.cell:g}",
            _percent(p.as_given.new),
            _percent(p.equal_n.new),
            _percent(p.equal_n.difference),
            _percent(p.equal_n.share_new),
            "yes" if p.resolved else "no",
        )
        for p in projections
    )
    curve = tuple(
        (
            f"{p.over_n[i].n_labelled:,}",
            *(_percent(q.over_n[i].new) if i < len(q.over_n) else "-" for q in compared.pairs),
        )
        for p in compared.pairs[:1]
        for i in range(len(p.over_n))
    )
    return (
        Table(
            f"Latent volume: {name} ({sets})",
            (
                "latents",
                "cell",
                "new, all stars",
                "new, equal numbers",
                "difference, equal numbers",
                "stars in new cells",
                "cells resolved",
            ),
            volumes,
        ),
        Table(
            f"New volume over number of stars: {name}",
            ("stars of each", *(_name(p) for p in compared.pairs)),
            curve,
        ),
    )


def _name(projection: Projection) -> str:
    return "latents " + ", ".join(str(k + 1) for k in projection.latents)


def _percent(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.0f} % ({100 * estimate.low:.0f} to {100 * estimate.high:.0f})"


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
