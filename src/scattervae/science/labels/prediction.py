"""Predicted labels of stars: values, intervals, and whether to believe them."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntFlag

import numpy as np
from jaxtyping import Bool, Float32, Float64

from scattervae.arrays import LabelArray, StarArray, StarFlags, StarMask
from scattervae.science.labels.conformal import pairs_of
from scattervae.science.labels.support import RELIABLE_ABOVE

BY_DISTANCE, BY_CHI2 = 0.08, 0.12
"""Of the stars that `RELIABLE_ABOVE` allows to be flagged falsely: shares for the distance from labelled stars, and for
a spectrum that the model does not reproduce; the others are for being outside the labelled kinds by the survey."""
REPRODUCED_ABOVE = BY_CHI2 * RELIABLE_ABOVE
"""Share of stars whose spectrum the model reproduces too badly, among them Proxima Centauri (chi^2 4.7)."""
N_FLAGGED = 12
"""As many labels have a bit in ``label_flags``; the bits above are those of `LabelFlag`."""


class LabelFlag(IntFlag):
    """What is known against all labels of a star, as bits of ``label_flags`` above those of single labels."""

    NOT_REPRODUCED = 1 << 12
    BLENDED = 1 << 13
    FAINT = 1 << 14

    @property
    def meaning(self) -> str:
        """One sentence for tables and documentation."""
        return _MEANINGS[self]


_MEANINGS = {
    LabelFlag.NOT_REPRODUCED: "the model does not reproduce the spectrum: do not believe the labels",
    LabelFlag.BLENDED: "light of a neighbour in the spectrum: labels are off more often than intervals say",
    LabelFlag.FAINT: "faint or incomplete: intervals are wide, and hold",
}


@dataclass(frozen=True)
class LabelPrediction:
    """Labels of stars, in the units of `UNITS`; NaN for a star that could not be encoded.

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
        return "; ".join([*bits, *(f"{flag.value} {flag.name}: {flag.meaning}" for flag in LabelFlag)])

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
