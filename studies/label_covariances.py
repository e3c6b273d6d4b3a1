"""Whether the correlations between predicted labels are right, on held-out stars.

    python -m studies.label_covariances MODEL STARS [FOLD]

MODEL predicts labels with correlations and was trained without the fold: validation, or test for the last word. The
residual of a star is its known label less the predicted one, over the half-width of the 68 % interval and the label's
error in quadrature. First table: for each two labels the mean correlation that is predicted and the one that
residuals have (at most three, as the fit takes them; 95 % interval over resampled stars), and the same for the thirds
of the stars with the lowest and the highest prediction. Second: the joint chi^2 of stars with all labels, r^T C^-1 r,
beside its expectation for Gaussian residuals; with C as predicted, the same for all stars, and without correlations;
and once more as predicted, with half of the 95 % interval over 1.96 as width. The gain is that of the density of the
residuals' normal scores (Gaussian copula), to which tails and widths add nothing.
"""

from itertools import combinations

import numpy as np
from jaxtyping import Float64
from scipy.stats import chi2, norm, rankdata

import scattervae as sv
from scattervae.science.labels.model import label_stars
from scattervae.science.labels.prediction import LabelPrediction, correlations_of
from scattervae.science.labels.targets import TargetLabels
from scattervae.science.trained import labels_of
from scattervae.seeds import folds, numpy_stream
from studies import arguments
from studies.trust import print_header, print_row

N_RESAMPLES = 1000
BOUND = 3.0

Matrices = Float64[np.ndarray, "star label label"]


def main() -> None:
    path, source, *fold_name = arguments(__doc__, 2)
    model, stars = sv.load_model(path), sv.load(source)
    fold = getattr(folds(stars.spectra.source_id), (fold_name or ["validation"])[0])
    asked = stars.spectra.take(fold & stars.spectra.usable)
    predicted = label_stars(model, labels_of(model), asked)
    known = TargetLabels.of(stars.labels.aligned_to(asked.source_id), predicted.names)
    off, wide = known.values - predicted.values, (predicted.high_95 - predicted.low_95) / 2 / 1.96
    residuals = off / np.hypot(predicted.sd, known.errors)
    print_pairs(predicted, residuals)
    print_joint(predicted, residuals, off / np.hypot(wide, known.errors))


def print_pairs(predicted: LabelPrediction, residuals: np.ndarray) -> None:
    """Each two labels: predicted and observed correlation."""
    print_header(
        "Correlations of residuals: predicted in the mean, and observed",
        ("labels", "stars", "all", "lowest third", "highest third"),
    )
    for index, pair in enumerate(combinations(range(len(predicted.names)), 2)):
        of_pair, stated = residuals[:, pair], predicted.correlations[:, index]
        has = np.isfinite(of_pair).all(axis=1) & np.isfinite(stated)
        of_pair, stated = of_pair[has], stated[has]
        low, high = np.quantile(stated, (1 / 3, 2 / 3))
        parts = (np.ones(len(stated), dtype=bool), stated <= low, stated >= high)
        cells = [f"{stated[rows].mean():+.2f}: {observed(of_pair[rows])}" for rows in parts]
        print_row(" and ".join(predicted.names[k] for k in pair), f"{has.sum():,}", *cells)


def observed(residuals: np.ndarray) -> str:
    """The correlation of two columns with its interval over resampled stars."""
    generator = numpy_stream(0, "label covariances")
    rows = (generator.integers(0, len(residuals), len(residuals)) for _ in range(N_RESAMPLES))
    low, high = np.percentile([correlations_of(residuals[row])[0] for row in rows], (2.5, 97.5))
    return f"{correlations_of(residuals)[0]:+.2f} ({low:+.2f} to {high:+.2f})"


def matrices(correlations: np.ndarray, n_labels: int) -> Matrices:
    """The correlation matrix of each star, from its pairs."""
    found = np.tile(np.eye(n_labels), (len(correlations), 1, 1))
    for index, (a, b) in enumerate(combinations(range(n_labels), 2)):
        found[:, a, b] = found[:, b, a] = correlations[:, index]
    return found


def print_joint(predicted: LabelPrediction, residuals: np.ndarray, of_95: np.ndarray) -> None:
    """Joint chi^2 and what the correlations gain.

    Args:
        residuals: Of widths by the 68 % intervals.
        of_95: The same by the 95 % intervals.
    """
    n = residuals.shape[1]
    complete = np.isfinite(residuals).all(axis=1) & np.isfinite(predicted.correlations).all(axis=1)
    r, stated = residuals[complete], matrices(predicted.correlations[complete], n)
    one = np.broadcast_to(matrices(correlations_of(r)[None], n), stated.shape)
    print(f"\nsmallest eigenvalue of a star's correlation matrix: {np.linalg.eigvalsh(stated).min():.3f}")
    scores = norm.ppf(np.apply_along_axis(rankdata, 0, r) / (len(r) + 1))
    print_header(
        f"Joint chi^2 of {n} labels, {len(r):,} stars with all of them",
        (
            "correlations",
            "mean, residuals at most 3",
            "median",
            "inside 68.3 % [%]",
            "inside 95.4 % [%]",
            "gain [nat]",
        ),
    )
    none = np.broadcast_to(np.eye(n), stated.shape)
    rows = (
        ("as predicted", stated, r),
        ("one for all stars", one, r),
        ("none", none, r),
        ("as predicted, widths by 95 %", stated, of_95[complete]),
    )
    for title, matrix, by in rows:
        squares, bounded = (of_matrix(matrix, values) for values in (by, np.clip(by, -BOUND, BOUND)))
        gain = log_copula(matrix, scores)
        inside = (100 * np.mean(squares < chi2.ppf(level, n)) for level in (0.6827, 0.9545))
        error = gain.std() / np.sqrt(len(gain))
        print_row(
            title,
            f"{bounded.mean():.2f}",
            f"{np.median(squares):.2f}",
            *(f"{share:.1f}" for share in inside),
            f"{gain.mean():.3f} ± {error:.3f}",
        )
    print_row("(Gaussian residuals)", f"{n}", f"{chi2.median(n):.2f}", "68.3", "95.4", "")


def of_matrix(matrix: Matrices, residuals: np.ndarray) -> Float64[np.ndarray, " star"]:
    """r^T C^-1 r of each star."""
    solved = np.linalg.solve(matrix, residuals[:, :, None])[:, :, 0]
    return np.asarray((residuals * solved).sum(axis=1))


def log_copula(matrix: Matrices, scores: np.ndarray) -> Float64[np.ndarray, " star"]:
    """Log density of a Gaussian copula at these normal scores [nat]; 0 without correlations."""
    log_det = np.linalg.slogdet(matrix)[1]
    return np.asarray(-0.5 * log_det - 0.5 * (of_matrix(matrix, scores) - np.square(scores).sum(axis=1)))


if __name__ == "__main__":
    main()
