"""Labels to learn from: in their units, and as numbers of order one that a network can learn."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from scattervae.arrays import LabelArray, StarArray, StarMask
from scattervae.errors import DataError
from scattervae.spectra.star_tables import A_K_RANGE, LABEL_NAMES, StarTable, StellarLabels

_USABLE = {"teff": (0.0, np.inf), "a_k": A_K_RANGE}
LOGARITHMIC = frozenset({"teff"})
FEWEST = 20
_LARGEST_ERROR = 3.0

LabelTensor = Float[Tensor, "star label"]
LabelVector = Float64[np.ndarray, " label"]


@dataclass(frozen=True)
class TargetLabels(StarTable):
    """Labels of some stars, in the units of `LABEL_UNITS`, with one standard deviation; NaN where a star lacks one.

    An error is 0 where a label has none.
    """

    names: tuple[str, ...]
    values: LabelArray
    errors: LabelArray

    @classmethod
    def of(cls, labels: StellarLabels, names: Sequence[str] | None = None) -> "TargetLabels":
        """The labels of these stars without unusable values: Teff not above 0, A_K out of range.

        Args:
            names: Which labels, in this order; where None, those that any of the stars has.

        Raises:
            DataError: There is no label of this name, or it comes twice.
        """
        chosen = LABEL_NAMES if names is None else tuple(names)
        if unknown := sorted(set(chosen) - set(LABEL_NAMES)):
            raise DataError(f"no label {', '.join(unknown)}: choose of {', '.join(LABEL_NAMES)}")
        if len(set(chosen)) < len(chosen):
            raise DataError(f"{', '.join(chosen)}: a label comes twice")
        values = np.stack([_usable(name, labels[name].astype(np.float64)) for name in chosen], axis=1)
        if names is None and np.isfinite(values).any():
            chosen = tuple(np.array(chosen)[np.isfinite(values).any(axis=0)].tolist())
            return cls.of(labels, chosen)
        errors = labels.errors[:, [LABEL_NAMES.index(name) for name in chosen]]
        errors = np.where(np.isfinite(errors) & (errors > 0), errors, 0.0)
        return cls(labels.source_id, chosen, values, np.where(np.isfinite(values), errors, np.nan))

    def __getitem__(self, name: str) -> StarArray:
        """One label of all stars, by name."""
        return self.values[:, self.names.index(name)]

    @property
    def any_known(self) -> StarMask:
        """Stars with one label or more."""
        known: StarMask = np.isfinite(self.values).any(axis=1)
        return known


class ScaledTargets(NamedTuple):
    """Scaled labels of some stars; values and errors are 0 where a label is not known."""

    values: LabelTensor
    errors: LabelTensor
    known: Bool[Tensor, "star label"]


class LabelScales(NamedTuple):
    """Centre and width of each label; Teff is scaled in its logarithm, since hot stars err by more kelvins."""

    centre: LabelVector  # median over the labelled stars
    width: LabelVector  # half the range from the 16th to the 84th percentile, which no outlier moves
    logarithmic: Bool[np.ndarray, " label"]  # which labels are logarithms of themselves before all that

    @classmethod
    def fit(cls, labels: TargetLabels) -> "LabelScales":
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
        logarithmic = np.array([name in LOGARITHMIC for name in labels.names])
        low, centre, high = np.nanpercentile(_linear(labels.values, logarithmic), (16, 50, 84), axis=0)
        width = (high - low) / 2
        if not (width > 0).all():
            name = labels.names[int(np.argmin(width))]
            raise DataError(
                f"{name} is the same in most stars; there is nothing to learn of it: leave it out"
            )
        return cls(centre, width, logarithmic)

    def apply(self, labels: TargetLabels) -> ScaledTargets:
        """What a network is to predict of these stars."""
        values = (_linear(labels.values, self.logarithmic) - self.centre) / self.width
        slope = np.where(self.logarithmic, labels.values, 1.0)
        errors = np.minimum(labels.errors / slope / self.width, _LARGEST_ERROR)
        known = np.isfinite(values)
        scaled, scaled_errors = (
            torch.from_numpy(np.where(known, array, 0.0)).float() for array in (values, errors)
        )
        return ScaledTargets(scaled, scaled_errors, torch.from_numpy(known))

    def invert(self, values: LabelArray) -> LabelArray:
        """Labels in their units."""
        linear = values * self.width + self.centre
        labels: LabelArray = np.where(
            self.logarithmic, np.exp(np.where(self.logarithmic, linear, 0.0)), linear
        )
        return labels


def _usable(name: str, values: StarArray) -> StarArray:
    low, high = _USABLE.get(name, (-np.inf, np.inf))
    usable: StarArray = np.where((values > low) & (values < high), values, np.nan)
    return usable


def _linear(values: LabelArray, logarithmic: Bool[np.ndarray, " label"]) -> LabelArray:
    linear: LabelArray = np.where(logarithmic, np.log(np.where(logarithmic, values, 1.0)), values)
    return linear
