"""The claims at the paper's size: 500,000 stars simulated from a trained model, 100 epochs, both losses."""

from collections.abc import Callable
from pathlib import Path

from scattervae.model.checkpoint import Checkpoint
from scattervae.model.recipe import RECIPES
from scattervae.model.records import EpochRecord
from scattervae.model.run import train_once
from scattervae.science.claims.values import Table
from scattervae.science.simulation import PAPER_N_STARS, simulate
from scattervae.science.trial import HEADER, LEGEND, trial
from scattervae.spectra.labels import StellarLabels
from scattervae.spectra.spectra import Spectra

RECIPE_NAMES = ("paper2023", "elbo")


def at_paper_size(
    model: Checkpoint,
    spectra: Spectra,
    labels: StellarLabels,
    folder: Path,
    *,
    n_stars: int = PAPER_N_STARS,
    stage: Callable[[str], None] | None = None,
    progress: Callable[[EpochRecord], None] | None = None,
) -> Table:
    """What the paper's loss and the lower bound reach on simulated stars, where the truth is `model`.

    Models that an earlier run finished in `folder` are taken as they are.

    Args:
        model: Makes the stars.
        spectra: Real stars that the simulated ones are like.
        labels: Labels of any of them.
        folder: Where the models are kept.
        n_stars: How many stars; the test fold comes off.
        stage: Called with what is being done.
        progress: Called with each epoch's record.
    """
    say = stage or (lambda _what: None)
    say(f"simulating {n_stars:,} stars")
    sky = simulate(model, spectra, labels, n_stars)
    rows = []
    for name in RECIPE_NAMES:
        say(f"training {name} on {n_stars:,} simulated stars")
        learnt = train_once(sky.spectra, RECIPES[name], folder / name, progress=progress)
        rows.append((name, *trial(learnt, sky.spectra, sky.labels)))
    return Table(f"{n_stars:,} simulated stars ({LEGEND})", HEADER, tuple(rows))
