"""The figures by name: each with its title, the paper's figure it answers, and what builds it."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from scattervae.errors import ScatterVaeError
from scattervae.folders import written_aside
from scattervae.show.compose import latents_figure, star_figure, training_figure
from scattervae.show.compose_architecture import architecture_figure
from scattervae.show.compose_calibration import calibration_figure
from scattervae.show.compose_coverage import coverage_figure
from scattervae.show.compose_errors import normalised_errors_figure
from scattervae.show.data import FigureData
from scattervae.show.entries import ENTRIES, Entry
from scattervae.show.style import DPI, house_style

__all__ = ["FIGURES", "FigureData", "FigureEntry", "draw_figure", "save_figure", "save_figures"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class FigureEntry(Entry):
    """One figure that can be asked for by name.

    Attributes:
        build: Draws it.
    """

    build: Callable[[FigureData], Figure]


_BUILDERS: dict[str, Callable[[FigureData], Figure]] = {
    "architecture": architecture_figure,
    "normalised_errors": normalised_errors_figure,
    "coverage": coverage_figure,
    "star": star_figure,
    "training": training_figure,
    "latents": latents_figure,
    "calibration": calibration_figure,
}
FIGURES = {name: FigureEntry(**vars(about), build=_BUILDERS[name]) for name, about in ENTRIES.items()}

_NO_DATES: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
    "svg": {"Date": None, "Creator": None},
}


def draw_figure(data: FigureData, name: str) -> Figure:
    """One figure by its name.

    Raises:
        ScatterVaeError: There is no such figure, or the data lack what it is drawn from.
    """
    _require_known("figure", [name], FIGURES)
    entry = FIGURES[name]
    missing = data.missing(entry.needs)
    if missing:
        raise ScatterVaeError(f"figure {name}: {'; '.join(missing)}")
    return entry.build(data)


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure as the suffix says (png, pdf or svg), whole or not at all; same figure, same bytes.

    Raises:
        ScatterVaeError: The suffix is none of these.
    """
    path = Path(path)
    kind = path.suffix[1:].lower()
    _require_known("format", [kind], _NO_DATES)
    with written_aside(path) as partial, house_style():
        figure.savefig(partial, format=kind, dpi=DPI, metadata=_NO_DATES[kind])
    return path


def save_figures(
    data: FigureData,
    folder: str | Path,
    names: Iterable[str] | None = None,
    formats: Sequence[str] = ("png",),
) -> list[Path]:
    """Draw figures and write each as ``NAME.FORMAT``; the same data give the same bytes.

    Args:
        data: What they are drawn from.
        folder: Where they go; made if it is not there.
        names: Keys of `FIGURES`; where None, all that the data have everything for.
        formats: Of png, pdf and svg.

    Returns:
        The files, figure by figure.

    Raises:
        ScatterVaeError: A figure or format is not known, or the data hold nothing to draw.
    """
    wanted = drawable(data) if names is None else list(names)
    _require_known("figure", wanted, FIGURES)
    _require_known("format", formats, _NO_DATES)
    paths = []
    for name in wanted:
        figure = draw_figure(data, name)
        paths += [save_figure(figure, Path(folder) / f"{name}.{kind}") for kind in formats]
    return paths


def drawable(data: FigureData) -> list[str]:
    """The figures that the data have everything for; the log says what the others lack."""
    names = []
    for name, entry in FIGURES.items():
        missing = data.missing(entry.needs)
        if missing:
            logger.info("figure %s left out: %s", name, "; ".join(missing))
        else:
            names.append(name)
    return names


def _require_known(what: str, asked: Iterable[str], known: Iterable[str]) -> None:
    unknown = [repr(name) for name in asked if name not in set(known)]
    if unknown:
        raise ScatterVaeError(f"{', '.join(unknown)}: no such {what}; choose among {', '.join(known)}")
