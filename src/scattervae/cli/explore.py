"""``scattervae explore``: one HTML file to look around the latent space in."""

from pathlib import Path
from typing import Annotated

import typer

from scattervae.cli.console import AsJson, ModelFolder, Summary, Threads, choose_device, existing
from scattervae.errors import DataError, counted


def explore(
    model: ModelFolder,
    catalogue: Annotated[
        Path,
        typer.Argument(
            callback=existing,
            metavar="CATALOGUE",
            help="What `encode` wrote with this model: a file of any form, or a folder, which is streamed.",
        ),
    ],
    *,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The page; a name in .html.")],
    stars: Annotated[
        Path | None,
        typer.Option(
            callback=existing,
            metavar="STORE",
            help="The store or file that was encoded: its spectra, G flux, labels and other columns are shown.",
        ),
    ] = None,
    sample: Annotated[
        int,
        typer.Option(
            min=1,
            max=200_000,
            metavar="N",
            help="Stars on the map at most; of more, a sample that keeps rare places is drawn.",
        ),
    ] = 200_000,
    size: Annotated[
        float | None,
        typer.Option(
            min=1.0,
            max=500.0,
            metavar="MB",
            help="Room for the page; by default 15 MB for 40,000 stars, up to 60 MB for 200,000.",
        ),
    ] = None,
    umap: Annotated[
        bool, typer.Option("--umap", help="Also embed the latents by UMAP; needs the package umap-learn.")
    ] = False,
    threads: Threads = 0,
    as_json: AsJson = False,
) -> None:
    """Write one page that explores the latent space, decodes spectra and encodes a star of your own.

    The page opens from disk in any browser, without a network or a server: a map of any two columns coloured by a
    third, with selections, filters and search; each star observed and decoded; spectra from sliders; files dropped on
    it are encoded in it. Its address holds its state, so a link shows others the same.

    Observed spectra are taken from --stars, rounded to 16 bits, of as many stars as the page has room for.

    Examples:

        scattervae explore model catalogue.parquet --stars store --out page.html

        scattervae explore model catalogue --sample 50000 --out page.html
    """
    _check_out(out)
    from scattervae.science.trained import load_model
    from scattervae.show.explorer.page import explore as page_of

    choose_device("cpu", threads)
    page = page_of(load_model(model), catalogue, stars=stars, sample=sample, megabytes=size, umap=umap)
    page.save(out)
    values = {
        "out": str(out),
        "n_stars": page.n_stars,
        "n_all": page.n_all,
        "n_spectra": page.n_spectra,
        "coeff_loss": page.coeff_loss,
        "megabytes": round(page.n_bytes / 1e6, 2),
    }
    of = "" if page.n_stars == page.n_all else f" of {page.n_all:,}"
    spectra = f"observed spectra of {page.n_spectra:,}" if stars else "no observed spectra (give --stars)"
    lines = (
        f"{counted(page.n_stars, 'star')}{of} on the map, {spectra}",
        f"wrote {out} ({values['megabytes']:g} MB); open it in a browser",
    )
    Summary(values, lines).show(as_json=as_json)


def _check_out(out: Path) -> None:
    """Refuse, before any work, a name that is no page's, or a file that we did not make."""
    if out.is_dir():
        raise DataError(f"{out}: is a folder; name a file, such as {out / 'page.html'}")
    if out.suffix != ".html":
        raise DataError(f"{out}: a page ends in .html; give {out.with_suffix('.html')}")
    if out.exists():
        with out.open("rb") as file:
            if b'content="scattervae explore"' not in file.read(2000):
                raise DataError(f"{out}: exists and was not made by scattervae; give another --out")
