"""Stellar labels from other surveys, joined to stars by source_id."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scattervae.arrays import LabelArray, SourceIds, StarArray
from scattervae.spectra.matching import rows_of

LABEL_NAMES = ("teff", "logg", "fe_h", "alpha_m")
LABEL_UNITS = {"teff": "K", "logg": "dex(cm s-2)", "fe_h": "dex", "alpha_m": "dex"}


@dataclass(frozen=True)
class StellarLabels:
    """Teff [K], log g [dex(cm s^-2)], [Fe/H] and [alpha/M] [dex] with errors; NaN where a label is missing.

    Columns are in the order of `LABEL_NAMES`.
    """

    source_id: SourceIds
    values: LabelArray
    errors: LabelArray

    def __len__(self) -> int:
        return len(self.source_id)

    def aligned_to(self, source_id: SourceIds) -> "StellarLabels":
        """The labels of these stars in this order, NaN for stars that have none.

        Where a source_id has several rows here, the first is taken.
        """
        if len(self) == 0:
            missing = np.full((len(source_id), len(LABEL_NAMES)), np.nan)
            return StellarLabels(source_id=source_id, values=missing, errors=missing.copy())
        row, known = rows_of(source_id, among=self.source_id)
        return StellarLabels(
            source_id=source_id,
            values=np.where(known[:, None], self.values[row], np.nan),
            errors=np.where(known[:, None], self.errors[row], np.nan),
        )

    @classmethod
    def concatenate(cls, parts: "Sequence[StellarLabels]") -> "StellarLabels":
        """The labels of all parts, in their order."""
        names = ("source_id", "values", "errors")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def take(self, rows: np.ndarray | slice) -> "StellarLabels":
        """The labels of these rows: a mask, indices or a slice."""
        return StellarLabels(self.source_id[rows], self.values[rows], self.errors[rows])

    def __getitem__(self, name: str) -> StarArray:
        """One label of all stars, by name."""
        return self.values[:, LABEL_NAMES.index(name)]

    def counts(self) -> dict[str, int]:
        """How many stars have each label."""
        return {name: int(np.isfinite(self[name]).sum()) for name in LABEL_NAMES}
