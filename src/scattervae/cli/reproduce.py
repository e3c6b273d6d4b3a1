"""``scattervae reproduce``: the paper, claim by claim."""

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scattervae.cli.console import AsJson, Summary, Threads, choose_device, existing, print_stage, table_lines
from scattervae.display import epoch_bar

if TYPE_CHECKING:
    from scattervae.gaia.reading import Stars
    from scattervae.science.paper.comparison import Claim, Outcome
    from scattervae.science.paper.reproduce import Reproduction
    from scattervae.spectra.spectra import Spectra


def reproduce(
    stars: Annotated[
        Path | None,
        typer.Argument(
            callback=existing,
            metavar="STORE",
            help="A store or file of labelled stars; the demo's where not given.",
        ),
    ] = None,
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder for models, figures and report.")],
    unlabelled: Annotated[
        Path | None, typer.Option(help="A store or file of other stars, for the claims on latent volume.")
    ] = None,
    recipe: Annotated[
        str,
        typer.Option(
            "--recipe", "-r", metavar="NAME|FILE", help="The network's: a name, or a TOML file of settings."
        ),
    ] = "elbo",
    threads: Threads = 0,
    as_json: AsJson = False,
) -> None:
    """Test every quantitative claim of Laroche & Speagle (2023) on real stars, next to The Cannon.

    Trains the scatter VAE (with the evidence lower bound, and with the paper's loss as printed beside it) and the
    Cannon on the same stars and folds, and writes claims.json (each claim with its number here, a bootstrap interval,
    the paper's number, a verdict, the recipe and loss that were tested, and what came out with the loss as printed),
    the paper's three figures as PNG and PDF, and report.html. Under five minutes on two cores.
    If it is stopped, run the same command again: it resumes.

    Examples:

        scattervae reproduce --out reproduction

        scattervae reproduce store --unlabelled other_store --out reproduction

        scattervae reproduce store --recipe paper2023 --out as_printed
    """
    from scattervae.files import write_json, write_text
    from scattervae.gaia import reading
    from scattervae.gaia.ingest import ingest
    from scattervae.model.recipe import load_recipe
    from scattervae.science.paper.comparison import as_json as claims_as_json
    from scattervae.science.paper.reproduce import reproduce as test_claims
    from scattervae.show.report import render_report, report_figures

    settings = load_recipe(recipe)
    choose_device("cpu", threads)
    started = time.perf_counter()
    if stars is None:
        print_stage("reading the demo's stars")
        ingest([reading.demo_file()], out / "store", strict=True)
    stars = out / "store" if stars is None else stars
    sky = reading.load(stars, where=reading.labelled_stars(stars, others=True))
    others = None if unlabelled is None else reading.load(unlabelled, at_most=reading.MOST_STARS).spectra
    with epoch_bar(settings.training.epochs) as progress:
        test = partial(test_claims, unlabelled=others, recipe=settings, stage=print_stage, progress=progress)
        done = test(sky.spectra, sky.labels, out)
    print_stage("drawing figures and the report")
    figures = _draw(sky, done, out, others)
    claims = claims_as_json(done.claims)
    write_json(out / "claims.json", claims)
    facts = _facts(sky, done, time.perf_counter() - started)
    page = render_report(
        title="Closing the stellar labels gap, claim by claim",
        claims=done.claims,
        figures=report_figures(figures),
        facts=facts,
    )
    write_text(out / "report.html", page)
    rows = [(c.id, _outcome(c), "-" if c.as_printed is None else _outcome(c.as_printed)) for c in done.claims]
    Summary(
        {"out": str(out), "facts": facts, "claims": claims},
        (
            *table_lines(("claim", facts["tested"], "the loss as printed"), rows),
            f"wrote {out}: claims.json, report.html, figures/ and the models",
        ),
    ).show(as_json=as_json)


def _outcome(claim: "Claim | Outcome") -> str:
    number = "" if claim.measured is None else f"{claim.measured:.3g}: "
    return number + claim.verdict.partition(":")[0]


def _draw(sky: "Stars", done: "Reproduction", out: Path, unlabelled: "Spectra | None") -> list[Path]:
    from scattervae.show.registry import FigureData, save_figures

    data = FigureData(
        {"scatter VAE": done.model},
        sky.spectra,
        sky.labels,
        cannon=done.cannons.plain,
        unlabelled=unlabelled,
        volumes=done.volumes[0] if unlabelled is not None and done.volumes else None,
    )
    names = ["architecture", "normalised_errors", *(["latent_volume"] if unlabelled is not None else [])]
    return save_figures(data, out / "figures", names, formats=("png", "pdf"))


def _facts(sky: "Stars", done: "Reproduction", seconds: float) -> dict[str, Any]:
    from scattervae.science.paper.reproduce import tested

    counts = done.cannons.plain.counts
    return {
        "stars": f"{len(sky.spectra):,} ({sky.kind})",
        "trained on": f"{done.model.provenance['data']['n_trained_on']:,} (VAE), {counts.trained_on:,} (Cannon)",
        "fully labelled test stars": f"{len(done.comparison):,}",
        "tested": tested(done.model.recipe),
        "active latents": str(done.model.provenance["training"]["active_latents"]),
        "seconds": f"{seconds:.0f}",
        "scattervae": done.model.provenance["versions"]["scattervae"],
        "credit": "ESA/Gaia/DPAC; APOGEE/SDSS",
    }
