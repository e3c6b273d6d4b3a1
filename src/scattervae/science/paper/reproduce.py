"""The paper, claim by claim: both models trained on the same stars and folds, and every claim with its number."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from scattervae.model.checkpoint import Checkpoint, Progress
from scattervae.model.recipe import RECIPES, Recipe
from scattervae.model.run import train_once
from scattervae.science.latent_volume.comparison import VolumeComparison
from scattervae.science.paper.claim import Claim
from scattervae.science.paper.comparison import Cannons, ModelComparison, compare_models, fit_cannons
from scattervae.science.paper.errors import normalised_error_ratio, region, scatter_ratio, score_table, tails
from scattervae.science.paper.labels import bad_labels, incomplete_labels, lossless_flux
from scattervae.science.paper.latents import relative_inference, volume_claims
from scattervae.spectra.spectra import Spectra
from scattervae.spectra.star_tables import StellarLabels

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reproduction:
    """The trained models, their comparison, and every claim in the paper's order.

    `volumes` are of the unlabelled set or of stated selections.
    """

    model: Checkpoint
    cannons: Cannons
    comparison: ModelComparison
    volumes: tuple[VolumeComparison, ...]
    claims: list[Claim]


def reproduce(
    spectra: Spectra,
    labels: StellarLabels,
    out: Path,
    *,
    unlabelled: Spectra | None = None,
    recipe: Recipe = RECIPES["elbo"],
    stage: Callable[[str], None] = logger.debug,
    progress: Progress | None = None,
) -> Reproduction:
    """Train both models, compare them on the test fold, and test every claim.

    A network that an earlier run finished in `out` with the same recipe on the same stars is taken as it is;
    an unfinished one is gone on with.

    Args:
        spectra: All stars, labelled or not; `labels` are of any of them.
        labels: Joined by source_id.
        out: Folder for the models.
        unlabelled: A second set, for latent volumes.
        recipe: The network's.
        stage: Called with what is being done.
        progress: Called with each epoch's record.

    Raises:
        DataError: Too few fully labelled stars.

    Source:
        Laroche & Speagle (2023), sect. 3.
    """
    stage(f"training the network, recipe {recipe.name}")
    model = train_once(spectra, recipe, out / "model", progress=progress)
    stage("fitting the Cannon, plain and robust")
    cannons = fit_cannons(model, spectra, labels)
    cannons.plain.save(out / "cannon")
    cannons.robust.save(out / "cannon_robust")
    stage("comparing them on the test fold")
    comparison = compare_models(model, cannons, spectra, labels)
    stage("measuring latent volumes")
    about_volumes, volumes = volume_claims(model, spectra, labels, unlabelled)
    table = score_table(comparison)
    of_errors = (
        tails(comparison),
        normalised_error_ratio(comparison, "bp"),
        normalised_error_ratio(comparison, "rp"),
        scatter_ratio(comparison),
    )
    claims = [
        lossless_flux(),
        *(replace(claim, details=(*claim.details, table)) for claim in of_errors),
        region(comparison, "cool_stars"),
        region(comparison, "low_gravity"),
        bad_labels(comparison),
        incomplete_labels(comparison),
        *about_volumes,
        relative_inference(model, spectra, labels),
    ]
    return Reproduction(model, cannons, comparison, volumes, claims)
