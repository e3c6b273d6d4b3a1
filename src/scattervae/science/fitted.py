"""A trained folder with all that was fitted after training: its calibration, and labels."""

import hashlib
from dataclasses import dataclass, fields
from pathlib import Path

from scattervae.files import restored
from scattervae.model.checkpoint import Checkpoint
from scattervae.science.calibration.calibrated import CalibratedModel, load_model
from scattervae.science.labels.folder import load_label_model
from scattervae.science.labels.model import LabelModel

LABELS = "labels"


@dataclass(frozen=True)
class LabellingModel(CalibratedModel):
    """A trained model that also tells labels; calibrated or not.

    Attributes:
        labels: What tells them.
    """

    labels: LabelModel | None = None

    @property
    def digest(self) -> str:
        """As the model's own, the labels included."""
        if self.labels is None:
            return super().digest
        return hashlib.sha256(f"{super().digest} {self.labels.digest}".encode()).hexdigest()[:32]


def labelling(model: Checkpoint, labels: LabelModel) -> LabellingModel:
    """The model with these labels."""
    own = {field.name: getattr(model, field.name) for field in fields(model)}
    return LabellingModel(**own | {"labels": labels})


def load_fitted(folder: str | Path) -> Checkpoint:
    """The model of a trained folder, with calibration and labels where it has them.

    Raises:
        CheckpointError: As `load_model`; or the labels are broken, or were fitted before the calibration.
    """
    model = load_model(folder)
    place = restored(Path(folder)) / LABELS
    return labelling(model, load_label_model(place, model)) if place.is_dir() else model


def labels_of(model: Checkpoint) -> LabelModel | None:
    """What tells the labels of a model that does."""
    return model.labels if isinstance(model, LabellingModel) else None
