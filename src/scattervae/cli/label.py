"""``scattervae label``: train a model to predict labels, from the stars that have them."""

from pathlib import Path
from typing import Annotated

import typer

from scattervae.cli.console import AsJson, ModelFolder, Summary, Threads, choose_device, existing
from scattervae.display import progress_bar
from scattervae.errors import counted


def label(
    model: ModelFolder,
    store: Annotated[
        Path,
        typer.Argument(callback=existing, metavar="STORE", help="Stars, some of them with labels."),
    ],
    *,
    only: Annotated[
        str,
        typer.Option(metavar="NAMES", help="Learn these alone, of teff, logg, fe_h, alpha_m, a_k."),
    ] = "",
    threads: Threads = 0,
    as_json: AsJson = False,
) -> None:
    """Learn Teff, log g, [Fe/H], [alpha/M] and A_K from stars that have them, to predict them for stars without.

    The model's encoder, which has seen all spectra, is tuned on the labelled stars outside the test fold: a few
    minutes for 30,000 labels, seconds for a hundred. The result is the folder labels/ in the model's folder. From
    then on `encode` writes each label with intervals that contain the true value in 68 and 95 % of stars like the
    labelled ones, a reliability, and `label_flags` where a star is of a kind that was never labelled: the stars of
    STORE that have no labels show which kinds these are. Calibrate first, then label: labels of the
    model as it was before are refused.

    Examples:

        scattervae ingest spectra.csv.gz --labels apogee.fits --out store

        scattervae label model store

        scattervae label model store --only teff,logg

        scattervae encode model store --out catalogue.parquet
    """
    from scattervae.files import sole_writer
    from scattervae.gaia import reading
    from scattervae.science.labels.model import fit_labels, save_label_model
    from scattervae.science.labels.targets import TargetLabels
    from scattervae.science.shipped import require_own
    from scattervae.science.trained import LABELS, load_model

    require_own(model)
    choose_device("cpu", threads)
    out, names = model / LABELS, [name.strip() for name in only.split(",")] if only else None
    with sole_writer(model), progress_bar("networks") as bar:
        checkpoint = load_model(model, labels=False)
        stars = reading.load(store, where=reading.labelled_stars(store, others=True))
        task = bar.add_task("learning labels", total=None)
        trained = fit_labels(
            checkpoint,
            stars.spectra,
            TargetLabels.of(stars.labels, names),
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
        save_label_model(trained, out)
    about = f"trained on {', '.join(trained.names)} from {counted(trained.n_stars, 'labelled star')}"
    values = {"out": str(out), "labels": list(trained.names), "n_stars": trained.n_stars}
    Summary(values, (about, f"wrote {out}")).show(as_json=as_json)
