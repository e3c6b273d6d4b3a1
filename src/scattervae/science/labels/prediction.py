"""Predicted labels of stars: values, intervals, and whether to believe them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32

from scattervae.arrays import LabelArray, StarArray, StarMask
from scattervae.science.labels.volume import RELIABLE_ABOVE

REPRODUCED_ABOVE = 0.0025
"""Smallest score of a spectrum that the model reproduces, one step of the score's quantiles: 0.9 % of 3,926 validation
stars lie below, 1.0 % of 5,968 test stars, 0.2 % of 999 field stars, and Proxima Centauri (docs/labels.md)."""


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
    # how ordinary a star's place in the latent space is among stars that have the label; uniform between 0
    # and 1 for stars drawn as these were
    reliability: LabelArray
    width_rank: StarArray  # share of labelled stars whose latents are no better known
    # how well the model of spectra reproduces the star (`scattervae.science.calibration.score`); NaN where
    # that model has not been calibrated
    score: StarArray

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
        """Labels of a star that lies further from those that have it than all but one in a hundred of them."""
        outside: np.ndarray = self.reliability < RELIABLE_ABOVE
        return outside

    @property
    def wide(self) -> StarMask:
        """Stars whose latents are less well known than those of all but one in a hundred labelled stars."""
        wide: StarMask = self.width_rank < RELIABLE_ABOVE
        return wide

    @property
    def not_reproduced(self) -> StarMask:
        """Stars whose spectrum the model does not reproduce: what it has learnt of labels does not hold for them."""
        unlike: StarMask = self.score < REPRODUCED_ABOVE
        return unlike

    @property
    def reliable(self) -> Bool[np.ndarray, "star label"]:
        """Labels to believe: neither outside nor wide nor of a spectrum that is not reproduced, and known at all."""
        doubtful = self.wide | self.not_reproduced
        reliable: np.ndarray = ~self.outside & ~doubtful[:, None] & np.isfinite(self.values)
        return reliable

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
        return table | {"width_rank": self.width_rank.astype(np.float32)}

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
