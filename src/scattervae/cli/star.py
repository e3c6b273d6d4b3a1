"""``scattervae star``: one star, read or fetched, and all that a model answers about it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scattervae.cli.console import AsJson, FigureFile, Summary, choose_device, existing, table_lines
from scattervae.science.shipped import model_folder

if TYPE_CHECKING:
    from scattervae.science.star import StarAnswer


def star(
    what: Annotated[
        str,
        typer.Argument(
            metavar="FILE|SOURCE_ID", help="A file or store with the star, or its Gaia source_id."
        ),
    ],
    *,
    model: Annotated[
        Path, typer.Option(callback=model_folder, metavar="MODEL", help="A trained model's folder or name.")
    ] = Path("best"),
    source_id: Annotated[
        int | None,
        typer.Option("--id", metavar="SOURCE_ID", help="Which star of the file, where it has several."),
    ] = None,
    figure: FigureFile = None,
    as_json: AsJson = False,
) -> None:
    """Print what a model predicts for one star: latents, labels and whether to believe them, fit, what is unusual.

    The star comes from any readable file; a source_id alone is fetched from the archive. The numbers are those of
    `encode`.

    Examples:

        scattervae star XP_CONTINUOUS_RAW.csv --id 5853498713190525696

        scattervae star 5853498713190525696 --figure star.png
    """
    fetched = what.isdecimal() and not Path(what).exists()
    if not fetched:
        existing(Path(what))
    from scattervae.gaia.reading import read
    from scattervae.science.star import answer_star, choose_star
    from scattervae.science.trained import load_model

    choose_device("cpu", 0)
    trained = load_model(model)
    stars = read(what, basis=trained.normalization.basis)
    chosen = choose_star(stars.spectra, int(what) if fetched else source_id, what)
    answer = answer_star(trained, chosen)
    written: tuple[str, ...] = ()
    if figure is not None:
        from scattervae.show.registry import FigureData, draw_figure, save_figure

        labels = stars.labels.aligned_to(chosen.source_id)
        save_figure(draw_figure(FigureData({model.name: trained}, chosen, labels), "star"), figure)
        written = (f"wrote {figure}",)
    values = {"model": str(model), **answer.values(), "figure": None if figure is None else str(figure)}
    Summary(values, (*_lines(answer, model.name), *written)).show(as_json=as_json)


def _lines(answer: "StarAnswer", model: str) -> tuple[str, ...]:
    head = [f"Gaia source {answer.source_id}, G {answer.g_mag:.2f} mag, under the model {model}"]
    if answer.flags:
        head.append("flags: " + "; ".join(answer.flags))
    if not answer.latents:
        return (*head, "cannot be encoded")
    latents = table_lines(
        ("latent", "mean", "sd"),
        [(str(k), f"{mean:+.3f}", f"{sd:.3f}") for k, (mean, sd) in enumerate(answer.latents, start=1)],
    )
    fit = table_lines(
        ("fit", "coefficients", "chi^2/n with scatter", "with errors alone", "largest residual [sigma]"),
        [
            (
                band,
                str(f.n_coeffs),
                f"{f.reduced_chi2:.2f}",
                f"{f.reduced_chi2_without_scatter:.2f}",
                f"{f.largest:+.1f}",
            )
            for band, f in answer.bands.items()
        ],
    )
    lines = [*head, "", *latents, "", *_label_lines(answer), *fit]
    if answer.score is not None:
        share = f"{100 * answer.score:.1f} % of stars of its brightness fit worse"
        lines.append(f"spectrum_score {answer.score:.3f}: {share}")
    return (*lines, *(f"unlike the training stars: {text}" for text in answer.unlike))


def _label_lines(answer: "StarAnswer") -> tuple[str, ...]:
    if not answer.labels:
        return ()
    rows = []
    for name, label in answer.labels.items():
        digits = 0 if label.unit == "K" else 2
        spans = (
            f"{low:.{digits}f} to {high:.{digits}f}"
            for low, high in ((label.low_68, label.high_68), (label.low_95, label.high_95))
        )
        unit = f"{name} [{label.unit}]" if label.unit else name
        rows.append((unit, f"{label.value:.{digits}f}", *spans, "no" if label.doubts else "yes"))
    reasons = dict.fromkeys(
        f"{reason}: {', '.join(n for n, a in answer.labels.items() if reason in a.doubts)}"
        for label in answer.labels.values()
        for reason in label.doubts
    )
    doubts = tuple(f"not to be believed, {reason}" for reason in reasons)
    if answer.faint and not doubts:
        doubts = ("faint or incomplete: the intervals are wide, and hold",)
    return (*table_lines(("label", "value", "68 %", "95 %", "to be believed"), rows), *doubts, "")
