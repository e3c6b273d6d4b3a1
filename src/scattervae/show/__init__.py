"""What a person looks at: the paper's figures, figures of stars and of training, and the report.

This room turns trained models and the stars they are shown into figures, each by a name in `registry.FIGURES`,
and claims of the paper, with what was measured, into one page.
It must not know how a model is trained, where stars come from, or which command asked.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure

    from scattervae.gaia.reading import Anything
    from scattervae.model.checkpoint import Checkpoint
    from scattervae.show.explorer.page import ExplorerPage

__all__ = ["calibration", "explorer", "gallery", "latent_volume", "registry", "report"]


def plot_star(model: "Checkpoint | str | Path", stars: "Anything", i: int | None = None) -> "Figure":
    """One star as observed and as the model decodes it: coefficients, flux, residuals.

    Args:
        model: A trained model, or its folder.
        stars: What `scattervae.read` takes.
        i: Which row; a test star of median G flux where None.

    Raises:
        ScatterVaeError: Model or stars cannot be read, or the star cannot be encoded.

    Example:
        >>> import scattervae as sv
        >>> figure = sv.plot_star("best", "stars.csv.gz", 3)
        >>> figure.savefig("star.png")
    """
    return _figure("star", model, stars, i)


def plot_latents(model: "Checkpoint | str | Path", stars: "Anything") -> "Figure":
    """The most informative pairs of latents, coloured by the labels of the stars.

    Args:
        model: A trained model, or its folder.
        stars: What `scattervae.read` takes.

    Raises:
        ScatterVaeError: Model or stars cannot be read.

    Example:
        >>> import scattervae as sv
        >>> figure = sv.plot_latents("best", "stars.csv.gz")
        >>> figure.savefig("latents.png")
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


def _figure(name: str, model: "Checkpoint | str | Path", stars: "Anything", i: int | None) -> "Figure":
    from scattervae.gaia.reading import read
    from scattervae.model.checkpoint import Checkpoint
    from scattervae.science.trained import load_model
    from scattervae.show.registry import FigureData, draw_figure

    model = model if isinstance(model, Checkpoint) else load_model(model)
    found = read(stars, basis=model.normalization.basis)
    source_id = None if i is None else int(found.spectra.source_id[i])
    return draw_figure(FigureData({"model": model}, found.spectra, found.labels, source_id=source_id), name)
