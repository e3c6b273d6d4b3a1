r"""How much more of the latent space unlabelled stars occupy than labelled ones.

Laroche & Speagle (2023), sect. 3, third point, and fig. 3: :math:`\Delta V / V_{sup} \approx 30 \%` for a
million stars outside the cross-match, times 220 for all of Gaia. That number depends on how many stars are
counted and on the cells; here each pair of active latents, and all of them together, are compared at equal
numbers, over numbers and cells.

All sums are exact expectations over subsamples, so nothing is drawn at random. Intervals of overlaps are by the
jackknife over stars, whose variance is not too small on average (Efron & Stein 1981, Ann. Statist. 9, 586): with all
stars counted they are up to 1.6 times too wide, with half of them or fewer about right.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Float64
from pydantic import PositiveFloat, PositiveInt

from scattervae.arrays import StarMask
from scattervae.errors import DataError
from scattervae.science.latent_volume.richness import (
    RELIABLE_UP_TO,
    CellCounts,
    CellShares,
    Estimate,
    JointCounts,
    around,
    count_cells,
    occupied_chance,
    richness_at,
    seen_share,
)
from scattervae.settings import Settings
from scattervae.spectra.star_tables import StellarLabels

GIANT_BELOW_LOGG = 3.5


class VolumeSettings(Settings):
    """How volumes are counted; sides of cells are in prior standard deviations."""

    # side of a cell in a pair of latents. A quarter is 2 to 15 times the median posterior standard deviation of
    # an active latent (0.02 to 0.13 for the recipe ``elbo``): a star's own uncertainty does not spread over
    # several cells.
    pair_cell: PositiveFloat = 0.25
    # side of a cell in the space of all active latents, where nine of ten cells of a quarter hold no second
    # star of a thousand, and their number would be little but the number of stars
    full_cell: PositiveFloat = 1.0
    cells: tuple[PositiveFloat, ...] = (0.125, 0.25, 0.5, 1.0, 2.0)  # sides of the curve over cell sizes
    n_sizes: PositiveInt = 8  # points of the curve over the number of stars
    n_target: PositiveInt = 220_000_000  # number of stars that the paper extrapolates to: all of Gaia DR3


@dataclass(frozen=True)
class Overlap:
    r"""Two sets of stars on one grid, at given numbers of stars.

    The paper's "cover 30 % more" can be read two ways; both are here, relative to the volume that labelled stars
    occupy, :math:`V_{sup}`.
    """

    n_labelled: int  # stars of the labelled set that are counted
    new: Estimate  # volume occupied by unlabelled stars and not by labelled ones
    difference: Estimate  # :math:`(V_{unsup} - V_{sup}) / V_{sup}`; below 0 where the unlabelled occupy less
    # what `new` would be if the unlabelled stars were more stars of the labelled population; None beyond twice
    # the labelled stars
    new_by_size_alone: float | None
    share_new: Estimate  # share of the unlabelled stars that lie in no cell of the labelled ones


@dataclass(frozen=True)
class Extrapolation:
    """What the unlabelled set would add if it had `VolumeSettings.n_target` stars, over the labelled volume."""

    times_the_sample: float  # that number over the unlabelled stars at hand
    # the paper's: `new` of all stars at hand, times `times_the_sample`. Every star is taken to open as many new
    # cells as the first ones did.
    linear: float
    corrected: Estimate  # from the numbers of cells with one and with two stars. A lower bound.
    reliable: bool  # whether `times_the_sample` is within what the corrected one can be trusted for (2)


@dataclass(frozen=True)
class Projection:
    """Both sets in some of the latents."""

    latents: tuple[int, ...]  # which, counted from 0
    cell: float  # side of a cell
    as_given: Overlap  # all stars of both sets: the paper's comparison. Read it beside `new_by_size_alone`.
    equal_n: Overlap  # as many stars of each
    # whether at least half of either population lives in cells its stars have seen; volumes mean little more
    # than numbers of stars elsewhere
    resolved: bool
    extrapolation: Extrapolation  # to all of Gaia
    over_n: tuple[Overlap, ...]  # at equal numbers, from few to all of the smaller set
    over_cell: tuple[tuple[float, Overlap], ...]  # at equal numbers, over cell sizes: side and result


@dataclass(frozen=True)
class VolumeComparison:
    """The labelled and the unlabelled stars in every pair of active latents, and in all of them."""

    n_labelled: int  # stars of the labelled set with finite latents
    n_unlabelled: int  # the same of the unlabelled set
    settings: VolumeSettings  # how volumes were counted
    pairs: tuple[Projection, ...]  # every pair of active latents
    full: Projection  # all active latents
    selection: str | None = None  # what was taken for unlabelled, where no second set was given


@dataclass(frozen=True)
class StatedSelection:
    """Stars chosen by their labels: some count as labelled, others stand for unlabelled ones."""

    name: str
    labelled: StarMask
    unlabelled: StarMask


def stated_selections(labels: StellarLabels) -> tuple[StatedSelection, ...]:
    """Selections that stand for an unlabelled set where none is at hand; for illustration only.

    Giants are stars with log g below 3.5; a selection that leaves either side empty is not returned.
    """
    has_fe_h = np.isfinite(labels["fe_h"])
    giant, dwarf = labels["logg"] < GIANT_BELOW_LOGG, labels["logg"] >= GIANT_BELOW_LOGG
    selections = (
        StatedSelection("stars without [Fe/H] against those with it", has_fe_h, ~has_fe_h),
        StatedSelection(f"giants (log g < {GIANT_BELOW_LOGG}), masked, against dwarfs", dwarf, giant),
    )
    return tuple(s for s in selections if s.labelled.any() and s.unlabelled.any())


def compare_volumes(
    labelled: Float64[np.ndarray, "labelled latent"],
    unlabelled: Float64[np.ndarray, "unlabelled latent"],
    active: Sequence[int],
    *,
    settings: VolumeSettings | None = None,
    selection: str | None = None,
) -> VolumeComparison:
    """Both sets in every pair of active latents and in all of them; 40,000 stars of each take seconds.

    Args:
        labelled: Posterior means of stars with labels, all latents; rows with NaN are dropped.
        unlabelled: The same of stars without labels.
        active: Latents to use, counted from 0 (`Posterior.active_latents`).
        settings: Cells and sizes.
        selection: Says what `unlabelled` is where it is a selection of labelled stars: for illustration only.

    Raises:
        DataError: A set has no encoded star, or fewer than two latents are active.
    """
    settings = settings or VolumeSettings()
    active = tuple(sorted(active))
    if len(active) < 2:
        raise DataError(f"{len(active)} active latents: volumes need a pair; was the model collapsed?")
    sup, unsup = (z[np.isfinite(z).all(axis=1)] for z in (labelled, unlabelled))
    for name, z, encoded in (("labelled", labelled, sup), ("unlabelled", unlabelled, unsup)):
        if len(encoded) == 0:
            raise DataError(f"none of {len(z)} {name} stars could be encoded: there is no volume to compare")
    return VolumeComparison(
        n_labelled=len(sup),
        n_unlabelled=len(unsup),
        settings=settings,
        pairs=tuple(
            _project(sup, unsup, pair, cell=settings.pair_cell, settings=settings)
            for pair in combinations(active, 2)
        ),
        full=_project(sup, unsup, active, cell=settings.full_cell, settings=settings),
        selection=selection,
    )


def _project(
    labelled: Float64[np.ndarray, "labelled latent"],
    unlabelled: Float64[np.ndarray, "unlabelled latent"],
    latents: tuple[int, ...],
    *,
    cell: float,
    settings: VolumeSettings,
) -> Projection:
    sup, unsup = labelled[:, latents], unlabelled[:, latents]
    n = min(len(sup), len(unsup))
    counts = count_cells(sup, unsup, cell)
    sizes = sorted({max(1, round(m)) for m in np.geomspace(max(n / 100, 1), n, settings.n_sizes)})
    return Projection(
        latents=latents,
        cell=cell,
        as_given=overlap_at(counts, len(sup), len(unsup)),
        equal_n=overlap_at(counts, n, n),
        resolved=min(seen_share(counts.labelled), seen_share(counts.unlabelled)) >= 0.5,
        extrapolation=extrapolate(counts, settings.n_target),
        over_n=tuple(overlap_at(counts, m, m) for m in sizes),
        over_cell=tuple((side, overlap_at(count_cells(sup, unsup, side), n, n)) for side in settings.cells),
    )


def overlap_at(counts: JointCounts, n_labelled: int, n_unlabelled: int) -> Overlap:
    """Occupied volumes expected in so many stars of each set, and their relative differences.

    Of each set at least one star is counted, and at most as many as there are.

    Source:
        Hurlbert (1971), Ecology 52, 577; Good (1953), Biometrika 40, 237, for stars in new cells.
    """
    x, y = counts.labelled, counts.unlabelled
    p, q = chance_without(x, n_labelled, 0), chance_without(y, n_unlabelled, 0)
    sup, unsup, extra = float(p.sum()), float(q.sum()), float((q * (1.0 - p)).sum())
    new, difference = extra / sup, unsup / sup - 1.0
    dp = chance_without(x, n_labelled, 1) - p  # what leaving out one star does to its own cell
    dq = chance_without(y, n_unlabelled, 1) - q
    n = int(y.sum())
    share_new = float((y * (1.0 - p)).sum()) / n

    def estimate(value: float, by_labelled: CellShares, by_unlabelled: CellShares) -> Estimate:
        return around(value, math.hypot(jackknife_sd(by_labelled, x), jackknife_sd(by_unlabelled, y)))

    return Overlap(
        n_labelled=n_labelled,
        new=estimate(new, -(q + new) * dp / sup, (1 - p) * dq / sup),
        difference=estimate(difference, -unsup * dp / sup**2, dq / sup),
        new_by_size_alone=_growth(x, n_labelled, n_labelled + n_unlabelled),
        share_new=estimate(share_new, -y * dp / n, (1.0 - p - share_new) / n),
    )


def extrapolate(counts: JointCounts, n_target: int) -> Extrapolation:
    """New volume with `n_target` unlabelled stars: the paper's line, and one that counts unseen cells.

    The labelled stars stay as they are; the second takes the cells that none of them occupies as a population
    of its own, and extrapolates how many of those the unlabelled stars reach.

    Source:
        Laroche & Speagle (2023), sect. 3: 220 times 30 %, of a million stars, is "approximately 65"; Colwell et al.
        (2012), J. Plant Ecol. 5, 3, eq. 9.
    """
    n = int(counts.unlabelled.sum())
    v_sup = float((counts.labelled > 0).sum())
    elsewhere = counts.unlabelled[counts.labelled == 0]
    reached = richness_at(elsewhere, n_target, n_stars=n)
    return Extrapolation(
        times_the_sample=n_target / n,
        linear=float((elsewhere > 0).sum()) / v_sup * n_target / n,
        corrected=Estimate(*(part / v_sup for part in reached)),
        reliable=n_target <= RELIABLE_UP_TO * n,
    )


def chance_without(counts: CellCounts, n: int, n_dropped: int) -> CellShares:
    """Chance that each cell is occupied in `n` stars, after so many of its own stars are left out of the sample."""
    n_stars = max(int(counts.sum()) - n_dropped, 0)
    return occupied_chance(np.maximum(counts - n_dropped, 0), n_stars, min(n, n_stars))


def jackknife_sd(effect: CellShares, stars: CellCounts) -> float:
    """Standard deviation from what leaving out one star of each cell does to the result."""
    n = int(stars.sum())
    mean = float((stars * effect).sum()) / n
    return math.sqrt(max(float((stars * (effect - mean) ** 2).sum()) * (n - 1) / n, 0.0))


def _growth(counts: CellCounts, n_from: int, n_to: int) -> float | None:
    if n_to > RELIABLE_UP_TO * int(counts.sum()):
        return None
    return richness_at(counts, n_to).value / richness_at(counts, n_from).value - 1.0
