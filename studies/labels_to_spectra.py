"""Spectra from labels: by latents drawn from a flow conditional on labels, by the Cannon, and by a residual network.

    python -m studies.labels_to_spectra MODEL STORE FIGURE

MODEL is a folder with a ``label_flow.safetensors`` (``scattervae generate MODEL --teff 5000 --stars STORE``). All three
know Teff, log g, [Fe/H] and [alpha/M] of stars of the train fold; the validation fold decides when the network stops.
Of a thousand stars of the test fold with four labels: log-likelihood of the spectrum given the labels, continuous
ranked probability score of each coefficient, and where its value lies in what is predicted, measurement errors
included. Then labels are asked for, and predicted again from the spectra made with them. Five minutes on two cores.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.stats import norm
from torch import Tensor, nn

import scattervae as sv
from scattervae.gaia.basis import g_flux_of
from scattervae.gaia.flux import flux_from_coeffs
from scattervae.model.network import Reconstruction
from scattervae.science import generation
from scattervae.science.cannon.model import Cannon, CannonSettings
from scattervae.science.generation import GIVEN_LABELS, LabelFlow
from scattervae.science.labels.model import label_stars
from scattervae.science.labels.targets import TargetLabels
from scattervae.seeds import numpy_stream, stream
from scattervae.show.registry import save_figure
from scattervae.show.style import house_style, model_colour
from scattervae.spectra.normalization import Inputs
from scattervae.spectra.spectra import Spectra
from studies import arguments

N_STARS, N_DRAWS, N_WEIGHED = 1000, 64, 100
_EPOCHS, _BATCH, _WIDTH = 30, 512, 256
_REQUESTS = (
    {"teff": 4800.0, "logg": 2.4, "fe_h": -0.5},
    {"teff": 5800.0, "logg": 4.3, "fe_h": 0.0},
    {"teff": 4200.0, "logg": 1.5, "fe_h": -0.3},
)


class Scores(NamedTuple):
    """How well one method predicts spectra from labels, a number a star; the last a number a coefficient and star."""

    log_likelihood: np.ndarray  # nat, of all coefficients in training standard deviations
    crps: np.ndarray  # training standard deviations, mean over coefficients
    rank: np.ndarray  # share of the predicted distribution below the value


def main() -> None:
    """Fit, score, draw and print."""
    given = arguments(__doc__, 3)
    model, stars = sv.load_model(given[0]), sv.load(given[1])
    labels = stars.labels.aligned_to(stars.spectra.source_id)
    known = TargetLabels.of(labels, GIVEN_LABELS).values
    whole = np.isfinite(known).all(axis=1) & stars.spectra.usable
    fold = sv.folds(stars.spectra.source_id)
    train, validation, test = (
        np.flatnonzero(whole & rows) for rows in (fold.train, fold.validation, fold.test)
    )
    test = np.sort(numpy_stream(0, "labels to spectra").permutation(test)[:N_STARS])
    flow = LabelFlow.load(Path(given[0]), model)
    inputs = model.normalization.apply(stars.spectra.take(test))
    x, errors = inputs.x.double(), inputs.errors.double()
    scaled = flow.context(known)[:, : len(flow.names)]
    scores = {
        "flow and scatter VAE": by_flow(model, flow, stars.spectra.take(test), flow.context(known[test]))
    }
    cannon = Cannon.fit(
        stars.spectra.take(train),
        labels.take(train),
        model.normalization,
        CannonSettings(labels=GIVEN_LABELS),
    )
    scores["the Cannon"] = by_gaussians(cannon.predict(known[test]), x, errors)
    network = residual_network(
        *(model.normalization.apply(stars.spectra.take(rows)) for rows in (train, validation)),
        scaled[train],
        scaled[validation],
    )
    scores["residual network"] = by_gaussians(network(scaled[test]), x, errors)
    of_flow = scores["flow and scatter VAE"]
    for name, score in scores.items():
        better = of_flow.log_likelihood - score.log_likelihood
        print(
            f"{name}: log-likelihood mean {score.log_likelihood.mean():.1f}, median "
            f"{np.median(score.log_likelihood):.1f} nat; CRPS {score.crps.mean():.4f}; inside 68 % "
            f"{np.mean(np.abs(score.rank - 0.5) < 0.34):.3f}, inside 95 % "
            f"{np.mean(np.abs(score.rank - 0.5) < 0.475):.3f}; stars that the flow predicts better "
            f"{(better > 0).mean():.3f}; CRPS of the flow lower by {np.mean(score.crps - of_flow.crps):.4f} +- "
            f"{np.std(score.crps - of_flow.crps) / math.sqrt(len(test)):.4f}",
            flush=True,
        )
    print(json.dumps([asked_again(model, flow, request) for request in _REQUESTS], indent=2))
    with house_style():
        save_figure(drawn(model, flow, stars, scores), Path(given[2]))


@torch.no_grad()
def by_flow(model: sv.TrainedModel, flow: LabelFlow, spectra: Spectra, context: Tensor) -> Scores:
    """The likelihood is a mean over draws from the encoder's posterior, weighed by p(z | labels) / q(z | x)."""
    inputs = model.normalization.apply(spectra)
    x, errors = inputs.x.double(), inputs.errors.double()
    posterior, draw = model.encode(spectra), stream(0, "labels to spectra")
    weighed, predicted, ranks = [], [], []
    for _ in range(N_WEIGHED):
        z = posterior.sample(draw)
        mean, scatter = (part.double() for part in model.reconstruct(z))
        likelihood = gaussian(x, mean, torch.hypot(errors, scatter))
        weighed.append(likelihood + flow.flow.log_density(z, context) - posterior.log_density(z))
    for _ in range(N_DRAWS):
        mean, scatter = (part.double() for part in model.reconstruct(flow.flow.sample(len(x), draw, context)))
        sd = torch.hypot(errors, scatter)
        predicted.append(mean + sd * torch.randn(mean.shape, generator=draw, dtype=mean.dtype))
        ranks.append(norm.cdf(((x - mean) / sd).numpy()))
    log_likelihood = torch.stack(weighed).logsumexp(dim=0) - math.log(N_WEIGHED)
    return Scores(log_likelihood.numpy(), ensemble_crps(predicted, x), np.mean(ranks, axis=0))


def gaussian(x: Tensor, mean: Tensor, sd: Tensor) -> Tensor:
    """ln of the density of all coefficients of each star."""
    return (-0.5 * ((x - mean) / sd).square() - sd.log() - 0.5 * math.log(2 * math.pi)).sum(dim=1)


def ensemble_crps(draws: list[Tensor], x: Tensor) -> np.ndarray:
    """The unbiased score of an ensemble (Ferro 2014, Q. J. R. Meteorol. Soc. 140, 1917), mean over coefficients."""
    values = torch.stack(draws).sort(dim=0).values
    n = len(values)
    weights = (2 * torch.arange(1, n + 1, dtype=values.dtype) - n - 1)[:, None, None]
    spread = (weights * values).sum(dim=0) / (n * (n - 1))
    return ((values - x).abs().mean(dim=0) - spread).mean(dim=1).numpy()


def by_gaussians(predicted: Reconstruction, x: Tensor, errors: Tensor) -> Scores:
    """The same of independent Gaussians; CRPS in closed form (Gneiting & Raftery 2007, JASA 102, 359, eq. 21)."""
    mean, sd = predicted.mean.double(), torch.hypot(errors, predicted.scatter.double())
    z = ((x - mean) / sd).numpy()
    crps = sd.numpy() * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / math.sqrt(math.pi))
    return Scores(gaussian(x, mean, sd).numpy(), crps.mean(axis=1), norm.cdf(z))


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.change = nn.Sequential(nn.Linear(_WIDTH, _WIDTH), nn.SiLU(), nn.Linear(_WIDTH, _WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.change(nn.functional.silu(x))


def residual_network(
    inputs: Inputs,
    held_out: Inputs,
    labels: Tensor,
    others: Tensor,
) -> Callable[[Tensor], Reconstruction]:
    """A network from labels to mean and scatter of every coefficient, by maximum likelihood with known errors."""
    torch.manual_seed(0)
    n = inputs.x.shape[1]
    net = nn.Sequential(
        nn.Linear(labels.shape[1], _WIDTH), _Block(), _Block(), _Block(), nn.Linear(_WIDTH, 2 * n)
    )
    optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-4)
    steps = _EPOCHS * math.ceil(len(labels) / _BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)

    def predict(at: Tensor) -> Reconstruction:
        mean, log_scatter = net(at).split(n, dim=1)
        return Reconstruction(mean, log_scatter.clamp(-8, 3).exp())

    def loss(at: Tensor, x: Tensor, errors: Tensor) -> Tensor:
        mean, scatter = predict(at)
        return -gaussian(x, mean, torch.hypot(errors, scatter)).mean()

    best, weights = math.inf, {}
    for _ in range(_EPOCHS):
        for rows in torch.randperm(len(labels)).split(_BATCH):
            optimiser.zero_grad()
            loss(labels[rows], inputs.x[rows], inputs.errors[rows]).backward()
            nn.utils.clip_grad_norm_(net.parameters(), 5.0)
            optimiser.step()
            schedule.step()
        with torch.no_grad():
            validated = float(loss(others, held_out.x, held_out.errors))
        if validated < best:
            best, weights = validated, {name: w.clone() for name, w in net.state_dict().items()}
    net.load_state_dict(weights)
    return torch.no_grad()(predict)


def asked_again(model: sv.TrainedModel, flow: LabelFlow, request: dict[str, float]) -> dict[str, object]:
    """How often intervals of labels predicted from spectra made for a request, and measured as at G = 15, hold it."""
    n = 200
    z = flow.sample(request, n)
    made = generation.generate(model, z, np.full(n, g_flux_of(15.0)), noise_seed=0)
    made = generation.with_errors(model, made, flow.errors_like(z, 15.0))
    spectra = Spectra.of(np.arange(1, n + 1), made.coeffs, made.errors, basis=made.basis, g_flux=made.g_flux)
    found = label_stars(model, model.label_model, spectra)
    answer: dict[str, object] = {"asked": request, "reliability": flow.reliability(request)}
    for name, value in request.items():
        column = found.names.index(name)
        inside = {
            level: float(
                np.mean(
                    (getattr(found, f"low_{level}")[:, column] <= value)
                    & (value <= getattr(found, f"high_{level}")[:, column])
                )
            )
            for level in (68, 95)
        }
        answer[name] = {"median": float(np.median(found.values[:, column])), "inside": inside}
    return answer


def drawn(model: sv.TrainedModel, flow: LabelFlow, stars: sv.Stars, scores: dict[str, Scores]) -> Figure:
    """Flux that one request leaves open beside held-out stars of these labels, and ranks by method."""
    figure = Figure(figsize=(7.1, 3.0), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.6, 1.0])
    request = _REQUESTS[0]
    z = flow.sample(request, 300)
    flux = generation.generate(model, z, np.full(300, g_flux_of(15.0))).flux()
    low, middle, high = np.percentile(flux.flux, (5, 50, 95), axis=0) * 1e17
    left.fill_between(
        flux.grid_nm,
        low,
        high,
        color=model_colour(0),
        alpha=0.35,
        label="spectra of these labels (5 to 95 %)",
    )
    left.plot(flux.grid_nm, middle, color=model_colour(0), label="median")
    values = stars.labels.aligned_to(stars.spectra.source_id).values
    fold = sv.folds(stars.spectra.source_id)
    near = np.flatnonzero(
        fold.test
        & stars.spectra.usable
        & (np.abs(values[:, 0] - request["teff"]) < 40)
        & (np.abs(values[:, 1] - request["logg"]) < 0.1)
        & (np.abs(values[:, 2] - request["fe_h"]) < 0.08)
    )[:12]
    some = stars.spectra.take(near)
    ratio = g_flux_of(15.0) / some.g_flux[:, None]
    observed = flux_from_coeffs(some.coeffs * ratio, some.errors * ratio, some.basis)
    for index, line in enumerate(observed.flux):
        left.plot(
            observed.grid_nm,
            line * 1e17,
            color="0.3",
            linewidth=0.5,
            label=None if index else "held-out stars",
        )
    left.set_xlabel("wavelength [nm]")
    left.set_ylabel(r"flux at $G$ = 15 [$10^{-17}$ W m$^{-2}$ nm$^{-1}$]")
    left.legend(loc="upper left")
    for index, (name, score) in enumerate(scores.items()):
        look = {"color": model_colour(index), "linestyle": ("-", "--", ":")[index % 3]}
        right.hist(
            score.rank.ravel(), bins=20, range=(0, 1), density=True, histtype="step", label=name, **look
        )
    right.axhline(1.0, color="0.6", linewidth=0.8)
    right.set_xlabel("rank of a held-out coefficient")
    right.set_ylabel("density")
    right.set_ylim(0, None)
    right.legend(loc="lower center")
    return figure


if __name__ == "__main__":
    main()
