"""``scattervae evaluate``: how well a model predicts stars it has not seen."""

import math
from dataclasses import asdict
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from scattervae.cli.console import (
    AsJson,
    DeviceName,
    FigureFile,
    StarsPath,
    Summary,
    Threads,
    choose_device,
    model_folders,
    model_names,
    table_lines,
)
from scattervae.errors import DataError, counted

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from scattervae.gaia.reading import Stars
    from scattervae.model.checkpoint import Checkpoint
    from scattervae.science.calibration.coverage import CoverageRow, CoverageTable, DrawnStars, Share
    from scattervae.science.calibration.widths import LatentCoverage
    from scattervae.science.evaluation import Evaluation


class Fold(StrEnum):
    """Which stars to score."""

    TEST = "test"
    VALIDATION = "validation"
    TRAIN = "train"
    ALL = "all"


def evaluate(
    models: Annotated[
        list[Path],
        typer.Argument(callback=model_folders, metavar="MODEL", help="Trained models' folders or names."),
    ],
    store: StarsPath,
    *,
    fold: Annotated[
        Fold, typer.Option(metavar="NAME", help="Stars to score: test, validation, train or all.")
    ] = Fold.TEST,
    draws: Annotated[
        int, typer.Option(min=1, metavar="N", help="Draws from each posterior for the ELBO.")
    ] = 10,
    coverage: Annotated[
        bool, typer.Option("--coverage/--no-coverage", help="Measure the coverage of coefficients as well.")
    ] = True,
    rounds: Annotated[
        int, typer.Option(min=1, max=10, metavar="N", help="Tenths of the coefficients to hide, in turn.")
    ] = 1,
    figure: FigureFile = None,
    all_bins: Annotated[
        bool, typer.Option("--all", help="Print the coverage of every bin, not of the worst alone.")
    ] = False,
    device: DeviceName = "auto",
    threads: Threads = 0,
    as_json: AsJson = False,
) -> None:
    """Score models on the same stars: evidence lower bound, likelihood, normalised errors, coverage.

    Likelihoods are in nats per star, of coefficients in training standard deviations, without the constant
    with ln 2 pi; lower is better. Models trained on other stars have other standard deviations: compare
    those on normalised errors only.

    Coverage, of 50,000 stars at most, is how many coefficients lie inside the central 68 and 95 % of what a model
    predicts: hidden from it, at a draw of the latents, at a draw from the posterior as `encode` states it, at the
    posterior mean; of the coefficients whose median scatter exceeds their error, and at a draw and with no scatter of
    the others. The worst bins of G, order and colour are printed below, those of few stars with standard errors; --all
    prints every bin. Last come latents of the same stars made fainter: how often they lie where their posteriors expect
    them. A model that has been calibrated is scored twice.

    Examples:

        scattervae evaluate model store

        scattervae evaluate model store --rounds 10 --figure calibration.png

        scattervae evaluate model other_model store --json
    """
    if figure is not None and not coverage:
        raise DataError(
            f"--figure {figure}: draws the coverage, which --no-coverage leaves out; drop one of them"
        )
    from scattervae.science.calibration.coverage import coverage_table
    from scattervae.science.calibration.widths import faint_coverage

    checkpoints = loaded(models, choose_device(device, threads))
    scores, drawn, n_source, n_one_band = scored(checkpoints, store, fold, draws=draws, coverage=coverage)
    tables = {name: coverage_table(checkpoints[name], some, n_rounds=rounds) for name, some in drawn.items()}
    faint = {name: faint_coverage(checkpoints[name], some.inputs) for name, some in drawn.items()}
    n_test = next(iter(scores.values())).n_stars
    values = {
        "n_stars": n_source,
        "n_one_band": n_one_band,
        "fold": str(fold),
        "n_test": n_test,
        "models": {
            name: model_values(checkpoints[name], result, tables.get(name), faint.get(name))
            for name, result in scores.items()
        },
    }
    lines = [f"{counted(n_test, 'star')} of the {fold} fold, of {n_source:,}", *score_lines(scores)]
    if n_one_band:
        lines.insert(
            1,
            f"{n_one_band:,} more have one band: not scored, since a likelihood of fewer coefficients is larger",
        )
    for name, table in tables.items():
        n_worst = None if all_bins else 0 if f"{name}, calibrated" in tables else N_WORST
        lines += ["", f"{name}: coverage [%]", *coverage_lines(table, n_worst=n_worst)]
        lines += faint_lines(faint[name])
    if figure is not None:
        from scattervae.show.calibration import tables_figure
        from scattervae.show.registry import save_figure

        save_figure(tables_figure(tables), figure)
        values["figure"] = str(figure)
        lines.append(f"wrote {figure}")
    Summary(values, tuple(lines)).show(as_json=as_json)


class Scored(NamedTuple):
    """Scores of each model, the stars that their coverage is to be measured on, and how many there are."""

    scores: "dict[str, Evaluation]"
    drawn: "dict[str, DrawnStars]"  # none without coverage
    n_source: int
    n_one_band: int  # that are not scored


def scored(
    checkpoints: "Mapping[str, Checkpoint]", store: Path, fold: Fold, *, draws: int, coverage: bool
) -> Scored:
    """The scores of all models on the stars of a fold, of which those drawn for coverage alone stay in memory."""
    from scattervae.science.calibration.coverage import DrawnStars
    from scattervae.science.evaluation import evaluate as score

    loaded_stars = load_fold(store, fold)
    stars = loaded_stars.spectra
    scores = {name: score(model, stars, fold="all", n_draws=draws) for name, model in checkpoints.items()}
    drawn = {name: DrawnStars.of(model, stars) for name, model in checkpoints.items() if coverage}
    n_one_band = int((stars.usable_with_one_band & ~stars.usable).sum())
    return Scored(scores, drawn, loaded_stars.n_source, n_one_band)


def load_fold(store: Path, fold: Fold) -> "Stars":
    """The stars of a fold, at most `scattervae.gaia.reading.MOST_STARS` of them, drawn at random."""
    from scattervae.gaia import reading
    from scattervae.seeds import folds

    where = None if fold is Fold.ALL else lambda source_id, _: getattr(folds(source_id), fold)
    stars = reading.load(store, where=where, at_most=reading.MOST_STARS)
    if not stars.spectra.usable.any():
        raise DataError(
            f"{store}: {counted(stars.n_source, 'star')}, of which {len(stars.spectra)} are in the {fold} fold, "
            "none of them usable" + ("" if fold is Fold.ALL else "; --fold all takes every star")
        )
    return stars


def loaded(folders: list[Path], machine: "torch.device") -> "dict[str, Checkpoint]":
    """The models by name, and those that were calibrated once more with their calibration."""
    from scattervae.science.calibration.calibrated import is_calibrated
    from scattervae.science.trained import load_model

    found: dict[str, Checkpoint] = {}
    for name, folder in zip(model_names(folders), folders, strict=True):
        found[name] = load_model(folder, calibrated=False, labels=False).to(machine)
        calibrated = load_model(folder, labels=False)
        if is_calibrated(calibrated):
            found[f"{name}, calibrated"] = calibrated.to(machine)
    return found


def model_values(
    checkpoint: "Checkpoint",
    result: "Evaluation",
    table: "CoverageTable | None" = None,
    faint: "dict[float, LatentCoverage] | None" = None,
) -> dict[str, object]:
    """The scores of one model with what its training took."""
    from scattervae.settings import Facts

    training = Facts.model_validate(checkpoint.provenance).training
    return {
        "recipe": checkpoint.recipe.name,
        **asdict(result),
        "n_latent": checkpoint.n_latent,
        "train_seconds": training.seconds,
        "stars_per_second": training.stars_per_second,
        "coverage": None if table is None else asdict(table),
        "faint": faint and {f"{factor:g}": found._asdict() for factor, found in faint.items()},
    }


def score_lines(scores: "dict[str, Evaluation]") -> tuple[str, ...]:
    """The scores as a table for people."""
    header = ("model", "-ELBO", "+/-", "NLL at mean", "KL", "active", "|z| BP10", "|z| RP10", "> 5 sigma")
    rows = [
        (
            name,
            f"{s.negative_elbo:.2f}",
            f"{s.negative_elbo_error:.2f}",
            f"{s.nll_at_mean:.2f}",
            f"{s.kl:.2f}",
            f"{s.active_latents} of {len(s.kl_per_latent)}",
            f"{s.mean_abs_normalised_error['bp10']:.3f}",
            f"{s.mean_abs_normalised_error['rp10']:.3f}",
            f"{100 * s.share_beyond_5_sigma:.3f} %",
        )
        for name, s in scores.items()
    ]
    return table_lines(header, rows)


COVERAGE_KINDS = {
    "hidden": "hidden from the encoder",
    "drawn": "at a draw of the latents",
    "stated": "at a draw, as encode states it",
    "at_mean": "at the posterior mean (too high by design)",
    "others": "other coefficients, at a draw",
    "others_without_scatter": "other coefficients, no scatter",
}
"""Shares of a row in words; the others are those whose median scatter does not exceed their error."""
_MUST_HOLD = ("hidden", "drawn", "stated", "others")  # those that are nominal where a model is right
N_WORST = 6


def coverage_lines(table: "CoverageTable", *, n_worst: int | None) -> list[str]:
    """The coverage of all coefficients, then of the worst bins or of every one; of few stars with standard errors."""
    (whole,) = (row for row in table.rows if row.by == "all")
    bins = [row for row in table.rows if row.by != "all"]
    if n_worst is None:
        title, shown = "every bin", [(row, kind) for row in bins for kind in COVERAGE_KINDS]
    else:
        title = f"the {n_worst} worst bins; --all prints every one"
        worst_kinds = [(row, max(_MUST_HOLD, key=partial(_miss, row))) for row in bins]
        shown = sorted(worst_kinds, key=lambda pair: -_miss(*pair))[:n_worst]
    header = ("which", "stars", "coeffs", "inside 68.3 %", "inside 95.4 %", "coefficients")
    every = [_bin_cells(whole, kind) for kind in COVERAGE_KINDS]
    lines = table_lines(header, [*every, *(_bin_cells(*pair) for pair in shown)])
    n_first = 1 + len(every)
    return [*lines[:n_first], *([title] if shown else []), *lines[n_first:]]


def faint_lines(faint: "dict[float, LatentCoverage]") -> tuple[str, ...]:
    """How often latents of the same stars made fainter are where their posteriors expect them."""
    header = ("latents of these stars with errors so many times as large", "jointly", "each by itself")
    rows = []
    for factor, found in faint.items():
        error = math.sqrt(found.jointly * (1 - found.jointly) / found.n)
        each = f"{100 * min(found.per_latent):.1f} to {100 * max(found.per_latent):.1f}"
        rows.append((f"{factor:g}, inside 68.3 %", percent(found.jointly, error, few=True), each))
    return table_lines(header, rows)


def percent(share: float, error: float, *, few: bool) -> str:
    """A share in per cent, of few stars with its standard error; a dash where it is not known."""
    if math.isnan(share):
        return "-"
    return f"{100 * share:.1f}" + (f" +- {100 * error:.1f}" if few and not math.isnan(error) else "")


def _bin_cells(row: "CoverageRow", kind: str) -> tuple[str, ...]:
    from scattervae.science.calibration.coverage import FEWEST_STARS

    share: Share = getattr(row, kind)
    shares = (
        percent(*part, few=row.n_stars < FEWEST_STARS)
        for part in ((share.one, share.one_error), (share.two, share.two_error))
    )
    name = row.name if row.by == "all" else f"{row.by} {row.name}"
    return (name, f"{row.n_stars:,}", str(row.n_pooled), *shares, COVERAGE_KINDS[kind])


def _miss(row: "CoverageRow", kind: str) -> float:
    """How far a row's shares are from nominal, beyond two standard errors."""
    from scattervae.science.calibration.coverage import INSIDE_1_SIGMA, INSIDE_2_SIGMA

    share: Share = getattr(row, kind)
    ends = ((share.one, share.one_error, INSIDE_1_SIGMA), (share.two, share.two_error, INSIDE_2_SIGMA))
    misses = [abs(found - nominal) - 2 * error for found, error, nominal in ends if not math.isnan(error)]
    return max(misses, default=-math.inf)
