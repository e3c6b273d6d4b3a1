"""``scattervae label``: teach a model the labels of those stars that have them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scattervae.cli.console import (
    AsJson,
    ModelFolder,
    Summary,
    Threads,
    existing,
    progress_bar,
    settle_machine,
)
from scattervae.errors import counted

if TYPE_CHECKING:
    from scattervae.science.labels.model import LabelModel


def label(
    model: ModelFolder,
    store: Annotated[
        Path,
        typer.Argument(callback=existing, metavar="STORE", help="Stars, some of them with labels."),
    ],
    *,
    threads: Threads = 0,
    as_json: AsJson = False,
) -> None:
    """Learn Teff, log g, [Fe/H] and [alpha/M] from the stars that have them, to tell them of all others.

    What the model's encoder has learnt from all spectra is tuned on the labelled stars outside the test fold: a few
    minutes for 30,000 labels, seconds for a hundred. The result is the folder labels/ in the model's. From
    then on `encode` writes each label with intervals that hold the truth in 68 and 95 % of stars like the labelled
    ones, a reliability, and `label_flags` where a star lies outside what is labelled. Calibrate first, label then:
    another calibration is another model.

    Examples:

        scattervae ingest spectra.csv.gz --labels apogee.fits --out store

        scattervae label model store

        scattervae encode model store --out catalogue.parquet
    """
    from scattervae.files import sole_writer
    from scattervae.gaia import reading
    from scattervae.science.labels.model import fit_labels, save_label_model
    from scattervae.science.labels.targets import KnownLabels
    from scattervae.science.trained import LABELS, load_model

    settle_machine("cpu", threads)
    out = model / LABELS
    with sole_writer(model), progress_bar("networks") as bar:
        checkpoint, stars = load_model(model, labels=False), reading.load(store)
        task = bar.add_task("learning labels", total=None)
        fitted = fit_labels(
            checkpoint,
            stars.spectra,
            KnownLabels.of(stars.labels),
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
        save_label_model(fitted, out)
    _summary(fitted, out).show(as_json=as_json)


def _summary(fitted: "LabelModel", out: Path) -> Summary:
    values = {"out": str(out), "labels": list(fitted.names), "n_stars": fitted.n_stars}
    return Summary(
        values,
        (f"learnt {', '.join(fitted.names)} from {counted(fitted.n_stars, 'labelled star')}", f"wrote {out}"),
    )
