"""The Cannon on real APOGEE x Gaia stars, plain and robust: fit, scores on the test fold, inferred labels.

    python -m studies.cannon_reference FILE_OR_STORE

Trained on all stars outside the test fold, normalised over the same. Clipping was looked at on the validation
fold (``--validation``): fitted on the training fold alone, scored on the validation fold.
"""

import sys
import time

import numpy as np
import torch

import scattervae as sv
from scattervae.science.cannon.model import Cannon, CannonSettings
from scattervae.seeds import folds
from scattervae.spectra.normalization import Normalization
from scattervae.spectra.star_tables import LABEL_NAMES
from studies import arguments
from studies.cannon_label_errors import with_label_errors
from studies.cannon_labels import infer_labels
from studies.cannon_scores import score

FOUR = ("teff", "logg", "fe_h", "alpha_m")
VARIANTS = {
    "plain": CannonSettings(),
    "robust, 3 sigma": CannonSettings(clip_sigma=3.0),
    "robust, 4 sigma": CannonSettings(clip_sigma=4.0),
    "robust, 5 sigma": CannonSettings(clip_sigma=5.0),
    "robust, 7 sigma": CannonSettings(clip_sigma=7.0),
    "label errors": CannonSettings(),
    "plain, four labels": CannonSettings(labels=FOUR),
    "robust 5, four labels": CannonSettings(labels=FOUR, clip_sigma=5.0),
}


def main() -> None:
    given = arguments(__doc__, 1)
    source, validate = given[0], "--validation" in given
    torch.set_num_threads(1)
    stars = sv.load(source)
    spectra, labels = stars.spectra, stars.labels
    fold = folds(spectra.source_id)
    train, test = (fold.train, fold.validation) if validate else (~fold.test, fold.test)
    normalization = Normalization.fit(lambda: [spectra.take(train)])
    complete = np.isfinite(labels.values[:, : len(FOUR)]).all(axis=1)
    print("| model | stars | mean | median | bp10 | rp10 | > 5 sigma | clipped | rounds | fit s |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name, settings in VARIANTS.items():
        started = time.perf_counter()
        cannon = Cannon.fit(spectra.take(train), labels, normalization, settings)
        with_errors = name == "label errors"
        if with_errors:
            cannon = with_label_errors(cannon, spectra.take(train), labels)
        seconds = time.perf_counter() - started
        # the row of three labels again on the stars that have all four
        for text, chosen in ((name, test), (f"{name}, stars with [alpha/M]", test & complete)):
            if text != name and name not in ("plain", "robust, 5 sigma"):
                continue
            scores = score(cannon, spectra.take(chosen), labels, count_label_errors=with_errors)
            errors = scores.mean_abs_normalised_error
            share = cannon.counts.clipped_values / (cannon.counts.trained_on * normalization.n_coeffs)
            print(
                f"| {text} | {int(scores.scored.sum())} | {scores.mean_nll:.2f} | {scores.median_nll:.2f} "
                f"| {errors['bp10']:.3f} | {errors['rp10']:.3f} | {scores.share_beyond_5_sigma:.2%} "
                f"| {share:.2%} | {cannon.counts.rounds} | {seconds:.1f} |"
            )
        if name in ("plain", "robust, 5 sigma"):
            print_label_scores(cannon, spectra.take(test), labels)
        print(f"    {cannon.counts}, outside the hull {int(scores.extrapolated.sum())}", file=sys.stderr)


def print_label_scores(cannon: Cannon, spectra: sv.Spectra, labels: object) -> None:
    started = time.perf_counter()
    found = infer_labels(cannon, cannon.normalization.apply(spectra))
    seconds = time.perf_counter() - started
    columns = [LABEL_NAMES.index(name) for name in found.names]
    true = labels.aligned_to(spectra.source_id).values[:, columns]  # type: ignore[attr-defined]
    known = np.isfinite(true).all(axis=1) & found.converged
    off = (found.values - true)[known]
    print(
        f"labels of {len(spectra)} stars in {seconds:.1f} s: converged {found.converged.mean():.2%}, "
        f"outside the hull {found.extrapolated.mean():.2%} ({found.extrapolated[known].mean():.2%} of those "
        f"with labels), median chi2 {np.nanmedian(found.chi2):.0f} of {cannon.normalization.n_coeffs}",
        file=sys.stderr,
    )
    for k, name in enumerate(found.names):
        for text, rows in (("all", slice(None)), ("inside the hull", ~found.extrapolated[known])):
            low, middle, high = np.percentile(off[rows, k], [16, 50, 84])
            pull = np.median(np.abs(off[rows, k]) / found.errors[known][rows, k]) / 0.6745
            print(
                f"  {name}, {text}: median off {middle:.3g}, 68 % half-width {(high - low) / 2:.3g}, "
                f"over its error {pull:.1f}",
                file=sys.stderr,
            )


if __name__ == "__main__":
    main()
