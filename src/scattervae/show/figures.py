"""The figures by name: each with its title, the paper's figure it answers, and what builds it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from scattervae.errors import ScatterVaeError
from scattervae.folders import written_aside
from scattervae.show.compose import latents_figure, star_figure, training_figure
from scattervae.show.data import FigureData
from scattervae.show.style import DPI, house_style

__all__ = ["FIGURES", "FigureData", "FigureEntry", "save_figures"]


@dataclass(frozen=True)
class FigureEntry:
    """One figure that can be asked for by name.

    Attributes:
        title: What it shows, in a line.
        answers: The figure or section of Laroche & Speagle (2023) that it answers.
        build: Draws it.
    """

    title: str
    answers: str
    build: Callable[[FigureData], Figure]


FIGURES = {
    "star": FigureEntry(
        title="One star's coefficients and flux with reconstruction, scatter and measurement errors",
        answers="fig. 1, without the schematic of the network",
        build=star_figure,
    ),
    "training": FigureEntry(
        title="Training curves: negative ELBO, its terms and the learning rate",
        answers="no figure; sect. 2.3 and eqs. 1-5",
        build=training_figure,
    ),
    "latents": FigureEntry(
        title="The latent space coloured by Teff, log g and [Fe/H]",
        answers="fig. 3, with labels in place of unlabelled stars",
        build=latents_figure,
    ),
}

_NO_DATES: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
    "svg": {"Date": None, "Creator": None},
}


def save_figures(
    data: FigureData,
    folder: str | Path,
    names: Iterable[str] | None = None,
    formats: Sequence[str] = ("png",),
) -> list[Path]:
    """Draw figures and write each as ``NAME.FORMAT``, whole or not at all; the same data give the same bytes.

    Args:
        data: What they are drawn from.
        folder: Where they go; made if it is not there.
        names: Keys of `FIGURES`; all of them where None.
        formats: Of png, pdf and svg.

    Returns:
        The files, figure by figure.

    Raises:
        ScatterVaeError: A figure or format is not known, or the data hold nothing to draw.
    """
    wanted = list(FIGURES if names is None else names)
    _require_known("figure", wanted, FIGURES)
    _require_known("format", formats, _NO_DATES)
    paths = []
    for name in wanted:
        figure = FIGURES[name].build(data)
        for kind in formats:
            path = Path(folder) / f"{name}.{kind}"
            with written_aside(path) as partial, house_style():
                figure.savefig(partial, format=kind, dpi=DPI, metadata=_NO_DATES[kind])
            paths.append(path)
    return paths


def _require_known(what: str, asked: Iterable[str], known: Iterable[str]) -> None:
    unknown = [repr(name) for name in asked if name not in set(known)]
    if unknown:
        raise ScatterVaeError(f"{', '.join(unknown)}: no such {what}; choose among {', '.join(known)}")
