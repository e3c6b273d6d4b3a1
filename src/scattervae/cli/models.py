"""``scattervae models``, ``export``, ``push``: models of the package, for other programs, on the hub."""

import os
from pathlib import Path
from typing import Annotated

import typer

from scattervae.cli.console import AsJson, ModelFolder, Summary, table_lines
from scattervae.errors import RecipeError
from scattervae.science.shipped import card_of, shipped_models


def models(*, as_json: AsJson = False) -> None:
    """List the models that come with the package; wherever a command takes a MODEL, it takes these names.

    Examples:

        scattervae models

        scattervae encode best stars.csv --out catalogue.parquet
    """
    folders = shipped_models()
    cards = {name: card_of(folder) or {} for name, folder in folders.items()}
    rows = [
        (
            name,
            f"{sum(file.stat().st_size for file in folders[name].rglob('*') if file.is_file()) / 1e6:.1f} MB",
            f"{card['training']['n_stars']:,}",
            card["basis"],
            f"{card['scores']['negative_elbo']:.1f}",
            ", ".join(card["labels"]) or "none",
            card["date"],
        )
        for name, card in cards.items()
    ]
    header = ("model", "size", "training stars", "basis", "-ELBO [nat]", "labels", "date")
    lines = table_lines(header, rows) if rows else ("no model comes with this installation",)
    Summary(
        {"models": [{"name": name, "folder": str(folders[name]), **card} for name, card in cards.items()]},
        lines,
    ).show(as_json=as_json)


def export(
    model: ModelFolder,
    *,
    onnx: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Encoder and decoder as ONNX, archive units in and out."),
    ] = None,
    plain: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="All numbers as npz, described in JSON, with a C program that decodes."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a model for programs without PyTorch.

    Examples:

        scattervae export best --onnx best_onnx

        scattervae export best --plain best_plain
    """
    if onnx is None and plain is None:
        raise RecipeError("nothing to write: give --onnx DIR, --plain DIR or both")
    from scattervae.science.export import check_folder, export_onnx, export_plain
    from scattervae.science.trained import load_model

    folders = [folder for folder in (onnx, plain) if folder is not None]
    for folder in folders:
        check_folder(folder)
    if len({os.path.realpath(folder) for folder in folders}) < len(folders):
        raise RecipeError(f"{onnx}: --onnx and --plain name one folder; give each its own")
    trained = load_model(model, labels=False)
    for given, write in ((onnx, export_onnx), (plain, export_plain)):
        if given is not None:
            write(trained, given)
    lines = tuple(f"wrote {folder}" for folder in folders)
    Summary({"model": trained.digest, "folders": [str(folder) for folder in folders]}, lines).show(
        as_json=as_json
    )


def push(
    model: ModelFolder,
    name: Annotated[str, typer.Argument(metavar="USER/NAME", help="Where on the Hugging Face hub.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Share a model on the Hugging Face hub; USER/NAME is then taken wherever a MODEL is, with @REVISION behind it.

    Examples:

        scattervae push model astronomer/halo_stars

        scattervae encode astronomer/halo_stars stars.csv --out catalogue.parquet
    """
    from scattervae.science.shipped import push as pushed
    from scattervae.science.trained import load_model

    load_model(model)  # nothing that cannot be read is shared
    where = pushed(model, name)
    Summary({"name": name, "address": where}, (f"wrote {model} to {where}",)).show(as_json=as_json)
