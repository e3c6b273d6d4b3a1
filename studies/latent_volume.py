"""The numbers of docs/measurements/latent_volume.md.

    python -m studies.latent_volume MODEL LABELLED OTHERS

LABELLED are stars with labels like those that MODEL was trained on, OTHERS have none.
"""

from itertools import combinations

import numpy as np

import scattervae
from scattervae.gaia.basis import g_mag_of
from scattervae.science.latent_volume.comparison import (
    Overlap,
    compare_volumes,
    extrapolate,
    overlap_at,
    stated_selections,
)
from scattervae.science.latent_volume.richness import count_cells
from scattervae.seeds import numpy_stream
from scattervae.spectra.spectra import Spectra
from studies import arguments
from studies.corrected_overlap import corrected_overlap, share_new_of_the_same
from studies.enclosed_volume import compare_enclosed

MODEL, LABELLED, UNLABELLED = arguments(__doc__, 3)
CELL, FULL_CELL, N_TARGET = 0.25, 1.0, 220_000_000
checkpoint = scattervae.load_model(MODEL)
stars, field = scattervae.load(LABELLED), scattervae.load(UNLABELLED).spectra
has_all = np.isfinite(stars.labels.values[:, :3]).all(axis=1)
posterior = checkpoint.encode(stars.spectra)
ACTIVE = tuple(sorted(posterior.active_latents()))
PAIRS = list(combinations(ACTIVE, 2))


def latents_of(spectra: Spectra) -> np.ndarray:
    return checkpoint.encode(spectra).mean.double().numpy()


def both(a: np.ndarray, b: np.ndarray, latents: tuple[int, ...], n: tuple[int, int] | None = None) -> Overlap:
    cell = CELL if len(latents) == 2 else FULL_CELL
    return overlap_at(count_cells(a[:, latents], b[:, latents], cell), *(n or (len(a), len(b))))


def show(name: str, a: np.ndarray, b: np.ndarray, selection: str | None = None) -> None:
    result = compare_volumes(a, b, ACTIVE, selection=selection)
    print(f"\n{name}: {len(a)}, {len(b)} stars")
    for p in (*result.pairs, result.full):
        cell = CELL if len(p.latents) == 2 else FULL_CELL
        equal = p.equal_n
        counts = count_cells(a[:, p.latents], b[:, p.latents], cell)
        corrected = corrected_overlap(counts)
        numbers = {
            "difference": equal.difference,
            "new": equal.new,
            "corrected difference": corrected.difference,
            "corrected new": corrected.new,
            "share new": p.as_given.share_new,
            "share new by size alone": share_new_of_the_same(counts.labelled, len(a)),
            "extrapolated": p.extrapolation.corrected,
        }
        text = ", ".join(f"{key} {e.value:+.3f} ({e.low:+.3f} {e.high:+.3f})" for key, e in numbers.items())
        print(
            f"  latents {[k + 1 for k in p.latents]}: {text}, linear {p.extrapolation.linear:.0f}, ", end=""
        )
        print(f"new by size alone {equal.new_by_size_alone}")
    print(f"  enclosed: {compare_enclosed(a[:, list(ACTIVE)], b[:, list(ACTIVE)])}")


z, z_field = latents_of(stars.spectra), latents_of(field)
g_mag = g_mag_of(field.g_flux)
print("active", [k + 1 for k in ACTIVE], "median sd", np.median(posterior.sd.numpy(), axis=0).round(3))
show("labelled, field", z[has_all], z_field)
show("labelled, field of G < 15", z[has_all], z_field[g_mag < 15])
for stated in stated_selections(stars.labels):
    show(stated.name, z[stated.labelled], z[stated.unlabelled], selection=stated.name)

print("\none population cut 1 : 2: new and difference with all stars; with as many of each")
order = numpy_stream(0, "split").permutation(len(z))
third = len(z) // 3
for latents in (*PAIRS, ACTIVE):
    a, b = z[order[:third]], z[order[third:]]
    given, equal = both(a, b, latents), both(a, b, latents, (third, third))
    print(
        [k + 1 for k in latents], *(f"{e.value:.2f}" for e in (given.new, given.difference, equal.difference))
    )

print("\none population: unlabelled stars, linear and corrected extrapolation, pair", PAIRS[-1])
for m in (300, 1000, 3000, 10_000, 26_000):
    rows = order[13_000 : 13_000 + m]
    found = extrapolate(count_cells(z[order[:13_000]][:, PAIRS[-1]], z[rows][:, PAIRS[-1]], CELL), N_TARGET)
    print(m, f"{found.linear:.0f}", f"{found.corrected.value:.2f}")

print("\n999 labelled stars with the errors of field stars, against the other labelled stars")
spectra = stars.spectra.take(order[:999])
others = z[order[999:]]
relative = field.errors / field.g_flux[:, None]
for name, chosen in (("none", None), ("all", g_mag < 99), ("G < 15", g_mag < 15), ("G > 17", g_mag > 17)):
    noisy = z[order[:999]]
    if chosen is not None:
        rng = numpy_stream(0, "noise", name)
        errors = relative[rng.choice(np.flatnonzero(chosen), 999)] * spectra.g_flux[:, None]
        noisy = latents_of(
            Spectra.of(
                spectra.source_id,
                spectra.coeffs + errors * rng.normal(size=errors.shape),
                np.hypot(spectra.errors, errors),
                basis=spectra.basis,
                g_flux=spectra.g_flux,
            )
        )
    pairs = [f"{both(others, noisy, pair, (999, 999)).difference.value:+.2f}" for pair in PAIRS]
    full = both(others, noisy, ACTIVE, (999, 999))
    share = both(others, noisy, ACTIVE).share_new.value
    print(f"{name:7s} pairs", *pairs, f"all {full.difference.value:+.2f}, share new {share:.3f}")

print("\nshare of field stars in no cell of labelled stars, all active latents, by G")
for low, high in ((7, 14), (14, 15), (15, 16), (16, 17), (17, 20)):
    chosen = z_field[(g_mag >= low) & (g_mag < high)]
    print(low, high, len(chosen), f"{both(z[has_all], chosen, ACTIVE).share_new.value:.3f}")
