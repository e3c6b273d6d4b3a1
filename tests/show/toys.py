"""Models and stars for figures, with as many active latents as a test wants."""

from dataclasses import replace
from io import BytesIO

import matplotlib
import torch

from scattervae.model.train import EpochRecord
from scattervae.show.figures import FigureData
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


def texts(figure):
    found = [t.get_text() for t in figure.findobj(matplotlib.text.Text)]
    return " ".join(found)


def draw(figure):
    content = BytesIO()
    figure.savefig(content, format="png", dpi=50)
    return content.getvalue()
