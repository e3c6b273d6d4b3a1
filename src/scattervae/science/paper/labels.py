"""The paper's claims about labels: stars without them, bad ones, and what flux loses.

Laroche & Speagle (2023), sect. 2.1 (lossless flux) and sect. 3, second and third point.
"""

import numpy as np

from scattervae.arrays import StarArray, StarMask
from scattervae.gaia.basis import Design, design
from scattervae.gaia.instrument import archive_design
from scattervae.science.paper.claim import DOES_NOT_HOLD, HOLDS, NOT_TESTABLE, Claim, Table
from scattervae.science.paper.comparison import CANNON, CANNON_LABELS, NETWORK, Contest, bootstrap

_WORST = 0.05
_FEWEST_WORST = 5
_FEWER_RESAMPLES = 300
_FLOAT32 = 2.0**-24
_ALIKE = 1.10


def incomplete_labels(contest: Contest) -> Claim:
    """What the network tells of test stars that the Cannon cannot score, for want of a label."""
    title = "Mean normalised error of stars without complete labels over that of the others, VAE"
    paper = "accurate where supervised learning cannot be implemented"
    n = contest.n_incomplete
    if n < 30:
        note = f"{n} usable test stars lack a label; at least 30 are needed."
        return Claim("incomplete_labels", title, paper, None, None, NOT_TESTABLE, note)
    size = {
        name: np.abs(
            np.hstack([told.z[:, contest.first_ten("bp")], told.z[:, contest.first_ten("rp")]])
        ).mean(axis=1)
        for name, told in (("without", contest.incomplete), ("with", contest.told[NETWORK]))
    }
    both = np.concatenate([size["without"], size["with"]])
    lacking = np.arange(len(both)) < n
    ratio = bootstrap(lambda rows: _ratio_of_means(both[rows], lacking[rows]), len(both))
    rows = tuple(
        (
            name,
            f"{len(told.nll):,}",
            f"{np.median(told.nll):.1f}",
            f"{told.nll.mean():.1f}",
            f"{100 * told.share_inside_68.mean():.1f}",
            f"{100 * told.share_inside_95.mean():.1f}",
            f"{100 * (np.abs(told.z) > 5).mean():.3f}",
            f"{np.median(told.scatter):.4f}",
        )
        for name, told in (
            ("labels incomplete", contest.incomplete),
            ("all labels", contest.told[NETWORK]),
        )
    )
    return Claim(
        id="incomplete_labels",
        title=title,
        paper=paper,
        measured=ratio.value,
        interval=(ratio.low, ratio.high),
        verdict=HOLDS if ratio.high < _ALIKE else DOES_NOT_HOLD,
        note=(
            f"{n:,} test stars lack a label and the Cannon says nothing of them. The VAE's errors there are "
            f"{ratio.value:.2f} times those of the others; how far its scatter had to grow for it is in the table."
        ),
        details=(
            Table(
                "The VAE with and without labels in the catalogue",
                (
                    "stars",
                    "number",
                    "median NLL",
                    "mean NLL",
                    "inside 68 % [%]",
                    "inside 95 % [%]",
                    "> 5 sigma [%]",
                    "median scatter",
                ),
                rows,
            ),
        ),
    )


def bad_labels(contest: Contest) -> Claim:
    """Whether the Cannon's worst stars are those of uncertain labels, or those it extrapolates to.

    Stars without any label error count among the worst, but not in the chance.
    """
    title = "Chance that a star the Cannon fails on has more uncertain labels than one it does not"
    paper = "the Cannon's errors blow up where bad label estimates are used"
    nll = contest.told[CANNON].nll
    uncertainty = _label_uncertainty(contest)
    worst: StarMask = nll >= np.quantile(nll, 1 - _WORST)
    told = np.isfinite(uncertainty)
    known, failed = uncertainty[told], worst[told]
    if min(failed.sum(), (~failed).sum()) < _FEWEST_WORST or np.ptp(known) == 0:
        note = (
            f"{len(known):,} of {len(contest):,} test stars have label errors, {int(failed.sum())} of them among "
            f"the worst twentieth; at least {_FEWEST_WORST} there are needed, and errors that differ."
        )
        return Claim("bad_labels", title, paper, None, None, NOT_TESTABLE, note)
    chance = bootstrap(
        lambda rows: _rank_chance(known[rows], failed[rows]), len(known), n_resamples=_FEWER_RESAMPLES
    )
    outside = {where: 100 * contest.extrapolated[mask].mean() for where, mask in _groups(worst).items()}
    network = contest.told[NETWORK].nll
    rows = tuple(
        (
            where,
            f"{int(mask.sum()):,}",
            f"{np.median(uncertainty[mask & told]):.2f}",
            f"{100 * contest.extrapolated[mask].mean():.1f}",
            f"{np.median(contest.labels['teff'][mask]):.0f}",
            f"{np.median(contest.labels['logg'][mask]):.2f}",
            f"{np.median(contest.labels['fe_h'][mask]):+.2f}",
            f"{np.median(nll[mask]):.0f}",
            f"{np.median(network[mask]):.0f}",
        )
        for where, mask in _groups(worst).items()
    )
    follows = chance.low > 0.5
    beyond = outside["worst 5 %"] > 2 * outside["others"] + 1
    verdict = HOLDS if follows else (DOES_NOT_HOLD if chance.high < 0.5 else "depends on the sample")
    return Claim(
        id="bad_labels",
        title=title,
        paper=paper,
        measured=chance.value,
        interval=(chance.low, chance.high),
        verdict=verdict,
        note=(
            "0.5 would be no relation. Of the worst twentieth "
            f"{outside['worst 5 %']:.1f} % lie outside the convex hull of the training labels, of the others "
            f"{outside['others']:.1f} %"
            + (": extrapolation is part of it. " if beyond else ": extrapolation is not what fails. ")
            + "A quadratic that cannot follow the spectra fails on good labels too."
        ),
        details=(
            Table(
                "Stars the Cannon fails on (by likelihood) and the others; medians",
                (
                    "stars",
                    "number",
                    "label error / median",
                    "extrapolated [%]",
                    "Teff [K]",
                    "log g",
                    "[Fe/H]",
                    "NLL Cannon",
                    "NLL VAE",
                ),
                rows,
            ),
        ),
    )


def lossless_flux() -> Claim:
    """How many of the 110 combinations of coefficients survive the way to sampled flux and back."""
    matrices: dict[str, Design] = {"GaiaXPy's (six digits)": design(), "full precision": archive_design()}
    counts = {name: _survivors(d) for name, d in matrices.items()}
    survivors = counts["full precision"]["float32"]
    n = matrices["full precision"].matrix.shape[1]
    rows = tuple(
        (name, *(str(count[kind]) for kind in ("1e-4", "float32", "float64")))
        for name, count in counts.items()
    )
    return Claim(
        id="lossless_flux",
        title="Combinations of the 110 coefficients that float32 flux holds",
        paper="coefficients become flux and vice versa without loss of information",
        measured=float(survivors),
        interval=None,
        verdict=HOLDS if survivors == n else DOES_NOT_HOLD,
        note=(
            f"{survivors} of {n} at float32, by singular values above its rounding; with noise of 1e-4 of the flux "
            f"{counts['full precision']['1e-4']}. The others must come from a prior."
        ),
        details=(
            Table(
                "Singular values above a share of the largest",
                ("design matrix", "1e-4 (a bright star's noise)", "float32 rounding", "float64 rounding"),
                rows,
            ),
        ),
    )


def _survivors(grid: Design) -> dict[str, int]:
    values = np.linalg.svd(grid.matrix, compute_uv=False)
    limits = {"1e-4": 1e-4, "float32": _FLOAT32, "float64": float(np.finfo(np.float64).eps)}
    return {name: int((values > limit * values[0]).sum()) for name, limit in limits.items()}


def _label_uncertainty(contest: Contest) -> StarArray:
    """Each star's label errors over their medians, averaged over the labels that the Cannon takes.

    A label whose errors are missing or mostly 0 tells nothing; NaN for a star without any error.
    """
    total, number = np.zeros(len(contest)), np.zeros(len(contest))
    for errors in contest.labels.errors[:, : len(CANNON_LABELS)].T:
        known = np.isfinite(errors)
        median = np.median(errors[known]) if known.any() else 0.0
        if median > 0:
            total[known] += errors[known] / median
            number += known
    uncertainty: StarArray = np.divide(total, number, out=np.full(len(contest), np.nan), where=number > 0)
    return uncertainty


def _groups(worst: StarMask) -> dict[str, StarMask]:
    return {"worst 5 %": worst, "others": ~worst}


def _rank_chance(values: StarArray, group: StarMask) -> float:
    """Chance that a value of the group exceeds one of the others: Mann & Whitney's (1947) U over its maximum."""
    from scipy.stats import rankdata

    n, m = int(group.sum()), int((~group).sum())
    if n == 0 or m == 0:
        return float("nan")
    return float((rankdata(values)[group].sum() - n * (n + 1) / 2) / (n * m))


def _ratio_of_means(values: StarArray, group: StarMask) -> float:
    return float(values[group].mean() / values[~group].mean()) if group.any() else float("nan")
