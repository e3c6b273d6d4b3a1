"""The paper, claim by claim: both models trained on the same stars and folds, and every claim with its number."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from scattervae.model.checkpoint import Checkpoint, Progress
from scattervae.model.recipe import RECIPES, Recipe
from scattervae.model.run import train_once
from scattervae.science.latent_volume.comparison import VolumeComparison
from scattervae.science.paper.comparison import Cannons, Claim, ModelComparison, compare_models, fit_cannons
from scattervae.science.paper.errors import (
    likelihood_gain,
    normalised_error_ratio,
    raw_accuracy,
    region,
    scatter_ratio,
    score_table,
    tails,
)
from scattervae.science.paper.labels import bad_labels, gain_by_label_error, incomplete_labels, lossless_flux
from scattervae.science.paper.latents import (
    aggregate_posterior,
    relative_inference,
    seeds_agree,
    volume_claims,
)
from scattervae.spectra.spectra import Spectra
from scattervae.spectra.star_tables import StellarLabels

logger = logging.getLogger(__name__)

PRINTED = RECIPES["paper2023"]


@dataclass(frozen=True)
class Reproduction:
    """The trained models, their comparison, and every claim in the paper's order.

    `volumes` are of the unlabelled set or of stated selections; `printed` is the network trained with the paper's loss
    as printed, None where `model` is one.
    """

    model: Checkpoint
    cannons: Cannons
    comparison: ModelComparison
    volumes: tuple[VolumeComparison, ...]
    claims: list[Claim]
    printed: Checkpoint | None


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
    """Train the models, compare them on the test fold, and test every claim.

    A network that an earlier run finished in `out` with the same recipe on the same stars is taken as it is;
    an unfinished one is gone on with. Unless `recipe` has the paper's loss as printed, a network with that is trained
    too, and each claim has what came out with it beside its own number.

    Args:
        spectra: All stars, labelled or not; `labels` are of any of them.
        labels: Joined by source_id.
        out: Folder for the models.
        unlabelled: A second set, for latent volumes.
        recipe: The network's.
        stage: Called with what is being done.

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
    claims, volumes = _claims_of_network(model, comparison, spectra, labels, unlabelled=unlabelled)
    stage("training the network with another seed")
    seed = recipe.training.model_copy(update={"seed": recipe.training.seed + 1})
    other = train_once(
        spectra, recipe.model_copy(update={"training": seed}), out / "model_seed", progress=progress
    )
    claims = [replace(c, tested=tested(recipe)) for c in (*claims, seeds_agree(model, other, spectra))]
    if recipe.objective == "printed":
        return Reproduction(model, cannons, comparison, volumes, [lossless_flux(), *claims], None)
    stage("training the network with the loss as printed")
    beside = train_once(spectra, PRINTED, out / "model_printed", progress=progress)
    its_comparison = compare_models(beside, fit_cannons(beside, spectra, labels), spectra, labels)
    its_claims, _ = _claims_of_network(beside, its_comparison, spectra, labels, unlabelled=unlabelled)
    outcomes = {claim.id: claim.outcome for claim in its_claims}
    claims = [replace(claim, as_printed=outcomes.get(claim.id)) for claim in claims]
    return Reproduction(model, cannons, comparison, volumes, [lossless_flux(), *claims], beside)


def _claims_of_network(
    model: Checkpoint,
    comparison: ModelComparison,
    spectra: Spectra,
    labels: StellarLabels,
    *,
    unlabelled: Spectra | None,
) -> tuple[list[Claim], tuple[VolumeComparison, ...]]:
    """Every claim that one network decides, and the volumes that some are from."""
    of_volumes, volumes = volume_claims(model, spectra, labels, unlabelled)
    further = (relative_inference(model, spectra, labels), aggregate_posterior(model, spectra))
    return [*claims_of(comparison), *of_volumes, *further], volumes


def claims_of(comparison: ModelComparison) -> list[Claim]:
    """Every claim that a comparison with the Cannon decides, in the paper's order."""
    table = score_table(comparison)
    of_errors = (
        tails(comparison),
        normalised_error_ratio(comparison, "bp"),
        normalised_error_ratio(comparison, "rp"),
        scatter_ratio(comparison),
    )
    return [
        likelihood_gain(comparison),
        *(replace(claim, details=(*claim.details, table)) for claim in of_errors),
        raw_accuracy(comparison),
        region(comparison, "cool_stars"),
        region(comparison, "low_gravity"),
        bad_labels(comparison),
        gain_by_label_error(comparison),
        incomplete_labels(comparison),
    ]


def tested(recipe: Recipe) -> str:
    """Recipe and loss in words.

    >>> tested(RECIPES["paper2023"])
    'recipe paper2023, the loss as printed'
    """
    loss = "the loss as printed" if recipe.objective == "printed" else "the evidence lower bound"
    return f"recipe {recipe.name}, {loss}"
