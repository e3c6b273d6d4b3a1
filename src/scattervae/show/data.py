"""What the figures are drawn from: trained models, stars, labels, and which star to show."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from scattervae.errors import DataError
from scattervae.model.checkpoint import Checkpoint
from scattervae.seeds import folds
from scattervae.spectra.spectra import Flag, Spectra, StellarLabels


@dataclass(frozen=True)
class FigureData:
    """Everything that a figure may ask for.

    Attributes:
        models: Trained models by the name that legends give them, in the order of their colours.
        spectra: The stars.
        labels: Labels of the same stars in the same order, NaN where missing.
        held_out: Negative ELBO of models on stars they have not seen [nats per star], by the models' names.
        source_id: The star to show alone; a test star of median G flux where None.
    """

    models: Mapping[str, Checkpoint]
    spectra: Spectra
    labels: StellarLabels
    held_out: Mapping[str, float] = field(default_factory=dict)
    source_id: int | None = None

    def __post_init__(self) -> None:
        if not self.models:
            raise ValueError("figures of no model")
        if not np.array_equal(self.labels.source_id, self.spectra.source_id):
            raise ValueError(
                "labels of other stars than the spectra, or in another order; use labels.aligned_to"
            )

    @property
    def star(self) -> int:
        """The row of the star to show alone.

        Raises:
            DataError: It is not among the stars, or cannot be encoded; or no star can.
        """
        if self.source_id is None:
            return median_star(self.spectra)
        rows = np.flatnonzero(self.spectra.source_id == self.source_id)
        if len(rows) == 0:
            raise DataError(f"source_id {self.source_id}: not among these {len(self.spectra)} stars")
        usable = rows[self.spectra.usable[rows]]
        if len(usable) == 0:
            flags = Flag(int(self.spectra.flags[rows[0]]))
            raise DataError(
                f"source_id {self.source_id}: cannot be shown, "
                + "; ".join(flag.meaning for flag in Flag if flag in flags)
            )
        return int(usable[0])


def median_star(spectra: Spectra) -> int:
    """The row of the usable test star of median G flux, of all usable stars where none is in the test fold.

    Raises:
        DataError: No star is usable.
    """
    rows = np.flatnonzero(spectra.usable & folds(spectra.source_id).test)
    if len(rows) == 0:
        rows = np.flatnonzero(spectra.usable)
    if len(rows) == 0:
        raise DataError(f"none of {len(spectra)} stars is usable: no star to show")
    order = np.lexsort((spectra.source_id[rows], spectra.g_flux[rows]))
    return int(rows[order[(len(rows) - 1) // 2]])
