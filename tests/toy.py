"""A toy sky: stars whose coefficients are a known, smooth function of a few latents.

Any test may ``from toy import toy_sky``. Nothing here is drawn from global state: the same arguments give the
same stars. Coefficients fall off with their order as real ones do, and errors grow as stars get fainter.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from scattervae.files import DIGESTS, file_digest, write_json
from scattervae.gaia.basis import g_flux_from_coeffs
from scattervae.model.checkpoint import Checkpoint
from scattervae.model.network import NetworkShape
from scattervae.model.recipe import DegradationSettings, Recipe, TrainingSettings
from scattervae.model.run import train
from scattervae.model.training import initial_network
from scattervae.spectra.normalization import Normalization
from scattervae.spectra.spectra import Basis, Flag, Spectra
from scattervae.spectra.star_tables import StellarLabels

SMALL = Basis(6, 5)
DR3 = Basis(55, 55, bp_id=56, rp_id=57)

torch.set_num_threads(1)  # matrices this small gain nothing from more, and a busy machine stalls them


@dataclass(frozen=True)
class ToySky:
    """Stars with all that is true of them.

    Attributes:
        spectra: What a survey would publish: coefficients with noise and intrinsic scatter, errors, G flux.
        labels: Teff, log g, [Fe/H] and [alpha/M] with errors; linear functions of the latents.
        latents: The truth that the coefficients are made from, "star latent", uniform in [-1, 1].
        shapes: Coefficients over G flux without noise or scatter, "star coeff".
        scatter: Intrinsic scatter of coefficients over G flux, one standard deviation, "coeff".
    """

    spectra: Spectra
    labels: StellarLabels
    latents: np.ndarray
    shapes: np.ndarray
    scatter: np.ndarray


def toy_sky(
    n_stars: int = 400,
    *,
    basis: Basis = SMALL,
    n_latent: int = 2,
    seed: int = 0,
    signal_to_noise: float = 50.0,
    scatter: float = 0.01,
) -> ToySky:
    """Stars with known latents.

    Coefficient i of a star with latents z is ``G (m_i + a_i sin(w_i . z + p_i) + scatter + noise)``, with
    ``a_i`` falling with the order of the coefficient in its band.

    Args:
        n_stars: How many.
        basis: Sizes and ids of the coefficients.
        n_latent: How many latents the coefficients depend on; 2 to 4.
        seed: Other seeds give other stars of the same sky: shapes depend on the basis and `n_latent` alone.
        signal_to_noise: Amplitude of a coefficient over its error in a star of G flux 1e5 electron/s; fainter
            stars have larger relative errors, as the root of the flux.
        scatter: Intrinsic scatter in units of the amplitude of each coefficient.
    """
    sky = np.random.default_rng([basis.n_bp, basis.n_rp, n_latent])
    orders = np.concatenate([np.arange(basis.n_bp), np.arange(basis.n_rp)])
    amplitudes = 0.5 / (1.0 + orders)
    offsets = sky.normal(size=basis.n_coeffs) * amplitudes
    directions = 1.2 * sky.normal(size=(n_latent, basis.n_coeffs))
    phases = sky.uniform(0.0, 2 * np.pi, basis.n_coeffs)

    stars = np.random.default_rng([seed, n_stars])
    source_id = np.unique(stars.integers(4_000_000, 6_917_528_997_577_384_320, 2 * n_stars))
    source_id = stars.permutation(source_id)[:n_stars]
    latents = stars.uniform(-1.0, 1.0, (n_stars, n_latent))
    g_flux = 10.0 ** stars.uniform(4.0, 6.0, n_stars)
    shapes = offsets + amplitudes * np.sin(latents @ directions + phases)
    errors = amplitudes / signal_to_noise * np.sqrt(1e5 / g_flux)[:, None]
    noise = errors * stars.normal(size=shapes.shape)
    noise += scatter * amplitudes * stars.normal(size=shapes.shape)
    return ToySky(
        spectra=Spectra.of(
            source_id,
            (shapes + noise) * g_flux[:, None],
            errors * g_flux[:, None],
            basis=basis,
            g_flux=g_flux,
            n_relevant_bases=np.tile(
                np.array([basis.n_bp - 1, basis.n_rp - 1], dtype=np.int16), (n_stars, 1)
            ),
        ),
        labels=_labels(source_id, latents, stars),
        latents=latents,
        shapes=shapes,
        scatter=scatter * amplitudes,
    )


def _labels(source_id: np.ndarray, latents: np.ndarray, stars: np.random.Generator) -> StellarLabels:
    z = latents @ np.eye(latents.shape[1], 4)  # labels of latents that the sky lacks do not vary
    true = np.stack(
        [
            5000.0 + 700.0 * z[:, 0],
            3.0 + 1.2 * z[:, 1] + 0.3 * z[:, 0],
            -0.3 + 0.4 * z[:, 2] + 0.1 * z[:, 1],
            0.1 - 0.1 * z[:, 2] + 0.05 * z[:, 3],
        ],
        axis=1,
    )
    errors = np.broadcast_to([40.0, 0.05, 0.03, 0.02], true.shape).copy()
    values = true + errors * stars.normal(size=true.shape)
    a_k = 0.3 + 0.2 * z[:, 1]  # APOGEE gives it no error
    return StellarLabels(
        source_id=source_id,
        values=np.column_stack([values, a_k]),
        errors=np.column_stack([errors, np.full(len(errors), np.nan)]),
    )


SPOILED = (
    Flag.MISSING_BP,
    Flag.MISSING_RP,
    Flag.BAD_COEFFS,
    Flag.BAD_ERRORS,
    Flag.NO_G_FLUX,
    Flag(0),
    Flag.DUPLICATE,
)


def spoiled(spectra: Spectra) -> Spectra:
    """The same stars with the first seven rows spoilt, one way each: row i gets exactly flag ``SPOILED[i]``.

    Row 6 repeats the source_id of row 5. The caller's arrays stay as they are.
    """
    source_id = spectra.source_id.copy()
    coeffs, errors, g_flux = spectra.coeffs.copy(), spectra.errors.copy(), spectra.g_flux.copy()
    coeffs[0, spectra.basis.bp] = errors[0, spectra.basis.bp] = np.nan
    coeffs[1, spectra.basis.rp] = errors[1, spectra.basis.rp] = np.nan
    coeffs[2, 1] = np.inf
    errors[3, 2] = 0.0
    g_flux[4] = np.nan
    source_id[6] = source_id[5]
    return Spectra.of(
        source_id,
        coeffs,
        errors,
        basis=spectra.basis,
        g_flux=g_flux,
        n_relevant_bases=spectra.n_relevant_bases,
        correlations=spectra.correlations,
    )


def without_bands(spectra: Spectra, share: float = 0.5, seed: int = 0) -> Spectra:
    """The same stars, of which a share chosen at random has lost BP or RP, as often the one as the other."""
    coeffs, errors = spectra.coeffs.copy(), spectra.errors.copy()
    drawn = np.random.default_rng([seed, len(spectra)]).random(len(spectra))
    for band, lost in ((spectra.basis.bp, drawn < share / 2), (spectra.basis.rp, drawn >= 1 - share / 2)):
        coeffs[lost, band] = errors[lost, band] = np.nan
    return Spectra.of(
        spectra.source_id,
        coeffs,
        errors,
        basis=spectra.basis,
        g_flux=spectra.g_flux,
        n_relevant_bases=spectra.n_relevant_bases,
    )


def toy_recipe(**training: object) -> Recipe:
    """A recipe that learns the toy sky in about a second; keyword arguments replace its training settings."""
    settings = {"epochs": 100, "batch_size": 64, "learning_rate": 5e-3, **training}
    return Recipe(
        name="toy",
        network=NetworkShape(n_latent=3, hidden=(24, 16)),
        training=TrainingSettings.model_validate(settings),
    )


def toy_best(**training: object) -> Recipe:
    """A recipe with all that ``best`` has, small enough to learn the toy sky in a few seconds."""
    settings = {
        "epochs": 60,
        "batch_size": 64,
        "optimizer": "muon",
        "learning_rate": 4e-3,
        "schedule": "trapezoid",
        **training,
    }
    return Recipe(
        name="toy_best",
        network=NetworkShape(
            n_latent=3, hidden=(24,), layers="residual", encoder_sees="errors", posterior="correlated"
        ),
        training=TrainingSettings.model_validate(settings),
        degradation=DegradationSettings(share=0.5),
    )


def toy_model(sky: ToySky, recipe: Recipe | None = None) -> Checkpoint:
    """A model trained on the sky's stars outside the test fold, in memory."""
    return train(sky.spectra, recipe or toy_recipe())


def untrained_model(spectra: Spectra, recipe: Recipe | None = None) -> Checkpoint:
    """A model with its initial weights, where a test needs a model but not a good one."""
    recipe = recipe or toy_recipe()
    normalization = Normalization.fit(lambda: [spectra], recipe.normalization)
    network = initial_network(normalization.n_coeffs, recipe).eval()
    return Checkpoint(recipe=recipe, normalization=normalization, network=network, provenance={})


def signed_again(folder: Path) -> None:
    """A folder as a stranger would hand it on: with digests of whatever its files now hold."""
    files = [path for path in folder.iterdir() if path.is_file() and path.name != DIGESTS]
    write_json(folder / DIGESTS, {path.name: file_digest(path) for path in files})


def with_own_g(spectra: Spectra) -> Spectra:
    """Stars of DR3's basis whose coefficients give the G flux that they have, as real ones do."""
    ones = np.ones((111, 110)) + np.eye(111, 110)  # a band of zeros would be a missing one
    flux = g_flux_from_coeffs(Spectra.of(np.arange(1, 112), ones, np.ones((111, 110)), basis=DR3))
    weights = flux[:110] - flux[110]
    missing = spectra.g_flux - spectra.coeffs @ weights
    coeffs = spectra.coeffs + np.outer(missing / (weights @ weights), weights)
    return replace(spectra, coeffs=coeffs)
