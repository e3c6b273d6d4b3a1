"""How far G of the coefficients lies from G of the catalogue, and the correction that takes that away.

    python -m studies.g_correction STARS [MODEL]

STARS is a store with G fluxes from a table (``scattervae demo --stars``). The correction's knots are fitted to its
training fold, and tested on the others. With MODEL, the test fold is also encoded with each G flux: the shift of
latents in their widths, and the change of the score.
"""

from itertools import pairwise

import numpy as np

import scattervae as sv
from scattervae.gaia.basis import (
    BY_COLOUR,
    BY_G,
    bp_rp_from_coeffs,
    catalogue_g_flux,
    g_flux_from_coeffs,
    g_mag_of,
)
from scattervae.seeds import folds
from scattervae.spectra.spectra import Flag, Spectra
from studies import arguments

G_EDGES, COLOUR_EDGES = (5, 9, 10, 12, 13, 14, 15), (-1, 0.5, 0.8, 1.3, 2.0, 8.0)
_N_PASSES, _N_SIGMA = 10, 3.0
_FREE_COLOUR = BY_COLOUR[0].index(1.1)  # held at 0: a constant belongs to one of the two


def main() -> None:
    given = arguments(__doc__, 1)
    stars = sv.load(given[0]).spectra
    stars = stars.take(stars.usable & ((stars.flags & np.uint16(Flag.BLENDED)) == 0))
    g, fold = np.asarray(g_mag_of(stars.g_flux)), folds(stars.source_id)
    off, colour = np.asarray(g_mag_of(g_flux_from_coeffs(stars))) - g, bp_rp_from_coeffs(stars)
    print("knots:", *fitted(off[fold.train], g[fold.train] + off[fold.train], colour[fold.train]))
    left = np.asarray(g_mag_of(catalogue_g_flux(stars))) - g
    print(
        "\n| stars of the other folds | n | median before | spread | median after | spread |\n|---|---|---|---|---|---|"
    )
    for name, values, edges in (("G", g, G_EDGES), ("BP - RP", colour, COLOUR_EDGES)):
        for low, high in pairwise(edges):
            here = ~fold.train & (values >= low) & (values < high)
            cells = " | ".join(f"{v:+.4f}" for part in (off, left) for v in middle_and_spread(part[here]))
            print(f"| {name} {low} to {high} | {here.sum()} | {cells} |")
    if given[1:]:
        print_latents(sv.load_model(given[1]), stars.take(fold.test))


def fitted(off: np.ndarray, g: np.ndarray, colour: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The values at the knots, by least squares without outliers."""
    design = np.hstack([hats(g, BY_G[0]), np.delete(hats(colour, BY_COLOUR[0]), _FREE_COLOUR, axis=1)])
    kept = np.isfinite(design).all(axis=1) & (np.abs(off) < 0.05)
    for _ in range(_N_PASSES):
        values = np.linalg.lstsq(design[kept], off[kept])[0]
        left = off - design @ values
        middle, spread = middle_and_spread(left[kept])
        kept = np.abs(left - middle) < _N_SIGMA * spread
    n = len(BY_G[0])
    return values[:n].round(4), np.insert(values[n:], _FREE_COLOUR, 0.0).round(4)


def hats(values: np.ndarray, knots: tuple[float, ...]) -> np.ndarray:
    """What each knot has in the straight line at each value."""
    return np.stack([np.interp(values, knots, one) for one in np.eye(len(knots))], axis=1)


def middle_and_spread(values: np.ndarray) -> tuple[float, float]:
    """Median, and half of what the central 68 % span."""
    low, middle, high = np.percentile(values, (16, 50, 84))
    return middle, (high - low) / 2


def print_latents(model: sv.Checkpoint, stars: Spectra) -> None:
    """What another G flux does to latents and scores."""

    def answer(g_flux: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        chosen = Spectra.of(stars.source_id, stars.coeffs, stars.errors, basis=stars.basis, g_flux=g_flux)
        encoded = model.encode(chosen)
        return encoded.latents, encoded.latent_sd, np.asarray(encoded["spectrum_score"])

    mean, sd, score = answer(stars.g_flux)
    for name, g_flux in (("coefficients", g_flux_from_coeffs(stars)), ("corrected", catalogue_g_flux(stars))):
        other, _, changed = answer(g_flux)
        shift = (other - mean) / sd
        change = np.median(np.abs(changed - score))
        print(
            f"{name}: largest median shift of a latent {np.abs(np.median(shift, axis=0)).max():.3f} widths, largest "
            f"median size of one {np.median(np.abs(shift), axis=0).max():.3f}, score {change:.4f}"
        )


if __name__ == "__main__":
    main()
