"""One row of a table of models: what a model reaches, and which claims about errors it supports."""

from scattervae.model.checkpoint import Checkpoint
from scattervae.science.claims.errors import normalised_error_ratio, region, scatter_ratio, tails
from scattervae.science.claims.values import HOLDS, Claim
from scattervae.science.contest import fit_cannons, hold_contest
from scattervae.science.evaluation import evaluate
from scattervae.seeds import folds
from scattervae.spectra.labels import StellarLabels
from scattervae.spectra.spectra import Spectra

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


def trial(model: Checkpoint, spectra: Spectra, labels: StellarLabels) -> list[str]:
    """The cells of `HEADER` but the first: the model on its test fold, against Cannons in its own units.

    Args:
        model: The model.
        spectra: The stars it was trained on, test fold included.
        labels: Labels of any of them, joined by source_id.

    Raises:
        DataError: Too few fully labelled stars.
    """
    score = evaluate(model, spectra.take(folds(spectra.source_id).test))
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
