"""``scattervae evaluate``: how well a model tells stars it has not seen."""

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scattervae.cli.console import (
    AsJson,
    DeviceName,
    Summary,
    Threads,
    model_names,
    settle_machine,
    table_lines,
)
from scattervae.errors import DataError

if TYPE_CHECKING:
    from scattervae.model.checkpoint import Checkpoint
    from scattervae.science.evaluation import Evaluation


class Fold(StrEnum):
    """Which stars to score."""

    TEST = "test"
    VALIDATION = "validation"
    TRAIN = "train"
    ALL = "all"


def evaluate(
    models: Annotated[list[Path], typer.Argument(metavar="MODEL", help="Trained models' folders.")],
    store: Annotated[Path, typer.Argument(metavar="STORE", help="A store, or any readable file of spectra.")],
    *,
    fold: Annotated[
        Fold, typer.Option(metavar="NAME", help="Stars to score: test, validation, train or all.")
    ] = Fold.TEST,
    draws: Annotated[
        int, typer.Option(min=1, metavar="N", help="Draws from each posterior for the ELBO.")
    ] = 10,
    device: DeviceName = "auto",
    threads: Threads = 0,
    as_json: AsJson = False,
) -> None:
    """Score models on the same stars: evidence lower bound, likelihood, normalised errors, active latents.

    Likelihoods are in nats per star, of coefficients in training standard deviations, without the constant
    with ln 2 pi; lower is better. Models trained on other stars have other standard deviations: compare
    those on normalised errors only.

    Examples:

        scattervae evaluate model store

        scattervae evaluate model other_model store --json
    """
    from scattervae.gaia import intake
    from scattervae.model.checkpoint import Checkpoint
    from scattervae.science.evaluation import evaluate as score
    from scattervae.seeds import folds

    machine = settle_machine(device, threads)
    checkpoints = {
        name: Checkpoint.load(path).to(machine)
        for name, path in zip(model_names(models), models, strict=True)
    }
    spectra = intake.load(store).spectra
    rows = slice(None) if fold is Fold.ALL else getattr(folds(spectra.source_id), fold)
    stars = spectra.take(rows)
    if not stars.usable.any():
        raise DataError(
            f"{store}: {len(spectra)} stars, of which {len(stars)} are in the {fold} fold, none of them usable"
            + ("" if fold is Fold.ALL else "; --fold all scores every star")
        )
    scores = {name: score(model, stars, n_draws=draws) for name, model in checkpoints.items()}
    values = {
        "n_stars": len(spectra),
        "fold": str(fold),
        "n_test": next(iter(scores.values())).n_stars,
        "models": {name: model_values(checkpoints[name], result) for name, result in scores.items()},
    }
    lines = (f"{values['n_test']:,} stars of the {fold} fold, of {len(spectra):,}", *score_lines(scores))
    Summary(values, lines).show(as_json=as_json)


def model_values(checkpoint: "Checkpoint", result: "Evaluation") -> dict[str, object]:
    """The scores of one model with what its training took."""
    training = checkpoint.provenance["training"]
    return {
        "recipe": checkpoint.recipe.name,
        **asdict(result),
        "n_latent": checkpoint.n_latent,
        "train_seconds": training["seconds"],
        "stars_per_second": training["stars_per_second"],
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
