"""Labels to learn from or to be judged by: APOGEE's, and the extinction in K where it is known."""

from dataclasses import dataclass

import numpy as np

from scattervae.arrays import LabelArray, SourceIds, StarArray, StarMask
from scattervae.spectra.labels import LABEL_NAMES, LABEL_UNITS, StellarLabels
from scattervae.spectra.matching import rows_of

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
