"""Which claims survive another seed, loss, size, link or optimiser: one model a row, kept as it is finished."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scattervae.errors import TrainingError
from scattervae.folders import write_json
from scattervae.model.preparation import data_digest
from scattervae.model.recipe import RECIPES, Recipe, parse_recipe
from scattervae.model.records import EpochRecord
from scattervae.model.run import train
from scattervae.science.claims.values import Table
from scattervae.science.trial import HEADER, LEGEND, trial
from scattervae.spectra.labels import StellarLabels
from scattervae.spectra.spectra import Spectra

logger = logging.getLogger(__name__)

N_SEEDS = 5
SIZES = (2, 3, 4, 8, 10)
LINKS = ("exp", "sigmoid")


@dataclass(frozen=True)
class Variant:
    """One way of training, differing from the default in what its name says."""

    name: str
    recipe: Recipe


def variants() -> Iterator[Variant]:
    """Seeds of both losses, then one change at a time: optimiser, number of latents, scatter link."""
    for seed in range(N_SEEDS):
        for name, label in (("elbo", "elbo"), ("paper2023", "as printed")):
            yield _variant(f"{label}, seed {seed}", name, training={"seed": seed})
    yield _variant("elbo with SGD", "elbo_sgd")
    yield _variant("as printed with AdamW", "elbo", objective="printed")
    for n in SIZES:
        yield _variant(f"elbo, {n} latents", "elbo", network={"n_latent": n})
    for link in LINKS:
        yield _variant(f"elbo, {link} scatter", "elbo", network={"scatter_link": link})


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
    stars = _digest(spectra, labels)
    rows = []
    for index, variant in enumerate(chosen, start=1):
        file = folder / f"{variant.name.replace(' ', '_').replace(',', '')}.json"
        made_of = {"stars": stars, "recipe": variant.recipe.model_dump(mode="json")}
        cells = _kept(file, made_of)
        if cells is None:
            if stage is not None:
                stage(f"variant {index} of {len(chosen)}: {variant.name}")
            try:
                cells = trial(train(spectra, variant.recipe, progress=progress), spectra, labels)
            except TrainingError as error:
                logger.warning("%s: %s", variant.name, error)
                cells = ["training failed", *("-" for _ in HEADER[2:])]
            write_json(file, {"made_of": made_of, "cells": cells})
        rows.append((variant.name, *cells))
    return Table(f"Sensitivity ({LEGEND})", HEADER, tuple(rows))


def _kept(file: Path, made_of: dict[str, Any]) -> list[str] | None:
    """The cells of a finished row, where it is there and of these stars and this recipe."""
    if not file.is_file():
        return None
    row = json.loads(file.read_text(encoding="utf-8"))
    return row["cells"] if isinstance(row, dict) and row.get("made_of") == made_of else None


def _digest(spectra: Spectra, labels: StellarLabels) -> str:
    digest = hashlib.sha256(data_digest(spectra).encode())
    for array in (labels.source_id, labels.values, labels.errors):
        digest.update(array.tobytes())
    return digest.hexdigest()


def _variant(name: str, base: str, **changes: Any) -> Variant:
    settings = RECIPES[base].model_dump()
    settings["name"] = name
    for group, change in changes.items():
        settings[group] = settings[group] | change if isinstance(change, dict) else change
    return Variant(name, parse_recipe(settings, where=name))
