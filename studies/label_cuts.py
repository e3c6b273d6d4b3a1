"""The package's labels under the public cuts of Leung & Bovy (2024), beside the figures that they quote.

    python -m studies.label_cuts MODEL FOLDER [FOLD]

FOLDER is what ``scattervae demo --stars`` writes; MODEL predicts labels and was trained without the fold: validation or
test for the last word. Each row makes one more of the cuts; 1.4826 times the median absolute deviation (MAD) with 95 %
intervals over resampled stars.
"""

import numpy as np

import scattervae as sv
from scattervae.science.labels.model import label_stars
from scattervae.science.trained import labels_of
from scattervae.seeds import folds
from studies import arguments
from studies.label_baselines import public_cuts, read
from studies.label_scores import interval_of
from studies.trust import print_header, print_row

QUOTED = {"teff": "47", "logg": "0.11", "fe_h": "0.07 ([M/H])"}
"""Source: Leung & Bovy (2024), arXiv:2308.10944, abstract."""
GIANTS_BELOW = 3.5


def main() -> None:
    path, source, *fold_name = arguments(__doc__, 2)
    model, stars = sv.load_model(path), read(source)
    cuts = public_cuts(stars)  # percentiles of coefficients are of all stars
    fold = getattr(folds(stars.spectra.source_id), (fold_name or ["validation"])[0]) & stars.spectra.usable
    some, labels = stars.take(fold), labels_of(model)
    predicted = label_stars(model, labels, some.spectra)
    left = np.ones(fold.sum(), dtype=bool)
    print_header("1.4826 MAD of predicted less known", ("stars", "number", *predicted.names))
    print_row(
        "Leung & Bovy (2024), 410,812 training stars", "", *(QUOTED.get(n, "-") for n in predicted.names)
    )

    def row(title: str, rows: np.ndarray) -> None:
        cells = []
        for index, name in enumerate(predicted.names):
            found = interval_of(predicted.values[rows, index], some.labels[name][rows], measure="mad")
            cells.append(f"{found.ratio:.3g} ({found.low:.3g} to {found.high:.3g})")
        print_row(title, f"{rows.sum():,}", *cells)

    row("all", left)
    for title, kept in cuts.items():
        left = left & kept[fold]
        row(f"... {title}", left)
    row("all cuts, giants (log g below 3.5)", left & (some.labels["logg"] < GIANTS_BELOW))
    row("all cuts, dwarfs", left & (some.labels["logg"] >= GIANTS_BELOW))
    row("all cuts, SNR of labels above 50", left & (some.snr > 50.0))


if __name__ == "__main__":
    main()
