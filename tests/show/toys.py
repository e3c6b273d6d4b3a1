"""Models and stars for figures, with as many active latents as a test wants."""

from dataclasses import replace
from io import BytesIO

import matplotlib
import numpy as np
import torch

from scattervae.model.checkpoint import EpochRecord
from scattervae.science.cannon.model import Cannon
from scattervae.show.registry import FigureData
from scattervae.spectra.spectra import Flag
from toy import SMALL, toy_sky, untrained_model

RECORDS = tuple(
    EpochRecord(
        epoch=e,
        objective=1.0 / e,
        chi2=50 + 10 / e,
        penalty=-100 + 50 / e,
        kl=5 - 4 / e,
        negative_elbo=-45 + 56 / e,
        learning_rate=1e-3 * (21 - e),
    )
    for e in range(1, 21)
)


def model_of(sky, *, active=3):
    """A model with initial weights whose first `active` latents carry information, and no other."""
    model = untrained_model(sky.spectra)
    last = model.network.encoder[-1]
    with torch.no_grad():
        last.weight[:active] *= 30.0
        last.weight[active:3] = 0.0
        last.weight[3:] = 0.0
        last.bias[active:3] = 0.0
        last.bias[3:] = 0.0
        last.bias[3 : 3 + active] = -3.0
    return replace(model, records=RECORDS)


def data_of(basis=SMALL, *, active=(3,), n_stars=300, **given):
    sky = toy_sky(n_stars, basis=basis)
    models = {f"model {k}": model_of(sky, active=n) for k, n in enumerate(active)}
    return FigureData(models, sky.spectra, sky.labels, **given)


def complete(data, **settings):
    """The same with a Cannon fitted outside the test fold and other stars of the same sky as unlabelled."""
    _, model = data.first_model
    train = data.spectra.take(~data.test)
    cannon = Cannon.fit(train, data.labels, model.normalization, **settings)
    others = toy_sky(200, basis=data.spectra.basis, seed=1).spectra
    return replace(data, cannon=cannon, unlabelled=others)


def without_labels(data, rows, *names):
    """The same where these stars lack these labels."""
    values = data.labels.values.copy()
    for name in names:
        values[rows, ("teff", "logg", "fe_h", "alpha_m").index(name)] = np.nan
    return replace(data, labels=replace(data.labels, values=values))


def unusable(spectra, rows):
    bits = np.zeros(len(spectra), dtype=np.uint16)
    bits[rows] = Flag.BAD_ERRORS
    return spectra.with_flags(bits)


def texts(figure):
    found = [t.get_text() for t in figure.findobj(matplotlib.text.Text)]
    return " ".join(found)


def draw(figure):
    content = BytesIO()
    figure.savefig(content, format="png", dpi=30)
    return content.getvalue()
