"""Labels to learn from: in their units as they are known, and as numbers of order one for a network."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from scattervae.arrays import LabelArray, SourceIds, StarArray, StarMask
from scattervae.errors import DataError
from scattervae.spectra.star_tables import LABEL_NAMES, LABEL_UNITS, StellarLabels, rows_of

A_K = "a_k"
UNITS = LABEL_UNITS | {A_K: "mag"}
A_K_RANGE = (-0.1, 5.0)
"""Outside lie marks for a missing value and failures: APOGEE's targeting A_K reaches -86 mag."""
LOGARITHMIC = frozenset({"teff"})


@dataclass(frozen=True)
class KnownLabels:
    """Labels of some stars with their errors; NaN where a star lacks a label.

    Attributes:
        source_id: The stars.
        names: What runs along the columns.
        values: In the units of `UNITS`.
        errors: One standard deviation, same units; 0 where a label has none.
    """

    source_id: SourceIds
    names: tuple[str, ...]
    values: LabelArray
    errors: LabelArray

    @classmethod
    def of(cls, labels: StellarLabels, *, a_k: StarArray | None = None) -> "KnownLabels":
        """The labels of these stars; unusable values (Teff not above 0, A_K out of range) are left out.

        Args:
            labels: Teff, log g, [Fe/H] and [alpha/M].
            a_k: Extinction in K [mag] of the same stars, without errors, as APOGEE's targeting has it; then it is
                a fifth label.
        """
        names: tuple[str, ...] = LABEL_NAMES
        values, errors = labels.values, labels.errors
        if a_k is not None:
            names = (*names, A_K)
            values = np.column_stack([values, a_k])
            errors = np.column_stack([errors, np.zeros(len(values))])
        return cls(labels.source_id, names, *_usable(names, values, errors))

    def __len__(self) -> int:
        return len(self.source_id)

    def __getitem__(self, name: str) -> StarArray:
        """One label of all stars, by name."""
        return self.values[:, self.names.index(name)]

    @property
    def any_known(self) -> StarMask:
        """Stars with one label or more."""
        known: StarMask = np.isfinite(self.values).any(axis=1)
        return known

    def take(self, rows: np.ndarray | slice) -> "KnownLabels":
        """The labels of these rows: a mask, indices or a slice."""
        return KnownLabels(self.source_id[rows], self.names, self.values[rows], self.errors[rows])

    def aligned_to(self, source_id: SourceIds) -> "KnownLabels":
        """The labels of these stars in this order, NaN for stars that have none."""
        if len(self) == 0:
            missing = np.full((len(source_id), len(self.names)), np.nan)
            return KnownLabels(source_id, self.names, missing, missing.copy())
        row, known = rows_of(source_id, among=self.source_id)
        values, errors = (np.where(known[:, None], a[row], np.nan) for a in (self.values, self.errors))
        return KnownLabels(source_id, self.names, values, errors)


def _usable(names: tuple[str, ...], values: LabelArray, errors: LabelArray) -> tuple[LabelArray, LabelArray]:
    """Values with NaN where they cannot be used, and errors with 0 where there is none."""
    values = np.where(np.isfinite(values), values, np.nan).astype(np.float64)
    for column, name in enumerate(names):
        label = values[:, column]
        if name in LOGARITHMIC:
            values[~(label > 0), column] = np.nan
        if name == A_K:
            values[~((label > A_K_RANGE[0]) & (label < A_K_RANGE[1])), column] = np.nan
    known_errors = np.where(np.isfinite(errors) & (errors > 0), errors, 0.0)
    return values, np.where(np.isfinite(values), known_errors, np.nan)


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
