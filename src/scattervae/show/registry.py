"""The figures by name: title, the paper's figure it answers, caption and needs of each, and what all are drawn from.

What draws is loaded when it is asked for, so that a command lists the figures at once.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scattervae.errors import DataError, ScatterVaeError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from scattervae.arrays import StarMask
    from scattervae.model.checkpoint import Checkpoint
    from scattervae.science.cannon.model import Cannon
    from scattervae.science.latent_volume.comparison import VolumeComparison
    from scattervae.spectra.spectra import Spectra
    from scattervae.spectra.star_tables import StellarLabels

logger = logging.getLogger(__name__)


class Need(StrEnum):
    """A field of `FigureData` that not every figure needs."""

    CANNON = "cannon"
    UNLABELLED = "unlabelled"
    VOLUMES = "volumes"
    HELD_OUT = "held_out"


SHOWN_LABELS = ("teff", "logg", "fe_h")
HOW_TO_GIVE = {
    Need.CANNON: "no Cannon to compare with; give one fitted on stars with labels (FigureData.cannon)",
    Need.UNLABELLED: "no unlabelled stars; give some (--unlabelled STORE, FigureData.unlabelled)",
}


@dataclass(frozen=True)
class FigureData:
    """Everything that a figure may ask for."""

    # trained models by the name that legends give them, in the order of their colours
    models: "Mapping[str, Checkpoint]"
    spectra: "Spectra"  # the stars
    labels: "StellarLabels"  # labels of the same stars in the same order, NaN where missing
    # negative ELBO of models on stars they have not seen [nats per star], by the models' names
    held_out: Mapping[str, float] = field(default_factory=dict)
    source_id: int | None = None  # the star to show alone; a test star of median G flux where None
    # a Cannon fitted on stars outside the test fold, in the units of the first model
    cannon: "Cannon | None" = None
    # stars without labels; those that are among the labelled ones are not counted twice
    unlabelled: "Spectra | None" = None
    volumes: "VolumeComparison | None" = None  # `latent_volume.measured_volumes` of the first model

    def __post_init__(self) -> None:
        if not self.models:
            raise ValueError("figures of no model")
        if self.labels.source_id.tolist() != self.spectra.source_id.tolist():
            raise ValueError(
                "labels of other stars than the spectra, or in another order; use labels.aligned_to"
            )

    @property
    def first_model(self) -> "tuple[str, Checkpoint]":
        """The model of figures that show one, with its name."""
        return next(iter(self.models.items()))

    @property
    def labelled(self) -> "StarMask":
        """Usable stars with Teff, log g and [Fe/H]."""
        import numpy as np

        known = np.isfinite(np.stack([self.labels[name] for name in SHOWN_LABELS], axis=1))
        labelled: StarMask = self.spectra.usable & known.all(axis=1)
        return labelled

    @property
    def test(self) -> "StarMask":
        """Stars of the test fold."""
        from scattervae.seeds import folds

        return folds(self.spectra.source_id).test

    def missing(self, needs: Iterable[Need]) -> list[str]:
        """What is to be given before something with these needs can be drawn; empty where nothing is."""
        return [HOW_TO_GIVE[need] for need in sorted(needs) if getattr(self, need) is None]

    def require_cannon(self) -> "Cannon":
        """The Cannon.

        Raises:
            DataError: There is none.
        """
        if self.cannon is None:
            raise DataError(HOW_TO_GIVE[Need.CANNON])
        return self.cannon


@dataclass(frozen=True)
class FigureEntry:
    """One figure that can be asked for by name, in words."""

    title: str  # what it shows, in a line
    answers: str  # the figure or section of Laroche & Speagle (2023) that it answers
    caption: str  # what each mark in it means
    needs: frozenset[Need] = frozenset()  # it cannot be drawn without these
    shows: frozenset[Need] = frozenset()  # it shows these too where they are there


FIGURES = {
    "architecture": FigureEntry(
        title="The scatter VAE with an example spectrum, and The Cannon on the same star",
        answers="fig. 1",
        caption="Top: the network; the height of a bar is the logarithm of its number of units. Left, the observed "
        "coefficients that go in; right, the reconstruction and the scatter that come out, with the star's "
        "measurement errors in grey. Below: the same coefficients against both models. Amplitudes are on a "
        "symmetric-log axis; bars on the observed values are measurement errors, bars on a model's are its scatter "
        "and the measurement error in quadrature. Then errors and scatter by themselves, and what is left of "
        "each coefficient over both in quadrature, with one standard deviation shaded.",
        needs=frozenset({Need.CANNON}),
    ),
    "normalised_errors": FigureEntry(
        title="Normalised errors of the 3rd BP and RP coefficient against Teff, log g and [Fe/H]",
        answers="fig. 2",
        caption="Usable test stars that have all three labels, the same for every model. Errors are residuals over "
        "measurement error and scatter in quadrature; the axis is linear within 5 sigma (dotted) and logarithmic "
        "beyond. Grey: density of stars, on a logarithmic scale. Blue circles: cool stars; orange triangles: low "
        "gravity. Black line: the most common value at each label. Bottom: scatter of each star, the mode of its "
        "logarithm as a line, and the Cannon's one value for all stars, dashed.",
        needs=frozenset({Need.CANNON}),
    ),
    "latent_volume": FigureEntry(
        title="Labelled and unlabelled stars in the latent space, and the volume each occupies",
        answers="fig. 3",
        caption="Pairs of the most informative active latents; contours enclose 50 and 90 % of the stars of each "
        "set. Cells, drawn for as many stars of each set (a subsample of the larger), are orange where only "
        "labelled stars fall, blue where only unlabelled ones do, grey where both do. Volumes against the number of "
        "stars, where given: (V_unsup - V_sup) / V_sup at equal numbers, with 95 % intervals. The paper "
        "has about +30 % for a million unlabelled stars, against all labelled ones.",
        needs=frozenset({Need.UNLABELLED}),
        shows=frozenset({Need.VOLUMES}),
    ),
    "star": FigureEntry(
        title="One star's coefficients and flux with reconstruction, scatter and measurement errors",
        answers="fig. 1, without the schematic of the network",
        caption="Coefficients of one star as each model predicts them, on a symmetric-log axis; errors and scatter; "
        "normalised residuals; and, where the basis functions are known, the same in flux against wavelength.",
    ),
    "training": FigureEntry(
        title="Training curves: negative ELBO, its terms and the learning rate",
        answers="no figure; sect. 2.3 and eqs. 1-5",
        caption="Every model in the same units, whatever it minimises. Curves: training stars, half of which `best` "
        "makes fainter or incomplete in each epoch. Markers, on an axis of their own: stars of the test fold, as they "
        "are; the two cannot be compared. Dotted: half the number of coefficients, where the chi^2 term ends if "
        "residuals are as large as errors and scatter say.",
        shows=frozenset({Need.HELD_OUT}),
    ),
    "latents": FigureEntry(
        title="The latent space coloured by Teff, log g and [Fe/H]",
        answers="fig. 3, with labels in place of unlabelled stars",
        caption="Posterior means of all stars in the most informative pairs of latents. Hexagons have the mean "
        "label of their stars, which no model was given; light grey where no star has the label.",
    ),
    "calibration": FigureEntry(
        title="Coverage of coefficients by G, order and colour, and their probability integral transforms",
        answers="no figure; sect. 3, first point",
        caption="Usable test stars, at most 2,000: coefficients whose median scatter exceeds their error; in the panel "
        "of orders, all. Filled: the share inside one sigma, open: inside two, grey: "
        "nominal, within 2 %. Hidden: a random tenth of each star's coefficients, predicted from the others. At a "
        "draw: of latents that the whole star gives. At the posterior mean the star's own noise has chosen the "
        "latents, and shares are too high. With no scatter at all: where this lies above nominal, the published "
        "errors are too large.",
    ),
}
"""Figures by name; NAME is drawn by ``NAME_figure`` of the module of that name."""

_NO_DATES: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
    "svg": {"Date": None, "Creator": None},
}

_FUNCTIONS = ("star", "latents")  # of the room's own, so that their modules have other names


def draw_figure(data: "FigureData", name: str) -> "Figure":
    """One figure by its name.

    Raises:
        ScatterVaeError: There is no such figure, or the data lack what it is drawn from.
    """
    _require_known("figure", [name], FIGURES)
    missing = data.missing(FIGURES[name].needs)
    if missing:
        raise ScatterVaeError(f"figure {name}: {'; '.join(missing)}")
    module = f"{name}_figure" if name in _FUNCTIONS else name
    drawn: Figure = getattr(import_module(f"scattervae.show.{module}"), f"{name}_figure")(data)
    return drawn


def save_figure(figure: "Figure", path: str | Path) -> Path:
    """Write a figure as the suffix says (png, pdf or svg), whole or not at all; same figure, same bytes.

    Raises:
        ScatterVaeError: The suffix is none of these.
    """
    from scattervae.files import written_file  # with numpy: the command line starts without it
    from scattervae.show.style import DPI, house_style

    path = Path(path)
    kind = path.suffix[1:].lower()
    _require_known("format", [kind], _NO_DATES)
    with written_file(path) as partial, house_style():
        figure.savefig(partial, format=kind, dpi=DPI, metadata=_NO_DATES[kind])
    return path


def save_figures(
    data: "FigureData",
    folder: str | Path,
    names: Iterable[str] | None = None,
    formats: Sequence[str] = ("png",),
) -> list[Path]:
    """Draw figures and write each as ``NAME.FORMAT``: of `FIGURES`, or all that the data have everything for.

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


def drawable(data: "FigureData") -> list[str]:
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
