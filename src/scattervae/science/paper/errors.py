"""The paper's claims about normalised errors and scatter, each with its number and interval.

Laroche & Speagle (2023), sect. 3, first and second point, and fig. 2.
"""

import math
from itertools import pairwise

import numpy as np

from scattervae.arrays import StarArray, StarMask
from scattervae.science.paper.comparison import (
    CANNON,
    COOL_BELOW_K,
    DOES_NOT_HOLD,
    DRAWN,
    HOLDS,
    LOW_GRAVITY_BELOW,
    NETWORK,
    NOT_TESTABLE,
    ROBUST,
    About,
    Claim,
    Interval,
    ModelComparison,
    Table,
    bootstrap,
    bootstrap_mean,
    bootstrap_ratio,
    coefficient,
    first_ten,
    mean_ratio,
    median_step,
)

PAPER_RATIO = {"bp": 1.02, "rp": 1.09}
FEWER_RESAMPLES = 300
_FEWEST_IN_REGION = 30
_TWO_ORDERS = 0.015  # rounds to 0.01
_MODE_BINS = np.linspace(-5.0, 5.0, 51)
_REGIONS = {
    "teff": (0.0, 3500.0, 4000.0, 4500.0, 5000.0, 6000.0, math.inf),
    "logg": (-math.inf, 1.0, 2.0, 3.0, 4.0, math.inf),
    "fe_h": (-math.inf, -1.0, -0.5, 0.0, math.inf),
}


def normalised_error_ratio(comparison: ModelComparison, band: str) -> Claim:
    """Mean absolute normalised error over a band's first ten coefficients, network over Cannon.

    The paper's number is read as an upper limit, "only so much larger": the claim holds where the interval
    reaches down to it.
    """
    columns = first_ten(comparison.bands[band == "rp"])
    z = {name: scores.z[:, columns] for name, scores in comparison.scores.items()}
    means = {name: np.abs(of).mean(axis=1) for name, of in z.items()}
    pairs = [(a, b) for a in (NETWORK, DRAWN) for b in (CANNON, ROBUST)]
    ratios = {f"{a} / {b}": bootstrap_ratio(means[a], means[b]) for a, b in pairs}
    paper = PAPER_RATIO[band]
    holding = [names for names, ratio in ratios.items() if ratio.low <= paper]
    main = ratios[f"{NETWORK} / {CANNON}"]
    if len(holding) in (0, len(pairs)):
        verdict = HOLDS if holding else DOES_NOT_HOLD
    else:
        verdict = f"depends on what is compared: holds for {'; '.join(holding)}"
    rows = tuple((names, *(f"{part:.3f}" for part in ratio)) for names, ratio in ratios.items())
    moments = tuple(
        (name, f"{np.abs(of).mean():.3f}", f"{of.mean():+.3f}", f"{np.sqrt(np.square(of).mean()):.3f}")
        for name, of in z.items()
    )
    percent, claimed = 100 * (main.value - 1), 100 * (paper - 1)
    about = About(
        f"normalised_error_ratio_{band}10",
        f"Mean normalised error, first 10 {band.upper()} coefficients, VAE over Cannon",
        f"only {claimed:.0f} % larger than the Cannon's",
    )
    note = (
        f"The VAE's is {abs(percent):.0f} % {'larger' if percent >= 0 else 'smaller'}. A normalised error "
        "shrinks when the scatter grows: the Cannon's can be small because its scatter must cover every "
        "star, so read it beside the likelihoods."
    )
    ratio_table = Table("Ratio of means, 95 % interval", ("models", "ratio", "low", "high"), rows)
    header = ("model", "mean absolute", "signed mean", "RMS")
    return Claim.of(about, main, verdict, note, ratio_table, Table("Normalised errors", header, moments))


def tails(comparison: ModelComparison) -> Claim:
    """Share and largest of the normalised errors, network against Cannon.

    There is no ratio where the Cannon has none beyond 5 sigma; the claim does not hold there.
    """
    third = [coefficient(band, 3) for band in comparison.bands]
    beyond = {name: (np.abs(scores.z) > 5.0).mean(axis=1) for name, scores in comparison.scores.items()}
    ratio = bootstrap_ratio(beyond[NETWORK], beyond[CANNON])
    rows = []
    for name, scores in comparison.scores.items():
        size = np.abs(scores.z)
        rows.append(
            (
                name,
                f"{100 * beyond[name].mean():.3f}",
                f"{100 * (size > 10).mean():.4f}",
                f"{size.max():.1f}",
                *(f"{size[:, k].max():.1f}" for k in third),
                *(f"{np.quantile(size[:, k], 0.999):.1f}" for k in third),
            )
        )
    network, cannon = (np.abs(comparison.scores[name].z[:, third]) for name in (NETWORK, CANNON))
    fewer, cannon_reaches = ratio.high < 1.0, bool((cannon.max(axis=0) > 10).all())
    truncated = bool((network.max(axis=0) < 6).all())
    verdict = DOES_NOT_HOLD
    if fewer and cannon_reaches:
        verdict = HOLDS if truncated else "depends on what 'truncates' means: rare beyond 5 sigma, not absent"
    bands = ("3rd BP", "3rd RP")
    header = (
        *("model", "> 5 sigma [%]", "> 10 sigma [%]", "largest"),
        *(f"largest, {band}" for band in bands),
        *(f"99.9 %, {band}" for band in bands),
    )
    about = About(
        "tails",
        "Share of normalised errors beyond 5 sigma, VAE over Cannon",
        "the VAE's truncate at about 5 sigma, the Cannon's extend beyond 10",
    )
    note = (
        f"Beyond 5 sigma: {100 * beyond[NETWORK].mean():.3f} % of the VAE's, "
        f"{100 * beyond[CANNON].mean():.3f} % of the Cannon's. Largest in the 3rd coefficients: "
        f"{network.max():.1f} and {cannon.max():.1f}."
    )
    found = ratio if math.isfinite(ratio.value) else None
    return Claim.of(about, found, verdict, note, Table("Tails", header, tuple(rows)))


def scatter_ratio(comparison: ModelComparison) -> Claim:
    """The network's star-by-star scatter over the Cannon's one, coefficient by coefficient.

    Where the Cannon needs no scatter the network's is infinitely larger, which counts in the median.
    """
    columns = np.r_[*(first_ten(band) for band in comparison.bands)]
    cannon, network = comparison.cannon_scatter[columns], comparison.scores[NETWORK].scatter[:, columns]
    none = cannon == 0
    over = np.divide(network, cannon, out=np.full(network.shape, np.inf), where=~none)
    median = bootstrap(
        lambda rows: float(np.quantile(over[rows], 0.5, method="inverted_cdf")),
        len(comparison),
        n_resamples=FEWER_RESAMPLES,
    )
    about = About(
        "scatter_ratio",
        "Median scatter, VAE over Cannon, first 10 BP and RP coefficients",
        "smaller by up to two orders of magnitude",
    )
    without = f"The Cannon needs no scatter in {int(none.sum())} of {len(columns)} coefficients."
    if not math.isfinite(median.value):
        return Claim.of(about, None, DOES_NOT_HOLD, without)
    quantiles = np.quantile(over[:, ~none], [0.01, 0.5, 0.99], axis=0)
    smallest = float(quantiles[0].min())
    n_bp = comparison.normalization.bp.stop
    rows = tuple(
        (f"BP {k + 1}" if k < n_bp else f"RP {k - n_bp + 1}", *(f"{q:.4f}" for q in of_column))
        for k, of_column in zip(columns[~none], quantiles.T, strict=True)
    )
    smaller = median.high < 1.0
    if smaller and smallest <= _TWO_ORDERS:
        verdict = HOLDS
    else:
        verdict = f"depends on the star: up to a factor of {1 / smallest:.0f}" if smaller else DOES_NOT_HOLD
    note = (
        f"Half of all coefficients of all stars lie below {median.value:.3f} of the Cannon's; in the "
        f"coefficient and stars where it is smallest (1 % quantile) it is {smallest:.4f}."
        + (f" {without}" if none.any() else "")
    )
    header = ("coefficient", "1 % quantile", "median", "99 %")
    return Claim.of(about, median, verdict, note, Table("Scatter over the Cannon's", header, rows))


def region(comparison: ModelComparison, claim_id: str) -> Claim:
    """How models degrade towards cool stars (``cool_stars``) or low gravity (``low_gravity``), by proper scores.

    A normalised error shrinks when the scatter grows, so it decides nothing here: the CRPS and the likelihood do, which
    no scatter buys.

    Source:
        Gneiting & Raftery (2007), JASA 102, 359: proper scores.
    """
    label, limit, text = {
        "cool_stars": ("teff", COOL_BELOW_K, "Teff below 4000 K"),
        "low_gravity": ("logg", LOW_GRAVITY_BELOW, "log g below 1"),
    }[claim_id]
    inside: StarMask = comparison.labels[label] < limit
    about = About(
        claim_id,
        f"Growth of the CRPS at {text}, VAE over Cannon",
        "the VAE is less susceptible to large errors there; the Cannon's blow up",
    )
    n_inside, n_outside = int(inside.sum()), int((~inside).sum())
    if min(n_inside, n_outside) < _FEWEST_IN_REGION:
        note = (
            f"{n_inside} test stars with {text}, {n_outside} without; {_FEWEST_IN_REGION} of each are needed."
        )
        return Claim.of(about, None, NOT_TESTABLE, note)
    network, cannon = comparison.scores[NETWORK], comparison.scores[CANNON]
    growth = bootstrap(
        lambda rows: (
            mean_ratio(network.crps[rows], inside[rows]) / mean_ratio(cannon.crps[rows], inside[rows])
        ),
        len(comparison),
        n_resamples=FEWER_RESAMPLES,
    )
    nats = bootstrap(
        lambda rows: (
            median_step(network.nll[rows], inside[rows]) - median_step(cannon.nll[rows], inside[rows])
        ),
        len(comparison),
        n_resamples=FEWER_RESAMPLES,
    )
    of_network, of_cannon = (mean_ratio(scores.crps, inside) for scores in (network, cannon))
    sizes = [
        np.quantile(comparison.low_orders(s)[m], 0.95) for s in (network, cannon) for m in (inside, ~inside)
    ]
    better = "better" if network.crps[inside].mean() < cannon.crps[inside].mean() else "worse"
    verdict = _verdict_by_scores(growth, nats, cannon_blows_up=of_cannon > 1.0)
    note = (
        f"{n_inside} test stars. The CRPS becomes {of_network:.2f} times that of the others for the VAE and "
        f"{of_cannon:.2f} times for the Cannon; the median NLL rises by {median_step(network.nll, inside):+.0f} and "
        f"{median_step(cannon.nll, inside):+.0f} nats. In absolute terms the VAE is {better} there: CRPS "
        f"{network.crps[inside].mean():.3f} against {cannon.crps[inside].mean():.3f}. The 95th percentile of "
        f"normalised errors becomes {sizes[0] / sizes[1]:.2f} and {sizes[2] / sizes[3]:.2f} times that of the "
        "others, which scatter can buy and which decides nothing."
    )
    return Claim.of(about, growth, verdict, note, _there_and_elsewhere(comparison, inside, text))


def _verdict_by_scores(growth: Interval, nats: Interval, *, cannon_blows_up: bool) -> str:
    """Whether the network degrades less than the Cannon by CRPS (a ratio) and likelihood (a difference)."""
    less = {"CRPS": growth.high < 1.0, "likelihood": nats.high < 0.0}
    more = {"CRPS": growth.low >= 1.0, "likelihood": nats.low >= 0.0}
    if all(less.values()):
        return (
            HOLDS if cannon_blows_up else "depends on the reading: less, but the Cannon's do not grow there"
        )
    if all(more.values()):
        return DOES_NOT_HOLD
    by_score = ", ".join(
        f"{'less' if less[name] else 'more' if more[name] else 'undecided'} by {name}" for name in less
    )
    return f"depends on the score: {by_score}"


def raw_accuracy(comparison: ModelComparison) -> Claim:
    """Residuals without any scatter, region by region of the labels, network over Cannon."""
    labels = comparison.labels
    network, cannon = (comparison.scores[name].rms for name in (NETWORK, CANNON))
    rows, ratios = [], {}
    for label, edges in _REGIONS.items():
        for low, high in pairwise(edges):
            here = (labels[label] >= low) & (labels[label] < high)
            if here.sum() < _FEWEST_IN_REGION:
                continue
            name = f"{label} {low:g} to {high:g}"
            if math.isinf(high - low):
                name = f"{label} above {low:g}" if math.isinf(high) else f"{label} below {high:g}"
            ratios[name] = ratio = bootstrap_ratio(network[here], cannon[here])
            means = (f"{of[here].mean():.3f}" for of in (network, cannon))
            rows.append((name, f"{int(here.sum()):,}", *means, *(f"{part:.3f}" for part in ratio)))
    every = bootstrap_ratio(network, cannon)
    not_smaller = [name for name, ratio in ratios.items() if not ratio.high < 1.0]
    verdict = HOLDS if not not_smaller else f"depends on the region: not in {'; '.join(not_smaller)}"
    if every.low >= 1.0:
        verdict = DOES_NOT_HOLD
    about = About(
        "raw_accuracy",
        "Root mean square residual, VAE over Cannon, by region",
        "accurate in regions of stellar parameter space where supervised learning failed",
    )
    note = (
        "Residuals of all coefficients in training standard deviations, whatever scatter either model states. "
        f"The VAE's are smaller in {len(ratios) - len(not_smaller)} of {len(ratios)} regions of "
        f"{_FEWEST_IN_REGION} stars or more."
    )
    header = ("region", "stars", "VAE", "Cannon", "ratio", "low", "high")
    table = Table("Mean RMS residual of the stars of a region", header, tuple(rows))
    return Claim.of(about, every, verdict, note, table)


def _there_and_elsewhere(comparison: ModelComparison, inside: StarMask, text: str) -> Table:
    rows = []
    for name, scores in comparison.scores.items():
        low_orders = comparison.low_orders(scores)
        for where, mask in ((text, inside), ("elsewhere", ~inside)):
            size = low_orders[mask]
            modes = [_mode(scores.z[mask, coefficient(band, 3)]) for band in comparison.bands]
            rows.append(
                (
                    name,
                    where,
                    f"{np.quantile(size, 0.95):.2f}",
                    f"{100 * (size > 5).mean():.3f}",
                    *(f"{mode:+.1f}" for mode in modes),
                    f"{np.median(scores.nll[mask]):.1f}",
                    f"{scores.crps[mask].mean():.3f}",
                    f"{scores.rms[mask].mean():.3f}",
                )
            )
    header = (
        *("model", "stars", "95 % of |z|", "> 5 sigma [%]", "mode, 3rd BP", "mode, 3rd RP"),
        *("median NLL", "mean CRPS", "RMS residual"),
    )
    return Table("Errors there and elsewhere", header, tuple(rows))


def likelihood_gain(comparison: ModelComparison) -> Claim:
    """Nats that the network gains over the Cannon by its lower bound, which pays for the latents.

    At the posterior mean the network has seen the star for nothing, which the Cannon's labels have not.
    """
    cannon = comparison.scores[CANNON].nll
    gain = bootstrap_mean(cannon - comparison.bound)
    at_mean = cannon - comparison.scores[NETWORK].nll
    title = "Mean gain over the Cannon by the lower bound, nats per star"
    about = About("likelihood_gain", title, "outperforms the Cannon (no number)")
    note = (
        f"{np.median(cannon - comparison.bound):.0f} nats in the median star. At the posterior mean, which takes "
        f"the latents for known, it would be {at_mean.mean():.0f} and {np.median(at_mean):.0f}. The Cannon sees "
        "labels of another instrument, the network the spectrum itself: a part of the gain is that."
    )
    return Claim.of(about, gain, HOLDS if gain.low > 0 else DOES_NOT_HOLD, note, score_table(comparison))


def score_table(comparison: ModelComparison) -> Table:
    """Held-out likelihood, CRPS and interval shares of all models: what normalised errors do not show."""
    bound = bootstrap_mean(comparison.bound)
    cells = (f"{bound.value:.1f} ({bound.low:.1f} to {bound.high:.1f})", f"{np.median(comparison.bound):.1f}")
    rows = [("VAE, lower bound", *cells, "-", "-", "-")]
    for name, scores in comparison.scores.items():
        mean = bootstrap_mean(scores.nll)
        rows.append(
            (
                name,
                f"{mean.value:.1f} ({mean.low:.1f} to {mean.high:.1f})",
                f"{np.median(scores.nll):.1f}",
                f"{scores.crps.mean():.4f}",
                f"{100 * scores.share_inside_68.mean():.1f}",
                f"{100 * scores.share_inside_95.mean():.1f}",
            )
        )
    header = ("model", "mean NLL [nat]", "median NLL", "CRPS", "inside 68 % [%]", "inside 95 % [%]")
    return Table(f"Scores on the same {len(comparison):,} fully labelled test stars", header, tuple(rows))


def _mode(z: StarArray) -> float:
    counts, edges = np.histogram(z, bins=_MODE_BINS)
    peak = int(counts.argmax())
    return float(0.5 * (edges[peak] + edges[peak + 1]))
