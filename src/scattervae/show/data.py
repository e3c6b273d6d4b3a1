"""What the figures are drawn from: trained models, stars, labels, and which star to show."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from scattervae.arrays import StarMask
from scattervae.errors import DataError, counted
from scattervae.model.checkpoint import Checkpoint
from scattervae.science.cannon.model import Cannon
from scattervae.science.latent_volume.comparison import VolumeComparison, active_latents, compare_volumes
from scattervae.seeds import folds
from scattervae.show.registry import Need
from scattervae.spectra.flags import Flag
from scattervae.spectra.labels import StellarLabels
from scattervae.spectra.spectra import Spectra

SHOWN_LABELS = ("teff", "logg", "fe_h")
_HOW_TO_GIVE = {
    Need.CANNON: "no Cannon to compare with; give one fitted on stars with labels (FigureData.cannon)",
    Need.UNLABELLED: "no unlabelled stars; give some (--unlabelled STORE, FigureData.unlabelled)",
}


@dataclass(frozen=True)
class FigureData:
    """Everything that a figure may ask for.

    Attributes:
        models: Trained models by the name that legends give them, in the order of their colours.
        spectra: The stars.
        labels: Labels of the same stars in the same order, NaN where missing.
        held_out: Negative ELBO of models on stars they have not seen [nats per star], by the models' names.
        source_id: The star to show alone; a test star of median G flux where None.
        cannon: A Cannon fitted on stars outside the test fold, in the units of the first model.
        unlabelled: Stars without labels; those that are among the labelled ones are not counted twice.
        volumes: What `compare_volumes` says of the first model's latents of `labelled` and `outside`.
    """

    models: Mapping[str, Checkpoint]
    spectra: Spectra
    labels: StellarLabels
    held_out: Mapping[str, float] = field(default_factory=dict)
    source_id: int | None = None
    cannon: Cannon | None = None
    unlabelled: Spectra | None = None
    volumes: VolumeComparison | None = None

    def __post_init__(self) -> None:
        if not self.models:
            raise ValueError("figures of no model")
        if not np.array_equal(self.labels.source_id, self.spectra.source_id):
            raise ValueError(
                "labels of other stars than the spectra, or in another order; use labels.aligned_to"
            )

    @property
    def first_model(self) -> tuple[str, Checkpoint]:
        """The model of figures that show one, with its name."""
        return next(iter(self.models.items()))

    @property
    def labelled(self) -> StarMask:
        """Usable stars with Teff, log g and [Fe/H]."""
        known = np.isfinite(np.stack([self.labels[name] for name in SHOWN_LABELS], axis=1))
        labelled: StarMask = self.spectra.usable & known.all(axis=1)
        return labelled

    @property
    def test(self) -> StarMask:
        """Stars of the test fold."""
        return folds(self.spectra.source_id).test

    def missing(self, needs: Iterable[Need]) -> list[str]:
        """What is to be given before something with these needs can be drawn; empty where nothing is."""
        return [_HOW_TO_GIVE[need] for need in sorted(needs) if getattr(self, need) is None]

    def require_cannon(self) -> Cannon:
        """The Cannon.

        Raises:
            DataError: There is none.
        """
        if self.cannon is None:
            raise DataError(_HOW_TO_GIVE[Need.CANNON])
        return self.cannon

    @property
    def outside(self) -> Spectra:
        """The usable unlabelled stars that are not among the labelled ones.

        Raises:
            DataError: There is none.
        """
        if self.unlabelled is None:
            raise DataError(_HOW_TO_GIVE[Need.UNLABELLED])
        also = np.isin(self.unlabelled.source_id, self.spectra.source_id[self.labelled])
        found = self.unlabelled.take(self.unlabelled.usable & ~also)
        if len(found) == 0:
            raise DataError(
                f"none of {len(self.unlabelled)} unlabelled stars is usable and not labelled as well"
            )
        return found

    def measured_volumes(self) -> VolumeComparison:
        """Volumes that `labelled` and `outside` occupy in the active latents of the first model.

        Raises:
            DataError: There are no unlabelled stars, or the model has fewer than two active latents.
        """
        _, model = self.first_model
        posterior = model.encode(self.spectra.take(self.labelled))
        unlabelled = model.encode(self.outside).mean.double().numpy()
        return compare_volumes(posterior.mean.double().numpy(), unlabelled, active_latents(posterior))

    @property
    def star(self) -> int:
        """The row of the star to show alone.

        Raises:
            DataError: It is not among the stars, or cannot be encoded; or no star can.
        """
        if self.source_id is None:
            return median_star(self.spectra, np.ones(len(self.spectra), dtype=bool))
        rows = np.flatnonzero(self.spectra.source_id == self.source_id)
        if len(rows) == 0:
            raise DataError(
                f"source_id {self.source_id}: not among these {counted(len(self.spectra), 'star')}"
            )
        readable = [model.usable(self.spectra.take(rows)) for model in self.models.values()]
        usable = rows[np.all(readable, axis=0)]
        if len(usable) == 0:
            flags = Flag(int(self.spectra.flags[rows[0]]))
            raise DataError(
                f"source_id {self.source_id}: cannot be shown, "
                + "; ".join(flag.meaning for flag in Flag if flag in flags)
                + (", and a model reads only stars with both" if np.any(readable) else "")
            )
        return int(usable[0])


def median_star(spectra: Spectra, among: StarMask) -> int:
    """The row of the usable test star of median G flux, of all usable stars where none is in the test fold.

    Args:
        spectra: Stars.
        among: Which of them may be chosen.

    Raises:
        DataError: No star is usable.
    """
    rows = np.flatnonzero(among & spectra.usable & folds(spectra.source_id).test)
    if len(rows) == 0:
        rows = np.flatnonzero(among & spectra.usable)
    if len(rows) == 0:
        raise DataError(f"none of {counted(len(spectra), 'star')} is usable: no star to show")
    order = np.lexsort((spectra.source_id[rows], spectra.g_flux[rows]))
    return int(rows[order[(len(rows) - 1) // 2]])
