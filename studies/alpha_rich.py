"""Alpha-rich against alpha-poor giants of the same labels: what differs in latents, coefficients and flux.

    python -m studies.alpha_rich MODEL STARS

Giants have log g < 3.5 and -0.8 < [Fe/H] < 0.1. A line through the gap between the two sequences, [alpha/M] = 0.14 -
0.05 [Fe/H], separates them, with a margin of 0.02 on both sides. They are matched on Teff, log g and [Fe/H], and on G
and the colour proxy besides; for each matching a table is printed.
"""

import numpy as np

from scattervae.gaia.reading import Stars, load
from scattervae.science.generation import generate
from scattervae.science.relative.differences import (
    FluxDifference,
    Shapes,
    coefficient_difference,
    flux_difference,
    latent_difference,
    observed_shapes,
)
from scattervae.science.relative.matching import covariates_of, match
from scattervae.science.trained import TrainedModel, load_model
from studies import arguments

LABELS = ["teff", "logg", "fe_h"]
BESIDES = ([], ["g_mag"], ["bp1_rp1"], ["g_mag", "bp1_rp1"])
WAVELENGTHS = (430, 516, 590, 616, 676, 714, 774, 854, 866, 940)
"""Where bands of MgH, TiO and Ca II lie, and between them [nm]."""


def main() -> None:
    model, stars = arguments(__doc__, 2)
    compare_sequences(load_model(model), load(stars))


def compare_sequences(model: TrainedModel, stars: Stars) -> None:
    """Print a table for each matching."""
    fe_h, alpha_m = stars.labels["fe_h"], stars.labels["alpha_m"]
    giants = (stars.labels["logg"] < 3.5) & (fe_h > -0.8) & (fe_h < 0.1)
    gap = 0.14 - 0.05 * fe_h
    rich, poor = giants & (alpha_m > gap + 0.02), giants & (alpha_m < gap - 0.02)
    print(f"{rich.sum()} alpha-rich and {poor.sum()} alpha-poor giants")
    posterior = model.encode(stars.spectra)
    made = generate(model, posterior.mean, np.ones(len(stars)))  # without noise or scatter
    seen = {"observed": observed_shapes(stars.spectra), "decoded": Shapes(made.coeffs, made.basis)}
    for more in BESIDES:
        matched = match(covariates_of(stars.spectra, stars.labels, [*LABELS, *more]), rich, poor)
        print(f"\nmatched on {', '.join(matched.balance.names)}: {matched.n_pairs} pairs")
        print(f"  balance after {matched.balance.after.round(3)}")
        latents = latent_difference(posterior, matched.groups)
        means = latents.means
        print("  latents", *map(_marked, means.difference, means.found))
        print(f"  energy distance {latents.energy.distance:.2f}, p = {latents.energy.p_value:.3f}")
        for name, shapes in seen.items():
            coeffs = coefficient_difference(shapes, matched.groups)
            flux = flux_difference(shapes, matched.groups)
            print(f"  {name}: {coeffs.n_found} coefficients, {flux.contrast.n_found} wavelengths found")
            print(f"    {_flux_line(flux)}")


def _marked(value: float, found: bool) -> str:  # noqa: FBT001 - a pair of columns
    return f"{value:+.2f}{'*' * int(found)}"


def _flux_line(flux: FluxDifference) -> str:
    """Difference [%] with its error at some wavelengths, findings starred."""
    error = 100 * flux.contrast.standard_error / flux.reference
    rows = [int(np.argmin(np.abs(flux.grid_nm - nm))) for nm in WAVELENGTHS]
    return " | ".join(
        f"{100 * flux.relative[i]:+.1f} ± {error[i]:.1f}{'*' * int(flux.contrast.found[i])}" for i in rows
    )


if __name__ == "__main__":
    main()
