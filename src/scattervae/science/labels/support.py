"""Which stars are like those that have labels: by distance in latents, and by a gap that no distance shows.

A kind of star that was never labelled can lie close beside labelled ones. What gives it away is the survey, all stars
that the model of spectra has seen: where it has many stars and hardly any labels, a kind is lacking.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from scipy.special import expit
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from scattervae.arrays import LabelArray, PerStar, StarArray, StarMask
from scattervae.model.checkpoint import Checkpoint, Encoded
from scattervae.model.network import Posterior, ScatterVAE, gaussian_terms
from scattervae.model.recipe import draw_degradation
from scattervae.science.labels.targets import LabelTensor, TargetLabels
from scattervae.science.labels.training import (
    LabelNetwork,
    LabelSettings,
    Schedule,
    descend,
    fitting,
    new_network,
    predict,
)
from scattervae.seeds import numpy_stream, stream
from scattervae.spectra.normalization import Inputs
from scattervae.spectra.spectra import Spectra

NEIGHBOURS = 10
RELIABLE_ABOVE = 0.01
MOST_STARS = 10_000

LatentArray = Float64[np.ndarray, "star latent"]


class LabelledVolume(NamedTuple):
    """The latents of labelled stars."""

    latents: LatentArray  # posterior means of at most `MOST_STARS` of them
    # from each to the tenth nearest of the others that have the label; NaN where it has not the label
    # itself
    distances: LabelArray
    widths: StarArray  # widths of the posteriors of all of them, in ascending order

    @classmethod
    def of(
        cls, posterior: Posterior, known: Bool[np.ndarray, "star label"], *, seed: int
    ) -> "LabelledVolume":
        """The volume of these stars.

        Args:
            posterior: Of labelled stars that can be encoded.
            known: Which labels each has; every label some star.
        """
        rows = np.sort(numpy_stream(seed, "volume").permutation(len(known))[:MOST_STARS])
        latents, known = _means(posterior)[rows], known[rows]
        distances = np.full(known.shape, np.nan)
        for columns, stars in _patterns(known):
            distance = _to_neighbour(latents[stars], latents[stars], itself=1)
            distances[np.ix_(stars, columns)] = distance[:, None]
        return cls(latents, distances, np.sort(widths_of(posterior)))

    def reliability(self, posterior: Posterior) -> LabelArray:
        r"""How ordinary a star's place is among the stars that have the label: 1 amid them, near 0 far away.

        .. math:: r = \frac{1 + \#\{i : d_i \ge d\}}{1 + n}

        d is the distance to the tenth nearest star with the label, d_i that of such a star to its own tenth
        neighbour. For a star drawn as the labelled ones are, r is uniform: it lies below 0.01 for one in a
        hundred. NaN for a star that could not be encoded, 0 where hardly any star has the label.

        Source:
            A conformal p-value: Vovk, Gammerman & Shafer (2005), sect. 2.2, with the distance of Ramaswamy et al.
            (2000), SIGMOD 29, 427.
        """
        means = _means(posterior)
        usable = np.isfinite(means).all(axis=1)
        reliability = np.full((len(means), self.distances.shape[1]), np.nan)
        for columns, stars in _patterns(np.isfinite(self.distances)):
            distance = _to_neighbour(self.latents[stars], means[usable], itself=0)
            share = _share_at_least(np.sort(self.distances[stars, columns[0]]), distance)
            reliability[np.ix_(usable, columns)] = np.where(np.isfinite(distance), share, 0.0)[:, None]
        return reliability

    def width_rank(self, posterior: Posterior) -> StarArray:
        """Share of labelled stars whose posterior is at least as wide: near 0 where little is known of a star."""
        widths = widths_of(posterior)
        ranks: StarArray = np.where(np.isfinite(widths), _share_at_least(self.widths, widths), np.nan)
        return ranks


def widths_of(posterior: Posterior) -> StarArray:
    """Root mean square over latents of the posterior's widths; 1 where nothing is known of a star."""
    widths: StarArray = posterior.variance.double().mean(dim=-1).sqrt().numpy()
    return widths


def _means(posterior: Posterior) -> LatentArray:
    means: LatentArray = posterior.mean.double().numpy()
    return means


def _patterns(known: Bool[np.ndarray, "star label"]) -> list[tuple[np.ndarray, StarMask]]:
    """Labels that the same stars have, with those stars."""
    patterns, which = np.unique(known, axis=1, return_inverse=True)
    which = which.reshape(-1)
    return [(np.flatnonzero(which == index), pattern) for index, pattern in enumerate(patterns.T)]


def _to_neighbour(
    stars: LatentArray, at: Float64[np.ndarray, "query latent"], *, itself: int
) -> Float64[np.ndarray, " query"]:
    """Distance from each of them to its tenth nearest star; infinite where there are fewer.

    Args:
        stars: Among which neighbours are looked for.
        itself: 1 where each is one of the stars, which is not its own neighbour.
    """
    from scipy.spatial import cKDTree

    distances: np.ndarray = cKDTree(stars).query(at, k=[NEIGHBOURS + itself])[0][:, 0]
    return distances


def _share_at_least(
    ascending: StarArray, values: Float64[np.ndarray, " value"]
) -> Float64[np.ndarray, " value"]:
    at_least = len(ascending) - np.searchsorted(ascending, values, side="left")
    share: np.ndarray = (1.0 + at_least) / (1.0 + len(ascending))
    return share


FEWEST_WITHOUT = 40
"""Stars without a label that it takes to learn what they are like."""
WIDENED_BY = 3.0
"""Half-widths that are added to an interval where all stars like this one are of a kind without the label: the least
whole number for which nine in ten stars of each hidden kind are flagged or held, on the validation fold."""
_STEPS = 1 / 3  # of those that labels take
_BATCH = 256
_NOISE_BINS = 4
_LARGEST_WEIGHT = 10.0
_NOISE_FACTORS = (3.0, 20.0)
_FAINT = 0.95
FEWEST_UNSEEN = 1000  # for a rank below `REPRODUCED_ABOVE`
MOST_JUDGED = 10_000  # stars whose chi^2 ranks that of others


class SurveyStars(NamedTuple):
    """The stars that a model of spectra was trained on, labelled or not."""

    inputs: Inputs
    known: Bool[Tensor, "star label"]  # which labels each has
    # reduced chi^2 under that model, of at most `MOST_JUDGED`, not trained on where there are enough such
    chi2: StarArray
    bands: tuple[int, int]  # coefficients of BP and of RP

    @staticmethod
    def of(
        model: Checkpoint,
        spectra: Spectra,
        rows: Int64[np.ndarray, " row"],
        known: TargetLabels,
        *,
        seed: int,
    ) -> "SurveyStars":
        """These rows, with their labels.

        Chi^2 is of usable stars that are not among them (of the test fold: their spectra, not their labels), where
        there are enough: of the demo's, eight times as many lie beyond a chi^2 of 3.6 as of those trained on.
        """
        normalization = model.normalization
        normalization.require_basis(spectra.basis)
        inputs = Inputs.empty(len(rows), normalization.n_coeffs)
        normalization.apply_to(spectra, rows, inputs, gaps=model.recipe.trains_on_one_band)
        unseen = np.flatnonzero(spectra.usable & ~np.isin(spectra.source_id, spectra.source_id[rows]))
        judged = unseen if len(unseen) >= FEWEST_UNSEEN else rows
        drawn = numpy_stream(seed, "survey chi2").permutation(len(judged))[:MOST_JUDGED]
        batches = model.encode_batches([spectra.take(judged[np.sort(drawn)])])
        chi2 = np.concatenate([np.empty(0), *(reduced_chi2(encoded) for encoded in batches)])
        bands = normalization.bp.stop, normalization.n_coeffs - normalization.bp.stop
        return SurveyStars(inputs, torch.from_numpy(np.isfinite(known.values)), chi2, bands)


def reduced_chi2(encoded: Encoded) -> StarArray:
    """At the posterior mean, over error and scatter."""
    mean, scatter = encoded.reconstruction
    terms = gaussian_terms(encoded.inputs.x, mean, encoded.inputs.errors.square() + scatter.square())
    chi2: StarArray = (terms.chi2 / terms.n_known).double().numpy()
    return chi2


class LabelSupport(NamedTuple):
    """What labelled stars look like beside the other stars of the survey.

    Attributes:
        networks: Each gives the log odds that a star has each label; none where hardly any star lacks one.
        log_odds: Of stars that have the label, by a network that has not seen them; NaN for others, and for labels
            that hardly any star lacks.
        chi2: As `SurveyStars` has it, ascending.
    """

    networks: tuple[LabelNetwork, ...]
    log_odds: LabelArray
    chi2: StarArray

    @classmethod
    def fit(
        cls,
        encoder: ScatterVAE,
        stars: SurveyStars,
        settings: LabelSettings,
        *,
        fold: Int64[np.ndarray, " star"],
        n_unseen: int,
    ) -> tuple["LabelSupport", LabelArray]:
        r"""Networks that separate stars with a label from those without, cross-fitted over folds of the survey.

        At the optimum the log odds are those of the densities of both in the space of spectra, so that no other flag of
        as many labelled stars finds more of the unlabelled ones.

        Args:
            fold: Of each star.
            n_unseen: In how many folds, from the first on, a network must not have seen what it judges.

        Returns:
            The networks, and what they multiply half-widths of each star's intervals by, of the first folds by a
            network that has not seen the star; 1 in the others.

        Source:
            Neyman & Pearson (1933), Phil. Trans. R. Soc. A 231, 289 (likelihood ratio); Sugiyama, Suzuki & Kanamori
            (2012), Density Ratio Estimation in Machine Learning, ch. 4 (by a classifier).
        """
        known = stars.known.numpy()
        has_enough = (~known).sum(axis=0) >= FEWEST_WITHOUT
        kept, widening = np.sort(stars.chi2), np.ones(known.shape)
        if not has_enough.any():
            return cls((), np.empty((0, known.shape[1])), kept), widening
        schedule = Schedule.of(len(known), settings)
        schedule = schedule._replace(
            steps=max(1, round(_STEPS * schedule.steps)), batch=min(_BATCH, len(known))
        )
        # each network leaves out a fold, or several where there are more networks of the labels
        left_out = np.where(fold < max(n_unseen, schedule.networks), fold % schedule.networks, -1)
        networks, log_odds = [], np.full(known.shape, np.nan)
        for index in range(schedule.networks):
            rows = (np.flatnonzero(left_out == index), np.flatnonzero(left_out != index))
            unseen, seen = (torch.from_numpy(some) for some in rows)
            network = _train(encoder, stars, settings, schedule, rows=seen, index=index)
            log_odds[rows[0]] = _log_odds([network], stars.inputs.take(unseen))
            networks.append(network)
        log_odds[:, ~has_enough] = np.nan
        here = left_out >= 0
        support = cls(tuple(networks), np.where(known, log_odds, np.nan)[here], kept)
        widening[here] = Supported(np.ones_like(log_odds[here]), support.hidden(log_odds[here])).widening
        return support, widening

    def judge(self, inputs: Inputs) -> "Supported":
        """How far stars of the survey that look like these have labels; NaN for those that could not be encoded."""
        n_labels = self.log_odds.shape[1]
        rank, hidden = np.ones((len(inputs), n_labels)), np.zeros((len(inputs), n_labels))
        if self.networks:
            log_odds = _log_odds(self.networks, inputs)
            hidden = self.hidden(log_odds)
            for label, column in enumerate(self.log_odds.T):
                if np.isfinite(column).any():
                    rank[:, label] = _share_at_most(column, log_odds[:, label])
        unusable = ~torch.isfinite(inputs.x).all(dim=1).numpy()[:, None]
        return Supported(np.where(unusable, np.nan, rank), np.where(unusable, np.nan, hidden))

    def hidden(self, log_odds: LabelArray) -> LabelArray:
        """`hidden_share` of each label, for stars of these log odds; 0 for a label that hardly any star lacks."""
        hidden = np.zeros(log_odds.shape)
        for label, column in enumerate(self.log_odds.T):
            if np.isfinite(column).any():
                hidden[:, label] = hidden_share(log_odds[:, label], usual=float(np.nanmedian(column)))
        return hidden

    def chi2_rank(self, chi2: StarArray) -> StarArray:
        """Share of stars that the model of spectra reproduces no better; NaN where chi^2 is."""
        return _share_at_most(-self.chi2, -chi2)


class Supported(NamedTuple):
    r"""What the survey says of some stars.

    Attributes:
        rank: Share of stars with the label that look no more like labelled ones than this star does,
            :math:`(1 + \#\{i : l_i \le l\}) / (1 + n)`. Uniform between 0 and 1 for stars drawn as those with the label
            were; 1 for a label that hardly any star of the survey lacks.
        hidden: Share of the survey's stars like this one that are of a kind without the label, as `hidden_share` has
            it; 0 for a label that hardly any star lacks.
    """

    rank: LabelArray
    hidden: LabelArray

    @property
    def widening(self) -> LabelArray:
        """What half-widths of intervals are multiplied by, from 1 to 4: room for labels that no labelled star has."""
        widening: LabelArray = 1.0 + WIDENED_BY * self.hidden
        return widening


def hidden_share(log_odds: StarArray, *, usual: float) -> StarArray:
    r"""Share of the stars in a place that are of a kind without the label.

    .. math:: h = \max\left(0, 1 - \frac{1 + e^{-l_0}}{1 + e^{-l}}\right)

    :math:`e^{-l}` stars without the label come on each star with it. In the usual place, of log odds :math:`l_0`, those
    without it merely happen to lack it, and everywhere as many come on each star that has it; the others are of a kind
    that lacks it.

    >>> hidden_share(np.array([2.0, 0.0, -2.0]), usual=9.0).round(2).tolist()
    [0.12, 0.5, 0.88]
    >>> hidden_share(np.array([0.0]), usual=0.0).tolist()
    [0.0]
    """
    share: StarArray = np.clip(1.0 - (1.0 + np.exp(-usual)) * expit(log_odds), 0.0, 1.0)
    return share


def _share_at_most(
    known: Float64[np.ndarray, " known"], values: Float64[np.ndarray, " value"]
) -> Float64[np.ndarray, " value"]:
    known = np.sort(known[np.isfinite(known)])
    share: np.ndarray = (1.0 + np.searchsorted(known, values, side="right")) / (1.0 + len(known))
    return np.where(np.isnan(values), np.nan, share)


def _log_odds(networks: Sequence[LabelNetwork], inputs: Inputs) -> LabelArray:
    """Averaged over the networks."""
    predicted = [predict(network, inputs.x, inputs.errors).mean.double().numpy() for network in networks]
    log_odds: LabelArray = np.mean(predicted, axis=0)
    return log_odds


def _train(
    encoder: ScatterVAE,
    stars: SurveyStars,
    settings: LabelSettings,
    schedule: Schedule,
    *,
    rows: Int64[Tensor, " row"],
    index: int,
) -> LabelNetwork:
    """One network; of each batch one half has labels, as far as there are stars of both sorts."""
    noise, draw = (stream(settings.seed, f"support {name}", index) for name in ("noise", "batches"))
    labelled = stars.known[rows].any(dim=1)
    sorts = [some for some in (rows[labelled], rows[~labelled]) if len(some)]
    n_each = schedule.batch // len(sorts)
    network = new_network(
        encoder, stars.known.shape[1], schedule, generator=stream(settings.seed, "support head", index)
    )
    noise_factor = float(np.clip(_noise_ratio(stars), *_NOISE_FACTORS))
    degradations = fitting(settings.degradation, network).model_copy(update={"noise_factor": noise_factor})

    def loss(_: int) -> Tensor:
        here = torch.cat([some[torch.randint(len(some), (n_each,), generator=draw)] for some in sorts])
        degradation = draw_degradation(degradations, len(here), stars.bands, noise)
        x, errors = degradation.apply(stars.inputs.x[here], stars.inputs.errors[here])
        return balanced_loss(network(x, errors).mean, stars.known[here], noise_level(errors))

    return descend(network, loss, settings, n_steps=schedule.steps, trunk_rate=settings.trunk_rate(index))


def noise_level(errors: Tensor) -> PerStar:
    """Log of the median error of each star's coefficients."""
    level: Tensor = errors.median(dim=1).values.log()
    return level


def _noise_ratio(stars: SurveyStars) -> float:
    """How much noisier faint stars of the survey are than a labelled one."""
    level = noise_level(stars.inputs.errors)
    usual = level[stars.known.any(dim=1)].median()
    return float((level.sort().values[int(_FAINT * (len(level) - 1))] - usual).exp())


def balanced_loss(log_odds: LabelTensor, known: Bool[Tensor, "star label"], level: PerStar) -> Tensor:
    """Cross-entropy with stars that have the label and others weighing the same at each level of noise.

    Labelled stars are brighter than others; without the weights, faint would be enough to look unlabelled.
    """
    order = level.argsort().argsort()
    bins = nn.functional.one_hot(order * _NOISE_BINS // len(level), _NOISE_BINS).float()
    truth = known.float()
    weights = torch.zeros_like(truth)
    for having in (truth, 1.0 - truth):
        n_here = bins.T @ having
        weights += having * (bins @ (bins.sum(dim=0)[:, None] / (2.0 * n_here.clamp(min=1.0))))
    weights = weights.clamp(max=_LARGEST_WEIGHT)
    return binary_cross_entropy_with_logits(log_odds, truth, weight=weights)
