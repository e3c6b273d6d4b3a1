"""The paper's claims about labels: stars without them, bad ones, and what flux loses.

Laroche & Speagle (2023), sect. 2.1 (lossless flux) and sect. 3, second and third point.
"""

import numpy as np
from scipy.stats import rankdata

from scattervae.arrays import StarArray, StarMask
from scattervae.gaia.flux import Design, design
from scattervae.gaia.transport import archive_design
from scattervae.science.paper.comparison import (
    CANNON,
    CANNON_LABELS,
    DOES_NOT_HOLD,
    HOLDS,
    NETWORK,
    NOT_TESTABLE,
    About,
    Claim,
    ModelComparison,
    Table,
    bootstrap,
    mean_ratio,
    median_step,
)
from scattervae.science.paper.errors import FEWER_RESAMPLES

_WORST = 0.05
_FEWEST_WORST = 5
_FEWEST_INCOMPLETE = 30
_ALIKE = 1.10
_QUARTERS = 4
_SMALLEST_SEEN = (1e-4, 2.0**-24, 2.0**-52)  # noise of a bright star; rounding of float32 and float64


def incomplete_labels(comparison: ModelComparison) -> Claim:
    """The network's scores on test stars that the Cannon cannot score, for want of a label."""
    title = "CRPS of stars without complete labels over that of the others, VAE"
    about = About("incomplete_labels", title, "accurate where supervised learning cannot be implemented")
    n = len(comparison.incomplete.nll)
    if n < _FEWEST_INCOMPLETE:
        note = f"{n} usable test stars lack a label; at least {_FEWEST_INCOMPLETE} are needed."
        return Claim.of(about, None, NOT_TESTABLE, note)
    lacking, complete = comparison.incomplete, comparison.scores[NETWORK]
    groups = {"labels incomplete": lacking, "all labels": complete}
    crps = np.concatenate([scores.crps for scores in groups.values()])
    here = np.arange(len(crps)) < n
    ratio = bootstrap(lambda rows: mean_ratio(crps[rows], here[rows]), len(crps))
    nll = np.concatenate([scores.nll for scores in groups.values()])
    nats = bootstrap(lambda rows: median_step(nll[rows], here[rows]), len(nll), n_resamples=FEWER_RESAMPLES)
    alike = {"CRPS": ratio.high < _ALIKE, "likelihood": nats.low <= 0.0}
    verdict = HOLDS if all(alike.values()) else DOES_NOT_HOLD
    if 0 < sum(alike.values()) < len(alike):
        verdict = (
            f"depends on the score: holds by {'; '.join(name for name, holds in alike.items() if holds)}"
        )
    size = [comparison.low_orders(scores).mean() for scores in groups.values()]
    rows = tuple(
        (
            name,
            f"{len(scores.nll):,}",
            f"{np.median(scores.nll):.1f}",
            f"{scores.nll.mean():.1f}",
            f"{scores.crps.mean():.4f}",
            f"{scores.rms.mean():.3f}",
            f"{100 * scores.share_inside_68.mean():.1f}",
            f"{100 * scores.share_inside_95.mean():.1f}",
            f"{100 * (np.abs(scores.z) > 5).mean():.3f}",
            f"{np.median(scores.scatter):.4f}",
        )
        for name, scores in groups.items()
    )
    header = (
        *("stars", "number", "median NLL", "mean NLL", "mean CRPS", "RMS residual"),
        *("inside 68 % [%]", "inside 95 % [%]", "> 5 sigma [%]", "median scatter"),
    )
    note = (
        f"{n:,} test stars lack a label and the Cannon says nothing of them. The VAE's CRPS there is "
        f"{ratio.value:.2f} times that of the others, and its median NLL {nats.value:+.0f} nats "
        f"({nats.low:+.0f} to {nats.high:+.0f}) above theirs. Normalised errors are "
        f"{size[0] / size[1]:.2f} times as large; how far its scatter had to grow for it is in the table."
    )
    table = Table("The VAE with and without labels in the catalogue", header, rows)
    return Claim.of(about, ratio, verdict, note, table)


def bad_labels(comparison: ModelComparison) -> Claim:
    """Whether the Cannon's worst stars are those of uncertain labels, or those it extrapolates to.

    Stars without any label error count among the worst, but not in the chance.
    """
    about = About(
        "bad_labels",
        "Chance that a star the Cannon fails on has more uncertain labels than one it does not",
        "the Cannon's errors blow up where bad label estimates are used",
    )
    nll, network = (comparison.scores[name].nll for name in (CANNON, NETWORK))
    uncertainty = _label_uncertainty(comparison)
    worst: StarMask = nll >= np.quantile(nll, 1 - _WORST)
    has_errors = np.isfinite(uncertainty)
    known, failed = uncertainty[has_errors], worst[has_errors]
    if min(failed.sum(), (~failed).sum()) < _FEWEST_WORST or np.ptp(known) == 0:
        note = (
            f"{len(known):,} of {len(comparison):,} test stars have label errors, {int(failed.sum())} of them among "
            f"the worst twentieth; at least {_FEWEST_WORST} there are needed, and errors that differ."
        )
        return Claim.of(about, None, NOT_TESTABLE, note)
    chance = bootstrap(
        lambda rows: _rank_chance(known[rows], failed[rows]), len(known), n_resamples=FEWER_RESAMPLES
    )
    outside_worst, outside_others = (100 * comparison.extrapolated[mask].mean() for mask in (worst, ~worst))
    rows = tuple(
        (
            where,
            f"{int(mask.sum()):,}",
            f"{np.median(uncertainty[mask & has_errors]):.2f}",
            f"{100 * comparison.extrapolated[mask].mean():.1f}",
            f"{np.median(comparison.labels['teff'][mask]):.0f}",
            f"{np.median(comparison.labels['logg'][mask]):.2f}",
            f"{np.median(comparison.labels['fe_h'][mask]):+.2f}",
            f"{np.median(nll[mask]):.0f}",
            f"{np.median(network[mask]):.0f}",
        )
        for where, mask in (("worst 5 %", worst), ("others", ~worst))
    )
    header = (
        *("stars", "number", "label error / median", "extrapolated [%]"),
        *("Teff [K]", "log g", "[Fe/H]", "NLL Cannon", "NLL VAE"),
    )
    extrapolates = outside_worst > 2 * outside_others + 1
    verdict = HOLDS if chance.low > 0.5 else DOES_NOT_HOLD if chance.high < 0.5 else "depends on the sample"
    note = (
        "0.5 would be no relation. Of the worst twentieth "
        f"{outside_worst:.1f} % lie outside the convex hull of the training labels, of the others "
        f"{outside_others:.1f} %: "
        + ("extrapolation is part of it. " if extrapolates else "extrapolation is not what fails. ")
        + "A quadratic that cannot follow the spectra fails on good labels too."
    )
    table = Table("Stars the Cannon fails on (by likelihood) and the others; medians", header, rows)
    return Claim.of(about, chance, verdict, note, table)


def gain_by_label_error(comparison: ModelComparison) -> Claim:
    """How many nats the network gains over the Cannon, by quarters of the labels' errors."""
    about = About(
        "gain_by_label_error",
        "Gain over the Cannon where labels are worst less where they are best, median nats",
        "supervised learning fails with bad labels, unsupervised learning does not see them",
    )
    uncertainty = _label_uncertainty(comparison)
    gain = comparison.scores[CANNON].nll - comparison.scores[NETWORK].nll
    known = np.isfinite(uncertainty)
    uncertainty, gain = uncertainty[known], gain[known]
    if len(gain) < _QUARTERS * _FEWEST_WORST or np.ptp(uncertainty) == 0:
        note = f"{len(gain):,} test stars have label errors; errors that differ are needed."
        return Claim.of(about, None, NOT_TESTABLE, note)
    quarter = np.searchsorted(np.quantile(uncertainty, [0.25, 0.5, 0.75]), uncertainty)

    ends = np.flatnonzero((quarter == 0) | (quarter == _QUARTERS - 1))
    of_ends, worst = gain[ends], quarter[ends] > 0
    step = bootstrap(
        lambda rows: median_step(of_ends[rows], worst[rows]), len(ends), n_resamples=FEWER_RESAMPLES
    )
    rows = tuple(
        (
            f"quarter {k + 1}",
            f"{int((quarter == k).sum()):,}",
            f"{np.median(uncertainty[quarter == k]):.2f}",
            f"{np.median(gain[quarter == k]):.1f}",
            f"{gain[quarter == k].mean():.1f}",
        )
        for k in range(_QUARTERS)
        if (quarter == k).any()
    )
    verdict = HOLDS if step.low > 0 else DOES_NOT_HOLD if step.high < 0 else "depends on the sample"
    note = (
        f"The median gain is {np.median(gain):.0f} nats, and differs by {step.value:+.0f} between the quarter "
        "of the largest and that of the smallest label errors: what is left is not for bad labels."
    )
    header = ("label errors", "stars", "error / median", "median gain [nat]", "mean gain [nat]")
    return Claim.of(about, step, verdict, note, Table("Gain over the Cannon by label error", header, rows))


def lossless_flux() -> Claim:
    """How many of the 110 combinations of coefficients survive the way to sampled flux and back."""
    archive = archive_design()
    matrices: dict[str, Design] = {"GaiaXPy's (six digits)": design(), "full precision": archive}
    counts = {}
    for name, of_grid in matrices.items():
        values = np.linalg.svd(of_grid.matrix, compute_uv=False)
        counts[name] = [int((values > limit * values[0]).sum()) for limit in _SMALLEST_SEEN]
    at_bright_stars_noise, survivors, _ = counts["full precision"]
    n = archive.matrix.shape[1]
    about = About(
        "lossless_flux",
        "Combinations of the 110 coefficients that float32 flux holds",
        "coefficients become flux and vice versa without loss of information",
    )
    note = (
        f"{survivors} of {n} at float32, by singular values above its rounding; with noise of 1e-4 of the flux "
        f"{at_bright_stars_noise}. The others must come from a prior."
    )
    header = ("design matrix", "1e-4 (a bright star's noise)", "float32 rounding", "float64 rounding")
    rows = tuple((name, *map(str, of_grid)) for name, of_grid in counts.items())
    table = Table("Singular values above a share of the largest", header, rows)
    verdict = HOLDS if survivors == n else DOES_NOT_HOLD
    return Claim(*about, float(survivors), None, verdict, note, (table,))


def _label_uncertainty(comparison: ModelComparison) -> StarArray:
    """Each star's label errors over their medians, averaged over the labels that the Cannon takes.

    A label whose errors are missing or mostly 0 adds nothing; NaN for a star without any error.
    """
    total, number = np.zeros(len(comparison)), np.zeros(len(comparison))
    for errors in comparison.labels.errors[:, : len(CANNON_LABELS)].T:
        known = np.isfinite(errors)
        median = np.median(errors[known]) if known.any() else 0.0
        if median > 0:
            total[known] += errors[known] / median
            number += known
    uncertainty: StarArray = np.divide(total, number, out=np.full(len(total), np.nan), where=number > 0)
    return uncertainty


def _rank_chance(values: StarArray, group: StarMask) -> float:
    """Chance that a value of the group exceeds one of the others: Mann & Whitney's (1947) U over its maximum."""
    n, m = int(group.sum()), int((~group).sum())
    if n == 0 or m == 0:
        return float("nan")
    return float((rankdata(values)[group].sum() - n * (n + 1) / 2) / (n * m))
