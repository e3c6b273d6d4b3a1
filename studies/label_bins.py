"""Where others predict labels with smaller errors: bins of labels and of G, against boosted trees and neighbours.

    python -m studies.label_bins MODEL STARS [FOLD]

MODEL predicts labels and was trained without the fold: validation, or test for the last word. Of all bins of 100
stars or more, by each known and each predicted label and by G, those are printed in which the model's root mean
square error exceeds the smaller one of scikit-learn's boosted trees and of the mean of the 20 nearest labelled stars,
both on normalised coefficients, with the 95 % interval of the ratio over resampled stars. Last come ways to mix in
the trees for hot stars.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.neighbors import KNeighborsRegressor

import scattervae as sv
from scattervae.science.labels.model import label_stars
from scattervae.science.labels.targets import TargetLabels
from scattervae.science.trained import labels_of
from scattervae.seeds import folds
from scattervae.spectra.spectra import Spectra
from studies import arguments
from studies.label_scores import compare, root_mean_square, spread
from studies.trust import FEWEST, bins_of_g, bins_of_labels, print_row

N_NEAREST = 20
MIXES = ((0.0, 5500.0), (0.3, 5500.0), (0.3, 6500.0), (0.5, 5500.0), (0.5, 6500.0))
"""Share of the trees in the mix, and from which predicted Teff on [K]."""
_WIDTH = 0.03  # over which a mix begins, in ln Teff

Bins = Sequence[tuple[str, np.ndarray]]


def main() -> None:
    path, source, *fold_name = arguments(__doc__, 2)
    model, stars = sv.load_model(path), sv.load(source)
    labels = labels_of(model)
    (asked, known), (seen, labelled) = asked_and_seen(stars, labels.names, *fold_name[:1])
    own = label_stars(model, labels, asked).values
    x, asked_x = (model.normalization.apply(s).x.numpy() for s in (seen, asked))
    predicted = []  # of each label: by the model, the trees, the neighbours
    for label in range(len(known.names)):
        has = np.isfinite(labelled.values[:, label])
        methods = (HistGradientBoostingRegressor(random_state=0), KNeighborsRegressor(N_NEAREST))
        others = [method.fit(x[has], labelled.values[has, label]).predict(asked_x) for method in methods]
        predicted.append(np.stack([own[:, label], *others]))
    by_predicted = bins_of_labels(TargetLabels(asked.source_id, labels.names, own, np.zeros_like(own)))
    bins = [*bins_of_labels(known), *bins_of_g(asked)]
    bins[-1:-1] = [(f"predicted {text}", rows) for text, rows in by_predicted]
    print(
        "| label | bin | stars | RMSE | trees | nearest | ratio to the better (95 %) |\n" + "|---" * 7 + "|"
    )
    for name, of, truth in zip(known.names, predicted, known.values.T, strict=True):
        for text, here, errors in larger(of, truth, bins):
            found = compare(of[0][here], of[1:][np.argmin(errors[1:])][here], truth[here], measure="rmse")
            interval = f"{found.ratio:.2f} ({found.low:.2f}-{found.high:.2f})"
            print_row(name, text, f"{here.sum():,}", *(f"{error:.3g}" for error in errors), interval)
    counts = (np.isfinite(truth[rows]).sum() for truth in known.values.T for _, rows in bins)
    print(f"\nof {sum(count >= FEWEST for count in counts)} bins")
    print_mixes(predicted[0], known.values[:, 0], bins)


def asked_and_seen(
    stars: sv.Stars, names: Sequence[str], fold_name: str = "validation"
) -> tuple[tuple[Spectra, TargetLabels], tuple[Spectra, TargetLabels]]:
    """Usable stars of a fold and of the train fold, each with their known labels of these names."""
    fold, usable = folds(stars.spectra.source_id), stars.spectra.usable
    asked, seen = (stars.spectra.take(rows & usable) for rows in (getattr(fold, fold_name), fold.train))
    known, labelled = (
        TargetLabels.of(stars.labels.aligned_to(some.source_id), names) for some in (asked, seen)
    )
    return (asked, known), (seen, labelled)


def larger(
    predicted: np.ndarray, truth: np.ndarray, bins: Bins
) -> Iterator[tuple[str, np.ndarray, list[float]]]:
    """Bins of stars enough in which the first one's error is larger than the smaller of the others; all errors."""
    for name, rows in bins:
        here = rows & np.isfinite(truth)
        if here.sum() >= FEWEST:
            errors = [root_mean_square((values - truth)[here]) for values in predicted]
            if errors[0] > min(errors[1:]):
                yield name, here, errors


def print_mixes(predicted: np.ndarray, truth: np.ndarray, bins: Bins) -> None:
    """Teff with a share of the trees' for hot stars: in how many bins it is still larger, and what it costs."""
    print("\n| mix of Teff | larger in bins | RMSE of all [K] | spread of all [K] |\n" + "|---" * 4 + "|")
    for share, start in MIXES:
        weight = share / (1.0 + np.exp(-np.log(predicted[0] / start) / _WIDTH))
        mixed = predicted[0] + weight * (predicted[1] - predicted[0])
        n = sum(1 for _ in larger(np.stack([mixed, *predicted[1:]]), truth, bins))
        off = (mixed - truth)[np.isfinite(truth)]
        print_row(
            f"{share:g} of trees from {start:g} K",
            str(n),
            f"{root_mean_square(off):.0f}",
            f"{spread(off):.0f}",
        )


if __name__ == "__main__":
    main()
