"""Labels of stars that have none: ours against boosted trees and a residual network, on the same stars.

    python -m studies.label_baselines STARS MODEL [--labels 100,1000,10000,0] [--seeds 0,1] \\
        [--good] [--ours] [--out FOLDER]

STARS is what ``scattervae demo --stars`` writes, MODEL a trained folder.
All learn from the stars that the model was trained on, so many of them as ``--labels`` says (0: all; ``--good``:
those of SNR > 50 with four labels alone), and predict the labels of the fold that it left out: validation where it was
trained without it, test otherwise. ``--ours`` leaves the others
out. Needs scikit-learn.
"""

import argparse
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from sklearn.ensemble import HistGradientBoostingRegressor

import scattervae as sv
from scattervae.gaia.basis import g_mag_of
from scattervae.model.network import NetworkShape, ScatterVAE
from scattervae.science.labels.model import fit_labels, label_stars, save_label_model
from scattervae.science.labels.prediction import LabelPrediction
from scattervae.science.labels.targets import TargetLabels
from scattervae.science.labels.training import LabelSettings
from scattervae.seeds import folds, numpy_stream
from scattervae.spectra.spectra import Spectra
from studies.label_scores import LabelScores, compare, coverage, selections

PACKAGE, SCRATCH, SCRATCH_ONE = "ours", "residual network, as many networks", "residual network"
BOOSTED, BOOSTED_ERRORS = "boosted trees, coefficients", "boosted trees, coefficients and log errors"
BASELINES = (SCRATCH, SCRATCH_ONE, BOOSTED, BOOSTED_ERRORS)
GOOD_SNR = 50.0
_ZERO_POINTS = (
    25.6873668671,
    25.3385422158,
    24.7478955012,
)  # of G, BP, RP: Gaia DR3 documentation, table 5.4


@dataclass(frozen=True)
class Set:
    """All stars of the file, and what is known of them."""

    spectra: Spectra
    labels: TargetLabels
    snr: np.ndarray
    bp_rp: np.ndarray
    excess: np.ndarray

    def take(self, rows: np.ndarray) -> "Set":
        spectra, labels = self.spectra.take(rows), self.labels.take(rows)
        return Set(spectra, labels, self.snr[rows], self.bp_rp[rows], self.excess[rows])


def read(path: str) -> Set:
    """The stars, with the columns that stores do not have."""
    stars = sv.load(Path(path) / "store")
    table = pq.read_table(Path(path) / "stars.parquet")
    rows = np.searchsorted(table["source_id"].to_numpy(), stars.spectra.source_id)
    columns = {name: table[name].to_numpy()[rows].astype(np.float64) for name in table.column_names[1:]}
    labels = TargetLabels.of(stars.labels.aligned_to(stars.spectra.source_id))
    g, bp, rp = (columns[f"gaiaedr3_phot_{band}_mean_mag"] for band in ("g", "bp", "rp"))
    flux = [10 ** (0.4 * (zero - mag)) for zero, mag in zip(_ZERO_POINTS, (g, bp, rp), strict=True)]
    return Set(stars.spectra, labels, columns["snr"], bp - rp, (flux[1] + flux[2]) / flux[0])


def public_cuts(stars: Set) -> dict[str, np.ndarray]:
    """Leung & Bovy's cuts that the file can make, one by one.

    Not made, for want of columns: RUWE below 1.4; bits 2 and 3 of STARFLAG for all stars; of labels STARFLAG 0 and
    bits 19 and 23 of ASPCAPFLAG. Their third label is [M/H].

    Source:
        github.com/henrysky/astroNN_stars_foundation, Dataset_Reduction.ipynb and Inference_Spec2Labels.ipynb.
    """
    g_mag = np.asarray(g_mag_of(stars.spectra.g_flux))
    shapes = stars.spectra.coeffs / stars.spectra.g_flux[:, None]
    low, high = np.nanpercentile(shapes, (0.2, 99.8), axis=0)
    return {
        "G 6 to 17.5": (g_mag > 6.0) & (g_mag < 17.5),
        "BP - RP 0 to 4": (stars.bp_rp > 0.0) & (stars.bp_rp < 4.0),
        "coefficients inside the 0.2 and 99.8 percentiles": ((shapes > low) & (shapes < high)).all(axis=1),
        "excess factor below 2": stars.excess < 2.0,
        "Teff, log g and [Fe/H] measured": np.isfinite(stars.labels.values[:, :3]).all(axis=1),
    }


def inside_public_cuts(stars: Set) -> np.ndarray:
    """Stars that pass all of `public_cuts`."""
    return np.logical_and.reduce(list(public_cuts(stars).values()))


def predict_boosted(model: sv.Checkpoint, train: Set, test: Set, *, errors: bool) -> np.ndarray:
    """scikit-learn's boosted trees with their defaults, one forest a label."""

    def features(stars: Set) -> np.ndarray:
        inputs = model.normalization.apply(stars.spectra)
        return np.hstack([inputs.x.numpy(), *([inputs.errors.log().numpy()] if errors else [])])

    seen, asked = features(train), features(test)
    predicted = np.full((len(asked), len(train.labels.names)), np.nan)
    for label in range(predicted.shape[1]):
        values = train.labels.values[:, label]
        known = np.isfinite(values)
        forest = HistGradientBoostingRegressor(random_state=0).fit(seen[known], values[known])
        predicted[:, label] = forest.predict(asked)
    return predicted


def untrained(model: sv.Checkpoint) -> sv.Checkpoint:
    """The same inputs, and an encoder of width 256 that has seen nothing."""
    torch.manual_seed(0)
    shape = NetworkShape(n_latent=8, hidden=(256, 256), layers="residual", encoder_sees="errors")
    return replace(model, network=ScatterVAE(model.normalization.n_coeffs, shape).eval())


def predict_all(
    model: sv.Checkpoint, train: Set, test: Set, *, seed: int, out: Path | None, baselines: bool
) -> tuple[LabelPrediction, dict[str, np.ndarray], dict[str, float]]:
    """Our prediction, every one's values, and the processor time of each."""
    seconds: dict[str, float] = {}

    def timed(name: str, act: Callable[[], Any]) -> Any:
        started = time.process_time()
        answer = act()
        seconds[name] = time.process_time() - started
        return answer

    default = LabelSettings(seed=seed)
    fitted = timed(PACKAGE, lambda: fit_labels(model, train.spectra, train.labels, default))
    if out is not None:
        save_label_model(fitted, out)
    prediction = label_stars(model, fitted, test.spectra)
    predicted = {PACKAGE: prediction.values}
    if not baselines:
        return prediction, predicted, seconds
    blank = untrained(model)
    for name, networks in ((SCRATCH, None), (SCRATCH_ONE, 1)):
        settings = LabelSettings(seed=seed, trunk_rates=(1.0,), blocks=0, networks=networks)
        network = timed(name, lambda s=settings: fit_labels(blank, train.spectra, train.labels, s))
        predicted[name] = label_stars(blank, network, test.spectra).values
    for name, errors in ((BOOSTED, False), (BOOSTED_ERRORS, True)):
        predicted[name] = timed(name, lambda e=errors: predict_boosted(model, train, test, errors=e))
    return prediction, predicted, seconds


def print_scores(
    title: str, predicted: Mapping[str, np.ndarray], test: Set, seconds: Mapping[str, float]
) -> None:
    """A row for each predictor and selection, and ours over each baseline with its interval."""
    names = test.labels.names
    chosen = dict(selections(test.labels, test.snr)) | {"Leung & Bovy's cuts": inside_public_cuts(test)}
    for selection, rows in chosen.items():
        print(f"\n### {title}: {selection}, {int(rows.sum())} stars\n")
        print(f"| predictor (cpu s) | {' | '.join(f'{n}: spread, MAD, RMSE, MAE' for n in names)} |")
        print("|---" * (len(names) + 1) + "|")
        known = test.labels.values[rows]
        for name, values in predicted.items():
            s = LabelScores.of(values[rows], known)
            cells = [
                ", ".join(f"{v:.1f}" if label == "teff" else f"{v:.4f}" for v in column)
                for label, column in zip(names, np.transpose([s.spread, s.mad, s.rmse, s.mae]), strict=True)
            ]
            print(f"| {name} ({seconds[name]:.0f}) | {' | '.join(cells)} |")
        for name in (baseline for baseline in BASELINES if baseline in predicted):
            for measure in ("spread", "rmse"):
                cells = []
                for label in range(len(names)):
                    pair = predicted[PACKAGE][rows, label], predicted[name][rows, label]
                    c = compare(*pair, known[:, label], measure=measure)
                    cells.append(f"{c.ratio:.3f} ({c.low:.3f}-{c.high:.3f})")
                print(f"| ours / {name}, {measure} | {' | '.join(cells)} |")


def print_coverage(title: str, prediction: LabelPrediction, test: Set) -> None:
    """How often intervals hold the known labels, by G and by kind of star, and what flags find."""
    g_mag = g_mag_of(test.spectra.g_flux)
    edges = (0.0, 9.0, 11.0, 12.0, 13.0, 14.0, 15.1)
    bins = {f"G {a:g}-{b:g}": (g_mag >= a) & (g_mag < b) for a, b in pairwise(edges)}
    logg, teff = test.labels["logg"], test.labels["teff"]
    bins |= {
        "giants": logg < 3.5,
        "dwarfs": logg >= 3.5,
        "Teff < 4000": teff < 4000,
        "Teff > 7000": teff > 7000,
    }
    bins |= {
        "any label outside the volume": prediction.outside.any(axis=1),
        "faint or incomplete": prediction.faint,
        "reliable": prediction.reliable.all(axis=1),
        "all": np.ones(len(test.labels), dtype=bool),
    }
    print(f"\n### {title}: known labels inside 68 % and 95 % intervals [%], and RMSE\n")
    print(f"| stars | number | {' | '.join(test.labels.names)} |")
    print("|---" * (len(test.labels.names) + 2) + "|")
    for name, rows in bins.items():
        share = coverage(prediction.take(rows), test.labels.take(rows))
        scores = LabelScores.of(prediction.values[rows], test.labels.values[rows])
        cells = [
            f"{100 * a:.1f}, {100 * b:.1f}; {rmse:.4g}"
            for a, b, rmse in zip(share.inside_68, share.inside_95, scores.rmse, strict=True)
        ]
        print(f"| {name} | {int(rows.sum())} | {' | '.join(cells)} |")
    print(
        f"\nflagged: outside {prediction.outside.mean(axis=0).round(4)}, faint {prediction.faint.mean():.4f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file")
    parser.add_argument("model")
    parser.add_argument("--labels", default="100,1000,10000,0")
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--good", action="store_true")
    parser.add_argument("--ours", action="store_true", help="no baselines")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = sv.load_model(arguments.model)
    stars = read(arguments.file)
    fold = folds(stars.spectra.source_id)
    without_validation = model.recipe.training.hold_out_validation
    train = stars.take((fold.train if without_validation else ~fold.test) & stars.labels.any_known)
    test = stars.take((fold.validation if without_validation else fold.test) & stars.spectra.usable)
    print(f"{'validation' if without_validation else 'test'} fold: {len(test.spectra)} stars")
    if arguments.good:
        four = np.isfinite(train.labels.values[:, :4]).all(axis=1)
        train = train.take(four & (train.snr > GOOD_SNR))
    for n in map(int, arguments.labels.split(",")):
        for seed in map(int, arguments.seeds.split(",")):
            order = numpy_stream(seed, "labelled stars").permutation(len(train.spectra))
            some = train.take(order[: n or None])
            out = arguments.out and arguments.out / f"labels-{n or 'all'}-{seed}"
            prediction, predicted, seconds = predict_all(
                model, some, test, seed=seed, out=out, baselines=not arguments.ours
            )
            title = f"{len(some.spectra)} labelled stars, seed {seed}"
            print_scores(title, predicted, test, seconds)
            print_coverage(title, prediction, test)
            if arguments.out:
                arrays: dict[str, Any] = predicted | {
                    "known": test.labels.values,
                    "n_stars": len(some.spectra),
                }
                np.savez(arguments.out / f"predicted-{n or 'all'}-{seed}.npz", **arrays)


if __name__ == "__main__":
    main()
