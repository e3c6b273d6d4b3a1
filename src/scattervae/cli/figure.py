"""``scattervae figure``: one figure alone, by its name."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scattervae.cli.console import (
    AsJson,
    Summary,
    Threads,
    choose_device,
    existing,
    figure_file,
    model_folders,
    model_names,
)
from scattervae.errors import DataError, counted
from scattervae.show.registry import FIGURES, Need

if TYPE_CHECKING:
    from scattervae.show.registry import FigureData
    from scattervae.spectra.store import Choice

NAMES = "\n\n".join(
    ["**Names**", *(f"{name}: {entry.title} ({entry.answers})" for name, entry in FIGURES.items())]
)


def figure(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Which figure; the names are below.")],
    *,
    models: Annotated[
        list[Path],
        typer.Option(
            "--model",
            callback=model_folders,
            metavar="MODEL",
            help="A trained model's folder or name; again for another one.",
        ),
    ],
    stars: Annotated[
        Path,
        typer.Option(
            "--stars", callback=existing, metavar="STORE", help="A store, or any readable file of spectra."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            callback=figure_file,
            metavar="FILE",
            help="The figure; png, pdf or svg by its suffix.",
        ),
    ],
    unlabelled: Annotated[
        Path | None,
        typer.Option(metavar="STORE", help="Stars without labels, for the figure `latent_volume`."),
    ] = None,
    star: Annotated[
        int | None,
        typer.Option(
            metavar="SOURCE_ID", help="The star to show alone; a test star of median G flux if none."
        ),
    ] = None,
    threads: Threads = 0,
    as_json: AsJson = False,
) -> None:
    """Draw one figure alone: one of the paper's three, or another by its name.

    Figures that compare with The Cannon fit one to the labelled stars outside the test fold.

    Examples:

        scattervae figure normalised_errors --model model --stars store --out errors.pdf

        scattervae figure latent_volume --model model --stars store --unlabelled field.parquet --out volumes.png
    """
    _check(name, out)
    from scattervae.gaia import reading
    from scattervae.science.trained import load_model
    from scattervae.show.registry import FigureData, draw_figure, save_figure

    choose_device("cpu", threads)
    checkpoints = {title: load_model(path) for title, path in zip(model_names(models), models, strict=True)}
    sky = reading.load(stars, where=_shown(stars, star))
    others = None if unlabelled is None else reading.load(unlabelled, at_most=reading.MOST_STARS).spectra
    data = FigureData(checkpoints, sky.spectra, sky.labels, source_id=star, unlabelled=others)
    data = _completed(data, FIGURES[name].needs | FIGURES[name].shows)
    save_figure(draw_figure(data, name), out)
    entry = FIGURES[name]
    values = {
        "figure": name,
        "out": str(out),
        "title": entry.title,
        "answers": entry.answers,
        "caption": entry.caption,
        "models": list(checkpoints),
        "n_stars": len(sky.spectra),
        "n_unlabelled": None if others is None else len(others),
        "source_id": None if star is None else str(star),
        "cannon_trained_on": None if data.cannon is None else data.cannon.counts.trained_on,
    }
    lines = [f"{entry.title}: {counted(len(sky.spectra), 'star')}"]
    if data.cannon is not None:
        lines.append(f"fitted a Cannon to {counted(data.cannon.counts.trained_on, 'star')}")
    Summary(values, (*lines, f"wrote {out}")).show(as_json=as_json)


def _shown(stars: Path, star: int | None) -> "Choice | None":
    """Labelled stars, others beside them, and the star that is to be shown."""
    from scattervae.gaia import reading

    drawn = reading.labelled_stars(stars, others=True)
    if drawn is None or star is None:
        return drawn
    return lambda source_id, flags: drawn(source_id, flags) | (source_id == star)


def _check(name: str, out: Path) -> None:
    """Refuse what cannot be drawn before anything is loaded."""
    if name not in FIGURES:
        raise DataError(f"{name!r}: no such figure; choose among {', '.join(FIGURES)}")
    if out.is_dir():
        raise DataError(f"{out}: is a folder; name a file, such as {out / name}.png")


def _completed(data: "FigureData", wanted: frozenset[Need]) -> "FigureData":
    """The data with what the figure wants and the given can make: a Cannon, volumes, held-out scores."""
    from scattervae.science.cannon.model import Cannon
    from scattervae.science.evaluation import evaluate
    from scattervae.show.latent_volume import measured_volumes

    if Need.CANNON in wanted:
        others = data.spectra.take(~data.test)
        data = replace(data, cannon=Cannon.fit(others, data.labels, data.first_model[1].normalization))
    if Need.VOLUMES in wanted and data.unlabelled is not None and data.labelled.any():
        data = replace(data, volumes=measured_volumes(data))
    test = data.spectra.take(data.test & data.spectra.usable)
    if Need.HELD_OUT in wanted and len(test):
        scores = {name: evaluate(model, test).negative_elbo for name, model in data.models.items()}
        data = replace(data, held_out=scores)
    return data
