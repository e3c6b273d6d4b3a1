"""Whether blended stars are to train: models trained with them and without, scored on clean and on blended stars.

    python -m studies.blends STARS FOLDER [EPOCHS] [SEEDS]

STARS are labelled. ``best`` is trained with several seeds (20 epochs and 3 seeds unless given) on the stars of neither
test nor validation fold, and on those of them without `Flag.BLENDED`; the first models of both then learn labels from
the same stars, by networks of 900 steps. Scored on the validation fold: the negative evidence lower bound in the
standard deviations of all training stars, seed by seed, with the 95 % interval of the difference over resampled stars;
of labels the spread, the RMSE, and how many of the known ones their intervals contain. What each model predicts is kept
in FOLDER: a run that is stopped resumes there.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import scattervae as sv
from scattervae.arrays import CoeffVector, StarArray, StarMask
from scattervae.model.run import train
from scattervae.science.evaluation import mean_bound
from scattervae.science.labels.model import fit_labels, label_stars
from scattervae.science.labels.prediction import LabelPrediction
from scattervae.science.labels.targets import TargetLabels
from scattervae.science.labels.training import LabelSettings
from scattervae.science.paper.comparison import bootstrap_mean
from scattervae.seeds import folds, stream
from scattervae.spectra.normalization import Normalization
from scattervae.spectra.spectra import Flag, Spectra
from studies import arguments
from studies.label_scores import compare, coverage
from studies.sensitivity import KeptRows, stars_digest, variant_of
from studies.trust import print_header, print_row

EPOCHS, N_SEEDS, LABEL_STEPS = 20, 3, 900
TRAINED_ON = ("all stars", "clean stars")
Predicted = dict[str, Any]  # JSON values of one model: the bound of each star, and its labels


def main() -> None:
    given = arguments(__doc__, 2)
    epochs, n_seeds = (*map(int, given[2:]), *(EPOCHS, N_SEEDS)[len(given) - 2 :])
    stars, folder = sv.load(given[0]), Path(given[1])
    spectra = stars.spectra.take(stars.spectra.usable)
    labels = TargetLabels.of(stars.labels.aligned_to(spectra.source_id))
    asked = folds(spectra.source_id).validation
    blended = (spectra.flags & np.uint16(Flag.BLENDED)) > 0
    found = {
        title: list(predictions(spectra, labels, kept, folder, epochs=epochs, n_seeds=n_seeds, title=title))
        for title, kept in zip(TRAINED_ON, (np.ones_like(blended), ~blended), strict=True)
    }
    here = blended[asked]
    kinds = {"clean": ~here, "blended": here, "all": np.ones_like(here)}
    print_bounds(found, kinds)
    print_label_scores(found, kinds, labels.take(asked))


def predictions(
    spectra: Spectra,
    labels: TargetLabels,
    kept: StarMask,
    folder: Path,
    *,
    epochs: int,
    n_seeds: int,
    title: str,
) -> Iterator[Predicted]:
    """What models trained on the stars `kept` predict of the validation fold, seed after seed."""
    fold = folds(spectra.source_id)
    unit = Normalization.fit(lambda: [spectra.take(fold.train)]).std
    seen, asked = spectra.take(kept & ~fold.validation), spectra.take(fold.validation)
    rows = KeptRows(folder, stars_digest(seen))
    for seed in range(n_seeds):
        training = {"epochs": epochs, "seed": seed, "hold_out_validation": True}
        variant = variant_of("best", f"{title}, seed {seed}", training=training)
        predicted = rows.find(variant)
        if predicted is None:
            print(f"training on {variant.name}", flush=True)
            model = train(seen, variant.recipe)
            predicted = {"bound": bounds(model, asked, unit).tolist()}
            if seed == 0:
                known = labels.take(kept & ~fold.validation)
                fitted = fit_labels(model, seen, known, LabelSettings(steps=LABEL_STEPS))
                answer = vars(label_stars(model, fitted, asked))
                parts = {name: part.tolist() for name, part in answer.items() if name != "names"}
                predicted |= {"names": list(answer["names"]), "labels": parts}
            rows.keep(variant, predicted)
        yield predicted


@torch.no_grad()
def bounds(model: sv.Checkpoint, spectra: Spectra, unit: CoeffVector) -> StarArray:
    """-ELBO of each star in these standard deviations, not in those of the stars that the model was trained on."""
    generator = stream(0, "evaluate")
    batches = model.encode_batches([spectra])
    parts = [mean_bound(model, batch.inputs, batch.posterior, generator) for batch in batches]
    return np.asarray(torch.cat(parts).numpy() + np.log(model.normalization.std / unit).sum())


def print_bounds(found: dict[str, list[Predicted]], kinds: dict[str, StarMask]) -> None:
    """Mean bounds of each seed, and the difference with its interval."""
    everyone, clean = (np.array([one["bound"] for one in found[title]]) for title in TRAINED_ON)
    titles = [f"trained on {title}" for title in TRAINED_ON]
    print_header("-ELBO [nat per star], seed by seed", ("scored on", "stars", *titles, "difference (95 %)"))
    for kind, here in kinds.items():
        means = (", ".join(f"{mean:.2f}" for mean in of[:, here].mean(axis=1)) for of in (everyone, clean))
        middle, low, high = bootstrap_mean((clean - everyone)[:, here].mean(axis=0))
        print_row(kind, f"{here.sum():,}", *means, f"{middle:+.2f} ({low:+.2f} to {high:+.2f})")


def print_label_scores(
    found: dict[str, list[Predicted]], kinds: dict[str, StarMask], known: TargetLabels
) -> None:
    """Spread and RMSE of the labels learnt without blended stars over those with, and how often intervals hold."""
    answers = {title: answer_of(found[title][0]) for title in TRAINED_ON}
    columns = ("scored on", "label", "spread, clean over all (95 %)", "RMSE, clean over all (95 %)")
    inside = (f"inside 68, 95 % [%], trained on {title}" for title in TRAINED_ON)
    print_header("Labels, seed 0", (*columns, *inside))
    for kind, here in kinds.items():
        for index, name in enumerate(known.names):
            everyone, clean = (answers[title][name][here] for title in TRAINED_ON)
            truth = known.values[here, index]
            ratios = [compare(clean, everyone, truth, measure=measure) for measure in ("spread", "rmse")]
            shares = [coverage(answer.take(here), known.take(here))[:2] for answer in answers.values()]
            cells = (", ".join(f"{100 * share[index]:.1f}" for share in pair) for pair in shares)
            print_row(kind, name, *(f"{r.ratio:.3f} ({r.low:.3f} to {r.high:.3f})" for r in ratios), *cells)


def answer_of(predicted: Predicted) -> LabelPrediction:
    """The labels that were kept."""
    arrays = {name: np.array(part) for name, part in predicted["labels"].items()}
    return LabelPrediction(names=tuple(predicted["names"]), **arrays)


if __name__ == "__main__":
    main()
