"""From labels in their units to numbers of order one that a network can learn, and back."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from scattervae.arrays import LabelArray
from scattervae.errors import DataError
from scattervae.science.labels.known import LOGARITHMIC, KnownLabels

LabelTensor = Float[Tensor, "star label"]
LabelVector = Float64[np.ndarray, " label"]

FEWEST = 20
_LARGEST_ERROR = 3.0


class Targets(NamedTuple):
    """Scaled labels of some stars.

    Attributes:
        values: 0 where missing.
        errors: Same units; 0 where missing.
        known: Where a star has the label.
    """

    values: LabelTensor
    errors: LabelTensor
    known: Bool[Tensor, "star label"]


class LabelScales(NamedTuple):
    """Centre and width of each label; Teff is scaled in its logarithm, since hot stars err by more kelvins.

    Attributes:
        centre: Median over the labelled stars.
        width: Half the range from the 16th to the 84th percentile, which no outlier moves.
        logarithmic: Which labels are logarithms of themselves before all that.
    """

    centre: LabelVector
    width: LabelVector
    logarithmic: Bool[np.ndarray, " label"]

    @classmethod
    def fit(cls, labels: KnownLabels) -> "LabelScales":
        """Scales of these labels.

        Raises:
            DataError: A label is known for fewer than twenty stars, or is the same in nearly all.
        """
        counts = np.isfinite(labels.values).sum(axis=0)
        for name, count in zip(labels.names, counts, strict=True):
            if count < FEWEST:
                raise DataError(
                    f"{name} is known for {count} of the stars to learn from; at least {FEWEST} are needed: leave it "
                    "out, or give more labels"
                )
        logarithmic = _logarithmic(labels.names)
        low, centre, high = np.nanpercentile(_linear(labels.values, logarithmic), (16, 50, 84), axis=0)
        width = (high - low) / 2
        if not (width > 0).all():
            name = labels.names[int(np.argmin(width))]
            raise DataError(
                f"{name} is the same in most stars; there is nothing to learn of it: leave it out"
            )
        return cls(centre, width, logarithmic)

    def apply(self, labels: KnownLabels) -> Targets:
        """What the network is to say of these stars."""
        values = (_linear(labels.values, self.logarithmic) - self.centre) / self.width
        slope = np.where(self.logarithmic, labels.values, 1.0)
        errors = np.minimum(labels.errors / slope / self.width, _LARGEST_ERROR)
        known = np.isfinite(values)
        scaled, scaled_errors = (
            torch.from_numpy(np.where(known, array, 0.0)).float() for array in (values, errors)
        )
        return Targets(scaled, scaled_errors, torch.from_numpy(known))

    def invert(self, values: LabelArray) -> LabelArray:
        """Labels in their units."""
        linear = values * self.width + self.centre
        labels: LabelArray = np.where(
            self.logarithmic, np.exp(np.where(self.logarithmic, linear, 0.0)), linear
        )
        return labels


def _logarithmic(names: Sequence[str]) -> Bool[np.ndarray, " label"]:
    return np.array([name in LOGARITHMIC for name in names])


def _linear(values: LabelArray, logarithmic: Bool[np.ndarray, " label"]) -> LabelArray:
    linear: LabelArray = np.where(logarithmic, np.log(np.where(logarithmic, values, 1.0)), values)
    return linear
