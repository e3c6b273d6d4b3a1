"""The one loader: a trained folder with all that was fitted after training, its calibration, labels and flow."""

from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

from scattervae.files import restored, tensors_digest
from scattervae.model.checkpoint import Checkpoint, read_checkpoint
from scattervae.model.flow import FLOW, LatentFlow
from scattervae.science.calibration.calibrated import CALIBRATION, CalibratedModel, with_saved_calibration
from scattervae.science.labels.model import LabelModel, load_label_model
from scattervae.science.shipped import model_folder

LABELS = "labels"


@dataclass(frozen=True)
class TrainedModel(CalibratedModel):
    """A trained model, calibrated or not, that may also predict labels."""

    label_model: LabelModel | None = None  # what predicts them; None where none were fitted
    folder: Path | None = None  # where it was read from; None for one that was not

    @property
    def digest(self) -> str:
        """As the model's own, the labels included."""
        if self.label_model is None:
            return super().digest
        return tensors_digest({}, super().digest, self.label_model.digest)[:32]

    @property
    def latent_digest(self) -> str:
        """As the model's own, whatever labels are predicted."""
        return super().digest

    @cached_property
    def flow(self) -> LatentFlow | None:
        """The density of a survey's latents, where one was fitted; read when first asked for.

        Raises:
            CheckpointError: It is broken, or of another model.
        """
        if self.folder is None or not (self.folder / FLOW).is_file():
            return None
        return LatentFlow.load(self.folder, self)


def with_labels(model: Checkpoint, labels: LabelModel | None, folder: Path | None = None) -> TrainedModel:
    """The model with these labels."""
    own = {field.name: getattr(model, field.name) for field in fields(model)}
    return TrainedModel(**own | {"label_model": labels, "folder": folder})


def load_model(folder: str | Path, *, calibrated: bool = True, labels: bool = True) -> TrainedModel:
    """The model of a trained folder with all there is: weights, calibration, labels, flow.

    Args:
        folder: What `scattervae train` wrote, or the name of a model that comes with the package.
        calibrated: With its calibration, where there is one. Labels and flow belong to the model with it, and are
            left out with it.
        labels: With its labels, where there are some.

    Raises:
        CheckpointError: There is no such folder or name; a file is missing, damaged, of a newer format or of another
            model; or labels or calibration were fitted before another calibration.
    """
    folder = restored(model_folder(folder))
    model = read_checkpoint(folder)
    if not calibrated and (folder / CALIBRATION).is_file():
        return with_labels(model, None)
    trained = with_labels(with_saved_calibration(model, folder), None, folder)
    fitted = restored(folder / LABELS)
    if not labels or not fitted.is_dir():
        return trained
    return with_labels(trained, load_label_model(fitted, trained), folder)


def labels_of(model: Checkpoint) -> LabelModel | None:
    """What predicts the labels of a model that has some."""
    return model.label_model if isinstance(model, TrainedModel) else None
