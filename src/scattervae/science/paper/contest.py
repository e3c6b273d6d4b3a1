"""The scatter VAE and *The Cannon* on the same stars: the same folds, the same fully labelled test stars.

Laroche & Speagle (2023), sect. 3. A plain and a robust (clipped) Cannon stand beside the network at its
posterior mean and at draws from its posterior.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from scattervae.arrays import StarMask
from scattervae.errors import DataError
from scattervae.model.checkpoint import Checkpoint
from scattervae.model.preparation import training_stars
from scattervae.science.cannon.model import Cannon, CannonSettings, labelled
from scattervae.science.paper.compare import Told, first_ten, tell, told_by_network
from scattervae.seeds import folds
from scattervae.spectra.labels import LABEL_NAMES, StellarLabels
from scattervae.spectra.normalization import Normalization
from scattervae.spectra.spectra import Spectra

NETWORK, DRAWN, CANNON, ROBUST = "VAE, posterior mean", "VAE, drawn latents", "Cannon", "robust Cannon"
ROBUST_SIGMA = 5.0
CANNON_LABELS = LABEL_NAMES[:3]
FEWEST_STARS = 100


@dataclass(frozen=True)
class Contest:
    """What each model tells of the same stars.

    Attributes:
        spectra: The fully labelled, usable stars of the test fold.
        labels: Their labels.
        normalization: What "training standard deviations" means for all models.
        told: What each model tells of them, by its name.
        cannon_scatter: The plain Cannon's one scatter for each coefficient.
        extrapolated: Stars outside the convex hull of the Cannon's training labels.
        n_incomplete: Usable test stars that the Cannon cannot score, for want of a label.
        incomplete: What the network tells of those, at the posterior mean.
    """

    spectra: Spectra
    labels: StellarLabels
    normalization: Normalization
    told: Mapping[str, Told]
    cannon_scatter: np.ndarray
    extrapolated: StarMask
    n_incomplete: int
    incomplete: Told

    def __len__(self) -> int:
        return len(self.spectra)

    def first_ten(self, band: str) -> slice:
        """The first ten columns of ``"bp"`` or ``"rp"``, those that the paper averages over."""
        return first_ten(self.normalization.bp if band == "bp" else self.normalization.rp)


@dataclass(frozen=True)
class Cannons:
    """A Cannon fitted plainly and one fitted without its outlying values."""

    plain: Cannon
    robust: Cannon


def fit_cannons(
    model: Checkpoint, spectra: Spectra, labels: StellarLabels, names: tuple[str, ...] = CANNON_LABELS
) -> Cannons:
    """Cannons fitted to the stars that the network was trained on, as far as they have every label.

    Args:
        model: The network: its recipe says the training stars, its normalization the units.
        spectra: All stars.
        labels: Labels of any stars, joined by source_id.
        names: Which labels the Cannons take.

    Raises:
        DataError: Too few stars with every label.
    """
    stars = training_stars(spectra, model.recipe)
    plain, robust = (
        Cannon.fit(stars, labels, model.normalization, CannonSettings(labels=names, clip_sigma=clip))
        for clip in (None, ROBUST_SIGMA)
    )
    return Cannons(plain=plain, robust=robust)


def hold_contest(model: Checkpoint, cannons: Cannons, spectra: Spectra, labels: StellarLabels) -> Contest:
    """All models on the fully labelled stars of the test fold.

    Raises:
        DataError: Fewer than a hundred test stars have every label.
    """
    settings = cannons.plain.settings
    test = spectra.take(folds(spectra.source_id).test & spectra.usable)
    all_labels = labels.aligned_to(test.source_id)
    complete = labelled(test, all_labels, settings)
    if complete.sum() < FEWEST_STARS:
        raise DataError(
            f"{int(complete.sum())} usable test stars have all of {', '.join(settings.labels)}; at least "
            f"{FEWEST_STARS} are needed to compare models on"
        )
    stars, star_labels = test.take(complete), all_labels.take(complete)
    values = star_labels.values[:, [LABEL_NAMES.index(name) for name in settings.labels]]
    inputs = model.normalization.apply(stars)
    told = {
        NETWORK: told_by_network(model, stars),
        DRAWN: told_by_network(model, stars, draw_seed=0),
        CANNON: tell(inputs, cannons.plain.predict(values)),
        ROBUST: tell(inputs, cannons.robust.predict(values)),
    }
    return Contest(
        spectra=stars,
        labels=star_labels,
        normalization=model.normalization,
        told=told,
        cannon_scatter=cannons.plain.scatter.numpy(),
        extrapolated=cannons.plain.label_range.outside(values),
        n_incomplete=int((~complete).sum()),
        incomplete=told_by_network(model, test.take(~complete)),
    )
