"""One star or two: whether a mixture of two decoded spectra explains a spectrum better than one alone.

Coefficients over G flux are linear in flux: those of two stars are (1 - q) m(z1) + q m(z2), with q the share of the
second in the G flux. Both latents and the share are fitted. What a spectrum gains by a second star is compared with
what spectra gain that are simulated of one star and of two, with the errors of the stars themselves.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Float64
from scipy.optimize import minimize
from scipy.special import expit
from torch import Tensor

from scattervae.arrays import Coeffs, Latents, PerStar, SourceIds, StarArray
from scattervae.gaia.basis import g_mag_of
from scattervae.model.checkpoint import Checkpoint
from scattervae.seeds import stream
from scattervae.spectra.columns import described
from scattervae.spectra.normalization import Inputs
from scattervae.spectra.spectra import Spectra, rechunk

BankLatents = Float[Tensor, "candidate latent"]
PRIOR_SHARE = 0.1
"""Of stars with a second one that matters, before the spectrum is seen."""
LEAST_SHARE, MOST_SHARE = 0.05, 0.5
_SIMULATED = 256  # of one star, and as many of two
_CANDIDATES, _STARTS, _STEPS = 128, 3, 60
_RATE = 0.05
_CHUNK = 1024
_RIDGE = 1e-2


class TwoStars(NamedTuple):
    """What a second star explains of each spectrum."""

    # ln of the highest posterior density of two stars over that of one, latents and share fitted [nat]
    evidence: PerStar
    share: PerStar  # of the second, the fainter one, in the G flux
    share_sd: PerStar  # its error at fixed latents: what the spectrum's errors and the scatter allow


class BinaryColumns(NamedTuple):
    """The stars that can be encoded, with what a second star explains."""

    source_id: SourceIds
    evidence: StarArray  # nat
    probability: StarArray  # that there is a second star, for a prior share of `PRIOR_SHARE`
    share: StarArray
    share_sd: StarArray


def find_binaries(
    model: Checkpoint,
    chunks: Iterable[Spectra],
    *,
    seed: int = 0,
    progress: Callable[[int], None] = lambda _: None,
) -> BinaryColumns:
    """Evidence and calibrated probability of a second star in each spectrum.

    Args:
        chunks: The stars; the first 256 of them that can be encoded lend their latents and errors to simulations.
        progress: Called after each chunk with its number of stars.
    """
    found: list[tuple[Float64[np.ndarray, "star column"], SourceIds]] = []
    bank: BankLatents | None = None
    calibration: np.ndarray | None = None
    for spectra in rechunk(chunks, _CHUNK):
        stars = spectra.take(np.flatnonzero(model.usable(spectra)))
        if not len(stars):
            continue
        inputs = model.normalization.apply(stars, gaps=model.sees_errors)
        posterior, g_mag = model.encode(stars), np.asarray(g_mag_of(stars.g_flux))
        if bank is None or calibration is None:
            bank = posterior.mean[:_CANDIDATES]
            one, two = simulated(model, inputs, posterior.sample(stream(seed, "binaries")), seed=seed)
            g_of = g_mag[np.arange(_SIMULATED) % len(g_mag)]
            gains = [evidence_of_two(model, some, bank).evidence.double().numpy() for some in (one, two)]
            calibration = _calibrated(gains[0], gains[1], g_of)
        second = evidence_of_two(model, inputs, bank)
        gain, share, share_sd = (part.double().numpy() for part in second)
        log_odds = _features(gain, g_mag) @ calibration + np.log(PRIOR_SHARE / (1.0 - PRIOR_SHARE))
        found.append((np.column_stack([gain, expit(log_odds), share, share_sd]), stars.source_id))
        progress(len(stars))
    if not found:
        return BinaryColumns(np.empty(0, dtype=np.int64), *np.empty((4, 0)))
    values = np.concatenate([part for part, _ in found])
    return BinaryColumns(np.concatenate([ids for _, ids in found]), *values.T)


def with_binaries(table: pa.Table, found: BinaryColumns) -> pa.Table:
    """The table of stars with what a second star explains of each, as columns with units and descriptions."""
    order = np.argsort(found.source_id, kind="stable")
    rows = order[np.searchsorted(found.source_id, table["source_id"].to_numpy(), sorter=order)]
    prior = f"for a prior share of {PRIOR_SHARE:g}"
    for name, unit, text, values in (
        (
            "binary_evidence",
            "nat",
            "ln of the posterior density of two stars over that of one",
            found.evidence,
        ),
        (
            "binary_probability",
            "",
            f"probability of a second star, {prior}, by simulated spectra",
            found.probability,
        ),
        ("second_share", "", "share of the second star in the G flux, where there is one", found.share),
        ("second_share_sd", "", "error of that share at fixed latents", found.share_sd),
    ):
        field = described(name, pa.float32(), unit, text)
        table = table.append_column(field, pa.array(values[rows].astype(np.float32)))
    return table


def mixed(first: Coeffs, second: Coeffs, share: Float[Tensor, " star"] | float) -> Coeffs:
    """Coefficients over G flux, or their normalised ones, of two stars in one spectrum."""
    share = torch.as_tensor(share, dtype=first.dtype)
    share = share[:, None] if share.ndim else share
    return (1.0 - share) * first + share * second


def simulated(model: Checkpoint, inputs: Inputs, z: Latents, *, seed: int = 0) -> tuple[Inputs, Inputs]:
    """Spectra of one star, and of two, as these are measured: decoded, with scatter, and noise of these errors."""
    draw = stream(seed, "simulated binaries")
    rows = torch.arange(_SIMULATED) % len(z)
    others = rows[torch.randperm(len(rows), generator=draw)]
    mean, scatter = model.reconstruct(z)
    intrinsic = mean + scatter * torch.randn(mean.shape, generator=draw)
    errors = inputs.errors[rows]
    known = torch.isfinite(errors)
    share = LEAST_SHARE + (MOST_SHARE - LEAST_SHARE) * torch.rand(len(rows), generator=draw)
    made = []
    for spectra in (intrinsic[rows], mixed(intrinsic[rows], intrinsic[others], share)):
        noise = torch.where(known, errors, 0.0) * torch.randn(errors.shape, generator=draw)
        made.append(Inputs(torch.where(known, spectra + noise, 0.0), errors))
    return made[0], made[1]


def evidence_of_two(model: Checkpoint, inputs: Inputs, bank: BankLatents) -> TwoStars:
    """What each spectrum gains by a second star.

    Second stars are first looked for among those of `bank`, each with the share that suits it best; from the best three
    both latents and the share are fitted together, as one star's latents are.

    Args:
        inputs: The spectra, as the model sees them.
        bank: Latents of stars that a second one may be like.
    """
    with torch.no_grad():
        start = model.network.encode(inputs.x, inputs.errors).mean
        candidates = _candidates(model, inputs, start, bank)
    one = _fitted(model, inputs, start[None], None)
    two = _fitted(model, inputs, one.first.expand(_STARTS, -1, -1), candidates)
    with torch.no_grad():
        (first, scatter), (second, _) = (model.network.decode(z[0]) for z in (two.first, two.second))
        variance = inputs.errors.square() + scatter.square()
        share_sd = ((second - first).square() / variance).sum(dim=1).clamp(min=1e-12).rsqrt()
    gain = (two.log_posterior - one.log_posterior)[0].clamp(min=0.0)
    return TwoStars(gain, two.share[0], share_sd)


class _Fit(NamedTuple):
    """The best of several starts, one row."""

    first: Float[Tensor, "start star latent"]
    second: Float[Tensor, "start star latent"]
    share: Float[Tensor, "start star"]
    log_posterior: Float[Tensor, "start star"]


def _candidates(
    model: Checkpoint, inputs: Inputs, start: Latents, bank: BankLatents
) -> Float[Tensor, "start star latent"]:
    mean, scatter = model.network.decode(start)
    weight = 1.0 / (inputs.errors.square() + scatter.square())
    others = model.network.decode(bank).mean
    left = (inputs.x - mean) * weight
    along = left @ others.T - (left * mean).sum(dim=1, keepdim=True)
    length = weight @ others.square().T - 2.0 * (weight * mean) @ others.T
    length = length + (weight * mean.square()).sum(dim=1, keepdim=True)
    share = (along / length.clamp(min=1e-6)).clamp(0.0, MOST_SHARE)
    gain = share * along - 0.5 * share.square() * length
    best = gain.topk(min(_STARTS, len(bank)), dim=1).indices
    if best.shape[1] < _STARTS:
        best = best[:, torch.arange(_STARTS) % best.shape[1]]
    return bank[best].transpose(0, 1)


def _fitted(
    model: Checkpoint,
    inputs: Inputs,
    first: Float[Tensor, "start star latent"],
    second: Float[Tensor, "start star latent"] | None,
) -> _Fit:
    """Latents, and the share of a second star, of the highest posterior density, by Adam from each start."""
    z1 = first.clone().requires_grad_()
    z2 = torch.zeros_like(first) if second is None else second.clone().requires_grad_()
    raw = torch.full(first.shape[:2], -1.0, requires_grad=second is not None)  # a share of 0.13
    optimiser = torch.optim.Adam([z1] if second is None else [z1, z2, raw], lr=_RATE)
    best = torch.full(first.shape[:2], -torch.inf)
    kept = [part.detach().clone() for part in (z1, z2, raw)]
    for _ in range(_STEPS):
        share = None if second is None else MOST_SHARE * torch.sigmoid(raw)
        value = _log_posterior(model, inputs, (z1, z2), share)
        better = value.detach() > best
        best = torch.where(better, value.detach(), best)
        for old, new in zip(kept, (z1, z2, raw), strict=True):
            old[better] = new.detach()[better]
        optimiser.zero_grad()
        (-value.sum()).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    highest, start = best.max(dim=0)
    rows = torch.arange(first.shape[1])
    z1, z2, raw = (part[start, rows][None] for part in kept)
    return _Fit(z1, z2, MOST_SHARE * torch.sigmoid(raw), highest[None])


def _log_posterior(
    model: Checkpoint, inputs: Inputs, z: tuple[Tensor, Tensor], share: Float[Tensor, "start star"] | None
) -> Float[Tensor, "start star"]:
    shape = (*z[0].shape[:2], -1)
    mean, scatter = model.network.decode(z[0].flatten(0, 1))
    variance, prior = scatter.square(), -0.5 * z[0].square().sum(dim=2)
    if share is not None:
        other, other_scatter = model.network.decode(z[1].flatten(0, 1))
        mean = mixed(mean, other, share.flatten())
        part = share.flatten()[:, None]
        variance = (1.0 - part).square() * variance + part.square() * other_scatter.square()
        prior = prior - 0.5 * z[1].square().sum(dim=2)
    variance = variance.reshape(shape) + inputs.errors.square()
    terms = (inputs.x - mean.reshape(shape)).square() / variance + variance.log()
    return prior - 0.5 * torch.where(torch.isfinite(inputs.errors), terms, 0.0).sum(dim=2)


def _features(gain: StarArray, g_mag: StarArray) -> Float64[np.ndarray, "star feature"]:
    level, g = np.log1p(gain), (g_mag - 15.0) / 3.0
    return np.column_stack([np.ones_like(g), level, level * g])


def _calibrated(one: StarArray, two: StarArray, g_mag: StarArray) -> Float64[np.ndarray, " feature"]:
    """Log odds of two stars against one as a function of the gain and G, at equal numbers: logistic regression."""
    x = np.concatenate([_features(one, g_mag), _features(two, g_mag)])
    sign = np.repeat([-1.0, 1.0], [len(one), len(two)])

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        margin = sign * (x @ weights)
        value = np.logaddexp(0.0, -margin).sum() + 0.5 * _RIDGE * np.square(weights).sum()
        return value, -x.T @ (sign * expit(-margin)) + _RIDGE * weights

    weights: np.ndarray = minimize(loss, np.zeros(x.shape[1]), jac=True, method="L-BFGS-B").x
    return weights
