"""Which stars are set against which: two groups as they are, or one-to-one at like covariates.

Rows come in the order of source_id, so that nothing computed from them depends on the order of the stars.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64
from scipy.spatial import KDTree

from scattervae.arrays import SourceIds, StarArray, StarMask
from scattervae.errors import DataError, counted
from scattervae.gaia.basis import g_mag_of
from scattervae.spectra.spectra import Spectra
from scattervae.spectra.star_tables import LABEL_NAMES, LABEL_UNITS, StellarLabels

FEWEST = 10  # stars a group: with fewer, sign flips cannot reach p = 0.05 over several quantities
G_MAG = "g_mag"
COLOUR_PROXY = "bp1_rp1"
COVARIATE_UNITS = {**LABEL_UNITS, G_MAG: "mag", COLOUR_PROXY: "mag"}

_NO_SPREAD = 1e-10  # smallest eigenvalue of a correlation matrix that is not rounding

CALIPER = 0.25  # standard deviations within the groups

Rows = Int64[np.ndarray, " row"]
PerCovariate = Float64[np.ndarray, " covariate"]


@dataclass(frozen=True)
class Groups:
    """Two groups of stars, as rows of one table; row i of A is matched with row i of B where `paired`."""

    rows_a: Int64[np.ndarray, " a"]
    rows_b: Int64[np.ndarray, " b"]
    paired: bool


@dataclass(frozen=True)
class Covariates:
    """What stars may be matched on; a row of NaN where a star cannot be used. Units are in `COVARIATE_UNITS`."""

    source_id: SourceIds
    names: tuple[str, ...]
    values: Float64[np.ndarray, "star covariate"]


@dataclass(frozen=True)
class Balance:
    """How alike two groups are in each covariate; below 0.1 is commonly called balanced.

    Source:
        Stuart (2010), Statistical Science 25, 1, sect. 3.1 (bounds) and 4.1 (the same divisor twice).
    """

    names: tuple[str, ...]
    before: PerCovariate  # standardised mean differences, A less B, of all stars that have covariates
    after: PerCovariate  # the same of the pairs, divided by the same standard deviations
    median_gap: PerCovariate  # median absolute difference within a pair, in the covariate's own unit


@dataclass(frozen=True)
class Matched:
    """Pairs of stars with like covariates, and the stars that found no partner."""

    groups: Groups  # the pairs; no star is in two
    n_unmatched_a: int  # stars of A with covariates and without a partner within the caliper
    n_unmatched_b: int  # the same of B
    n_incomplete: int  # stars of both groups that lack a covariate or cannot be used
    balance: Balance  # how alike the groups were and are

    @property
    def n_pairs(self) -> int:
        return len(self.groups.rows_a)


def groups_of(spectra: Spectra, in_a: StarMask, in_b: StarMask) -> Groups:
    """The usable stars of two groups as they are, not matched.

    Raises:
        DataError: A star is in both groups, or a group has fewer than ten usable stars.
    """
    rows_a, rows_b = _rows(spectra.source_id, in_a & spectra.usable, in_b & spectra.usable)
    return Groups(rows_a, rows_b, paired=False)


def covariates_of(spectra: Spectra, labels: StellarLabels, names: Sequence[str]) -> Covariates:
    r"""The named covariates of each star, NaN where the star is not usable or has no such label.

    Labels go by their names. ``g_mag`` is the G magnitude. ``bp1_rp1`` is a colour from the first coefficient
    of each band, a proxy of BP - RP and not that colour:

    .. math:: -2.5 \log_{10} (c_{\mathrm{BP},1} / c_{\mathrm{RP},1})

    Raises:
        DataError: Another name, or none.
    """
    unknown = [name for name in names if name not in COVARIATE_UNITS]
    if unknown or not names:
        raise DataError(f"no covariate {', '.join(unknown)}; choose of {', '.join(COVARIATE_UNITS)}")
    aligned = labels.aligned_to(spectra.source_id)
    columns = [aligned[name] if name in LABEL_NAMES else _photometry(spectra, name) for name in names]
    values = np.where(spectra.usable[:, None], np.stack(columns, axis=1), np.nan)
    return Covariates(spectra.source_id, tuple(names), values)


def match(covariates: Covariates, in_a: StarMask, in_b: StarMask, *, caliper: float = CALIPER) -> Matched:
    r"""Pairs of one star of each group, the closest first, without replacement.

    .. math:: d^2 = (x_a - x_b)^T S^{-1} (x_a - x_b) \le \mathrm{caliper}^2

    S is the covariance of the covariates within the groups, pooled. Errors of the covariates are not
    taken into account: stars are matched on what was measured.

    Raises:
        DataError: A star is in both groups, a covariate does not vary or follows from the others, or fewer
            than ten stars a group or ten pairs are left.

    Source:
        Rubin (1980), Biometrics 36, 293, for the distance; Austin (2011), Pharmaceutical Statistics 10, 150,
        for calipers near 0.2 standard deviations (there of one score, here of all covariates at once).
    """
    complete = np.isfinite(covariates.values).all(axis=1)
    rows_a, rows_b = _rows(covariates.source_id, in_a & complete, in_b & complete)
    x_a, x_b = covariates.values[rows_a], covariates.values[rows_b]
    whiten = _whitening(x_a, x_b, covariates.names)
    pairs = closest_pairs(x_a @ whiten, x_b @ whiten, caliper)
    if len(pairs) < FEWEST:
        raise DataError(
            f"{counted(len(pairs), 'pair')} within a caliper of {caliper} among {len(rows_a)} and {len(rows_b)} stars; "
            f"at least {FEWEST} are needed: widen the caliper, or match on fewer covariates than "
            f"{', '.join(covariates.names)}"
        )
    i, j = pairs.T
    spread = np.sqrt(0.5 * (x_a.var(axis=0, ddof=1) + x_b.var(axis=0, ddof=1)))
    return Matched(
        groups=Groups(rows_a[i], rows_b[j], paired=True),
        n_unmatched_a=len(rows_a) - len(pairs),
        n_unmatched_b=len(rows_b) - len(pairs),
        n_incomplete=int(((in_a | in_b) & ~complete).sum()),
        balance=Balance(
            names=covariates.names,
            before=(x_a.mean(axis=0) - x_b.mean(axis=0)) / spread,
            after=(x_a[i].mean(axis=0) - x_b[j].mean(axis=0)) / spread,
            median_gap=np.median(np.abs(x_a[i] - x_b[j]), axis=0),
        ),
    )


def closest_pairs(
    a: Float64[np.ndarray, "a covariate"], b: Float64[np.ndarray, "b covariate"], caliper: float
) -> Int64[np.ndarray, "pair 2"]:
    """Rows of `a` and `b` paired greedily, the closest pair of all first, in the order of `a`."""
    # Two points that are each other's nearest free neighbour are a pair of that greedy order, whatever comes
    # before it: all such pairs are taken at once, until none is left within the caliper
    free_a, free_b = np.arange(len(a)), np.arange(len(b))
    found = [np.empty((0, 2), dtype=np.int64)]
    while len(free_a) and len(free_b):
        distance, to_b = KDTree(b[free_b]).query(a[free_a], distance_upper_bound=caliper)
        within = np.isfinite(distance)
        free_a, distance, to_b = free_a[within], distance[within], to_b[within]  # the others never will be
        if len(free_a) == 0:
            break
        _, to_a = KDTree(a[free_a]).query(b[free_b])
        mutual = np.flatnonzero(to_a[to_b] == np.arange(len(free_a)))
        if len(mutual) == 0:  # equal distances went round in a circle
            mutual = np.array([np.argmin(distance)])
        found.append(np.stack([free_a[mutual], free_b[to_b[mutual]]], axis=1))
        free_b = np.delete(free_b, to_b[mutual])
        free_a = np.delete(free_a, mutual)
    pairs = np.concatenate(found)
    return pairs[np.argsort(pairs[:, 0])]


def _rows(source_id: SourceIds, in_a: StarMask, in_b: StarMask) -> tuple[Rows, Int64[np.ndarray, " other"]]:
    """Rows of both groups in the order of source_id."""
    n_both = len(np.intersect1d(source_id[in_a], source_id[in_b]))
    if n_both:
        raise DataError(f"{counted(n_both, 'star')} in both groups; a star can be in one")
    fewest = min(in_a.sum(), in_b.sum())
    if fewest < FEWEST:
        raise DataError(
            f"{in_a.sum()} and {in_b.sum()} usable stars in the groups; each needs at least {FEWEST}"
        )
    order = np.argsort(source_id, kind="stable")
    return order[in_a[order]], order[in_b[order]]


def _photometry(spectra: Spectra, name: str) -> StarArray:
    with np.errstate(invalid="ignore", divide="ignore"):
        if name == G_MAG:
            return np.asarray(g_mag_of(spectra.g_flux))
        ratio = spectra.coeffs[:, 0] / spectra.coeffs[:, spectra.basis.n_bp]
        return np.where(ratio > 0, -2.5 * np.log10(ratio), np.nan)


def _whitening(
    x_a: Float64[np.ndarray, "a covariate"], x_b: Float64[np.ndarray, "b covariate"], names: tuple[str, ...]
) -> Float64[np.ndarray, "covariate covariate"]:
    """What makes Mahalanobis distances Euclidean ones: the inverse root of the pooled covariance."""
    residuals = np.concatenate([x_a - x_a.mean(axis=0), x_b - x_b.mean(axis=0)])
    spread = residuals.std(axis=0)
    constant = [name for name, s in zip(names, spread, strict=True) if s == 0]
    if constant:
        raise DataError(f"{', '.join(constant)} is the same in all stars; do not match on it")
    values, vectors = np.linalg.eigh(np.atleast_2d(np.corrcoef(residuals.T)))
    if values[0] < _NO_SPREAD:
        raise DataError(f"one of {', '.join(names)} follows from the others; match without it")
    return np.asarray((vectors / np.sqrt(values)) / spread[:, None])
