"""Comparisons written down number by number, and models whose latents are known; for tests of the claims."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

from scattervae.model.checkpoint import Checkpoint
from scattervae.model.network import Posterior
from scattervae.science.paper.comparison import CANNON, DRAWN, NETWORK, ROBUST, ModelComparison, Scores
from scattervae.spectra.normalization import Normalization
from scattervae.spectra.spectra import Basis, Spectra
from scattervae.spectra.star_tables import StellarLabels
from toy import ToySky, toy_model, toy_recipe, toy_sky, untrained_model

BASIS = Basis(13, 12)
N_BP, N = BASIS.n_bp, BASIS.n_coeffs
FIRST_TEN = {"bp": np.r_[0:10], "rp": np.r_[13:23]}
MODELS = (NETWORK, DRAWN, CANNON, ROBUST)


def scores_of(z: np.ndarray, scatter: object = 0.1) -> Scores:
    """The scores of a model whose normalised errors and scatter are these."""
    widths = np.broadcast_to(scatter, z.shape).astype(float).copy()
    residual = z * widths
    return Scores(
        z=z,
        scatter=widths,
        nll=(0.5 * z**2 + np.log(widths)).sum(axis=1),
        crps=np.abs(residual).mean(axis=1),
        rms=np.sqrt(np.square(residual).mean(axis=1)),
    )


def labels_of(n: int, *, seed: int = 0, **given: np.ndarray) -> StellarLabels:
    """Labels of warm dwarfs with errors of their own; keyword arguments replace a column."""
    rng = np.random.default_rng([1, seed])
    values = np.stack(
        [
            given.get("teff", rng.uniform(4500, 6500, n)),
            given.get("logg", rng.uniform(2, 5, n)),
            given.get("fe_h", rng.uniform(-1, 0.4, n)),
            rng.uniform(0, 0.3, n),
            np.full(n, np.nan),  # no A_K
        ],
        axis=1,
    )
    errors = given.get("errors", np.array([40, 0.05, 0.03, 0.02]) * rng.lognormal(0, 0.3, (n, 4)))
    return StellarLabels(np.arange(1, n + 1), values, np.column_stack([errors, np.full(n, np.nan)]))


def comparison_of(
    scores: Mapping[str, Scores] | None = None,
    *,
    n: int = 600,
    seed: int = 0,
    labels: StellarLabels | None = None,
    cannon_scatter: object = 0.2,
    incomplete: Scores | None = None,
    extrapolated: np.ndarray | None = None,
) -> ModelComparison:
    """A comparison of calibrated models; what is given replaces that."""
    rng = np.random.default_rng([2, seed])
    of_models = {name: scores_of(rng.normal(size=(n, N))) for name in MODELS} | dict(scores or {})
    incomplete = scores_of(rng.normal(size=(60, N))) if incomplete is None else incomplete
    return ModelComparison(
        labels=labels_of(n, seed=seed) if labels is None else labels,
        normalization=Normalization(BASIS, np.arange(N), np.zeros(N), np.ones(N), n, n),
        scores=of_models,
        cannon_scatter=np.broadcast_to(cannon_scatter, N).astype(float).copy(),
        extrapolated=np.zeros(n, dtype=bool) if extrapolated is None else extrapolated,
        divergence=np.full(n, 5.0),
        incomplete=incomplete,
    )


def permuted(comparison: ModelComparison, order: np.ndarray) -> ModelComparison:
    """The same comparison with its stars in another order."""
    return ModelComparison(
        labels=comparison.labels.take(order),
        normalization=comparison.normalization,
        scores={
            name: Scores(*(values[order] for values in vars(scores).values()))
            for name, scores in comparison.scores.items()
        },
        cannon_scatter=comparison.cannon_scatter,
        extrapolated=comparison.extrapolated[order],
        divergence=comparison.divergence[order],
        incomplete=comparison.incomplete,
    )


@cache
def trained() -> tuple[ToySky, Checkpoint]:
    """A toy sky whose three labels vary, and a model of it; half a second's training, once a session."""
    sky = toy_sky(900, n_latent=3)
    return sky, toy_model(sky, toy_recipe(epochs=12))


@dataclass(frozen=True)
class KnownLatents(Checkpoint):
    """A model that reads a star's latents off its first coefficients; it decodes as it was initialised."""

    log_variance: float = -40.0
    n_active: int = 2

    def encode(self, spectra: Spectra) -> Posterior:
        mean = torch.zeros(len(spectra), self.n_latent)
        mean[:, : self.n_active] = torch.from_numpy(
            spectra.coeffs[:, : self.n_active] / spectra.g_flux[:, None]
        ).float()
        log_variance = torch.zeros_like(mean)
        log_variance[:, : self.n_active] = self.log_variance
        return Posterior(mean, log_variance)


def known_latents(spectra: Spectra, **given: object) -> KnownLatents:
    """A model with initial weights and known latents, in the units of these stars."""
    return KnownLatents(**vars(untrained_model(spectra)), **given)


def stars_at(latents: np.ndarray, *, first_id: int = 1, seed: int = 0) -> Spectra:
    """Stars of G flux 1 whose first coefficients are these; the others are noise."""
    rng = np.random.default_rng([3, seed])
    coeffs = rng.normal(size=(len(latents), 11))
    coeffs[:, : latents.shape[1]] = latents
    ids = np.arange(first_id, first_id + len(latents))
    return Spectra.of(
        ids, coeffs, np.full(coeffs.shape, 0.1), basis=Basis(6, 5), g_flux=np.ones(len(latents))
    )
