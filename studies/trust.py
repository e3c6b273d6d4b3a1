"""What holds and on which stars: spectra and labels of held-out stars, by brightness and kind, in tables.

    python -m studies.trust MODEL STARS [FIELD ...]

MODEL is a trained folder. STARS have labels; those of the test fold are asked for, of which neither the model of
spectra nor that of labels was trained on. FIELD are files of other stars, without labels. Printed are, in bins of G,
how well spectra are reproduced and whether scores are even, of FIELD those of each fifth of the stars beside the
other four; by order, what of that scatter cannot explain; what blended stars cost the bound; where MODEL predicts
labels, in bins of known labels and of G, errors of predicted labels and how many known ones their intervals hold; the
same for stars with and without each flag, and for test stars made 3 to 20 times noisier; and how many stars have
which flag.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from scipy.stats import kstest

import scattervae as sv
from scattervae.gaia.basis import g_mag_of
from scattervae.science.calibration.calibrated import has_score
from scattervae.science.calibration.coverage import order_groups
from scattervae.science.calibration.fit import observe
from scattervae.science.catalogue.encoding import catalogue
from scattervae.science.exact_posterior import refine
from scattervae.science.labels.model import LabelModel, label_stars
from scattervae.science.labels.prediction import LabelFlag, LabelPrediction
from scattervae.science.labels.targets import TargetLabels
from scattervae.science.trained import labels_of
from scattervae.seeds import folds, numpy_stream
from scattervae.spectra.spectra import Flag, Spectra
from studies import arguments
from studies.label_scores import LabelScores, coverage

FEWEST, FEWEST_SHOWN = 100, 50
G_EDGES = (5.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0, 16.0, 17.0, 21.0)
EDGES = {
    "teff": (2500, 3500, 4000, 4500, 5000, 5500, 6000, 6500, 7000, 10_000, 12_500, 50_000),
    "logg": (-1.0, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0),
    "fe_h": (-3.0, -2.0, -1.5, -1.0, -0.5, 0.0, 1.0),
    "a_k": (-0.1, 0.02, 0.05, 0.1, 0.2, 0.4, 5.0),
}
BRIGHT = 13.0
NOISIER = (1.0, 3.0, 10.0, 20.0)


def main() -> None:
    given = arguments(__doc__, 2)
    model, stars = sv.load_model(given[0]), sv.load(given[1])
    labels = labels_of(model)
    spectra = stars.spectra.take(folds(stars.spectra.source_id).test & stars.spectra.usable)
    known = TargetLabels.of(stars.labels.aligned_to(spectra.source_id), labels.names if labels else None)
    others = {
        Path(path).stem.replace("_", " "): sv.load(path, basis=spectra.basis).spectra for path in given[2:]
    }
    samples = {"test fold": spectra, **{title: some.take(some.usable) for title, some in others.items()}}
    for title, some in samples.items():
        print_spectra(model, some, title, cross_fitted=title in others)
    for title, some in samples.items():
        print_orders(model, some.take(np.asarray(g_mag_of(some.g_flux)) < BRIGHT), title)
    print_blended(model, spectra)
    if labels is None:
        return
    predicted = label_stars(model, labels, spectra)
    print_labels(predicted, known, spectra)
    print_flagged(predicted, known)
    print_noisier(model, labels, spectra, known)
    for title, some in samples.items():
        if len(some) >= FEWEST:
            print_flags(label_stars(model, labels, some), some, title)


def bins_of_g(spectra: Spectra) -> Iterator[tuple[str, np.ndarray]]:
    """Bins with stars enough, and all stars."""
    g_mag = np.asarray(g_mag_of(spectra.g_flux))
    for low, high in pairwise(G_EDGES):
        here = np.asarray((g_mag >= low) & (g_mag < high))
        if here.sum() >= FEWEST:
            yield f"G {low:g} to {high:g}", here
    yield "all", np.ones(len(spectra), dtype=bool)


def cross_fitted_scores(model: sv.Checkpoint, spectra: Spectra) -> np.ndarray:
    """Scores of each fifth of the stars beside the real stars of the other four alone."""
    assert has_score(model)
    part = numpy_stream(0, "cross-fitted scores").integers(0, 5, len(spectra))
    score = np.empty(len(spectra))
    for number in range(5):
        beside = replace(model, observed=observe(model, spectra.take(part != number)))
        asked = catalogue(beside, spectra.take(part == number))
        score[part == number] = asked["spectrum_score"].to_numpy()
    return score


def print_spectra(model: sv.Checkpoint, spectra: Spectra, title: str, *, cross_fitted: bool = False) -> None:
    """Reduced chi^2, and whether the score is even, in bins of G; where asked for, of stars it was not fitted to."""
    table = catalogue(model, spectra)
    chi2 = table["reduced_chi2"].to_numpy()
    score = table["spectrum_score"].to_numpy() if has_score(model) else None
    if cross_fitted and score is not None:
        score, title = cross_fitted_scores(model, spectra), f"{title} (scores cross-fitted)"
    names = (
        "stars",
        "number",
        "mean reduced chi^2",
        "median",
        "above 2 [%]",
        "mean score",
        "KS distance",
        "p",
    )
    print_header(f"Spectra, {title}", names)
    for name, here in bins_of_g(spectra):
        even = ["-"] * 3
        if score is not None:
            found = kstest(score[here], "uniform")
            even = [f"{score[here].mean():.2f}", f"{found.statistic:.2f}", f"{found.pvalue:.2g}"]
        print_row(
            name,
            f"{here.sum():,}",
            f"{chi2[here].mean():.3f}",
            f"{np.median(chi2[here]):.3f}",
            f"{100 * (chi2[here] > 2).mean():.1f}",
            *even,
        )


def print_orders(model: sv.Checkpoint, spectra: Spectra, title: str) -> None:
    """Medians over bright stars by order, at refined posteriors: chi^2 with scatter, and with the errors alone."""
    if len(spectra) == 0:
        return
    inputs = model.normalization.apply(spectra, gaps=model.sees_errors)
    at = model.reconstruct(refine(model, inputs, model.encode(spectra)).posterior.mean)
    squares, variance = (inputs.x - at.mean).square(), inputs.errors.square()
    values = (squares / (variance + at.scatter.square()), squares / variance, at.scatter / inputs.errors)
    print_header(
        f"Orders, {title} of G below {BRIGHT:g}, {len(spectra):,} stars",
        ("orders", "chi^2 / n", "with errors alone", "scatter / error"),
    )
    everything = ("all", np.arange(inputs.x.shape[1]))
    for name, columns in (*order_groups(model.normalization), everything):
        with_scatter, alone, ratio = (value[:, columns] for value in values)
        chi2 = (f"{value.mean(dim=1).median():.2f}" for value in (with_scatter, alone))
        print_row(name, *chi2, f"{ratio.median():.3f}")


def print_blended(model: sv.Checkpoint, spectra: Spectra) -> None:
    """What stars with light of a neighbour cost the mean bound."""
    blended = (spectra.flags & np.uint16(Flag.BLENDED)) > 0
    print_header("Negative evidence lower bound, test fold [nat per star]", ("stars", "number", "-ELBO"))
    for name, here in (("all", blended | True), ("blended", blended), ("not blended", ~blended)):
        if here.any():
            found = sv.evaluate(model, spectra.take(here), fold="all")
            print_row(name, f"{here.sum():,}", f"{found.negative_elbo:.1f} ± {found.negative_elbo_error:.1f}")


def print_labels(predicted: LabelPrediction, known: TargetLabels, spectra: Spectra) -> None:
    """All labels in bins of the known labels and of G."""
    names = predicted.names
    print_header(
        "Labels, test fold: bias, spread, RMSE; known labels inside 68, 95 % [%]", ("stars", "number", *names)
    )
    for text, here in (*bins_of_labels(known), *bins_of_g(spectra)):
        if here.sum() < FEWEST_SHOWN:
            continue
        cells = []
        for label in range(len(names)):
            *numbers, inside = _scores(predicted.take(here), known.take(here), label)
            enough = np.isfinite(known.values[here, label]).sum() >= FEWEST_SHOWN
            cells.append(f"{', '.join(numbers)}; {inside}" if enough else "-")
        print_row(text, f"{here.sum():,}", *cells)


def bins_of_labels(known: TargetLabels) -> Iterator[tuple[str, np.ndarray]]:
    """Bins of the known labels, not of the predicted ones: what a star is, not what it is taken for."""
    for name, edges in EDGES.items():
        if name not in known.names:
            continue
        for low, high in pairwise(edges):
            yield f"{name} {low:,g} to {high:,g}", (known[name] >= low) & (known[name] < high)


def print_flagged(predicted: LabelPrediction, known: TargetLabels) -> None:
    """Scores of stars with and without what is known against them."""
    sorts: dict[str, np.ndarray] = {
        "all": np.ones(len(known), dtype=bool),
        "blended": predicted.blended,
        "not blended": ~predicted.blended,
        "not reproduced": predicted.not_reproduced,
        "faint": predicted.faint,
        "outside for a label": np.asarray(predicted.outside.any(axis=1)),
        "reliable": np.asarray(predicted.reliable.all(axis=1)),
    }
    print_header(
        "Flags, test fold: spread; known labels inside 68 and 95 % [%]", ("stars", "number", *predicted.names)
    )
    for name, here in sorts.items():
        parts = [
            _scores(predicted.take(here), known.take(here), label) for label in range(len(predicted.names))
        ]
        print_row(name, f"{here.sum():,}", *(f"{spread}; {inside}" for _, spread, _, inside in parts))


def print_noisier(model: sv.Checkpoint, labels: LabelModel, spectra: Spectra, known: TargetLabels) -> None:
    """Test stars with errors so many times larger, and noise to match."""
    print_header(
        "Fainter test stars: spread; known labels inside 68 and 95 % [%]",
        ("errors", "faint [%]", "outside [%]", *labels.names),
    )
    for factor in NOISIER:
        predicted = label_stars(model, labels, made_fainter(spectra, factor))
        parts = [_scores(predicted, known, label) for label in range(len(labels.names))]
        print_row(
            f"x {factor:g}",
            f"{100 * predicted.faint.mean():.1f}",
            f"{100 * predicted.outside.any(axis=1).mean():.1f}",
            *(f"{spread}; {inside}" for _, spread, _, inside in parts),
        )


def made_fainter(spectra: Spectra, factor: float) -> Spectra:
    """The stars with errors so many times larger and noise to match; correlations stay as they are."""
    noise = numpy_stream(0, "fainter stars").standard_normal(spectra.coeffs.shape)
    added = np.sqrt(factor**2 - 1.0) * spectra.errors * noise
    return replace(spectra, coeffs=spectra.coeffs + added, errors=factor * spectra.errors)


def print_flags(predicted: LabelPrediction, spectra: Spectra, title: str) -> None:
    """Shares of stars with each flag, in bins of G."""
    names = (*(f"outside for {name}" for name in predicted.names), *(flag.name or "" for flag in LabelFlag))
    print_header(f"Label flags, {title} [%]", ("stars", "number", *names))
    for text, here in bins_of_g(spectra):
        shares = (
            *predicted.outside[here].mean(axis=0),
            *((predicted.flags[here] & f > 0).mean() for f in LabelFlag),
        )
        print_row(text, f"{here.sum():,}", *(f"{100 * share:.1f}" for share in shares))


def _scores(predicted: LabelPrediction, known: TargetLabels, label: int) -> list[str]:
    scores, share = LabelScores.of(predicted.values, known.values), coverage(predicted, known)
    numbers = (f"{of[label]:.3g}" for of in (scores.bias, scores.spread, scores.rmse))
    return [*numbers, f"{100 * share.inside_68[label]:.0f}, {100 * share.inside_95[label]:.0f}"]


def print_header(title: str, names: tuple[str, ...]) -> None:
    """A table's title and first lines."""
    print(f"\n**{title}**\n\n| {' | '.join(names)} |\n{'|---' * len(names)}|")


def print_row(*cells: str) -> None:
    """One line of a table."""
    print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
