"""Stars a second through training: batches by index from memory against a DataLoader, in one run.

    python benchmarks/training_speed.py [N_STARS] [EPOCHS]

Prints both rates and their ratio. The data are random: only the arithmetic is timed.
"""

import sys
import time

import torch
from torch.utils.data import DataLoader, TensorDataset

from scattervae.model.batches import StarsInMemory
from scattervae.model.loss import loss_terms, objective
from scattervae.model.recipe import RECIPES, Recipe
from scattervae.model.training import TrainingState, fit_network
from scattervae.seeds import stream
from scattervae.spectra.normalization import Inputs


def with_loader(stars: StarsInMemory, recipe: Recipe) -> None:
    """The same steps as `fit_network`, fed by a shuffling DataLoader."""
    inputs = stars.inputs
    state = TrainingState(stars, recipe)
    loader = DataLoader(
        TensorDataset(inputs.x, inputs.errors),
        batch_size=recipe.training.batch_size,
        shuffle=True,
        generator=stream(0, "loader"),
    )
    draws = stream(0, "latents")
    for _ in range(recipe.training.epochs):
        for x, errors in loader:
            posterior = state.network.encode(x, errors)
            terms = loss_terms(x, errors, posterior, state.network.decode(posterior.sample(draws)))
            losses = objective(terms, recipe.objective, n_coeffs=110, n_latent=6)
            state.optimizers.zero_grad()
            losses.mean().backward()
            torch.nn.utils.clip_grad_norm_(state.network.parameters(), recipe.training.gradient_clip)
            state.optimizers.step()


def main() -> None:
    n_stars = int(sys.argv[1]) if len(sys.argv) > 1 else 33_883
    epochs = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    recipe = RECIPES["elbo"].model_copy(
        update={"training": RECIPES["elbo"].training.model_copy(update={"epochs": epochs})}
    )
    generator = stream(0, "benchmark")
    x = torch.randn(n_stars, 110, generator=generator)
    errors = torch.rand(x.shape, generator=generator) + 0.1
    stars = StarsInMemory(Inputs(x=x, errors=errors), n_bp=55)
    rates = {}
    for name, run in (("DataLoader", with_loader), ("by index", fit_network)):
        started = time.perf_counter()
        run(stars, recipe)
        rates[name] = n_stars * epochs / (time.perf_counter() - started)
        print(f"{name:12s} {rates[name]:10,.0f} stars/s on {torch.get_num_threads()} threads")
    print(f"ratio by index / DataLoader: {rates['by index'] / rates['DataLoader']:.2f}")


if __name__ == "__main__":
    main()
