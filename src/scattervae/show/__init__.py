"""What a person looks at: the paper's figures, figures of stars and of training, and the report.

This room turns trained models and the stars they are shown into figures, each by a name in `registry.FIGURES`,
and claims of the paper, with what was measured, into one page.
It must not know how a model is trained, where stars come from, or which command asked.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure

    from scattervae.gaia.reading import Stars
    from scattervae.model.checkpoint import Checkpoint
    from scattervae.show.explorer.page import ExplorerPage
    from scattervae.spectra.spectra import Spectra

__all__ = ["calibration", "explorer", "gallery", "latent_volume", "registry", "report"]


def star(
    model: "Checkpoint | str | Path", stars: "Stars | Spectra | str | Path", i: int | None = None
) -> "Figure":
    """One star as observed and as the model decodes it: coefficients, flux, residuals.

    Args:
        model: A trained model, or its folder.
        stars: Stars, or a store or file of them.
        i: Which row; a test star of median G flux where None.

    Raises:
        ScatterVaeError: Model or stars cannot be read, or the star cannot be encoded.
    """
    return _figure("star", model, stars, i)


def latents(model: "Checkpoint | str | Path", stars: "Stars | Spectra | str | Path") -> "Figure":
    """The most informative pairs of latents, coloured by the labels of the stars.

    Args:
        model: A trained model, or its folder.
        stars: Stars, or a store or file of them.

    Raises:
        ScatterVaeError: Model or stars cannot be read.
    """
    return _figure("latents", model, stars, None)


def explore(
    model: "Checkpoint | str | Path",
    catalogue: "str | Path",
    *,
    stars: "str | Path | None" = None,
    sample: int = 200_000,
) -> "ExplorerPage":
    """The page of `scattervae explore`, which a notebook shows as it is; `save` writes the file.

    Arguments are those of `scattervae.show.explorer.page.explore`.
    """
    from scattervae.show.explorer.page import explore as page_of

    return page_of(model, catalogue, stars=stars, sample=sample)


def _figure(
    name: str, model: "Checkpoint | str | Path", stars: "Stars | Spectra | str | Path", i: int | None
) -> "Figure":
    import numpy as np

    from scattervae.gaia.reading import Stars, load
    from scattervae.model.checkpoint import Checkpoint
    from scattervae.science.trained import load_model
    from scattervae.show.registry import FigureData, draw_figure
    from scattervae.spectra.spectra import Spectra
    from scattervae.spectra.star_tables import LABEL_NAMES, StellarLabels

    model = model if isinstance(model, Checkpoint) else load_model(model)
    stars = stars if isinstance(stars, Spectra | Stars) else load(stars)
    spectra = stars if isinstance(stars, Spectra) else stars.spectra
    nothing = np.full((len(spectra), len(LABEL_NAMES)), np.nan)
    labels = (
        stars.labels
        if isinstance(stars, Stars)
        else StellarLabels(spectra.source_id, nothing, nothing.copy())
    )
    source_id = None if i is None else int(spectra.source_id[i])
    return draw_figure(FigureData({"model": model}, spectra, labels, source_id=source_id), name)
