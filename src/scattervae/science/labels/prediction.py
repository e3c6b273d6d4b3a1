"""Predicted labels of stars: values, whether to believe them, and intervals that hold the truth as often as they claim.

Stars whose labels are known, but which a network did not learn from, show how many of its standard deviations an
interval must be wide: separately by brightness and by kind of star, since a width that is right on average is wrong
for either.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from scattervae.arrays import LabelArray, StarArray, StarFlags, StarMask
from scattervae.gaia.basis import g_mag_of
from scattervae.science.labels.support import RELIABLE_ABOVE
from scattervae.spectra.columns import flag_legend
from scattervae.spectra.spectra import MeaningfulFlag

LEVELS = (0.68, 0.95)
ERROR_TIMES = (1.0, 1.96)
"""How many errors of a known label add to either side of the interval, in quadrature."""

FEWEST_IN_CELL = 200
_FEWEST_IN_PAIR, _BOUND = 20, 3.0

CellAxes = Float64[np.ndarray, "star axis"]
Scores = Float64[np.ndarray, "star label level"]
Factors = Float64[np.ndarray, "cell label level"]


def cell_axes(mean: LabelArray, g_flux: StarArray) -> CellAxes:
    """Where intervals may differ: brightness, and the first two predicted labels (Teff and log g), scaled."""
    return np.column_stack([g_mag_of(g_flux), mean[:, :2]])


class Cells(NamedTuple):
    """Boxes with about as many stars each: a space split in halves, axis after axis."""

    axes: Int64[np.ndarray, " node"]  # which axis each node splits
    # where; a star above goes to the node ``2 i + 2``, another to ``2 i + 1``
    values: Float64[np.ndarray, " node"]
    depth: int  # how often the space is split

    @classmethod
    def fit(cls, along_axes: CellAxes, *, fewest: int = FEWEST_IN_CELL) -> "Cells":
        """Cells with at least so many of these stars each, one cell where there are fewer than twice as many.

        Source:
            Bentley (1975), Communications of the ACM 18, 509: a k-d tree, its axes taken in turn.
        """
        depth = max(0, int(np.log2(max(len(along_axes), 1) / fewest)))
        axes, values = np.zeros(2**depth - 1, dtype=np.int64), np.zeros(2**depth - 1)
        rows = {0: np.arange(len(along_axes))}
        for node in range(2**depth - 1):
            level = int(np.log2(node + 1))
            here = rows.pop(node)
            axes[node] = level % along_axes.shape[1]
            along = along_axes[here, axes[node]]
            values[node] = np.median(along) if len(along) else 0.0  # none where many share a place
            above = along > values[node]
            rows[2 * node + 1], rows[2 * node + 2] = here[~above], here[above]
        return cls(axes, values, depth)

    @property
    def n_cells(self) -> int:
        """How many there are."""
        return int(2**self.depth)

    def of(self, along_axes: CellAxes) -> Int64[np.ndarray, " star"]:
        """The cell of each star; a place that is not a number counts as low."""
        node = np.zeros(len(along_axes), dtype=np.int64)
        for _ in range(self.depth):
            above = along_axes[np.arange(len(along_axes)), self.axes[node]] > self.values[node]
            node = 2 * node + 1 + above
        cell: np.ndarray = node - (self.n_cells - 1)
        return cell


class Conformal(NamedTuple):
    """How many stated standard deviations wide an interval must be, cell by cell."""

    cells: Cells  # of G, Teff and log g, the labels as predicted
    # half-widths of the intervals of `LEVELS` over the stated standard deviation; infinite where too few
    # stars of a cell have the label to promise anything
    factors: Factors
    # of the errors of two predicted labels, pair after pair as `pairs_of` has them; none in models of older versions
    correlations: Float64[np.ndarray, "cell pair"]

    @classmethod
    def fit(cls, along_axes: CellAxes, scores: Scores, off: LabelArray | None = None) -> "Conformal":
        r"""Factors from stars that the network did not learn from.

        .. math:: q = \text{the } \lceil (n + 1) p \rceil \text{-th smallest of } s

        For stars drawn as these were, an interval then holds the truth with a probability of at least p, and of
        at most p + 1 / (n + 1).

        Args:
            scores: s, as `scores_of` has them; NaN where a label is missing.
            off: Known less predicted labels over the expected standard deviation of that, for correlations.

        Source:
            Vovk, Gammerman & Shafer (2005), Algorithmic Learning in a Random World, sect. 4.5 (by category); Lei et al.
            (2018), arXiv:1604.04173, sect. 5.2 (residuals over a standard deviation).
        """
        cells = Cells.fit(along_axes)
        cell = cells.of(along_axes)
        factors = np.full((cells.n_cells, scores.shape[1], len(LEVELS)), np.inf)
        for index in range(cells.n_cells):
            for label in range(scores.shape[1]):
                for level, share in enumerate(LEVELS):
                    factors[index, label, level] = _quantile(scores[cell == index, label, level], share)
        if off is None:
            return cls(cells, factors, np.empty((cells.n_cells, 0)))
        correlations = [correlations_of(off[cell == index]) for index in range(cells.n_cells)]
        return cls(cells, factors, np.stack(correlations))

    def half_widths(self, along_axes: CellAxes) -> Float64[np.ndarray, "star label level"]:
        """Half-widths of the intervals of these stars, in stated standard deviations."""
        widths: np.ndarray = self.factors[self.cells.of(along_axes)]
        return widths


def pairs_of(n_labels: int) -> list[tuple[int, int]]:
    """Each two labels, in the order of their columns.

    >>> pairs_of(3)
    [(0, 1), (0, 2), (1, 2)]
    """
    return list(combinations(range(n_labels), 2))


def correlations_of(off: LabelArray) -> Float64[np.ndarray, " pair"]:
    """Pearson's correlation of each two columns, over stars that have both; NaN for fewer than 20.

    Values beyond three are taken for three, so that no outlier makes a correlation.
    """
    found = np.full(len(pairs_of(off.shape[1])), np.nan)
    bounded = np.clip(off, -_BOUND, _BOUND)
    for index, pair in enumerate(pairs_of(off.shape[1])):
        both = bounded[np.isfinite(bounded[:, pair]).all(axis=1)][:, pair]
        if len(both) >= _FEWEST_IN_PAIR and (both.std(axis=0) > 0).all():
            found[index] = np.corrcoef(both.T)[0, 1]
    return found


def scores_of(off: LabelArray, sd: LabelArray, errors: LabelArray) -> Scores:
    r"""How many stated standard deviations an interval must be wide to hold a known label.

    .. math:: s = \max\left( \sqrt{\max(0, (y - \mu)^2 - k^2 \sigma_y^2) / v}, \;
        |y - \mu| / \sqrt{v + \sigma_y^2} \right)

    By the first, :math:`|y - \mu| \le \sqrt{s^2 v + k^2 \sigma_y^2}`, with k = 1 for 68 % and 1.96 for 95 %: what the
    error of a known label explains is not laid to the network. Where that explains nearly all, the second keeps the
    interval open: network and label are then taken to be wrong by the same factor.

    Args:
        off: :math:`y - \mu`; NaN where a label is missing.
        sd: :math:`\sqrt v`.
        errors: :math:`\sigma_y`.
    """
    alike = np.abs(off) / np.hypot(sd, errors)
    unexplained = [np.sqrt(np.maximum(off**2 - (times * errors) ** 2, 0.0)) / sd for times in ERROR_TIMES]
    return np.stack([np.maximum(alike, score) for score in unexplained], axis=-1)


def _quantile(scores: StarArray, level: float) -> float:
    known = np.sort(scores[np.isfinite(scores)])
    rank = int(np.ceil((len(known) + 1) * level))
    return float(known[rank - 1]) if rank <= len(known) else np.inf


BY_DISTANCE, BY_CHI2 = 0.08, 0.12
"""Of the stars that `RELIABLE_ABOVE` allows to be flagged falsely: shares for the distance from labelled stars, and for
a spectrum that the model does not reproduce; the others are for being outside the labelled kinds by the survey."""
REPRODUCED_ABOVE = BY_CHI2 * RELIABLE_ABOVE
"""Share of stars whose spectrum the model reproduces too badly, among them Proxima Centauri (chi^2 4.7)."""
N_FLAGGED = 12
"""As many labels have a bit in ``label_flags``; the bits above are those of `LabelFlag`."""


class LabelFlag(MeaningfulFlag):
    """What is known against all labels of a star, as bits of ``label_flags`` above those of single labels."""

    NOT_REPRODUCED = 1 << 12, "the model does not reproduce the spectrum: do not believe the labels"
    BLENDED = 1 << 13, "light of a neighbour in the spectrum: labels are off more often than intervals say"
    FAINT = 1 << 14, "faint or incomplete: intervals are wide, and hold"


@dataclass(frozen=True)
class LabelPrediction:
    """Labels of stars, in the units of `LABEL_UNITS`; NaN for a star that could not be encoded.

    The intervals are of the star's true label. A measured one lies outside a little more often, by its own error.
    """

    names: tuple[str, ...]  # what runs along the columns
    values: LabelArray  # the median; the mean, too, where the label is not scaled in its logarithm
    # lower end of the interval that holds 68 %, calibrated on stars that the networks did not learn from
    low_68: LabelArray
    high_68: LabelArray  # upper end
    low_95: LabelArray  # as `low_68`, of 95 %
    high_95: LabelArray  # upper end
    # how ordinary a star is among stars that have the label: below any p for a share p of them at most, and near 0
    # outside the labelled kinds
    reliability: LabelArray
    width_rank: StarArray  # share of labelled stars whose latents are no better known
    chi2_rank: StarArray  # share of stars that the model of spectra reproduces no better
    blended: StarMask  # light of a neighbour in the spectrum
    # of the errors of each two labels among held-out stars like this one; no column where the model has none
    correlations: Float64[np.ndarray, "star pair"]

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, name: str) -> StarArray:
        """The values of one label, by name."""
        return self.values[:, self.names.index(name)]

    @property
    def sd(self) -> LabelArray:
        """Half the width of the 68 % interval."""
        half: LabelArray = (self.high_68 - self.low_68) / 2
        return half

    @property
    def outside(self) -> Bool[np.ndarray, "star label"]:
        """Labels of a star outside the labelled kinds or not reproduced: one in a hundred of labelled stars at most."""
        outside: np.ndarray = self.reliability < RELIABLE_ABOVE
        return outside

    @property
    def faint(self) -> StarMask:
        """Stars whose latents are less well known than those of all but one in a hundred labelled stars."""
        faint: StarMask = self.width_rank < RELIABLE_ABOVE
        return faint

    @property
    def not_reproduced(self) -> StarMask:
        """Stars whose spectrum the model does not reproduce: its labels do not hold for them."""
        unlike: StarMask = self.chi2_rank < REPRODUCED_ABOVE
        return unlike

    @property
    def reliable(self) -> Bool[np.ndarray, "star label"]:
        """Labels to believe: neither outside nor of a blended spectrum, and known at all."""
        reliable: np.ndarray = ~self.outside & ~self.blended[:, None] & np.isfinite(self.values)
        return reliable

    @property
    def flags(self) -> StarFlags:
        """``label_flags``: a bit for each label that is outside or unknown, and those of `LabelFlag`."""
        outside = (self.outside | ~np.isfinite(self.values))[:, :N_FLAGGED]
        flags = outside @ (1 << np.arange(outside.shape[1]))
        for flag, having in (
            (LabelFlag.NOT_REPRODUCED, self.not_reproduced),
            (LabelFlag.BLENDED, self.blended),
            (LabelFlag.FAINT, self.faint),
        ):
            flags |= np.where(having, flag, 0)
        return np.asarray(flags.astype(np.uint16))

    def take(self, rows: np.ndarray | slice) -> "LabelPrediction":
        """The prediction for these rows."""
        arrays = {name: value[rows] for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        return LabelPrediction(names=self.names, **arrays)

    def columns(self) -> "dict[str, Float32[np.ndarray, ' star']]":
        """The prediction as columns of a table: ``teff``, ``teff_low_68`` and so on, ``width_rank`` for all labels."""
        kinds = ("values", "low_68", "high_68", "low_95", "high_95", "reliability")
        table = {
            name if kind == "values" else f"{name}_{kind}": vars(self)[kind][:, column].astype(np.float32)
            for column, name in enumerate(self.names)
            for kind in kinds
        }
        pairs = zip(self.pair_names(self.names), self.correlations.T, strict=False)
        table |= {name: column.astype(np.float32) for name, column in pairs}
        return table | {"width_rank": self.width_rank.astype(np.float32)}

    @staticmethod
    def pair_names(names: Sequence[str]) -> list[str]:
        """Columns of the correlations: ``teff_logg_corr`` and so on."""
        return [f"{names[a]}_{names[b]}_corr" for a, b in pairs_of(len(names))]

    @staticmethod
    def flag_legend(names: Sequence[str]) -> str:
        """All bits of ``label_flags`` with their meanings, on one line."""
        bits = [f"{1 << k} {name} is outside the labelled kinds" for k, name in enumerate(names[:N_FLAGGED])]
        return "; ".join([*bits, flag_legend(LabelFlag)])

    @staticmethod
    def concatenate(parts: "Sequence[LabelPrediction]") -> "LabelPrediction":
        """The stars of all parts in order; at least one part."""
        first = vars(parts[0])
        arrays = {
            name: np.concatenate([vars(part)[name] for part in parts])
            for name, value in first.items()
            if isinstance(value, np.ndarray)
        }
        return LabelPrediction(names=parts[0].names, **arrays)
