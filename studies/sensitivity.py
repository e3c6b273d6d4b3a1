"""Which claims survive another seed, loss, size, link or optimiser, and the paper's number of stars.

One model a row, kept as it is finished. What 40,000 stars cannot decide is tried at the paper's size, 500,000, on
stars simulated from a trained model: its latents, its scatter, and real stars' errors.

    python -m studies.sensitivity STARS FOLDER
    python -m studies.sensitivity STARS FOLDER --paper-size

STARS are labelled. The first trains 19 variants (some 12 minutes), the second trains on 500,000 stars simulated from
the recipe ``elbo`` on STARS (some 20 minutes). Models and rows are kept in FOLDER: a run that is stopped resumes there.
"""

import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scattervae.arrays import CoeffArray, Latents
from scattervae.cli.console import print_stage, table_lines
from scattervae.errors import DataError, TrainingError, counted
from scattervae.files import write_json
from scattervae.gaia import reading
from scattervae.model.checkpoint import Checkpoint, Progress
from scattervae.model.covariance import correlate, is_sound, size_of
from scattervae.model.recipe import RECIPES, Recipe, parse_recipe
from scattervae.model.run import train, train_once
from scattervae.model.training_stars import data_digest
from scattervae.science.evaluation import evaluate
from scattervae.science.generation import generate
from scattervae.science.paper.comparison import (
    HOLDS,
    Table,
    compare_models,
    fit_cannons,
)
from scattervae.science.paper.errors import normalised_error_ratio, region, scatter_ratio, tails
from scattervae.seeds import numpy_stream, stream
from scattervae.spectra.spectra import Correlations, Spectra
from scattervae.spectra.star_tables import StellarLabels
from studies import arguments

logger = logging.getLogger(__name__)

Stage = Callable[[str], None]

PAPER_N_STARS = 500_000
N_SEEDS = 5
SIZES = (2, 3, 4, 8, 10)
LINKS = ("exp", "sigmoid")
RECIPE_NAMES = ("paper2023", "elbo")

HEADER = (
    *("model", "-ELBO", "active", "|z| BP10 ratio", "|z| RP10 ratio"),
    *("tail ratio", "scatter ratio", "cool stars", "low gravity"),
)
LEGEND = "-ELBO in nats per test star; each claim's number, with h where the claim holds"


def main() -> None:
    given = arguments(__doc__, 2)
    stars, folder = map(Path, given[:2])
    sky = reading.load(stars, where=reading.labelled_stars(stars, others=True))
    if "--paper-size" in given:
        model = train_once(sky.spectra, RECIPES["elbo"], folder / "model")
        table = at_paper_size(model, sky.spectra, sky.labels, folder, stage=print_stage)
    else:
        table = sensitivity(sky.spectra, sky.labels, folder, stage=print_stage)
    print(table.title, *table_lines(table.header, table.rows), sep="\n")


@dataclass(frozen=True)
class Variant:
    """One way of training, differing from the default in what its name says."""

    name: str
    recipe: Recipe


def variant_of(base: Recipe | str, name: str, **changes: Any) -> Variant:
    """A named recipe with changes: a value, or for a group of settings only those that differ.

    Raises:
        RecipeError: A setting is unknown or out of range.
    """
    settings = (RECIPES[base] if isinstance(base, str) else base).model_dump() | {"name": name}
    for group, change in changes.items():
        settings[group] = settings[group] | change if isinstance(change, dict) else change
    return Variant(name, parse_recipe(settings, where=name))


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


@dataclass(frozen=True)
class KeptRows:
    """The finished rows of a table, a file each; one made of another recipe or other `stars_digest` does not count."""

    folder: Path
    stars: str

    def find(self, variant: Variant) -> Any:
        """The finished row; None where there is none."""
        file = self._file(variant)
        if not file.is_file():
            return None
        row = json.loads(file.read_text(encoding="utf-8"))
        made_of = self._made_of(variant)
        return row["cells"] if isinstance(row, dict) and row.get("made_of") == made_of else None

    def keep(self, variant: Variant, cells: Any) -> None:
        """Write a finished row: JSON values."""
        write_json(self._file(variant), {"made_of": self._made_of(variant), "cells": cells})

    def _made_of(self, variant: Variant) -> dict[str, Any]:
        return {"stars": self.stars, "recipe": variant.recipe.model_dump(mode="json")}

    def _file(self, variant: Variant) -> Path:
        return self.folder / f"{re.sub(r'[^a-zA-Z0-9.]+', '_', variant.name)}.json"


def stars_digest(spectra: Spectra, labels: StellarLabels | None = None) -> str:
    """What identifies stars and their labels."""
    digest = hashlib.sha256(data_digest(spectra).encode())
    for array in () if labels is None else (labels.source_id, labels.values, labels.errors):
        digest.update(array.tobytes())
    return digest.hexdigest()


def sensitivity(
    spectra: Spectra,
    labels: StellarLabels,
    folder: Path,
    *,
    stage: Stage = logger.debug,
    progress: Progress | None = None,
) -> Table:
    """The table of all variants; those that an earlier run finished are read from `folder`.

    A row that was made with another recipe, other stars or other labels is made again. A variant whose training
    fails is a row that says so. `stage` is called with what is being done, `progress` with each epoch's record.
    """
    chosen = list(variants())
    kept = KeptRows(folder, stars_digest(spectra, labels))
    rows = []
    for index, variant in enumerate(chosen, start=1):
        cells = kept.find(variant)
        if cells is None:
            stage(f"variant {index} of {len(chosen)}: {variant.name}")
            try:
                cells = claim_cells(train(spectra, variant.recipe, progress=progress), spectra, labels)
            except TrainingError as error:
                logger.warning("%s: %s", variant.name, error)
                cells = ["training failed", *("-" for _ in HEADER[2:])]
            kept.keep(variant, cells)
        rows.append((variant.name, *cells))
    return Table(f"Sensitivity ({LEGEND})", HEADER, tuple(rows))


def claim_cells(model: Checkpoint, spectra: Spectra, labels: StellarLabels) -> list[str]:
    """The cells of `HEADER` but the first: the model on its test fold, against Cannons in its own units.

    Raises:
        DataError: Too few fully labelled stars.
    """
    score = evaluate(model, spectra)
    comparison = compare_models(model, fit_cannons(model, spectra, labels), spectra, labels)
    claims = (
        normalised_error_ratio(comparison, "bp"),
        normalised_error_ratio(comparison, "rp"),
        tails(comparison),
        scatter_ratio(comparison),
        region(comparison, "cool_stars"),
        region(comparison, "low_gravity"),
    )
    active = f"{score.active_latents} of {model.n_latent}"
    cells = (
        "-" if claim.measured is None else f"{claim.measured:.3f}{' h' if claim.verdict == HOLDS else ''}"
        for claim in claims
    )
    return [f"{score.negative_elbo:.1f}", active, *cells]


def at_paper_size(
    model: Checkpoint,
    spectra: Spectra,
    labels: StellarLabels,
    folder: Path,
    *,
    n_stars: int = PAPER_N_STARS,
    stage: Stage = logger.debug,
    progress: Progress | None = None,
) -> Table:
    """The claims of the paper's loss and of the lower bound on simulated stars, where the truth is `model`.

    Models that an earlier run finished in `folder` are taken as they are; of `n_stars` the test fold comes off.
    """
    stage(f"simulating {n_stars:,} stars")
    sky = simulate(model, spectra, labels, n_stars)
    rows = []
    for name in RECIPE_NAMES:
        stage(f"training {name} on {n_stars:,} simulated stars")
        trained = train_once(sky.spectra, RECIPES[name], folder / name, progress=progress)
        rows.append((name, *claim_cells(trained, sky.spectra, sky.labels)))
    return Table(f"{n_stars:,} simulated stars ({LEGEND})", HEADER, tuple(rows))


def draw_correlated(correlations: Correlations, noise: CoeffArray) -> CoeffArray:
    """Standard normal draws for all coefficients of a basis, made as correlated as each star's.

    Args:
        correlations: Of the stars; a band in which a star has none, or what is no correlation matrix, stays as it is.
        noise: The draws, one for each coefficient of BP and RP.
    """
    drawn, start = noise.copy(), 0
    for values in (correlations.bp, correlations.rp):
        here = slice(start, start + size_of(values))
        for first in range(0, len(noise), 1024):
            rows = slice(first, first + 1024)
            pairs = torch.from_numpy(values[rows].copy())
            pairs[~is_sound(pairs)] = 0.0
            drawn[rows, here] = correlate(pairs.double(), torch.from_numpy(noise[rows, here])).numpy()
        start = here.stop
    return drawn


@dataclass(frozen=True)
class Simulation:
    """Simulated stars of source_id 1, 2, 3 and so on, with the labels of real ones and the latents they come from."""

    spectra: Spectra
    labels: StellarLabels
    latents: Latents


def simulate(
    model: Checkpoint, spectra: Spectra, labels: StellarLabels, n: int, *, seed: int = 0
) -> Simulation:
    """`n` stars that the network could have seen, each like a real star drawn at random.

    Its latents are drawn from that star's posterior; coefficients get a draw of the scatter and one of the
    errors, as correlated as the star's where its correlations are known; G flux, errors, correlations and labels
    are the star's. Coefficients that the model does not use are noise.

    Raises:
        DataError: No star is usable.
    """
    stars = spectra.take(spectra.usable)
    if len(stars) == 0:
        raise DataError(
            f"none of {counted(len(spectra), 'star')} is usable: there is nothing to simulate from"
        )
    rng = numpy_stream(seed, "simulate")
    like = rng.integers(len(stars), size=n)
    posterior = model.encode(stars)
    z = posterior.each(lambda values: values[like]).sample(stream(seed, "simulate"))
    made = generate(model, z, stars.g_flux[like], noise_seed=seed)
    errors = stars.errors[like]
    source_id = np.arange(1, n + 1, dtype=np.int64)
    noise = rng.standard_normal(errors.shape)
    correlations = stars.correlations
    if correlations is not None:
        correlations = Correlations(bp=correlations.bp[like], rp=correlations.rp[like])
        noise = draw_correlated(correlations, noise)
    star_labels = labels.aligned_to(stars.source_id).take(like)
    return Simulation(
        spectra=Spectra.of(
            source_id,
            made.coeffs + errors * noise,
            errors,
            basis=stars.basis,
            g_flux=stars.g_flux[like],
            correlations=correlations,
        ),
        labels=StellarLabels(source_id, star_labels.values, star_labels.errors),
        latents=z,
    )


if __name__ == "__main__":
    main()
