"""Kinds of stars that were never labelled: how many of them are flagged, kind after kind left out.

    python -m studies.label_gap MODEL STARS [--fold test] [--steps N] [--kinds hot,poor] [--others FILE] [--fits FOLDER]

STARS have labels, MODEL is a trained folder. The labels of one kind are hidden, its spectra stay among those that the
model of spectra was trained on, and labels are learnt from the rest. Of the fold's stars, to which nothing of the
labels was fitted, are then counted: how many of the hidden kind are flagged (by distance alone; by a vote of the 50
nearest stars of the survey; by the prediction), for how many the 95 % interval of the kind's label holds it (and as
wide as the networks alone make it), and, of stars of the labelled kinds, how many are flagged falsely, how much wider
their intervals became, and how many of their labels these hold. Label models are kept in
FOLDER and taken up again. ``--fold validation`` leaves those stars out of all fits of
labels, and is the fold to choose by. ``--others`` are stars without labels: the share of them with each flag is
printed, where no kind is hidden.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree

import scattervae as sv
from scattervae.model.training_stars import training_stars
from scattervae.science.labels.model import (
    LabelModel,
    fit_labels,
    label_stars,
    load_label_model,
    save_label_model,
)
from scattervae.science.labels.prediction import LabelFlag, LabelPrediction
from scattervae.science.labels.support import RELIABLE_ABOVE
from scattervae.science.labels.targets import LOGARITHMIC, TargetLabels
from scattervae.science.labels.training import LabelSettings
from scattervae.seeds import folds
from scattervae.spectra.spectra import Spectra

NEAREST = 50


class Kind(NamedTuple):
    """Stars to hide.

    Attributes:
        label: By which they are separated from others, whose interval is looked at.
        text: What they are.
        stars: Which of the labelled stars.
    """

    label: str
    text: str
    stars: np.ndarray


def kinds_of(labels: TargetLabels) -> Mapping[str, Kind]:
    """The kinds, by a short name."""
    teff, logg, fe_h, alpha_m = (labels[name] for name in ("teff", "logg", "fe_h", "alpha_m"))
    clump = (np.abs(logg - 2.45) < 0.15) & (np.abs(teff - 4800) < 250)
    return {
        "hot": Kind("teff", "Teff > 6,500 K", teff > 6500),
        "poor": Kind("fe_h", "[Fe/H] < -1", fe_h < -1),
        "dwarfs": Kind("logg", "dwarfs: log g > 4", logg > 4),
        "cool dwarfs": Kind("logg", "cool dwarfs: log g > 4, Teff < 4,500 K", (logg > 4) & (teff < 4500)),
        "cool giants": Kind("teff", "cool giants: log g < 3.5, Teff < 3,700 K", (logg < 3.5) & (teff < 3700)),
        "luminous": Kind("logg", "log g < 1", logg < 1),
        "alpha-rich": Kind("alpha_m", "[alpha/M] > 0.2", alpha_m > 0.2),
        "clump": Kind("logg", "clump: log g 2.30-2.60, Teff 4,550-5,050 K", clump),
    }


class Outcome(NamedTuple):
    """Shares of stars.

    Attributes:
        n_hidden: Stars of the kind that were asked for.
        by_distance: Of them flagged by the distance to labelled stars alone.
        by_vote: Where fewer than half of the nearest stars of the survey have the label.
        flagged: By the prediction.
        held: Whose interval holds the label.
        seen: One or the other.
        seen_narrow: The same with intervals that the survey does not widen.
        false_vote: Stars of labelled kinds that the vote flags.
        false: That the prediction flags.
        inside: Whose 95 % interval holds the label.
        width: Mean of their half-widths over those that the survey does not widen.
    """

    n_hidden: int
    by_distance: float
    by_vote: float
    flagged: float
    held: float
    seen: float
    seen_narrow: float
    false_vote: float
    false: float
    inside: float
    width: float


def outcome_of(
    kind: Kind,
    known: TargetLabels,
    predicted: LabelPrediction,
    *,
    widening: np.ndarray,
    near: np.ndarray,
    vote: np.ndarray,
) -> Outcome:
    """What became of the stars of the kind, and of all others that have its label.

    Args:
        kind: Its stars among those asked for.
        known: Labels of all stars asked for.
        predicted: Of the same stars.
        widening: What the survey multiplied half-widths by.
        near: Reliability by distance alone.
        vote: Share of the nearest stars of the survey that have the label.
    """
    column = known.names.index(kind.label)
    truth = known.values[:, column]
    flagged = predicted.outside[:, column]
    held = (truth >= predicted.low_95[:, column]) & (truth <= predicted.high_95[:, column])
    scale = np.log if kind.label in LOGARITHMIC else np.asarray
    middle, end, at = (scale(of) for of in (predicted.values[:, column], predicted.high_95[:, column], truth))
    narrow = np.abs(at - middle) <= (end - middle) / widening[:, column]
    hidden, labelled = kind.stars, ~kind.stars & np.isfinite(truth)
    return Outcome(
        n_hidden=int(hidden.sum()),
        by_distance=float((near[hidden, column] < RELIABLE_ABOVE).mean()),
        by_vote=float((vote[hidden, column] < 0.5).mean()),
        flagged=float(flagged[hidden].mean()),
        held=float(held[hidden].mean()),
        seen=float((flagged | held)[hidden].mean()),
        seen_narrow=float((flagged | narrow)[hidden].mean()),
        false_vote=float((vote[labelled, column] < 0.5).mean()),
        false=float(flagged[labelled].mean()),
        inside=float(held[labelled].mean()),
        width=float(widening[labelled, column].mean()),
    )


def vote_of(model: sv.Checkpoint, survey: Spectra, has: np.ndarray, asked: Spectra) -> np.ndarray:
    """Share of the nearest stars of the survey, by latents, that have each label."""
    means, at = (model.encode(stars).mean.double().numpy() for stars in (survey, asked))
    share: np.ndarray = has[cKDTree(means).query(at, k=NEAREST)[1]].mean(axis=1)
    return share


def print_flags(model: sv.Checkpoint, labels: LabelModel, stars: Spectra, title: str) -> None:
    """Shares of stars with each bit of ``label_flags``; few stars one by one."""
    predicted = label_stars(model, labels, stars)
    shares = [
        f"{name} {100 * column.mean():.1f} %"
        for name, column in zip(predicted.names, predicted.outside.T, strict=True)
    ]
    shares += [f"{flag.name} {100 * ((predicted.flags & flag) > 0).mean():.1f} %" for flag in LabelFlag]
    print(f"\n{title}, {len(stars)} stars: outside for {', '.join(shares)}", flush=True)
    if len(stars) <= 5:
        for source_id, values, flags in zip(stars.source_id, predicted.values, predicted.flags, strict=True):
            print(f"{source_id}: {np.round(values, 2).tolist()}, label_flags {flags}")


class Study(NamedTuple):
    """Stars with labels, those of them that are asked for, and the model that has seen the others."""

    model: sv.Checkpoint
    spectra: Spectra
    labels: TargetLabels
    asked: np.ndarray
    seen: np.ndarray  # what labels are fitted to, but for the labels of the test fold
    settings: LabelSettings
    fits: Path | None  # where label models are kept

    def fitted(self, name: str, labels: TargetLabels) -> LabelModel:
        """The label model of these labels, from where an earlier run kept it."""
        kept = self.fits and self.fits / name.replace(" ", "_")
        if kept and kept.is_dir():
            return load_label_model(kept, self.model)
        fitted = fit_labels(self.model, self.spectra.take(self.seen), labels.take(self.seen), self.settings)
        if kept:
            save_label_model(fitted, kept)
        return fitted

    def print_row(self, name: str, kind: Kind) -> None:
        """Hide a kind and print what became of it."""
        hidden = np.where(kind.stars[:, None], np.nan, self.labels.values)
        without = TargetLabels(self.labels.source_id, self.labels.names, hidden, self.labels.errors)
        seen, asked = self.spectra.take(self.seen), self.spectra.take(self.asked)
        fitted = self.fitted(name, without)
        survey = training_stars(seen, self.model.recipe)
        has = np.isfinite(without.aligned_to(survey.source_id).values)
        result = outcome_of(
            kind._replace(stars=kind.stars[self.asked]),
            self.labels.take(self.asked),
            label_stars(self.model, fitted, asked),
            widening=fitted.support.judge(self.model.normalization.apply(asked)).widening,
            near=fitted.volume.reliability(self.model.encode(asked)),
            vote=vote_of(self.model, survey, has, asked),
        )
        n_hidden, *shares, width = result
        distance, vote, flagged, held, either, narrow, false_vote, false, inside = (
            f"{100 * share:.1f}" for share in shares
        )
        cells = [kind.text, str(n_hidden), distance, f"{vote} ({false_vote})", flagged, held]
        cells += [f"{either} ({narrow})", false, inside, f"{width:.2f}"]
        print(f"| {' | '.join(cells)} |", flush=True)

    def print_others(self, paths: list[str], title: str) -> None:
        """Flags where no kind is hidden: of the stars asked for, and of those in other files."""
        fitted = self.fitted("none", self.labels)
        print_flags(self.model, fitted, self.spectra.take(self.asked), title)
        for path in paths:
            print_flags(self.model, fitted, sv.load(path).spectra, path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("stars")
    parser.add_argument("--fold", choices=("validation", "test"), default="test")
    parser.add_argument("--steps", type=int, help="gradient steps of each network of the labels")
    parser.add_argument("--kinds", help="some of the kinds, by commas; all where not given")
    parser.add_argument("--others", action="append", default=[], help="stars without labels")
    parser.add_argument("--fits", type=Path, help="where label models are kept, and taken up again")
    given = parser.parse_args()
    stars = sv.load(given.stars)
    fold = folds(stars.spectra.source_id)
    study = Study(
        model=sv.load_model(given.model),
        spectra=stars.spectra,
        labels=TargetLabels.of(stars.labels.aligned_to(stars.spectra.source_id)),
        asked=(fold.test if given.fold == "test" else fold.validation) & stars.spectra.usable,
        seen=fold.test | fold.train
        if given.fold == "validation"
        else np.ones(len(stars.spectra), dtype=bool),
        settings=LabelSettings(steps=given.steps),
        fits=given.fits,
    )
    kinds = kinds_of(study.labels)
    print(
        "| hidden kind | stars | distance alone | vote (false) | flagged | interval holds "
        "| either (not widened) | false flags | labelled inside 95 % | widened |"
    )
    print("|---" * 10 + "|", flush=True)
    for name in given.kinds.split(",") if given.kinds else kinds:
        study.print_row(name, kinds[name])
    if given.others:
        study.print_others(given.others, f"no kind hidden, {given.fold} fold")


if __name__ == "__main__":
    main()
