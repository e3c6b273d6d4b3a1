"""Which claims survive another seed, loss, size, link or optimiser, and the paper's number of stars.

One model a row, kept as it is finished.
"""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

from scattervae.errors import TrainingError
from scattervae.model.checkpoint import Checkpoint
from scattervae.model.recipe import RECIPES
from scattervae.model.records import EpochRecord
from scattervae.model.run import train, train_once
from scattervae.science.evaluation import evaluate
from scattervae.science.paper.claim import HOLDS, Claim, Table
from scattervae.science.paper.contest import fit_cannons, hold_contest
from scattervae.science.paper.errors import normalised_error_ratio, region, scatter_ratio, tails
from scattervae.science.paper.simulation import PAPER_N_STARS, simulate
from scattervae.science.paper.variants import KeptRows, Variant, stars_digest, variant_of
from scattervae.spectra.labels import StellarLabels
from scattervae.spectra.spectra import Spectra

logger = logging.getLogger(__name__)

N_SEEDS = 5
SIZES = (2, 3, 4, 8, 10)
LINKS = ("exp", "sigmoid")
RECIPE_NAMES = ("paper2023", "elbo")

HEADER = (
    "model",
    "-ELBO",
    "active",
    "|z| BP10 ratio",
    "|z| RP10 ratio",
    "tail ratio",
    "scatter ratio",
    "cool stars",
    "low gravity",
)
LEGEND = "-ELBO in nats per test star; each claim's number, with h where the claim holds"


def variants() -> Iterator[Variant]:
    """Seeds of both losses, then one change at a time: optimiser, number of latents, scatter link."""
    for seed in range(N_SEEDS):
        for name, label in (("elbo", "elbo"), ("paper2023", "as printed")):
            yield variant_of(name, f"{label}, seed {seed}", training={"seed": seed})
    yield variant_of("elbo_sgd", "elbo with SGD")
    yield variant_of("elbo", "as printed with AdamW", objective="printed")
    for n in SIZES:
        yield variant_of("elbo", f"elbo, {n} latents", network={"n_latent": n})
    for link in LINKS:
        yield variant_of("elbo", f"elbo, {link} scatter", network={"scatter_link": link})


def sensitivity(
    spectra: Spectra,
    labels: StellarLabels,
    folder: Path,
    *,
    stage: Callable[[str], None] | None = None,
    progress: Callable[[EpochRecord], None] | None = None,
) -> Table:
    """The table of all variants; those that an earlier run finished are read from `folder`.

    A row that was made with another recipe, other stars or other labels is made again. A variant whose
    training fails is a row that says so.

    Args:
        spectra: All stars.
        labels: Labels of any of them, joined by source_id.
        folder: Where each variant's numbers are kept.
        stage: Called with what is being done.
        progress: Called with each epoch's record.
    """
    chosen = list(variants())
    kept = KeptRows(folder, stars_digest(spectra, labels))
    rows = []
    for index, variant in enumerate(chosen, start=1):
        cells = kept.find(variant)
        if cells is None:
            if stage is not None:
                stage(f"variant {index} of {len(chosen)}: {variant.name}")
            try:
                cells = claim_cells(train(spectra, variant.recipe, progress=progress), spectra, labels)
            except TrainingError as error:
                logger.warning("%s: %s", variant.name, error)
                cells = ["training failed", *("-" for _ in HEADER[2:])]
            kept.keep(variant, cells)
        rows.append((variant.name, *cells))
    return Table(f"Sensitivity ({LEGEND})", HEADER, tuple(rows))


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
        rows.append((name, *claim_cells(learnt, sky.spectra, sky.labels)))
    return Table(f"{n_stars:,} simulated stars ({LEGEND})", HEADER, tuple(rows))


def claim_cells(model: Checkpoint, spectra: Spectra, labels: StellarLabels) -> list[str]:
    """The cells of `HEADER` but the first: the model on its test fold, against Cannons in its own units.

    Args:
        model: The model.
        spectra: The stars it was trained on, test fold included.
        labels: Labels of any of them, joined by source_id.

    Raises:
        DataError: Too few fully labelled stars.
    """
    score = evaluate(model, spectra)
    contest = hold_contest(model, fit_cannons(model, spectra, labels), spectra, labels)
    claims = (
        normalised_error_ratio(contest, "bp"),
        normalised_error_ratio(contest, "rp"),
        tails(contest),
        scatter_ratio(contest),
        region(contest, "cool_stars"),
        region(contest, "low_gravity"),
    )
    active = f"{score.active_latents} of {model.n_latent}"
    return [f"{score.negative_elbo:.1f}", active, *map(_cell, claims)]


def _cell(claim: Claim) -> str:
    if claim.measured is None:
        return "-"
    return f"{claim.measured:.3f}{' h' if claim.verdict == HOLDS else ''}"
