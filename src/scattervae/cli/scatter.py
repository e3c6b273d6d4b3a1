"""``scattervae scatter``: what the published errors should be multiplied by, and what scatter is the stars' own."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from scattervae.cli.console import (
    AsJson,
    FigureFile,
    ModelFolder,
    StarsPath,
    Summary,
    Threads,
    choose_device,
    table_lines,
)
from scattervae.cli.evaluate import Fold, load_fold
from scattervae.errors import counted

if TYPE_CHECKING:
    import numpy as np

    from scattervae.science.scatter.parts import ScatterParts


def scatter(
    model: ModelFolder,
    stars: StarsPath,
    *,
    fold: Annotated[
        Fold, typer.Option(help="Which of the stars: those that the model was not trained on.")
    ] = Fold.TEST,
    types: Annotated[
        int, typer.Option(min=1, metavar="N", help="Regions of the latent space with a scatter of their own.")
    ] = 1,
    figure: FigureFile = None,
    threads: Threads = 0,
    as_json: AsJson = False,
) -> None:
    """Separate measurement error from the stars' own scatter.

    Estimates by what factor the published errors are too small (k), per bin of G and group of orders, and how large
    the stars' own scatter is beside the model's (a). Errors fall as stars get brighter; own scatter does not: so many
    spectra separate what one cannot. An error in proportion to the flux counts as the stars' own, and k is a
    lower limit where the model was trained on the same errors.

    Examples:

        scattervae scatter model store --figure scatter.png
    """
    from scattervae.science.scatter.parts import ScatterSettings, separate_scatter
    from scattervae.science.trained import load_model

    choose_device("cpu", threads)
    checkpoint, chosen = load_model(model), load_fold(stars, fold).spectra
    parts = separate_scatter(checkpoint, chosen, settings=ScatterSettings(n_types=types))
    lines = [f"{counted(parts.n_usable, 'star')}: k with 95 % intervals, by median G", *_lines(parts)]
    values = _values(parts)
    if figure is not None:
        from scattervae.show.calibration import scatter_parts_figure
        from scattervae.show.registry import save_figure

        save_figure(scatter_parts_figure(parts), figure)
        values["figure"] = str(figure)
        lines.append(f"wrote {figure}")
    Summary(values, tuple(lines)).show(as_json=as_json)


def _filled(parts: "ScatterParts") -> "np.ndarray":
    """The bins of G that have stars."""
    import numpy as np

    return np.flatnonzero(parts.n_stars > 0)


def _lines(parts: "ScatterParts") -> tuple[str, ...]:
    k, own = parts.separation.error, parts.separation.own
    low, high = k.bounds()
    bins = _filled(parts)
    header = ("orders", *(f"G {parts.median_g[b]:.1f} ({parts.n_stars[b]:,})" for b in bins), "a, by type")
    rows = [
        (
            str(group),
            *(f"{k.value[g, b]:.2f} ({low[g, b]:.2f}-{high[g, b]:.2f})" for b in bins),
            " ".join(f"{value:.2f}" for value in own.value[g]),
        )
        for g, group in enumerate(parts.groups)
    ]
    return table_lines(header, rows)


def _values(parts: "ScatterParts") -> dict[str, Any]:
    bins = _filled(parts)
    k, own = parts.separation.error, parts.separation.own
    low, high = k.bounds()
    return {
        "orders": [str(group) for group in parts.groups],
        "median_g": parts.median_g[bins].tolist(),
        "n_stars": parts.n_stars[bins].tolist(),
        "error_factor": k.value[:, bins].tolist(),
        "error_factor_low": low[:, bins].tolist(),
        "error_factor_high": high[:, bins].tolist(),
        "own_scatter": own.value.tolist(),
        "error_share": parts.error_share[:, bins].tolist(),
    }
