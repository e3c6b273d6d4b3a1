"""More like these: stars ranked by how much likelier their spectra are among some examples than among all stars.

A star's spectrum is taken in two parts: its latents, and what the model leaves of it. For each the density of stars
like the examples is compared with that of all stars. The uncertainty of each star's latents widens the first; the
second is empirical Bayes, and adds nothing where the examples share no more than noise.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Float64, Int64, UInt64
from scipy.spatial import KDTree
from scipy.special import gammaln
from scipy.stats import norm
from scipy.stats import t as student_t

from scattervae.arrays import SourceIds, StarArray
from scattervae.errors import DataError, counted
from scattervae.gaia.files.reading import read_ids_file
from scattervae.gaia.reading import load, load_chunks
from scattervae.model.checkpoint import Checkpoint
from scattervae.science.star_parts import Features, source_chunks
from scattervae.spectra.spectra import Spectra
from scattervae.spectra.tables import result_table

NOTE = "scattervae.similar"
MOST_EXAMPLES = 1000
FEWEST_FOR_PURITY, FEWEST_STARS = 5, 100
MOST_SAMPLED = 5000
"""Stars that stand for all in densities: as many as possible, drawn by a hash of their source_id."""
_SHARE_NEAR = 0.02  # of them that lie within the distance by which their density is measured
_SPREAD = 0.25  # of a group beside all stars, in each latent: what is taken for usual before any example
_SPREAD_WORTH = 20  # examples that this is worth
_CAP = 2.0  # chi^2 over the usual one above which a star's residuals are scaled down
_RIDGE = 0.05  # of the variance of a residual
_TAIL = 4.0  # degrees of freedom of the residuals of all stars along a direction
_MAD = 1.4826 * 0.85  # from the median absolute deviation to the scale of that distribution
_SIGNIFICANT = 3.0  # standard deviations of a mean of squares
_APART = 2.0  # standard deviations of the examples from 0, along what they share
_LEFT_OUT, _NEAREST = 100, 16  # examples that are left out in turn; that are looked at for the nearest

Source = str | Path | Spectra


class Likeness(NamedTuple):
    """ln of how much denser stars like the examples lie than all stars, where a star is [nat]."""

    latents: StarArray  # by where the star lies in the latents
    residuals: StarArray  # by what the model leaves of its spectrum

    @property
    def total(self) -> StarArray:
        """Both together."""
        return np.asarray(self.latents + self.residuals)


@dataclass(frozen=True)
class Population:
    """What all stars are like, as a sample of them shows it."""

    tree: KDTree  # of the latents of the sample
    variance: Float64[np.ndarray, " latent"]
    usual_chi2: float  # the sample's median mean squared residual
    centre: Float64[np.ndarray, " coeff"]  # mean of the residuals
    root: Float64[np.ndarray, "coeff coeff"]  # Cholesky factor of their covariance
    residuals: Float64[np.ndarray, "sample coeff"]  # of the sample, whitened

    @staticmethod
    def of(sample: Features) -> "Population":
        """The population that these stars are drawn from."""
        chi2 = np.square(sample.residuals).mean(axis=1)
        usual = max(float(np.median(chi2)), 1e-6)
        ordinary = sample.take(chi2 <= np.quantile(chi2, 0.95))
        bounded = _bounded(ordinary.residuals, usual)
        ridge = _RIDGE * usual * np.eye(bounded.shape[1])
        covariance = np.cov(bounded.T) if len(bounded) > 1 else np.zeros_like(ridge)
        root = np.linalg.cholesky(covariance + ridge)
        variance = sample.latents.var(axis=0) + 1e-12
        centre = bounded.mean(axis=0)
        residuals = np.linalg.solve(root, (_bounded(sample.residuals, usual) - centre).T).T
        return Population(KDTree(sample.latents), variance, usual, centre, root, residuals)

    def log_density(self, latents: Float64[np.ndarray, "star latent"]) -> StarArray:
        r"""ln of the density of stars, :math:`k / (n V d^L)` with the distance d to the k-th nearest of n.

        Source:
            Loftsgaarden & Quesenberry (1965), Ann. Math. Stat. 36, 1049.
        """
        n, n_latent = self.tree.n, latents.shape[1]
        k = max(1, round(_SHARE_NEAR * n))
        distance = self.tree.query(latents, k=[k])[0][:, 0]
        volume = 0.5 * n_latent * np.log(np.pi) - gammaln(0.5 * n_latent + 1.0)
        density: StarArray = np.log(k / n) - volume - n_latent * np.log(np.maximum(distance, 1e-3))
        return density

    def whitened(self, residuals: Float64[np.ndarray, "star coeff"]) -> Float64[np.ndarray, "star coeff"]:
        """Residuals that are independent and of variance 1 in ordinary stars; those of odd stars bounded."""
        off = _bounded(residuals, self.usual_chi2) - self.centre
        whitened: np.ndarray = np.linalg.solve(self.root, off.T).T
        return whitened


@dataclass(frozen=True)
class Group:
    """The examples, as the stars like them are taken to lie: a Gaussian in latents, and one along a shared residual."""

    population: Population
    centre: Float64[np.ndarray, " latent"]  # mean of the examples' latents
    covariance: Float64[np.ndarray, "latent latent"]  # of stars like them, and of that mean
    shared: Float64[np.ndarray, " coeff"]  # unit direction of the residuals that examples share; 0 for noise
    along: tuple[float, float]  # mean and standard deviation of residuals along it

    @staticmethod
    def of(examples: Features, population: Population) -> "Group":
        r"""The group of these examples, its covariance shrunk towards a quarter of the population's spread.

        Residuals have something in common where their mean exceeds its noise, :math:`\overline{\bar r_i^2} >
        (1 + 3 \sqrt{2 / n}) / k` over n of k examples, and each example lies far along the mean of the others.

        Source:
            Efron & Morris (1973), JASA 68, 117, for shrinking; Bovy, Hogg & Roweis (2011), arXiv:0905.2979, for a
            Gaussian widened by each star's own uncertainty.
        """
        k, centre = len(examples), examples.latents.mean(axis=0)
        off = examples.latents - centre
        prior = np.diag(_SPREAD**2 * population.variance)
        spread = (off.T @ off + _SPREAD_WORTH * prior) / (k - 1 + _SPREAD_WORTH)
        residuals = population.whitened(examples.residuals)
        mean = residuals.mean(axis=0)
        signal = np.square(mean).mean() - (1.0 + _SIGNIFICANT * np.sqrt(2.0 / len(mean))) / k
        shared, along = np.zeros(len(mean)), (0.0, 1.0)
        if signal > 0:
            shared = mean / np.linalg.norm(mean)
            others = (k * mean - residuals) / max(k - 1, 1)
            at = (
                (residuals * others).sum(axis=1) / np.linalg.norm(others, axis=1)
                if k > 1
                else residuals @ shared
            )
            variance = (np.square(at - at.mean()).sum() + _SPREAD_WORTH) / (k - 1 + _SPREAD_WORTH)
            along = float(at.mean()), float(np.sqrt(variance * (1.0 + 1.0 / k)))
            shared *= along[0] > _APART * along[1]  # nearly every example has it
        return Group(population, centre, spread * (1.0 + 1.0 / k), shared, along)

    def likeness(self, stars: Features) -> Likeness:
        """How much likelier these stars are in the group than among all."""
        covariance = self.covariance + stars.covariance
        root = np.linalg.cholesky(covariance)
        scaled = np.linalg.solve(root, (stars.latents - self.centre)[:, :, None])[:, :, 0]
        log_root = np.log(np.diagonal(root, axis1=1, axis2=2)).sum(axis=1)
        constant = 0.5 * scaled.shape[1] * np.log(2.0 * np.pi)
        here = -0.5 * np.square(scaled).sum(axis=1) - log_root - constant
        by_residuals = np.zeros(len(stars))
        if self.shared.any():
            at = self.population.whitened(stars.residuals) @ self.shared
            usual = self.population.residuals @ self.shared
            middle = np.median(usual)
            width = _MAD * np.median(np.abs(usual - middle))
            by_residuals = norm(*self.along).logpdf(at) - student_t(_TAIL, middle, width).logpdf(at)
        return Likeness(here - self.population.log_density(stars.latents), by_residuals)


class Ranked(NamedTuple):
    """The stars most like the examples, the likeliest first."""

    stars: Features
    likeness: Likeness  # what they are ranked by
    purity: StarArray  # of stars like the examples down to each, at most; NaN for fewer than five examples
    n_compared: int  # stars that were ranked


def rank_features(
    examples: Features,
    population: Population,
    stars: Iterable[Features],
    *,
    number: int,
    progress: Callable[[int], None] = lambda _: None,
) -> Ranked:
    """The `number` stars most like the examples, which are not among them; memory does not grow with the stars.

    Args:
        examples: What is looked for.
        population: All stars.
        stars: The stars, in chunks.
        number: How many to give.
        progress: Called after each chunk with its number of stars.
    """
    group = Group.of(examples, population)
    thresholds = _left_out(examples, population)
    above, n_compared = np.zeros(len(thresholds), dtype=np.int64), 0
    best, best_likeness = examples.take(np.arange(0)), Likeness(np.empty(0), np.empty(0))
    for chunk in stars:
        others = chunk.take(~np.isin(chunk.source_id, examples.source_id))
        likeness = group.likeness(others)
        above += len(others) - np.searchsorted(np.sort(likeness.total), thresholds)
        n_compared += len(others)
        both = Features.concatenate([best, others])
        likeness = Likeness(*map(np.concatenate, zip(best_likeness, likeness, strict=True)))
        first = np.lexsort((both.source_id, -likeness.total))[:number]
        best, best_likeness = both.take(first), Likeness(*(part[first] for part in likeness))
        progress(len(chunk))
    purity = _purity(best_likeness.total, thresholds, above, n_compared)
    return Ranked(best, best_likeness, purity, n_compared)


def _left_out(examples: Features, population: Population) -> StarArray:
    """Likeness of examples to the others, falling: what a star of their kind that is not among them would have."""
    if len(examples) < FEWEST_FOR_PURITY:
        return np.empty(0)
    rows = np.linspace(0, len(examples) - 1, min(len(examples), _LEFT_OUT)).round().astype(int)
    found = [
        Group.of(examples.take(np.delete(np.arange(len(examples)), row)), population)
        .likeness(examples.take(np.array([row])))
        .total[0]
        for row in rows
    ]
    return np.sort(found)[::-1]


def _purity(
    values: StarArray,
    thresholds: Float64[np.ndarray, " threshold"],
    above: Int64[np.ndarray, " threshold"],
    n_compared: int,
) -> StarArray:
    r"""Share of stars like the examples among those ranked as high: :math:`\pi F_1(t) / F(t)`.

    F is the share of all stars above t, F_1 that of examples left out. Of all shares :math:`\pi` of the kind among the
    stars that agree with both, the largest is taken, so that this is an upper bound.

    Source:
        Blanchard, Lee & Scott (2010), JMLR 11, 2973, sect. 5 (the proportion, and that no more can be known of it).
    """
    if not len(thresholds):
        return np.full(len(values), np.nan)
    share = np.arange(1, len(thresholds) + 1) / len(thresholds)
    all_above = np.maximum(above, 1) / max(n_compared, 1)
    proportion = np.min((all_above / share)[len(share) // 2 :])
    at_threshold = np.minimum(proportion * share / all_above, 1.0)
    here = np.searchsorted(-thresholds, -values, side="right") / len(thresholds)
    own = np.minimum(proportion * here * n_compared / np.arange(1, len(values) + 1), 1.0)
    below = np.append(at_threshold, 0.0)[np.searchsorted(-thresholds, -values)]
    purity: StarArray = np.maximum.accumulate(np.maximum(own, below)[::-1])[::-1]
    return purity  # what is ranked higher is no less pure


def similar(
    model: Checkpoint,
    stars: Source,
    like: Source | Sequence[int],
    *,
    number: int = 1000,
    progress: Callable[[int], None] = lambda _: None,
) -> pa.Table:
    """The stars most like some examples, the likeliest first, with units and descriptions.

    All stars are read twice, in chunks, so that a store may be of any size.

    Args:
        model: A trained model.
        stars: A store, a file of spectra, or stars in memory.
        like: 1 to 1,000 examples: their source_ids, which are looked up among the stars; a file that lists them; or
            their spectra, as a file, store or in memory.
        number: How many stars to give.
        progress: Called after each chunk with its number of stars, in the second reading.

    Raises:
        DataError: There are no examples, or over 1,000; one is no source_id, not among the stars, or not encodable;
            or the stars are of another basis.

    Example:
        >>> import scattervae as sv
        >>> examples = sv.read("stars.csv.gz").spectra.source_id[:3].tolist()
        >>> table = sv.similar(sv.load_model("model"), "store", examples, number=5)
        >>> len(table), table.column_names[0]
        (5, 'source_id')
    """
    ids = _ids_of(like)
    sample, found = _sampled(model, stars, ids)
    if ids is None:
        found = like if isinstance(like, Spectra) else load(like, basis=model.normalization.basis).spectra
    examples = _examples(model, found, ids)
    population = Population.of(Features.concatenate(list(Features.of(model, [sample]))))
    features = Features.of(model, source_chunks(model, stars))
    ranked = rank_features(examples, population, features, number=number, progress=progress)
    return _table(model, ranked, examples)


def _ids_of(like: Source | Sequence[int]) -> SourceIds | None:
    """The identifiers that are given, or that a file without spectra lists; None where there are spectra."""
    if isinstance(like, Spectra) or (isinstance(like, str | Path) and Path(like).is_dir()):
        return None
    if not isinstance(like, str | Path):
        if wrong := [i for i in like if not 0 < i < 2**63]:
            raise DataError(f"example {wrong[0]} is no source_id; expected a whole number from 1 to 2^63 - 1")
        return np.unique(np.asarray(like, dtype=np.int64))
    try:
        next(iter(load_chunks(like)), None)
    except DataError:
        return np.unique(read_ids_file(like))
    return None


def _sampled(model: Checkpoint, stars: Source, ids: SourceIds | None) -> tuple[Spectra, Spectra]:
    """A sample of the stars, by a hash of their source_ids, and those of these identifiers; refuses too few."""
    sample: Spectra | None = None
    found: list[Spectra] = []
    for chunk in source_chunks(model, stars):
        if ids is not None or not found:
            found.append(chunk.take(np.flatnonzero(np.isin(chunk.source_id, [] if ids is None else ids))))
        usable = chunk.take(np.flatnonzero(model.usable(chunk)))
        both = usable if sample is None else Spectra.concatenate([sample, usable])
        sample = both.take(np.sort(np.argsort(_hash(both.source_id), kind="stable")[:MOST_SAMPLED]))
    if sample is None or len(sample) < FEWEST_STARS:
        n = 0 if sample is None else len(sample)
        raise DataError(
            f"{counted(n, 'encodable star')} to rank; at least {FEWEST_STARS} are needed: give more"
        )
    return sample, Spectra.concatenate(found)


def _hash(source_id: SourceIds) -> UInt64[np.ndarray, " star"]:
    """A random order of the stars, which adding others does not change.

    Source:
        Steele, Lea & Flood (2014), OOPSLA, 453: the mixer of SplitMix64, with Stafford's constants.
    """
    mixed: np.ndarray = source_id.astype(np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)
    return mixed


def _bounded(
    residuals: Float64[np.ndarray, "star coeff"], usual_chi2: float
) -> Float64[np.ndarray, "star coeff"]:
    """The same residuals, scaled down in stars that are reproduced much worse than usual."""
    chi2 = np.square(residuals).mean(axis=1, keepdims=True)
    bounded: np.ndarray = residuals / np.sqrt(np.maximum(chi2 / (_CAP * usual_chi2), 1.0))
    return bounded


def _examples(model: Checkpoint, spectra: Spectra, ids: SourceIds | None) -> Features:
    """The features of the examples, each star once; refuses none or too many, and one that cannot be encoded."""
    wanted = np.unique(spectra.source_id) if ids is None else ids
    if not 1 <= len(wanted) <= MOST_EXAMPLES:
        raise DataError(f"{counted(len(wanted), 'example')}; expected 1 to {MOST_EXAMPLES:,}")
    parts = list(Features.of(model, [spectra]))
    examples = Features.concatenate(parts) if parts else None
    known = np.empty(0, dtype=np.int64) if examples is None else examples.source_id
    lost = np.setdiff1d(wanted, known)
    if examples is None or len(lost):
        where = "cannot be encoded" if np.isin(lost[0], spectra.source_id) else "is not among the stars"
        raise DataError(f"example {lost[0]} {where}; leave it out, or give its spectrum in a file")
    return examples.take(np.unique(examples.source_id, return_index=True)[1])


def _table(model: Checkpoint, ranked: Ranked, examples: Features) -> pa.Table:
    """One row a star, with units and descriptions."""
    stars = ranked.stars
    near = KDTree(examples.latents).query(stars.latents, k=min(_NEAREST, len(examples)))[1]
    near = near.reshape(len(stars), -1)
    own, others = (np.diagonal(s.covariance, axis1=1, axis2=2) for s in (stars, examples))
    squares = np.square(stars.latents[:, None] - examples.latents[near]) / (own[:, None] + others[near])
    distances = np.sqrt(squares.mean(axis=2))
    rows = np.arange(len(stars)), np.argmin(distances, axis=1)
    ratio = "ln of how much denser stars like the examples lie than all stars"
    columns = {
        "source_id": ("", "Gaia source identifier", stars.source_id),
        "g_mag": ("mag", "G magnitude", stars.g_mag),
        "likeness": ("nat", f"{ratio}, at this spectrum", ranked.likeness.total),
        "likeness_latents": ("nat", f"{ratio}: by its latents", ranked.likeness.latents),
        "likeness_residuals": ("nat", f"{ratio}: by what the model leaves of it", ranked.likeness.residuals),
        "purity": ("", "share of stars like the examples down to this rank, at most", ranked.purity),
        "nearest_example": ("", "source_id of the nearest example", examples.source_id[near[rows]]),
        "distance": ("", "to it: root mean square over latents, in units of both widths", distances[rows]),
    }
    about = {"n_compared": ranked.n_compared, "examples": [*map(str, examples.source_id)]}
    return result_table(columns, {NOTE: json.dumps(model.about | about)})
