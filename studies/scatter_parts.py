"""Errors and own scatter separated: recovered where they were put in, and on real stars; brightness in the latents.

    python -m studies.scatter_parts MODEL STARS [--field FIELD] [--retrain EPOCHS]

MODEL was trained without the validation fold (``training.hold_out_validation``) of STARS, a file or store of labelled
stars. Stars are simulated from MODEL with factors that depend on G and order; with ``--retrain`` another model is
trained on them first, so that its scatter has been trained on errors that are wrong. FIELD holds other stars, with
published coefficients.
"""

import argparse
from dataclasses import replace

import numpy as np
import torch

import scattervae as sv
from scattervae.gaia.basis import g_mag_of
from scattervae.model.checkpoint import Checkpoint
from scattervae.model.recipe import Recipe, load_recipe
from scattervae.model.run import train
from scattervae.science.scatter.parts import ScatterParts, ScatterSettings, order_groups, separate_scatter
from scattervae.science.trained import load_model
from scattervae.seeds import folds, stream
from scattervae.spectra.spectra import Spectra
from scattervae.spectra.star_tables import StellarLabels
from studies.brightness import brightness_explained, shift_of_latents

G_EDGES = (5.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0)
SETTINGS = ScatterSettings(g_edges=G_EDGES)
INJECTED_K = np.array([3.2, 2.4, 2.0, 1.7, 1.4, 1.1])  # by bin of G, in low orders
FALLS = np.array([1.0, 0.9, 0.8, 0.7, 0.6])  # with the group of orders: the excess over 1
INJECTED_A = 0.8
GAIAXPY = (
    "GaiaXPy, photometry: 5.9 (G 4-5), 3.6 (G 11-12), 1.6 (G 16-17) broad I; 1.46, 1.06 (G 10, 16) narrow b"
)


def simulated(model: Checkpoint, stars: Spectra, a: float, *, seed: int = 0) -> Spectra:
    """The same stars as the model would have them, errors understated by the injected factors."""
    inputs = model.normalization.apply(stars)
    z = model.encode(stars).sample(stream(seed, "latents"))
    predicted = model.reconstruct(z)
    columns = order_groups(model.normalization, SETTINGS.order_edges)[1]
    g_mag = g_mag_of(stars.g_flux)
    k = injected(len(FALLS))[columns % len(FALLS)][:, np.digitize(g_mag, G_EDGES[1:-1])].T
    generator = stream(seed, "noise")
    noise, own = (torch.randn(inputs.x.shape, generator=generator) for _ in range(2))
    x = predicted.mean + a * predicted.scatter * own + torch.from_numpy(k).float() * inputs.errors * noise
    return replace(stars, coeffs=model.normalization.invert(x, stars.g_flux))


def injected(n_groups: int) -> np.ndarray:
    return 1.0 + FALLS[np.arange(n_groups) % len(FALLS), None] * (INJECTED_K - 1.0)


def show(parts: ScatterParts, *, known: bool) -> None:
    k, own = parts.separation.error, parts.separation.own
    low, high = k.bounds()
    print(
        "\n| orders | "
        + " | ".join(f"G {g:.1f} ({n})" for g, n in zip(parts.median_g, parts.n_stars, strict=True)),
        end="",
    )
    print(" | a, by type | errors' share | confusion | clipped |")
    print("|---" * (len(parts.median_g) + 5) + "|")
    truth = injected(len(parts.groups))
    for g, group in enumerate(parts.groups):
        cells = [
            f"{k.value[g, b]:.2f} ({low[g, b]:.2f} to {high[g, b]:.2f})"
            + (f" [{truth[g, b]:.2f}]" if known else "")
            for b in range(len(parts.median_g))
        ]
        a = " ".join(f"{v:.2f}" for v in own.value[g])
        share = np.nanmean(parts.error_share[g])
        print(
            f"| {group} | {' | '.join(cells)} | {a} | {share:.2f} | {parts.separation.confusion[g].min():.2f} "
            f"| {parts.separation.clipped[g]} |"
        )
    if known:
        away = (k.squared - truth**2) / k.sd
        print(f"k: inside its 95 % interval {np.mean(np.abs(away) < 1.96):.2f} of {away.size}; ", end="")
        print(f"rms of (found - injected) / sd {np.sqrt(np.mean(away**2)):.2f}; ", end="")
        print(f"rms of found / injected - 1: {np.sqrt(np.mean((k.value / truth - 1) ** 2)):.3f}")


def retrained(stars: Spectra, epochs: int) -> Checkpoint:
    settings = load_recipe("best").model_dump()
    settings["training"] |= {"hold_out_validation": True, "epochs": epochs}
    return train(stars, Recipe.model_validate(settings))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("stars")
    parser.add_argument("--field")
    parser.add_argument("--retrain", type=int, metavar="EPOCHS")
    given = parser.parse_args()
    torch.set_num_threads(1)
    model, stars = load_model(given.model), sv.load(given.stars)
    usable = stars.spectra.take(stars.spectra.usable)
    fold = folds(usable.source_id)
    validation, training = usable.take(fold.validation), usable.take(~fold.test)

    print(f"\n## Injected: k in brackets, a = {INJECTED_A}; the model that made the stars")
    one_type = SETTINGS.model_copy(update={"n_types": 1})
    show(separate_scatter(model, simulated(model, validation, INJECTED_A), settings=one_type), known=True)
    if given.retrain:
        print(f"\n## Injected, a = 1; a model trained on such stars, {given.retrain} epochs")
        made = simulated(model, training, 1.0)
        other = retrained(made, given.retrain)
        show(
            separate_scatter(other, made.take(folds(made.source_id).validation), settings=one_type),
            known=True,
        )

    print(f"\n## Real stars, validation fold ({len(validation)}). {GAIAXPY}")
    show(separate_scatter(model, validation, settings=SETTINGS), known=False)

    if given.field:
        print("\n## Field stars, published coefficients")
        edges = {"g_edges": (12.0, 14.0, 15.0, 16.0, 17.0, 18.0), "n_types": 1}
        show(
            separate_scatter(model, sv.load(given.field).spectra, settings=SETTINGS.model_copy(update=edges)),
            known=False,
        )
    show_brightness(model, training, stars.labels)
    show_renoised(model, validation)


def show_brightness(model: Checkpoint, stars: Spectra, labels: StellarLabels) -> None:
    print("\n## R^2 of G, 95 % interval, stars outside the test fold")
    for name, r2 in brightness_explained(model, stars, labels).items():
        print(f"| {name} | {r2.value:.3f} ({r2.low:.3f} to {r2.high:.3f}) | {r2.n_stars} |")


def show_renoised(model: Checkpoint, stars: Spectra) -> None:
    print("\n## Re-noised: bright validation stars (G < 13)")
    bright = stars.take(g_mag_of(stars.g_flux) < 13)
    print(
        "| posterior | errors x | like G + | d^2 / n | in 68 % | in 95 % | each in 68 % | means moved < width |"
    )
    print("|---" * 8 + "|")
    for refined in (False, True):
        for factor in (1.0, 3.0, 10.0, 20.0):
            s = shift_of_latents(model, bright, factor, refined=refined)
            each, moved = (f"{min(v):.2f} to {max(v):.2f}" for v in (s.inside_68_each, s.moved))
            print(
                f"| {'refined' if refined else 'encoder'} | {factor:.0f} | {5 * np.log10(factor):.1f} "
                f"| {s.mahalanobis:.2f} | {s.inside_68:.3f} | {s.inside_95:.3f} | {each} | {moved} |"
            )


if __name__ == "__main__":
    main()
