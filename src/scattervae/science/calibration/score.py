"""A score of how well a star is reproduced that means the same for bright stars and faint ones.

Chi^2 at the posterior mean is no chi-squared variable: the star's noise chose the mean, the more of it the
better the latents are known. What it would be if the model were true is fitted once to simulated stars. Published
errors are not true either, by an amount that jumps with G, where the instrument changes its windows and gates: how
real stars differ from simulated ones is fitted to stars outside training.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from scattervae.arrays import Coeffs, PerStar, StarArray, StarMask
from scattervae.gaia.basis import g_mag_of
from scattervae.model.network import GaussianTerms, Posterior, Reconstruction, gaussian_terms
from scattervae.seeds import stream
from scattervae.spectra.columns import StoredSpectra
from scattervae.spectra.normalization import Inputs, Normalization
from scattervae.spectra.spectra import Flag, Spectra

WIDTH = 48
_N_QUANTILES = 401
_BATCH = 1024
_EPOCHS = 40
_LEARNING_RATE = 3e-3
_SMALLEST = 1e-6
_PER_KNOT, _FEWEST_KNOTS = (
    100,
    5,
)  # real stars at each G; chosen by cross-validation within the validation fold
FEWEST_OBSERVED = 100
"""Of fewer real stars of a kind nothing is fitted: simulated stars alone decide."""

_LIMIT = 0.99  # share of simulated stars: where there are fewer, mean and spread are guesses that grow without bound

Features = Float[Tensor, "star feature"]


class ScoreInputs(NamedTuple):
    """What the score is computed from."""

    # cube root of chi^2 per coefficient: near to Gaussian (Wilson & Hilferty 1931, PNAS 17, 684)
    statistic: PerStar
    # what its distribution under the model depends on: latents, their widths, errors and scatter
    features: Features


class ScoreMap(NamedTuple):
    r"""From chi^2 to the share of stars of this model with these errors that fit worse.

    .. math:: \mathrm{score} = 1 - Q\left[ \frac{t - a(f)}{b(f)} \right], \quad t = (\chi^2 / N)^{1/3}

    with a and b small networks of the features f, and Q the distribution of simulated stars.
    """

    centre: Float[Tensor, " feature"]  # mean of each feature
    scale: Float[Tensor, " feature"]  # standard deviation of each feature
    # weights of the first layer, those of a constant last
    first: Float[Tensor, "width feature_and_one"]
    second: Float[Tensor, "width width_and_one"]  # of the second
    last: Float[Tensor, "two width_and_one"]  # to a and ln b
    # of the standardised statistic, at equal steps of probability from 0 to 1
    quantiles: Float[Tensor, " quantile"]
    # the largest a and ln b, beyond which the networks only extrapolate; calibrations of old have none
    limits: Float[Tensor, " two"] = torch.tensor([torch.inf, torch.inf])

    def __call__(self, inputs: ScoreInputs) -> PerStar:
        """Between 0 and 1; uniform over stars that the model makes, near 0 for a star unlike them."""
        return self.share_above(self.standardised(inputs))

    def share_above(self, u: PerStar) -> PerStar:
        """The share of the model's stars whose standardised statistic is larger than each of these."""
        n = len(self.quantiles)
        right = torch.searchsorted(self.quantiles, u.contiguous()).clamp(1, n - 1)
        low, high = self.quantiles[right - 1], self.quantiles[right]
        part = ((u - low) / (high - low).clamp(min=_SMALLEST)).clamp(0.0, 1.0)
        below = (right - 1 + part) / (n - 1)
        return (1.0 - below).masked_fill(u.isnan(), torch.nan)

    def standardised(self, inputs: ScoreInputs) -> PerStar:
        """The statistic less its mean over its spread under the model."""
        mean, log_spread = self.moments(inputs.features).minimum(self.limits).T
        u: PerStar = (inputs.statistic - mean) * (-log_spread).exp()
        return u

    def moments(self, features: Features) -> Float[Tensor, "star two"]:
        """Mean a of the statistic under the model, and the logarithm of its spread b."""
        h = (features - self.centre) / self.scale
        for layer in (self.first, self.second):
            h = nn.functional.gelu(nn.functional.linear(h, layer[:, :-1], layer[:, -1]))
        return nn.functional.linear(h, self.last[:, :-1], self.last[:, -1])

    def arrays(self) -> dict[str, Tensor]:
        """What is stored and hashed; limits only where there are any, as when there were none yet."""
        own = {name: values.cpu() for name, values in self._asdict().items()}
        if self.limits.isinf().all():
            del own["limits"]
        return own

    def to(self, device: torch.device) -> "ScoreMap":
        """The same on another device."""
        return ScoreMap(*(values.to(device) for values in self))


class ObservedScores(NamedTuple):
    r"""How real stars outside training differ from simulated ones: by G, for published and for inferred coefficients.

    .. math:: \mathrm{score} = 1 - Q_k\left[ \frac{u - m_k(G)}{s_k(G)} \right]

    with u the standardised statistic of a `ScoreMap`, m and s the median and half the 68 % range of stars of kind k
    near this G, linear between knots, and Q their distribution. A kind of which there were too few stars has NaN.
    """

    g_mag: Float[Tensor, "kind knot"]  # NaN after a kind's last knot
    middle: Float[Tensor, "kind knot"]  # m
    spread: Float[Tensor, "kind knot"]  # s
    quantiles: Float[Tensor, "kind quantile"]  # of (u - m) / s, at equal steps of rank
    n_stars: Float[Tensor, " kind"]  # that it was fitted to

    @staticmethod
    def fit(standardised: StarArray, g_mag: StarArray, inferred: StarMask) -> "ObservedScores | None":
        """From real stars outside training; None where there are too few of either kind."""
        kinds = [
            _observe(standardised[here], g_mag[here]) if here.sum() >= FEWEST_OBSERVED else None
            for here in (~inferred, inferred)
        ]
        if all(kind is None for kind in kinds):
            return None
        n_knots = max(len(kind[0][0]) for kind in kinds if kind is not None)
        knots, quantiles = np.full((3, 2, n_knots), np.nan), np.full((2, _N_QUANTILES), np.nan)
        for row, kind in enumerate(kinds):
            if kind is not None:
                knots[:, row, : len(kind[0][0])], quantiles[row] = kind
        n_stars = np.array([(~inferred).sum(), inferred.sum()])
        return ObservedScores(*(torch.from_numpy(v).float() for v in (*knots, quantiles, n_stars)))

    def __call__(
        self, standardised: StarArray, g_mag: StarArray, inferred: StarMask, otherwise: StarArray
    ) -> StarArray:
        """The share of real stars of this kind and G that fit worse; of kinds with none, the score given."""
        scores = otherwise.copy()
        for row, here in enumerate((~inferred, inferred)):
            if self.quantiles[row].isnan().any():
                continue
            knots = torch.stack([self.g_mag[row], self.middle[row], self.spread[row]]).double().numpy()
            t = _centred(standardised[here], g_mag[here], knots)
            n, q = float(self.n_stars[row]), self.quantiles[row].double().numpy()
            above = 1.0 - np.interp(t, q, np.linspace(1.0, n, len(q)) / (n + 1.0))
            # beyond the worst and the best of them the share goes on falling, by e in one s
            above = np.where(t > q[-1], np.exp(q[-1] - np.maximum(t, q[-1])) / (n + 1.0), above)
            scores[here] = np.where(t < q[0], 1.0 - np.exp(np.minimum(t, q[0]) - q[0]) / (n + 1.0), above)
        return scores


def brightness_and_kind(stars: Spectra | StoredSpectra) -> tuple[StarArray, StarMask]:
    """What `ObservedScores` asks of stars: G [mag], and whether their coefficients are inferred."""
    return np.asarray(g_mag_of(stars.g_flux)), (stars.flags & np.uint16(Flag.INFERRED)) > 0


def _observe(u: StarArray, g_mag: StarArray) -> tuple[np.ndarray, np.ndarray]:
    """Knots (G, m and s) of stars of one kind, and the quantiles of what is left."""
    n_knots = max(_FEWEST_KNOTS, len(u) // _PER_KNOT)
    parts = np.array_split(np.argsort(g_mag, kind="stable"), n_knots)
    low, middle, high = np.array([np.quantile(u[rows], (0.16, 0.5, 0.84)) for rows in parts]).T
    at = np.array([np.median(g_mag[rows]) for rows in parts])
    knots = np.stack([at, middle, np.maximum((high - low) / 2, _SMALLEST)])
    return knots, np.quantile(_centred(u, g_mag, knots), np.linspace(0.0, 1.0, _N_QUANTILES))


def _centred(u: StarArray, g_mag: StarArray, knots: np.ndarray) -> StarArray:
    at, *values = knots[:, np.isfinite(knots[0])]
    middle, spread = (np.interp(g_mag, at, one) for one in values)
    centred: StarArray = (u - middle) / spread
    return centred


def score_inputs(
    inputs: Inputs, posterior: Posterior, reconstruction: Reconstruction, normalization: Normalization
) -> ScoreInputs:
    """What the score of these stars is computed from; missing coefficients have infinite errors."""
    variance = inputs.errors.square().addcmul_(reconstruction.scatter, reconstruction.scatter)
    terms = gaussian_terms(inputs.x, reconstruction.mean, variance)
    return score_inputs_of(terms, reconstruction.scatter.log10(), posterior, normalization)


def score_inputs_of(
    terms: GaussianTerms, log_scatter: Coeffs, posterior: Posterior, normalization: Normalization
) -> ScoreInputs:
    """The same from the likelihood and the decimal logarithm of the scatter, both already computed."""
    bands = normalization.bp, normalization.rp
    means = [values[:, band].mean(dim=1) for values in (log_scatter, terms.log_variance) for band in bands]
    features = torch.cat([posterior.mean, posterior.log_variance, torch.stack(means, dim=1)], dim=1)
    return ScoreInputs((terms.chi2 / terms.n_known).pow(1.0 / 3.0), features)


def fit_score(simulated: ScoreInputs, *, seed: int = 0) -> ScoreMap:
    """The map that makes the score of these simulated stars uniform, whatever their features.

    Args:
        simulated: Stars made by the model and encoded again; a few ten thousand.
    """
    generator = stream(seed, "score")
    centre, scale = simulated.features.mean(dim=0), simulated.features.std(dim=0).clamp(min=_SMALLEST)
    begin, spread = simulated.statistic.mean(), simulated.statistic.std().clamp(min=_SMALLEST)
    n = simulated.features.shape[1]
    weights = [
        _weights(WIDTH, n, generator),
        _weights(WIDTH, WIDTH, generator),
        torch.zeros(2, WIDTH + 1),
    ]
    for layer in weights:
        layer.requires_grad = True
    optimizer = torch.optim.AdamW(weights, lr=_LEARNING_RATE, weight_decay=1e-3)
    steps = _EPOCHS * math.ceil(len(simulated.statistic) / _BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    unit = (simulated.statistic - begin) / spread
    first, second, last = weights
    learning = ScoreMap(centre, scale, first, second, last, torch.zeros(2))
    for _ in range(_EPOCHS):
        for rows in torch.split(torch.randperm(len(unit), generator=generator), _BATCH):
            mean, log_spread = learning.moments(simulated.features[rows]).T
            u = (unit[rows] - mean) * (-log_spread).exp()
            loss = (0.5 * u.square() + log_spread).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    first, second, last = (layer.detach() for layer in weights)
    last = last.clone()
    last[0] *= spread  # back to the statistic's own units
    last[0, -1] += begin
    last[1, -1] += spread.log()
    fitted = ScoreMap(centre, scale, first, second, last, torch.zeros(2))
    largest = fitted.moments(simulated.features).double().quantile(_LIMIT, dim=0).float()
    fitted = fitted._replace(limits=largest)
    u = fitted.standardised(simulated)
    steps_of_one = torch.linspace(0.0, 1.0, _N_QUANTILES, dtype=torch.float64)
    return fitted._replace(quantiles=u.double().quantile(steps_of_one).float())


def _weights(n_out: int, n_in: int, generator: torch.Generator) -> Tensor:
    weights = torch.randn(n_out, n_in + 1, generator=generator) / math.sqrt(n_in)
    weights[:, -1] = 0.0
    return weights
