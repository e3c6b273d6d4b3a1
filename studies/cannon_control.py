"""How much of the lead over the Cannon is that the network sees the spectrum: Cannons that see more.

    python -m studies.cannon_control MODEL STARS

MODEL is the network of a reproduction (its folder model/), STARS the store of the demo; A_K and colours are taken from
its file. On the test stars that have all labels, A_K and BP - RP are scored: the network by its lower bound and at
the posterior mean; Cannons with three labels, with [alpha/M], A_K and colour added in turn; Cannons whose labels are
fitted to each test star's own spectrum, which is what the network's posterior mean is.
"""

import numpy as np
import torch
from astropy.io import fits

import scattervae as sv
from scattervae.arrays import LabelArray, SourceIds
from scattervae.gaia.reading import demo_file
from scattervae.model.network import Reconstruction, gaussian_terms
from scattervae.model.training_stars import training_stars
from scattervae.science.cannon.fit import features, fit_polynomial
from scattervae.science.cannon.model import Cannon, CannonSettings, LabelRange
from scattervae.science.paper.comparison import bootstrap_mean
from scattervae.seeds import folds, stream
from scattervae.spectra.normalization import Inputs
from scattervae.spectra.spectra import Spectra
from scattervae.spectra.star_tables import LABEL_NAMES, StellarLabels
from studies import arguments
from studies.cannon_labels import infer_labels

NAMES = (*LABEL_NAMES, "BP - RP")
SETS = (("teff", "logg", "fe_h"), NAMES[:4], NAMES[:5], NAMES)


def main() -> None:
    given = arguments(__doc__, 2)
    torch.set_num_threads(1)
    model, stars = sv.load_model(given[0], calibrated=False), sv.load(given[1])
    train, test = (
        complete(some, stars.labels)
        for some in (
            training_stars(stars.spectra, model.recipe),
            stars.spectra.take(folds(stars.spectra.source_id).test & stars.spectra.usable),
        )
    )
    seen, asked = (model.normalization.apply(some, dtype=torch.float64) for some in (train, test))
    values, at = (labels_and_colours(some.source_id, stars.labels) for some in (train, test))
    print(f"{len(train):,} stars to fit, {len(test):,} test stars\n")
    print("| model | mean NLL [nat] | low | high | median |\n|---|---|---|---|---|")
    posterior = model.encode(test)
    drawn = nll(asked, model.reconstruct(posterior.sample(stream(0, "compare"))))
    print_row("network, lower bound", drawn + posterior.kl().sum(dim=1).double().numpy())
    print_row("network, posterior mean", nll(asked, model.reconstruct(posterior.mean)))
    for names in SETS:
        columns = [NAMES.index(name) for name in names]
        print_row(
            f"Cannon, {', '.join(names)}", nll(asked, fitted(seen, values[:, columns], at[:, columns], names))
        )
    for names in SETS[:2]:
        cannon = Cannon.fit(train, stars.labels, model.normalization, CannonSettings(labels=names))
        found = infer_labels(cannon, model.normalization.apply(test))
        print_row(
            f"Cannon, {', '.join(names)}, fitted to the spectrum", nll(asked, cannon.predict(found.values))
        )


def complete(spectra: Spectra, labels: StellarLabels) -> Spectra:
    """The stars with all labels, A_K and colour."""
    return spectra.take(np.isfinite(labels_and_colours(spectra.source_id, labels)).all(axis=1))


def labels_and_colours(source_id: SourceIds, labels: StellarLabels) -> LabelArray:
    """Columns in the order of `NAMES`; NaN where nothing is known."""
    with fits.open(demo_file()) as file:
        table = file[1].data
        ids = table["gaiaedr3_source_id"].astype(np.int64)
        colour = (table["gaiaedr3_phot_bp_mean_mag"] - table["gaiaedr3_phot_rp_mean_mag"]).astype(np.float64)
    ids, first = np.unique(ids, return_index=True)
    rows = np.minimum(np.searchsorted(ids, source_id), len(ids) - 1)
    known = (ids[rows] == source_id)[:, None]
    colour = np.where(known, colour[first[rows], None], np.nan)
    return np.column_stack([labels.aligned_to(source_id).values, colour])


def fitted(seen: Inputs, values: LabelArray, at: LabelArray, names: tuple[str, ...]) -> Reconstruction:
    """Coefficients at these labels by a plain Cannon of any labels."""
    scale = LabelRange.of(values, names)
    fit = fit_polynomial(seen.x, seen.errors, scale.scaled(values))
    mean = features(scale.scaled(at)) @ fit.theta
    return Reconstruction(mean, fit.scatter.expand_as(mean))


def nll(inputs: Inputs, predicted: Reconstruction) -> np.ndarray:
    """Of each star, without the constant, in training standard deviations."""
    variance = inputs.errors.square() + predicted.scatter.double().square()
    of_stars: np.ndarray = gaussian_terms(inputs.x, predicted.mean.double(), variance).nll.numpy()
    return of_stars


def print_row(name: str, of_stars: np.ndarray) -> None:
    """Mean with its bootstrap interval, and median."""
    mean = bootstrap_mean(of_stars)
    print(
        f"| {name} | {mean.value:.1f} | {mean.low:.1f} | {mean.high:.1f} | {np.median(of_stars):.1f} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
