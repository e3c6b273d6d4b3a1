"""What stars with one band do to a model, and whether their latents hold the widths that it states.

    python -m studies.one_band STARS FOLDER [FOLD] [EPOCHS] [SEEDS]

Half of the stars of STARS lose a band, BP as often as RP. ``best`` is trained on all of them, and on those that stay
complete alone, without the test and the validation fold (40 epochs and 3 seeds unless given); both are scored on the
complete stars of FOLD, ``validation`` unless given. Then the first is calibrated, and draws from complete stars'
posteriors are compared with the posteriors of the same stars without a band. Models are kept in FOLDER.
"""

import sys
from pathlib import Path

import numpy as np
import torch

from scattervae.arrays import CoeffVector, StarMask
from scattervae.gaia import reading
from scattervae.model.checkpoint import Checkpoint
from scattervae.model.run import train_once
from scattervae.science.calibration.calibrated import CALIBRATION, save_calibration
from scattervae.science.calibration.fit import calibrate, made_from
from scattervae.science.calibration.widths import LatentCoverage, encode, latent_coverage, without_band
from scattervae.science.evaluation import evaluate
from scattervae.science.exact_posterior import posterior_draws
from scattervae.science.trained import load_model
from scattervae.seeds import folds, numpy_stream, stream
from scattervae.spectra.normalization import Inputs, Normalization
from scattervae.spectra.spectra import Spectra
from studies import arguments
from studies.latent_intervals import one_band_coverage
from studies.sensitivity import variant_of


def main() -> None:
    given = arguments(__doc__, 2)
    stars, folder = map(Path, given[:2])
    fold, epochs, seeds = (*given[2:], *("validation", "40", "3")[len(given) - 2 :])
    spectra = reading.load(stars).spectra
    spectra = spectra.take(spectra.usable)
    held_out = spectra.take(getattr(folds(spectra.source_id), fold))
    unit = Normalization.fit(lambda: [spectra.take(folds(spectra.source_id).train)]).std
    differences = []
    for seed in range(int(seeds)):
        recipe = variant_of(
            "best", "best", training={"epochs": int(epochs), "seed": seed, "hold_out_validation": True}
        )
        half = with_one_band(spectra, seed)
        alone = train_once(half.take(half.usable), recipe.recipe, folder / f"complete_{seed}")
        both = train_once(half, recipe.recipe, folder / f"both_{seed}")
        scores = [score(model, held_out, unit) for model in (alone, both)]
        differences.append(scores[1] - scores[0])
        print(
            f"seed {seed}: -ELBO of {len(held_out)} complete stars {scores[0]:.2f} (trained on complete stars alone), "
            f"{scores[1]:.2f} (and on stars with one band), difference {differences[-1]:+.2f}",
            flush=True,
        )
        _print_widths("as trained", both, held_out, seed)
        _print_widths("calibrated", _calibrated(both, half, folder / f"both_{seed}"), held_out, seed)
    print(
        f"difference {np.mean(differences):+.2f} +- {np.std(differences, ddof=1) / len(differences) ** 0.5:.2f}"
    )


def with_one_band(spectra: Spectra, seed: int) -> Spectra:
    """The same stars, of which half have lost a band, as many BP as RP."""
    drawn = numpy_stream(seed, "bands").random(len(spectra))
    return without(without(spectra, spectra.basis.bp, drawn < 0.25), spectra.basis.rp, drawn >= 0.75)


def without(spectra: Spectra, band: slice, rows: StarMask) -> Spectra:
    """The same stars, of which these have lost a band."""
    coeffs, errors = spectra.coeffs.copy(), spectra.errors.copy()
    coeffs[rows, band] = errors[rows, band] = np.nan
    flags = spectra.flags
    changed = Spectra.of(spectra.source_id, coeffs, errors, basis=spectra.basis, g_flux=spectra.g_flux)
    return changed.with_flags(flags)


def score(model: Checkpoint, complete: Spectra, unit: CoeffVector) -> float:
    """-ELBO in these standard deviations, not in those of the stars that the model was trained on."""
    return evaluate(model, complete).negative_elbo + float(np.log(model.normalization.std / unit).sum())


def _calibrated(model: Checkpoint, spectra: Spectra, folder: Path) -> Checkpoint:
    if not (folder / CALIBRATION).is_file():
        save_calibration(calibrate(model, spectra), folder)
    return load_model(folder)


def _print_widths(state: str, model: Checkpoint, complete: Spectra, seed: int) -> None:
    inputs = model.normalization.apply(complete)
    bands = {"BP": model.normalization.bp, "RP": model.normalization.rp}
    for name, lost in bands.items():
        print(
            f"  {state}, {name} removed: {_line(one_band_coverage(model, inputs, lost, seed=seed))}",
            flush=True,
        )
        exact = one_band_coverage(model, inputs, lost, exact=True, seed=seed)
        print(f"  {state}, {name} removed, exact draws: {_line(exact)}", flush=True)
        print(
            f"  {state}, {name} removed, simulated: {_line(simulated(model, inputs, lost, seed))}", flush=True
        )


@torch.no_grad()
def simulated(model: Checkpoint, like: Inputs, lost: slice, seed: int) -> LatentCoverage:
    """Coverage of the known latents of simulated stars that have lost a band."""
    generator = stream(seed, "simulated", lost.start)
    z = posterior_draws(model, like, encode(model, like), generator).one(generator)
    made = without_band(made_from(model, z, like, generator), lost)
    return latent_coverage(encode(model, made), z)


def _line(found: LatentCoverage) -> str:
    each = " ".join(f"{100 * share:.1f}" for share in found.per_latent)
    return f"jointly {100 * found.jointly:.1f}, per latent {each}"


if __name__ == "__main__":
    sys.exit(main())
