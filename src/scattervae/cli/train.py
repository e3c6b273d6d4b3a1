"""``scattervae train``: a store to a model."""

from pathlib import Path
from typing import Annotated

import typer

from scattervae.cli.console import AsJson, DeviceName, Summary, Threads, epoch_bar, settle_machine


def train(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="A store, or any readable file of spectra.")],
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="The model's folder.")],
    recipe: Annotated[
        str,
        typer.Option(
            "--recipe",
            "-r",
            metavar="NAME|FILE",
            help="elbo, elbo_sgd, paper2023, or a TOML file of settings.",
        ),
    ] = "elbo",
    seed: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Of every random number; the recipe's where not given."),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Passes over the stars; the recipe's where not given."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an unfinished run.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model that is there.")] = False,
    device: DeviceName = "auto",
    threads: Threads = 0,
    as_json: AsJson = False,
) -> None:
    """Train the scatter VAE on the stars outside the test fold.

    elbo (default) minimises the negative evidence lower bound with AdamW; paper2023 is Laroche & Speagle
    (2023) to the letter, which collapses on small samples and then says so; elbo_sgd differs from it in the
    loss alone. The model is a folder of JSON and safetensors files.

    Examples:

        scattervae train store --out model

        scattervae train store --out model --resume     # go on after a stop

        scattervae train store --out wide --recipe wide.toml
    """
    from scattervae.gaia import intake
    from scattervae.model.recipe import load_recipe, parse_recipe
    from scattervae.model.run import RunFolder
    from scattervae.model.run import train as train_model

    settings = load_recipe(recipe).model_dump()
    given = {"seed": seed, "epochs": epochs}
    settings["training"] |= {name: value for name, value in given.items() if value is not None}
    chosen = parse_recipe(settings, where="train")
    machine = settle_machine(device, threads)
    spectra = intake.load(store).spectra
    with epoch_bar(chosen.training.epochs) as progress:
        model = train_model(
            spectra,
            chosen,
            out=RunFolder(out, resume=resume, overwrite=overwrite),
            device=machine,
            progress=progress,
        )
    facts = model.provenance
    training, data = facts["training"], facts["data"]
    final = model.records[-1]
    Summary(
        {"out": str(out), "recipe": chosen.name, **facts, "final_epoch": vars(final)},
        (
            f"trained {chosen.name} on {data['n_trained_on']:,} of {data['n_stars']:,} stars "
            f"({data['n_usable']:,} usable; the test fold is left out), {chosen.training.epochs} epochs in "
            f"{training['seconds']:.1f} s ({training['stars_per_second']:,} stars/s)",
            f"negative ELBO {final.negative_elbo:.2f} nats per training star; "
            f"{training['active_latents']} of {model.n_latent} latents active",
            f"wrote {out}",
        ),
    ).show(as_json=as_json)
