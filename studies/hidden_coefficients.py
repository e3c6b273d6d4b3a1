"""What a model predicts of coefficients that it was not shown, a whole band or single ones, beside what they are."""

import torch
from jaxtyping import Bool
from torch import Tensor

from scattervae.arrays import Coeffs
from scattervae.errors import CheckpointError
from scattervae.model.checkpoint import BATCH, Checkpoint
from scattervae.model.network import Posterior
from scattervae.science.exact_posterior import refine
from scattervae.science.scatter.leave_one_out import Residuals
from scattervae.seeds import stream
from scattervae.spectra.normalization import Inputs

N_DRAWS = 8


def predict_hidden(
    model: Checkpoint,
    inputs: Inputs,
    hidden: Bool[Tensor, "star coeff"],
    *,
    refined: bool = False,
    n_draws: int = N_DRAWS,
    seed: int = 0,
) -> Residuals:
    r"""Residuals of hidden coefficients, predicted from the others of the same star.

    With m(z) and s(z) what the model decodes, and the latents' posterior q given the coefficients shown:

    .. math:: r = x - m(\mu_q), \qquad v = \langle (m(z) - m(\mu_q))^2 \rangle_{z \sim q}

    Args:
        model: Its encoder must see the errors, or it takes a missing coefficient for a mean one.
        inputs: Stars that can be encoded.
        hidden: What the encoder is not shown.
        refined: Improve the encoder's posterior by `refine` before anything is predicted.
        n_draws: From each posterior, for v and for the scatter.
        seed: Of the draws.

    Raises:
        CheckpointError: The encoder does not see errors.
    """
    if not model.network.sees_errors:
        raise CheckpointError(
            f"model of recipe {model.recipe.name}: its encoder sees no errors, so nothing can be hidden from it; "
            'train with network.encoder_sees = "errors", as recipe best does'
        )
    shown = Inputs(inputs.x.masked_fill(hidden, 0.0), inputs.errors.masked_fill(hidden, torch.inf))
    generator = stream(seed, "hidden")
    parts = []
    for start in range(0, len(inputs), BATCH):
        here = shown[start : start + BATCH]
        posterior = model.predict(here, batch=len(here)).posterior.each(lambda values: values.cpu())
        if refined:
            posterior = refine(model, here, posterior).posterior
        parts.append(_predicted(model, posterior, n_draws, generator))
    mean, scatter, spread = (torch.cat(values) for values in zip(*parts, strict=True))
    terms = (inputs.x - mean, inputs.errors, scatter, spread)
    return Residuals(*(values.masked_fill(~hidden, torch.nan).double().numpy() for values in terms))


def _predicted(
    model: Checkpoint, posterior: Posterior, n_draws: int, generator: torch.Generator
) -> tuple[Coeffs, Coeffs, Coeffs]:
    """Expected coefficients, their scatter, and how far they move as the latents do."""
    mean = model.reconstruct(posterior.mean).mean
    moved, scattered = torch.zeros_like(mean), torch.zeros_like(mean)
    for _ in range(n_draws):
        drawn = model.reconstruct(posterior.sample(generator))
        moved += (drawn.mean - mean).square()
        scattered += drawn.scatter.square()
    return mean, (scattered / n_draws).sqrt(), moved / n_draws
