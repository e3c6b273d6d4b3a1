"""Label models of toy skies; for tests of the labels."""

from functools import cache

import numpy as np

from scattervae.model.checkpoint import Checkpoint
from scattervae.science.labels.model import LabelModel, fit_labels
from scattervae.science.labels.targets import TargetLabels
from scattervae.science.labels.training import LabelSettings
from science.toys import trained
from toy import ToySky

QUICK = LabelSettings(networks=2, steps=150, blocks=1)


def known_of(sky: ToySky) -> TargetLabels:
    """The sky's labels, of which A_K follows a latent."""
    return TargetLabels.of(sky.labels)


@cache
def with_labels() -> tuple[ToySky, Checkpoint, LabelModel]:
    """A sky, a model of its spectra, and labels fitted to it; a second's training, once a session."""
    sky, model = trained()
    return sky, model, fit_labels(model, sky.spectra, known_of(sky), QUICK)


def labels_like(values: np.ndarray, errors: float = 0.0) -> TargetLabels:
    """Teff and log g of stars 1, 2, 3 and so on."""
    ids = np.arange(1, len(values) + 1)
    return TargetLabels(ids, ("teff", "logg"), values, np.where(np.isfinite(values), errors, np.nan))
