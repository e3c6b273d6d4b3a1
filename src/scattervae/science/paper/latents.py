"""The paper's claims about the latent space: its volume, and differences between populations.

Laroche & Speagle (2023), sect. 3, third point, and fig. 3; sect. 4, on alpha-rich against alpha-poor giants.
"""

from collections.abc import Callable

import numpy as np
from scipy.stats import kstest, kurtosis, skew

from scattervae.errors import DataError
from scattervae.model.checkpoint import Checkpoint
from scattervae.science.latent_volume.comparison import (
    GIANT_BELOW_LOGG,
    Overlap,
    Projection,
    VolumeComparison,
    compare_volumes,
    stated_selections,
)
from scattervae.science.latent_volume.richness import Estimate
from scattervae.science.paper.comparison import (
    CANNON_LABELS,
    DOES_NOT_HOLD,
    HOLDS,
    NOT_TESTABLE,
    About,
    Claim,
    Interval,
    Table,
    bootstrap,
)
from scattervae.science.relative.differences import (
    LatentDifference,
    flux_difference,
    latent_difference,
    observed_shapes,
)
from scattervae.science.relative.matching import Matched, covariates_of, match
from scattervae.seeds import folds, stream
from scattervae.spectra.spectra import Spectra
from scattervae.spectra.star_tables import StellarLabels

PAPER_DELTA_V, PAPER_FACTOR = 0.30, 65.0
FE_H_RANGE = (-0.8, 0.1)
VALLEY, SLOPE, MARGIN = 0.14, -0.05, 0.02
"""The line between the two sequences, [alpha/M] = 0.14 - 0.05 [Fe/H], drawn through the gap that these APOGEE
giants show, and the margin dropped on either side."""
_KS_95 = 1.358  # over the square root of the number of stars: Kolmogorov (1933)
_MATCHINGS = (("teff", "logg", "fe_h"), ("teff", "logg", "fe_h", "bp1_rp1"))
_TITLES = {
    "coverage_delta_v": "Latent volume of unlabelled stars less that of labelled ones, over it",
    "coverage_new": "Latent volume of unlabelled stars beyond the labelled",
    "coverage_extrapolation": "Latent volume added by all 220 million spectra",
}


def volumes(
    model: Checkpoint, spectra: Spectra, labels: StellarLabels, unlabelled: Spectra | None
) -> tuple[VolumeComparison, ...]:
    """Latent volumes: labelled against `unlabelled`, or stated selections of the labelled as an illustration.

    Labelled stars that are also in `unlabelled` count as labelled only, as the paper's outside the cross-match.

    Raises:
        DataError: Fewer than two latents are active, or a set has no encoded star.
    """
    posterior = model.encode(spectra.take(spectra.usable))
    active = posterior.active_latents()
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
    """`coverage_delta_v`, `coverage_new` and `coverage_extrapolation`, and what they were computed from.

    The paper's "cover 30 % more" can mean either of the first two: figure 3 has the difference of the volumes,
    :math:`\\Delta V / V_{sup}`; what is new is the volume that no labelled star occupies.
    """
    note = "No second set was given (--unlabelled); the tables show stated selections as an illustration."
    try:
        found = volumes(model, spectra, labels, unlabelled)
    except DataError as error:
        found, note = (), str(error)
    details = tuple(table for compared in found for table in _tables(compared))
    if unlabelled is not None and found:
        difference = _covered(found[0], details, "coverage_delta_v", of=lambda overlap: overlap.difference)
        new = _covered(found[0], details, "coverage_new", of=lambda overlap: overlap.new)
        return [difference, new, _extrapolation(found[0])], found
    papers = ("about 30 %", "about 30 %", "x 65")
    untested = (About(*words, paper) for words, paper in zip(_TITLES.items(), papers, strict=True))
    return [Claim.of(about, None, NOT_TESTABLE, note, *details) for about in untested], found


def _covered(
    compared: VolumeComparison,
    details: tuple[Table, ...],
    claim_id: str,
    *,
    of: Callable[[Overlap], Estimate],
) -> Claim:
    """One of the two readings, at equal numbers of stars."""
    pairs = compared.pairs
    found = [of(pair.equal_n) for pair in pairs]
    middle = sorted(found, key=lambda e: e.value)[len(found) // 2]
    given = [100 * of(pair.as_given).value for pair in pairs]
    over_cells = [100 * of(overlap).value for pair in pairs for _, overlap in pair.over_cell]
    by_size = [pair.equal_n.new_by_size_alone for pair in pairs]
    real = all(size is None or size < pair.equal_n.new.low for size, pair in zip(by_size, pairs, strict=True))
    if real and all(e.low <= PAPER_DELTA_V <= e.high for e in found):
        verdict = HOLDS
    elif not min(over_cells) <= 100 * PAPER_DELTA_V <= max(over_cells):
        verdict = DOES_NOT_HOLD
    else:
        verdict = "depends on the latents, the number of stars and the size of the cells"
    title = f"{_TITLES[claim_id]}, at equal numbers"
    about = About(claim_id, title, "about 30 %, for a million stars outside the cross-match")
    note = (
        f"Median of {len(pairs)} pairs of active latents; with all stars {min(given):.0f} to {max(given):.0f} % "
        f"by pair, and {min(over_cells):.0f} to {max(over_cells):.0f} % over cell sizes at equal numbers. "
        f"{compared.n_labelled:,} labelled and {compared.n_unlabelled:,} unlabelled stars. "
        + ("" if real else "Further labelled stars would open as much in at least one pair. ")
        + "Faint stars spread by their noise, which counts as volume."
    )
    return Claim.of(about, middle, verdict, note, *details)


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
    rows = []
    for p in projections:
        low, high = p.extrapolation.corrected.low, p.extrapolation.corrected.high
        cells = (f"{p.extrapolation.linear:.0f}", f"{p.extrapolation.corrected.value:.2f}")
        rows.append((_name(p), *cells, f"{low:.2f} to {high:.2f}"))
    times = compared.pairs[0].extrapolation.times_the_sample
    about = About(
        "coverage_extrapolation",
        "Latent volume added by all 220 million spectra, over the labelled, corrected for sample size",
        "x 65, by multiplying the first million's 30 % with 220",
    )
    note = (
        f"The paper's linear rule gives {linear:.0f} here, an upper bound: every further star is taken to open "
        f"as much volume as the first ones. Corrected for sample size it is {middle.value:.1f}, a lower bound"
        + ("" if reliable else f", not to be trusted {times:.0f} times beyond the sample")
        + "."
    )
    header = ("latents", "linear (paper)", "corrected", "95 % interval")
    return Claim.of(
        about, middle, verdict, note, Table("Extrapolated to 220 million stars", header, tuple(rows))
    )


def _tables(compared: VolumeComparison) -> tuple[Table, Table]:
    name = compared.selection or "unlabelled set"
    rows = tuple(
        (
            _name(p),
            f"{p.cell:g}",
            *map(_percent, (p.as_given.new, p.equal_n.new, p.equal_n.difference, p.equal_n.share_new)),
            "yes" if p.resolved else "no",
        )
        for p in (*compared.pairs, compared.full)
    )
    header = (
        *("latents", "cell", "new, all stars", "new, equal numbers"),
        *("difference, equal numbers", "stars in new cells", "cells resolved"),
    )
    curve = tuple(
        (f"{at_n[0].n_labelled:,}", *(_percent(overlap.new) for overlap in at_n))
        for at_n in zip(*(p.over_n for p in compared.pairs), strict=True)
    )
    title = f"Latent volume: {name} ({compared.n_labelled:,} labelled, {compared.n_unlabelled:,} unlabelled)"
    of_curve = ("stars of each", *(_name(p) for p in compared.pairs))
    return Table(title, header, rows), Table(f"New volume over number of stars: {name}", of_curve, curve)


def _name(projection: Projection) -> str:
    return "latents " + ", ".join(str(k + 1) for k in projection.latents)


def _percent(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.0f} % ({100 * estimate.low:.0f} to {100 * estimate.high:.0f})"


def aggregate_posterior(model: Checkpoint, spectra: Spectra) -> Claim:
    """How far the latents of test stars, drawn from their posteriors, are from the prior that the loss pulls to.

    Source:
        Tomczak & Welling (2018), arXiv:1705.07120: the aggregate posterior against the prior.
    """
    posterior = model.encode(spectra.take(folds(spectra.source_id).test & spectra.usable))
    active = sorted(posterior.active_latents())
    about = About(
        "aggregate_posterior",
        "Largest Kolmogorov-Smirnov distance of an active latent from the normal prior, drawn latents",
        "the divergence is a measure of the Gaussianity of the latent space",
    )
    if not active or len(posterior.mean) < 2:
        note = f"{len(active)} active latents, {len(posterior.mean)} test stars."
        return Claim.of(about, None, NOT_TESTABLE, note)
    z = posterior.sample(stream(0, "aggregate posterior")).double().numpy()[:, active]
    n = len(z)
    largest = bootstrap(
        lambda rows: max(_ks_distance(z[rows, k]) for k in range(len(active))), n, n_resamples=100
    )
    chance = _KS_95 / np.sqrt(n)
    pairs = np.abs(np.corrcoef(z.T)[np.triu_indices(len(active), 1)]) if len(active) > 1 else np.zeros(1)
    rows = tuple(
        (
            f"latent {index + 1}",
            f"{column.mean():+.2f}",
            f"{column.std():.2f}",
            f"{skew(column):+.2f}",
            f"{kurtosis(column):+.2f}",
            f"{_ks_distance(column):.3f}",
        )
        for index, column in zip(active, z.T, strict=True)
    )
    note = (
        f"{n:,} draws of a normal distribution would lie {chance:.3f} from it at most (95 %). The largest "
        f"correlation of two active latents is {pairs.max():.2f}. The divergence is each star's: that it is small "
        "says nothing of the shape that all stars make together."
    )
    header = ("latent", "mean", "standard deviation", "skewness", "excess kurtosis", "KS distance")
    title = "Active latents of test stars, drawn; a normal distribution has 0, 1, 0, 0, 0"
    verdict = HOLDS if largest.value < chance else DOES_NOT_HOLD
    return Claim.of(about, largest, verdict, note, Table(title, header, rows))


def _ks_distance(values: np.ndarray) -> float:
    return float(kstest(values, "norm", method="asymp").statistic)


def relative_inference(model: Checkpoint, spectra: Spectra, labels: StellarLabels) -> Claim:
    """Whether latents separate alpha-rich from alpha-poor giants of the same Teff, log g and [Fe/H]."""
    about = About(
        "relative_inference",
        "Largest difference of a mean latent, alpha-rich less alpha-poor giants, labels matched",
        "inference in the latent space can identify relative differences between populations",
    )
    stars = spectra.take(spectra.usable)
    own = labels.aligned_to(stars.source_id)
    fe_h = own["fe_h"]
    giants = (own["logg"] < GIANT_BELOW_LOGG) & (fe_h > FE_H_RANGE[0]) & (fe_h < FE_H_RANGE[1])
    above = own["alpha_m"] - (VALLEY + SLOPE * fe_h)
    rich, poor = giants & (above > MARGIN), giants & (above < -MARGIN)
    posterior, shapes = model.encode(stars), observed_shapes(stars)
    found: dict[str, tuple[Matched, LatentDifference, int]] = {}
    try:
        for names in _MATCHINGS:
            matched = match(covariates_of(stars, own, names), rich, poor)
            wavelengths = flux_difference(shapes, matched.groups).contrast.n_found
            found[", ".join(names)] = matched, latent_difference(posterior, matched.groups), wavelengths
    except DataError as error:
        return Claim.of(about, None, NOT_TESTABLE, str(error))
    rows = tuple(
        (
            names,
            f"{matched.n_pairs:,}",
            f"{np.abs(matched.balance.after).max():.3f}",
            " ".join(
                f"{d:+.2f}{'*' if is_found else ''}"
                for d, is_found in zip(latents.means.difference, latents.means.found, strict=True)
            ),
            f"{latents.energy.distance:.2f} (p = {latents.energy.p_value:.3f})",
            str(wavelengths),
        )
        for names, (matched, latents, wavelengths) in found.items()
    )
    first, n_found = next(iter(found.values()))[1].means, [n for _, _, n in found.values()]
    largest = int(np.abs(first.difference).argmax())
    holding = [names for names, (_, latents, _) in found.items() if latents.energy.p_value < 0.05]
    if len(holding) in (0, len(found)):
        verdict = HOLDS if holding else DOES_NOT_HOLD
    else:
        verdict = f"depends on what is matched: holds for {'; '.join(holding)}"
    header = (
        *("matched on", "pairs", "largest imbalance", "mean latent differences"),
        *("energy distance", "wavelengths found, of 343"),
    )
    note = (
        f"{first.n_a:,} pairs of {int(rich.sum()):,} rich and {int(poor.sum()):,} poor giants, latent "
        f"{largest + 1}. {n_found[0]} wavelengths differ at a false-discovery rate of 5 %, {n_found[1]} when a "
        "colour is matched too: what goes with colour can be extinction as well as chemistry."
    )
    largest_found = Interval(*(float(of[largest]) for of in (first.difference, first.low, first.high)))
    title = "Matched pairs; latents that differ at a false-discovery rate of 5 % have a star"
    return Claim.of(about, largest_found, verdict, note, Table(title, header, rows))


_FEWEST_FOR_SEEDS = 100
_SAME_ABOVE = 0.95


def seeds_agree(model: Checkpoint, other: Checkpoint, spectra: Spectra) -> Claim:
    """How much of each active latent of one network is a linear function of the latents of another seed's."""
    stars = spectra.take(folds(spectra.source_id).test & spectra.usable)
    posteriors = [checkpoint.encode(stars) for checkpoint in (model, other)]
    about = About(
        "seeds_agree",
        "Least share of an active latent explained by the latents of another seed (linear, R^2)",
        "latents stand for labels: another seed should find the same ones (not stated)",
    )
    active = [sorted(posterior.active_latents()) for posterior in posteriors]
    if not all(active) or len(stars) < _FEWEST_FOR_SEEDS:
        note = f"{len(active[0])} and {len(active[1])} active latents, {len(stars)} test stars."
        return Claim.of(about, None, NOT_TESTABLE, note)
    means = [p.mean.double().numpy()[:, which] for p, which in zip(posteriors, active, strict=True)]

    def least(rows: np.ndarray) -> float:
        first, second = (of[rows] for of in means)
        return float(min(_explained(first, second).min(), _explained(second, first).min()))

    found = bootstrap(least, len(stars), n_resamples=100)
    shares = (_explained(means[1], means[0]), _explained(means[0], means[1]))
    rows = tuple(
        (name, f"latent {index + 1}", f"{share:.3f}")
        for name, which, of in zip(("this seed", "the other"), active, shares, strict=True)
        for index, share in zip(which, of, strict=True)
    )
    note = (
        f"{len(active[0])} and {len(active[1])} active latents on {len(stars):,} test stars. Latents are found but "
        "for a rotation at best, so that each is compared with all of the other's together."
    )
    verdict = HOLDS if found.low > _SAME_ABOVE else "depends on the latent: see the table"
    table = Table("Explained by the other seed's latents", ("seed", "latent", "R^2"), rows)
    return Claim.of(about, found, verdict, note, table)


def _explained(by: np.ndarray, of: np.ndarray) -> np.ndarray:
    """R^2 of each column of `of` as a linear function of the columns of `by`."""
    design = np.column_stack([np.ones(len(by)), by])
    left = of - design @ np.linalg.lstsq(design, of, rcond=None)[0]
    share: np.ndarray = 1.0 - left.var(axis=0) / of.var(axis=0)
    return share
