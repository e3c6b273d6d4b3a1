"""``scattervae outliers`` and ``scattervae similar``: stars by how odd they are, and more like some."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scattervae.cli.console import (
    TABLE_FILE,
    AsJson,
    ModelFolder,
    StarsPath,
    Summary,
    Threads,
    check_out,
    choose_device,
    existing,
    table_lines,
)
from scattervae.display import progress_bar
from scattervae.errors import DataError, RecipeError, counted

if TYPE_CHECKING:
    import pyarrow as pa

    from scattervae.science.outliers import OutlierReference
    from scattervae.science.star_parts import StarParts
    from scattervae.science.trained import TrainedModel

_SHOWN = 10


def outliers(
    model: ModelFolder,
    stars: StarsPath,
    *,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help=f"The table, the oddest star first: a {TABLE_FILE} file."),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            callback=existing,
            metavar="STORE|CATALOGUE",
            help="The stars that are called ordinary: a store or file, or what encode made of them with this model; if "
            "none, those that --fit left in the model's folder, else the stars themselves.",
        ),
    ] = None,
    fit: Annotated[
        bool, typer.Option("--fit", help="Keep the stars as the ordinary ones in the model's folder.")
    ] = False,
    gallery: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also draw the oddest stars: .html, .png, .pdf or .svg."),
    ] = None,
    top: Annotated[int, typer.Option(min=1, metavar="N", help="How many stars the gallery has.")] = 12,
    binaries: Annotated[
        bool,
        typer.Option(
            "--binaries",
            help="Also fit a second star to each spectrum; 0.02 s a star. At 5 % false alarms three in four are found "
            "that have a quarter of the flux and another colour, and few of the same colour.",
        ),
    ] = False,
    threads: Threads = 0,
    as_json: AsJson = False,
) -> None:
    """Find odd stars: how far each lies from ordinary ones, in what, and how rare that is at its G.

    What is odd depends on what it is compared with: name the population that you call ordinary with --reference. The
    score is minus log10 of the share of its stars, of the same G, that are odder, so the
    reference need not have the same distribution of G. Stars that cannot be encoded are left out and counted.

    Examples:

        scattervae outliers best my_stars.parquet --out odd.parquet --gallery odd.html

        scattervae outliers model nebulae.fits --reference field.parquet --out odd.fits

        scattervae outliers best my_stars.parquet --binaries --out odd.parquet

        scattervae outliers model store --fit
    """
    _check_use(out, reference, fit=fit)
    _check_files(out, gallery)
    from scattervae.files import sole_writer
    from scattervae.science.shipped import require_own
    from scattervae.science.trained import load_model
    from scattervae.spectra.tables import write_table

    choose_device("cpu", threads)
    if fit:
        require_own(model)
    with sole_writer(model) if fit else nullcontext():
        trained = load_model(model)
        parts = _parts(trained, stars)
        ordinary, whose = _reference(trained, parts, reference, model, fit=fit)
        summary = _Found(len(parts), len(ordinary.stars), whose)
        if fit:
            ordinary.save(model)
            summary.wrote(f"the reference of {counted(len(ordinary.stars), 'star')} into {model}")
    if out is not None:
        table = ordinary.score(parts).table(trained)
        if binaries:
            table = _with_binaries(trained, stars, table)
        with sole_writer(out):
            write_table(table, out)
        summary.add_table(table, out)
        if gallery is not None:
            _draw(trained, stars, table.slice(0, top), gallery)
            summary.wrote(str(gallery))
    summary.shown().show(as_json=as_json)


class _Found:
    """What is to be said at the end."""

    def __init__(self, n_stars: int, n_reference: int, reference: str) -> None:
        self.values: dict[str, Any] = {"n_stars": n_stars, "n_reference": n_reference, "reference": reference}
        self.values |= {"out": None, "oddest": [], "wrote": []}
        self.lines = [f"{counted(n_stars, 'star')} against {counted(n_reference, 'star')} of {reference}"]

    def add_table(self, table: "pa.Table", out: Path) -> None:
        self.values |= {
            "out": str(out),
            "oddest": [_as_json(row) for row in table.slice(0, _SHOWN).to_pylist()],
        }
        self.lines += _top_lines(table)
        self.wrote(str(out))

    def wrote(self, what: str) -> None:
        self.values["wrote"].append(what)

    def shown(self) -> Summary:
        return Summary(self.values, (*self.lines, *(f"wrote {what}" for what in self.values["wrote"])))


def _check_use(out: Path | None, reference: Path | None, *, fit: bool) -> None:
    if out is None and not fit:
        raise RecipeError(
            "neither --out nor --fit: say where the table goes, or that the stars are the reference"
        )
    if fit and reference is not None:
        raise RecipeError("--fit keeps STARS as the reference; leave --reference out")


def _check_files(out: Path | None, gallery: Path | None) -> None:
    if out is not None:
        check_out(out, "outliers")
    if gallery is None:
        return
    if out is None:
        raise RecipeError("--gallery draws the oddest stars of the table; give --out with it")
    if gallery.suffix not in (".html", ".png", ".pdf", ".svg"):
        raise DataError(f"{gallery}: a gallery is .html, .png, .pdf or .svg")
    if gallery.is_dir():
        raise DataError(f"{gallery}: is a folder; name a file")


def _parts(model: "TrainedModel", path: Path) -> "StarParts":
    from scattervae.gaia.reading import load_chunks
    from scattervae.science.star_parts import StarParts, counting

    with progress_bar("stars") as bar:
        task = bar.add_task("encoding", total=None)
        chunks = load_chunks(path, basis=model.normalization.basis)
        return StarParts.of(model, counting(chunks, lambda n: bar.advance(task, n)))


def _with_binaries(model: "TrainedModel", path: Path, table: "pa.Table") -> "pa.Table":
    from scattervae.gaia.reading import load_chunks
    from scattervae.science.binaries import find_binaries, with_binaries

    with progress_bar("stars") as bar:
        task = bar.add_task("fitting two stars", total=len(table))
        chunks = load_chunks(path, basis=model.normalization.basis)
        return with_binaries(table, find_binaries(model, chunks, progress=lambda n: bar.advance(task, n)))


def _reference(
    model: "TrainedModel", parts: "StarParts", path: Path | None, folder: Path, *, fit: bool
) -> "tuple[OutlierReference, str]":
    from scattervae.science.outliers import OutlierReference
    from scattervae.science.star_parts import StarParts

    if path is not None:
        with progress_bar("stars") as bar:
            task = bar.add_task("encoding ordinary ones", total=None)
            ordinary = StarParts.of_ordinary(model, path, progress=lambda n: bar.advance(task, n))
        return OutlierReference.fit(model, ordinary), str(path)
    kept = None if fit else OutlierReference.load(folder, model)
    if kept is not None:
        return kept, f"the model {folder.name}"
    return OutlierReference.fit(model, parts), "the stars themselves"


def _draw(model: "TrainedModel", path: Path, table: "pa.Table", gallery: Path) -> None:
    import numpy as np

    from scattervae.gaia.reading import load_chunks
    from scattervae.show.gallery import save_gallery
    from scattervae.spectra.spectra import Spectra

    wanted = table["source_id"].to_numpy()
    found: list[Spectra] = []
    for chunk in load_chunks(path, basis=model.normalization.basis):
        rows = np.flatnonzero(np.isin(chunk.source_id, wanted))
        if len(rows):
            found.append(chunk.take(rows))
    save_gallery(model, Spectra.concatenate(found), table, gallery)


def similar(
    model: ModelFolder,
    stars: StarsPath,
    *,
    like: Annotated[
        str,
        typer.Option(
            metavar="IDS|FILE",
            help="1 to 1,000 examples: source_ids with commas between them, a file that lists them, or their spectra.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help=f"The table, the likeliest star first: a {TABLE_FILE} file.")
    ],
    number: Annotated[int, typer.Option("--number", "-n", min=1, metavar="N", help="How many stars.")] = 1000,
    threads: Threads = 0,
    as_json: AsJson = False,
) -> None:
    """Find more like these: stars ranked by how much likelier they are among some examples than among all stars.

    Examples by their source_ids are looked up among the stars; they are not ranked. A store is read twice, in chunks.
    With five examples or more each rank has a purity: the share of stars like them down to it, at most.

    Examples:

        scattervae similar best store --like 4345775217221821312 --out like.parquet

        scattervae similar best store --like carbon_stars.txt -n 500 --out carbon.fits
    """
    check_out(out, "list of similar stars")
    examples = _examples(like)
    from scattervae.files import sole_writer
    from scattervae.science import similar as search
    from scattervae.science.trained import load_model
    from scattervae.spectra.tables import write_table

    choose_device("cpu", threads)
    trained = load_model(model)
    with progress_bar("stars") as bar:
        task = bar.add_task("ranking", total=None)
        table = search.similar(
            trained, stars, examples, number=number, progress=lambda n: bar.advance(task, n)
        )
    with sole_writer(out):
        write_table(table, out)
    about = json.loads(table.schema.metadata[search.NOTE.encode()])
    n_examples, n_compared = len(about["examples"]), about["n_compared"]
    rows = table.slice(0, _SHOWN).to_pylist()
    values = {"out": str(out), "n_examples": n_examples, "n_compared": n_compared, "n": len(table)}
    Summary(
        values | {"first": [_as_json(row) for row in rows]},
        (
            f"{counted(len(table), 'star')} of {n_compared:,} most like {counted(n_examples, 'example')}",
            *_similar_lines(rows),
            f"wrote {out}",
        ),
    ).show(as_json=as_json)


def _examples(like: str) -> Path | list[int]:
    if like and Path(like).exists():
        return Path(like)
    try:
        return [int(part) for part in like.split(",")]
    except ValueError:
        raise DataError(
            f"--like {like}: no such file, and no source_ids with commas between them; check the path"
        ) from None


def _similar_lines(rows: "list[dict[str, Any]]") -> tuple[str, ...]:
    cells = [
        (
            str(row["source_id"]),
            f"{row['g_mag']:.2f}",
            f"{row['likeness']:.2f}",
            "-" if row["purity"] is None else f"{row['purity']:.2f}",
            str(row["nearest_example"]),
        )
        for row in rows
    ]
    return table_lines(("source_id", "G [mag]", "likeness [nat]", "purity", "nearest example"), cells)


def _as_json(row: "dict[str, Any]") -> "dict[str, Any]":
    ids = ("source_id", "nearest_example")
    return row | {name: str(row[name]) for name in ids if name in row}


def _top_lines(table: "pa.Table") -> tuple[str, ...]:
    rows = [
        (
            str(row["source_id"]),
            f"{row['g_mag']:.2f}",
            f"{row['outlier_score']:.2f}",
            f"{row['worst_coefficient']} {row['worst_residual']:+.1f}",
            row["outlier_reasons"] or "-",
        )
        for row in table.slice(0, _SHOWN).to_pylist()
    ]
    return table_lines(
        ("source_id", "G [mag]", "outlier_score [dex]", "worst residual [sigma]", "reasons"), rows
    )
