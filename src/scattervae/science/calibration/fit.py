"""Fit a model's calibration: scatter and widths on stars it was not trained on, its score on stars that it makes.

Published errors are never touched.
"""

import logging
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from scattervae.arrays import Latents
from scattervae.errors import DataError, counted
from scattervae.model.checkpoint import Checkpoint
from scattervae.model.recipe import DegradationSettings, draw_degradation
from scattervae.science.calibration.calibrated import CalibratedModel, with_scatter_factor, with_widths
from scattervae.science.calibration.coverage import INSIDE_1_SIGMA, INSIDE_2_SIGMA
from scattervae.science.calibration.score import (
    ObservedScores,
    ScoreInputs,
    brightness_and_kind,
    fit_score,
    score_inputs,
)
from scattervae.science.calibration.widths import encode, fit_widths
from scattervae.science.exact_posterior import WeightedDraws, posterior_draws
from scattervae.seeds import folds, stream
from scattervae.settings import Settings
from scattervae.spectra.normalization import Inputs
from scattervae.spectra.spectra import Spectra
from scattervae.spectra.store import draw_rows

logger = logging.getLogger(__name__)

FEWEST_STARS = 100
MOST_STARS = 20_000
"""Of more in the validation fold, so many are drawn: each coefficient's coverage is then known to 0.3 %."""
_SMALLEST_RATIO = 0.3
_LOG_FACTORS = torch.arange(-1.2, 1.2001, 0.0125)
_MANY = 4096


class CalibrationSettings(Settings):
    """How a calibration is fitted."""

    scatter_rounds: int = 3  # how often scatter and posteriors are fitted to each other in turn
    # real stars, drawn at random, whose errors and latents the simulated stars have
    n_like: int = 6_000
    # how the stars are degraded that the score is fitted to
    score_degradation: DegradationSettings = DegradationSettings(
        share=0.5, without_band=0.1, without_orders=0.1, without_coeffs=0.05
    )
    n_score: int = 150_000  # simulated stars that the score is fitted to
    seed: int = 0  # of every random number


def calibrate(
    checkpoint: Checkpoint,
    spectra: Spectra,
    settings: CalibrationSettings | None = None,
    *,
    progress: Callable[[str], None] = logger.info,
) -> CalibratedModel:
    """The model with scatter, widths and score calibrated; its test fold is not looked at.

    Scatter and widths are fitted on the complete stars of the validation fold, of `MOST_STARS` drawn from more, which
    lose a band for the widths of stars with one: a model that was trained on it as well (recipes train on it unless
    they set `training.hold_out_validation`) fits these stars a little too well. The calibrated model refines each
    posterior from the encoder's answer (`refine_cheaply`). The score's simulated stars have the errors, and the gaps,
    of stars outside the test fold; how real stars differ from them is fitted to the validation fold (`ObservedScores`).

    Args:
        spectra: The stars that it was trained on, with their validation fold.

    Raises:
        DataError: Too few complete stars in the validation fold.
    """
    settings = settings or CalibrationSettings()
    fold = folds(spectra.source_id)
    validation = spectra.take(draw_rows(fold.validation & spectra.usable, MOST_STARS))
    if len(validation) < FEWEST_STARS:
        raise DataError(
            f"{counted(len(validation), 'usable star')} with both bands in the validation fold, of {len(spectra)}: "
            f"a calibration needs {FEWEST_STARS}; give more stars"
        )
    normalization = checkpoint.normalization
    progress("fitting the scatter")
    bright = normalization.apply(validation)
    factor = fit_scatter(checkpoint, bright, settings)
    model = with_scatter_factor(checkpoint, factor)
    progress("fitting the widths")
    model = with_widths(model, fit_widths(with_widths(model), bright, seed=settings.seed))
    known = np.flatnonzero(~fold.test & checkpoint.usable(spectra))
    like = spectra.take(known[_some(len(known), settings)])
    scored_on = normalization.apply(like, gaps=checkpoint.sees_errors)
    generator = stream(settings.seed, "latents")
    progress("learning the score")
    latents = posterior_draws(model, scored_on, encode(model, scored_on), generator)
    simulated = simulated_score_inputs(model, scored_on, latents, settings)
    model = replace(model, score=fit_score(simulated, seed=settings.seed))
    return replace(model, observed=observe(model, validation))


def observe(model: CalibratedModel, stars: Spectra) -> ObservedScores | None:
    """How the scores of these complete real stars, outside training, differ from those of the model's own."""
    assert model.score is not None
    posterior = model.encode(stars)
    inputs = model.normalization.apply(stars)
    found = score_inputs(inputs, posterior, model.reconstruct(posterior.mean), model.normalization)
    u = model.score.standardised(found).cpu().double().numpy()
    return ObservedScores.fit(u, *brightness_and_kind(stars))


def fit_scatter(
    checkpoint: Checkpoint, inputs: Inputs, settings: CalibrationSettings
) -> Float[Tensor, " coeff"]:
    r"""What the scatter of each coefficient is to be multiplied by, so that its coverage is nominal.

    A decoder learns its scatter at draws from the encoder's posterior, and takes the encoder's mistakes for
    scatter. Here posteriors are exact, and of a range of factors the one is taken that brings the shares inside
    :math:`\sqrt{\sigma^2 + f^2 s^2}` and twice that nearest to nominal; then again with the new
    scatter. A coefficient whose median scatter is below a third of its error keeps its scatter: nothing is known
    of it.
    """
    factor = torch.ones(inputs.x.shape[1])
    for number in range(settings.scatter_rounds):
        model = with_scatter_factor(checkpoint, factor)
        generator = stream(settings.seed, "scatter", number)
        draws = posterior_draws(model, inputs, encode(checkpoint, inputs), generator)
        decoded = checkpoint.reconstruct(draws.one(generator))
        residual = (inputs.x - decoded.mean).abs()
        factors = _LOG_FACTORS.exp()
        misses = torch.stack([_miss(residual, inputs.errors, f * decoded.scatter) for f in factors])
        best = factors[misses.argmin(dim=0)]
        matters = (decoded.scatter / inputs.errors).nanmedian(dim=0).values > _SMALLEST_RATIO
        factor = torch.where(matters, best, 1.0)
    return factor


def _miss(
    residual: Float[Tensor, "star coeff"],
    errors: Float[Tensor, "star coeff"],
    scatter: Float[Tensor, "star coeff"],
) -> Float[Tensor, " coeff"]:
    """How far coverage is from nominal, coefficient by coefficient."""
    width = (errors.square() + scatter.square()).sqrt()
    one, two = ((residual < k * width).double().mean(dim=0) for k in (1.0, 2.0))
    return (one - INSIDE_1_SIGMA).square() + (two - INSIDE_2_SIGMA).square()


def _some(n: int, settings: CalibrationSettings) -> Int64[np.ndarray, " row"]:
    """Rows of stars drawn at random, so many at most."""
    rows: np.ndarray = torch.randperm(n, generator=stream(settings.seed, "some")).numpy()
    return rows[: settings.n_like]


def made_from(checkpoint: Checkpoint, z: Latents, like: Inputs, generator: torch.Generator) -> Inputs:
    """Stars that the model makes at these latents: scatter, and noise of the errors of `like`."""
    decoded = checkpoint.reconstruct(z)
    noise = torch.randn(decoded.mean.shape, generator=generator)
    missing = like.errors.isinf()
    width = (like.errors.square() + decoded.scatter.square()).sqrt().masked_fill(missing, 0.0)
    return Inputs(x=(decoded.mean + width * noise).masked_fill(missing, 0.0), errors=like.errors)


def _degraded(
    model: Checkpoint,
    z: Latents,
    like: Inputs,
    generator: torch.Generator,
    *,
    degradation: DegradationSettings,
) -> Inputs:
    """Stars made at these latents with these errors, some of them degraded."""
    made = made_from(model, z, like, generator)
    normalization = model.normalization
    n_bp = normalization.bp.stop
    drawn = draw_degradation(degradation, len(z), (n_bp, normalization.n_coeffs - n_bp), generator)
    return Inputs(*drawn.apply(made.x, made.errors))


@torch.no_grad()
def simulated_score_inputs(
    model: CalibratedModel, like: Inputs, latents: WeightedDraws, settings: CalibrationSettings
) -> ScoreInputs:
    """What the score is fitted to: stars made like these, some of them degraded, and encoded again."""
    generator = stream(settings.seed, "simulated_telling")
    parts = []
    drawn = torch.randint(len(like), (settings.n_score,), generator=generator)
    for rows in torch.split(drawn, _MANY):
        z = latents.take(rows).one(generator)
        made = _degraded(model, z, like.take(rows), generator, degradation=settings.score_degradation)
        posterior = encode(model, made)
        parts.append(score_inputs(made, posterior, model.reconstruct(posterior.mean), model.normalization))
    return ScoreInputs(*(torch.cat(values) for values in zip(*parts, strict=True)))
