"""Which claims survive another seed, loss, size, link or optimiser: one model a row, kept as it is finished."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

from scattervae.errors import TrainingError
from scattervae.model.records import EpochRecord
from scattervae.model.run import train
from scattervae.science.claims.values import Table
from scattervae.science.trial import HEADER, LEGEND, trial
from scattervae.science.variants import KeptRows, Variant, stars_digest, variant_of
from scattervae.spectra.labels import StellarLabels
from scattervae.spectra.spectra import Spectra

logger = logging.getLogger(__name__)

N_SEEDS = 5
SIZES = (2, 3, 4, 8, 10)
LINKS = ("exp", "sigmoid")


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
                cells = trial(train(spectra, variant.recipe, progress=progress), spectra, labels)
            except TrainingError as error:
                logger.warning("%s: %s", variant.name, error)
                cells = ["training failed", *("-" for _ in HEADER[2:])]
            kept.keep(variant, cells)
        rows.append((variant.name, *cells))
    return Table(f"Sensitivity ({LEGEND})", HEADER, tuple(rows))
