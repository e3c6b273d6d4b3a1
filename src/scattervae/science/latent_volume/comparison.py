r"""Latent volume: how much more of the latent space unlabelled stars occupy than labelled ones.

Laroche & Speagle (2023), sect. 3, third point, and fig. 3: :math:`\Delta V / V_{sup} \approx 30 \%` for a
million stars outside the cross-match, times 220 for all of Gaia. That number depends on how many stars are
counted and on the cells; here each pair of active latents, and all of them together, are compared at equal
numbers, over numbers, cells and thresholds, and corrected for the cells that no star fell in.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Float64
from pydantic import PositiveFloat, PositiveInt

from scattervae.arrays import StarMask
from scattervae.errors import DataError
from scattervae.model.posterior import ACTIVE_ABOVE_NATS, Posterior
from scattervae.science.latent_volume.overlap import Extrapolation, Overlap, extrapolate, overlap_at
from scattervae.science.latent_volume.richness import (
    Estimate,
    JointCounts,
    count_cells_of_both,
    richness_at,
    sample_coverage,
)
from scattervae.settings import Settings
from scattervae.spectra.star_tables import StellarLabels

GIANT_BELOW_LOGG = 3.5
NOT_TESTABLE = "not testable here"


class VolumeSettings(Settings):
    """How volumes are counted.

    Attributes:
        pair_cell: Side of a cell in a pair of latents, in prior standard deviations. A quarter is 2 to 15
            times the median posterior standard deviation of an active latent (0.02 to 0.13 for the recipe
            ``elbo``): a star's own uncertainty does not spread over several cells.
        full_cell: Side of a cell in the space of all active latents, where nine of ten cells of a quarter
            hold no second star of a thousand, and their number would be little but the number of stars.
        threshold: Fewest stars in an occupied cell.
        cells: Sides of the curve over cell sizes.
        n_sizes: Points of the curve over the number of stars.
        n_target: Number of stars that the paper extrapolates to: all of Gaia DR3.
    """

    pair_cell: PositiveFloat = 0.25
    full_cell: PositiveFloat = 1.0
    threshold: PositiveInt = 1
    cells: tuple[PositiveFloat, ...] = (0.125, 0.25, 0.5, 1.0, 2.0)
    n_sizes: PositiveInt = 8
    n_target: PositiveInt = 220_000_000


@dataclass(frozen=True)
class Projection:
    """Both sets in some of the latents.

    Attributes:
        latents: Which, counted from 0.
        cell: Side of a cell.
        as_given: All stars of both sets: the paper's comparison. Read it beside `new_by_size_alone`.
        equal_n: As many stars of each.
        seen_labelled: Share of the labelled population that lives in cells its stars have seen.
        seen_unlabelled: The same of the unlabelled. Where either is below a half, volumes count stars.
        extrapolation: To all of Gaia.
        over_n: At equal numbers, from few to all of the smaller set.
        over_cell: At equal numbers, over cell sizes: side and result. Points of the curves that not one
            labelled cell is expected to reach are left out.
    """

    latents: tuple[int, ...]
    cell: float
    as_given: Overlap
    equal_n: Overlap
    seen_labelled: Estimate
    seen_unlabelled: Estimate
    extrapolation: Extrapolation
    over_n: tuple[Overlap, ...]
    over_cell: tuple[tuple[float, Overlap], ...]

    @property
    def resolved(self) -> bool:
        """Whether cells are seen well enough for volumes to mean more than numbers of stars."""
        return min(self.seen_labelled.value, self.seen_unlabelled.value) >= 0.5


@dataclass(frozen=True)
class VolumeComparison:
    """The labelled and the unlabelled stars in every pair of active latents, and in all of them.

    Attributes:
        n_labelled: Stars of the labelled set with finite latents.
        n_unlabelled: The same of the unlabelled set.
        n_left_out: Stars of either set that have none.
        settings: How volumes were counted.
        pairs: Every pair of active latents.
        full: All active latents.
        selection: What was taken for unlabelled, where no second set was given.
    """

    n_labelled: int
    n_unlabelled: int
    n_left_out: int
    settings: VolumeSettings
    pairs: tuple[Projection, ...]
    full: Projection
    selection: str | None = None

    @property
    def verdict(self) -> str:
        """One sentence; it claims nothing where the unlabelled stars are a selection of the labelled."""
        if self.selection is not None:
            return f"{NOT_TESTABLE}: no unlabelled stars were given; shown for illustration: {self.selection}"
        n = min(self.n_labelled, self.n_unlabelled)
        more = sum(p.equal_n.difference.low > 0 for p in self.pairs)
        less = sum(p.equal_n.difference.high < 0 for p in self.pairs)
        return (
            f"at {n} stars of each set the unlabelled occupy more volume in {more} and less in {less} "
            f"of {len(self.pairs)} pairs of active latents; in all {len(self.full.latents)} "
            f"{_percent(self.full.equal_n.difference)}"
            + ("" if self.full.resolved else ", where cells hold too few stars to tell volume from number")
        )


@dataclass(frozen=True)
class StatedSelection:
    """Stars set apart by their labels, in place of unlabelled ones.

    Attributes:
        name: The selection, in words.
        labelled: Stars that count as labelled.
        unlabelled: Stars that stand for unlabelled ones.
    """

    name: str
    labelled: StarMask
    unlabelled: StarMask


def active_latents(posterior: Posterior) -> tuple[int, ...]:
    """The latents that carry information, counted from 0: a mean divergence above 0.1 nats."""
    return tuple(k for k, kl in enumerate(posterior.kl_per_latent()) if kl > ACTIVE_ABOVE_NATS)


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
        labelled: Posterior means of stars with labels, all latents; NaN rows are left out and counted.
        unlabelled: The same of stars without labels.
        active: Latents to use, counted from 0 (`active_latents`).
        settings: Cells, thresholds and sizes.
        selection: Says what `unlabelled` is where it is a selection of labelled stars; the verdict is then
            that the question cannot be tested.

    Raises:
        DataError: A set has no encoded star, fewer than two latents are active, or the threshold is out of
            reach.
    """
    settings = settings or VolumeSettings()
    if len(active) < 2:
        raise DataError(f"{len(active)} active latents: volumes need a pair; was the model collapsed?")
    sup, unsup = (z[np.isfinite(z).all(axis=1)] for z in (labelled, unlabelled))
    for name, z, encoded in (("labelled", labelled, sup), ("unlabelled", unlabelled, unsup)):
        if len(encoded) == 0:
            raise DataError(f"none of {len(z)} {name} stars could be encoded: there is no volume to compare")
    return VolumeComparison(
        n_labelled=len(sup),
        n_unlabelled=len(unsup),
        n_left_out=len(labelled) + len(unlabelled) - len(sup) - len(unsup),
        settings=settings,
        pairs=tuple(
            _project(sup, unsup, pair, cell=settings.pair_cell, settings=settings)
            for pair in combinations(active, 2)
        ),
        full=_project(sup, unsup, tuple(active), cell=settings.full_cell, settings=settings),
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
    n_sup, n_unsup = len(sup), len(unsup)
    n, threshold = min(n_sup, n_unsup), settings.threshold
    counts = count_cells_of_both(sup, unsup, cell)
    by_cell = ((side, count_cells_of_both(sup, unsup, side)) for side in settings.cells)
    if not _comparable(counts, n, threshold):
        raise DataError(
            f"no cell of side {cell} holds {threshold} of {n} labelled stars: "
            "take a lower threshold, larger cells or more stars"
        )
    return Projection(
        latents=latents,
        cell=cell,
        as_given=overlap_at(counts, n_sup, n_unsup, threshold=threshold),
        equal_n=overlap_at(counts, n, n, threshold=threshold),
        seen_labelled=sample_coverage(counts.labelled),
        seen_unlabelled=sample_coverage(counts.unlabelled),
        extrapolation=extrapolate(counts, settings.n_target),
        over_n=tuple(
            overlap_at(counts, m, m, threshold=threshold)
            for m in _sizes(n, settings.n_sizes)
            if _comparable(counts, m, threshold)
        ),
        over_cell=tuple(
            (side, overlap_at(cells, n, n, threshold=threshold))
            for side, cells in by_cell
            if _comparable(cells, n, threshold)
        ),
    )


def _comparable(counts: JointCounts, n: int, threshold: int) -> bool:
    """Whether at least one cell is expected to be occupied in so many labelled stars."""
    return richness_at(counts.labelled, n, threshold=threshold).value > 1.0 - 1e-6


def _sizes(n: int, n_sizes: int) -> list[int]:
    return sorted({max(1, round(m)) for m in np.geomspace(max(n / 100, 1), n, n_sizes)})


def _percent(estimate: Estimate) -> str:
    return f"{100 * estimate.value:+.0f} % ({100 * estimate.low:+.0f} to {100 * estimate.high:+.0f})"
