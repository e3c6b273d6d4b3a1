"""The one loader: a trained folder with all that was fitted after training, its calibration, labels and flow."""

import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scattervae.arrays import Latents, StarArray
from scattervae.display import epoch_bar
from scattervae.errors import CheckpointError, DataError, RecipeError, counted
from scattervae.files import replace_folder, restored, tensors_digest
from scattervae.gaia.basis import g_flux_of
from scattervae.gaia.reading import Anything, read
from scattervae.model import recipe as recipes
from scattervae.model import run as runs
from scattervae.model.checkpoint import Checkpoint, Progress, read_checkpoint
from scattervae.model.flow import FLOW, LatentFlow
from scattervae.model.recipe import Recipe
from scattervae.model.run import RunFolder
from scattervae.model.training_stars import Machine
from scattervae.science.calibration.calibrated import (
    CALIBRATION,
    CalibratedModel,
    is_calibrated,
    with_saved_calibration,
)
from scattervae.science.labels.model import LabelModel, load_label_model
from scattervae.science.outliers import REFERENCE, OutlierReference
from scattervae.science.shipped import model_folder
from scattervae.spectra.spectra import FLAGS, Spectra
from scattervae.spectra.star_tables import G_FLUX_ERROR_COLUMN
from scattervae.spectra.store import SpectrumStore
from scattervae.spectra.tables import StarTable

if TYPE_CHECKING:
    from scattervae.science.catalogue.encoding import EncodedStars
    from scattervae.science.generation import GeneratedSpectra

LABELS = "labels"


@dataclass(frozen=True, repr=False)
class TrainedModel(CalibratedModel):
    """A trained model, calibrated or not, that may also predict labels.

    Example:
        >>> import scattervae as sv
        >>> model = sv.load_model("best")
        >>> model.n_latent, model.recipe.name, model.label_model.names[:2]
        (8, 'best', ('teff', 'logg'))
    """

    label_model: LabelModel | None = None  #: what predicts them; None where none were fitted
    folder: Path | None = None  #: where it was read from; None for one that was not

    @property
    def digest(self) -> str:
        """As the model's own, the labels included."""
        if self.label_model is None:
            return super().digest
        return tensors_digest({}, super().digest, self.label_model.digest)[:32]

    def __repr__(self) -> str:
        plain = super().__repr__().removesuffix(">")
        labels = "no labels" if self.label_model is None else ", ".join(self.label_model.names)
        calibrated = "calibrated" if is_calibrated(self) else "not calibrated"
        where = "" if self.folder is None else f"; in {self.folder}"
        return f"{plain}; {calibrated}; predicts {labels}{where}>"

    def encode(self, stars: Anything) -> "EncodedStars":
        """Latents of stars, and all else that their catalogue says; rows in their order.

        Args:
            stars: What `scattervae.read` takes: spectra, files, tables, source_ids.

        Raises:
            DataError: These are no stars, or of another basis than the model's.

        Example:
            >>> import scattervae as sv
            >>> encoded = sv.load_model("best").encode("stars.csv.gz")
            >>> encoded.latents.shape, encoded.latent_sd.shape
            ((220, 8), (220, 8))
            >>> frame = encoded.to_pandas()  # every column of the catalogue
            >>> encoded.write("catalogue.fits")
        """
        from scattervae.science.catalogue.encoding import EncodedStars

        spectra = stars if isinstance(stars, Spectra) else read(stars, basis=self.normalization.basis).spectra
        return EncodedStars.of(self, spectra, super().encode(spectra))

    def labels(self, stars: Anything) -> StarTable:
        """Labels of stars with intervals and flags, as the catalogue has them; ``answers["teff"]`` is a column.

        Raises:
            CheckpointError: The model predicts none.
            DataError: As `encode`.

        Example:
            >>> import scattervae as sv
            >>> labels = sv.load_model("best").labels("stars.csv.gz")
            >>> bool((labels["teff_low_68"] <= labels["teff_high_68"]).all())
            True
        """
        from scattervae.science.catalogue.encoding import catalogue, label_columns

        if self.label_model is None:
            raise CheckpointError(f"{self.folder or self}: predicts no labels; `scattervae label` adds them")
        table = catalogue(self, read(stars, basis=self.normalization.basis).spectra)
        return StarTable(table.select(["source_id", *label_columns(self), FLAGS]))

    def decode(
        self, z: np.ndarray | Latents | Sequence[Any], *, g_mag: float | StarArray = 15.0
    ) -> "GeneratedSpectra":
        """Spectra and their intrinsic scatter at latent vectors, in archive units.

        Args:
            z: A latent vector a row, or one alone.
            g_mag: G of the stars that they are scaled to [mag], one or one a row.

        Raises:
            DataError: The vectors have another length than the model's latents, or hold no numbers.

        Example:
            >>> import numpy as np
            >>> import scattervae as sv
            >>> decoded = sv.load_model("best").decode(np.zeros(8), g_mag=12.0)
            >>> decoded.coefficients.shape, decoded.flux().flux.shape
            ((1, 110), (1, 343))
        """
        from scattervae.science.generation import generate

        try:
            vectors = np.atleast_2d(np.asarray(z, dtype=np.float32))
            g_flux = np.asarray(g_flux_of(np.broadcast_to(np.asarray(g_mag, dtype=np.float64), len(vectors))))
        except (TypeError, ValueError) as error:
            raise DataError(f"latents and G are numbers, one G a vector at most: {error}") from None
        if vectors.ndim != 2 or vectors.shape[1] != self.n_latent:
            raise DataError(
                f"latents of shape {np.shape(z)}; expected {counted(self.n_latent, 'number')} a row"
            )
        return generate(self, torch.from_numpy(vectors), g_flux)

    def generate(
        self, n: int, *, g_mag: float = 15.0, seed: int = 0, draw_scatter: bool = False
    ) -> "GeneratedSpectra":
        """Spectra at latent vectors drawn from the prior, as `scattervae generate` makes them.

        Args:
            n: How many.
            g_mag: G of the stars that they are scaled to [mag].
            seed: Of every random number.
            draw_scatter: Add a draw of the intrinsic scatter to each.

        Example:
            >>> import scattervae as sv
            >>> sv.load_model("best").generate(100, g_mag=12.0, seed=1)
            <100 generated spectra of 55 BP (basis 56) + 55 RP (basis 57) coefficients>
        """
        from scattervae.science.generation import from_prior, generate

        z = from_prior(self, n, seed=seed)
        return generate(self, z, np.full(n, g_flux_of(g_mag)), noise_seed=seed if draw_scatter else None)

    def save(self, folder: str | Path) -> None:
        """Write the model with all that was fitted to it; the folder appears whole or not at all.

        Raises:
            CheckpointError: It was calibrated, or changed, in memory: `save_calibration` writes that into the folder of
                its model.

        Example:
            >>> import scattervae as sv
            >>> sv.load_model("best").save("copy")
            >>> sv.load_model("copy").digest == sv.load_model("best").digest
            True
        """
        changed = (
            self.folder is None or load_model(self.folder, labels=False).latent_digest != self.latent_digest
        )
        if changed and not is_calibrated(self) and self.label_model is None:
            super().save(folder)
            return
        if changed or self.folder is None:
            raise CheckpointError(
                f"{folder}: what was fitted to a model is written into the model's own folder: save the model first"
            )
        partial = Path(folder).with_name(Path(folder).name + ".saving")
        shutil.copytree(self.folder, partial, dirs_exist_ok=True)
        replace_folder(Path(folder), partial)

    @cached_property
    def flow(self) -> LatentFlow | None:
        """The density of a survey's latents, where one was fitted; read when first asked for.

        Raises:
            CheckpointError: It is broken, or of another model.
        """
        if self.folder is None or not (self.folder / FLOW).is_file():
            return None
        return LatentFlow.load(self.folder, self)

    @cached_property
    def outlier_reference(self) -> OutlierReference | None:
        """The stars that `scattervae outliers --fit` left as ordinary ones; read when first asked for.

        Raises:
            CheckpointError: They are broken, or of another model.
        """
        if self.folder is None or not (self.folder / REFERENCE).is_file():
            return None
        return OutlierReference.load(self.folder, self)


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

    Example:
        >>> import scattervae as sv
        >>> model = sv.load_model("best")  # or the folder that training wrote
        >>> plain = sv.load_model("best", calibrated=False)  # as it was trained, without calibration and labels
        >>> plain.label_model is None
        True
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


def outlier_reference_of(model: Checkpoint) -> OutlierReference | None:
    """The stars that a model calls ordinary, where some were fitted."""
    return model.outlier_reference if isinstance(model, TrainedModel) else None


def training_input(stars: Anything, recipe: Recipe) -> tuple[Spectra | SpectrumStore, StarArray | None]:
    """Stars to train a recipe on, and the errors of their G flux [electron/s] where known; a store stays on disk.

    Raises:
        DataError: These are no stars.
        StoreError: A folder is no store.
    """
    if isinstance(stars, SpectrumStore | Spectra):
        return stars, None
    if isinstance(stars, str | Path) and Path(stars).is_dir():
        return SpectrumStore(stars), None
    found = read(stars, correlations=recipe.likelihood == "full")
    known = found.sources.aligned_to(found.spectra.source_id).values
    return found.spectra, known.get(G_FLUX_ERROR_COLUMN)


def train(
    stars: Anything,
    recipe: Recipe | str = "best",
    *,
    epochs: int | None = None,
    seed: int | None = None,
    out: RunFolder | str | Path | None = None,
    device: str | Machine = "auto",
    progress: Progress | bool = True,
) -> TrainedModel:
    """A model trained on the usable stars outside the test fold, as `scattervae train` does.

    Args:
        stars: A store, which is streamed where it is larger than memory, or what `scattervae.read` takes.
        recipe: Every setting, or the name of a recipe or of a TOML file.
        epochs: Passes over the stars; the recipe's where None.
        seed: Of every random number; the recipe's where None.
        out: Where the model is saved, and by a `RunFolder` resumed; in memory alone where None.
        device: cpu, cuda or mps; auto takes cuda where there is one. Or device, memory and processes as a `Machine`.
        progress: True for a bar, or a line a minute without a terminal; or what is called with each epoch's record.

    Raises:
        DataError: These are no stars.
        RecipeError: There is no such recipe or device.
        TrainingError: No star is left to train on, the loss stops being a number, or memory does not suffice.
        CheckpointError: `out` holds something that nobody asked to replace or resume.
        BusyError: Another run trains there.

    Example:
        >>> import scattervae as sv
        >>> model = sv.train("store", "elbo", epochs=2, out="new_model", progress=False)
        >>> model.n_latent, len(model.records)
        (6, 2)
    """
    chosen = chosen_recipe(recipe, epochs=epochs, seed=seed)
    given, g_flux_error = training_input(stars, chosen)
    out = out if out is None or isinstance(out, RunFolder) else RunFolder(Path(out))
    machine = device if isinstance(device, Machine) else Machine(device=device_of(device))
    with epoch_bar(chosen.training.epochs) if progress is True else nullcontext(progress or None) as report:
        model = runs.train(
            given, chosen, out=out, machine=machine, progress=report, g_flux_error=g_flux_error
        )
    return with_labels(model, None, None if out is None else out.model)


def chosen_recipe(recipe: Recipe | str, *, epochs: int | None, seed: int | None) -> Recipe:
    """A recipe by name, file or value, with another number of epochs or seed.

    Raises:
        RecipeError: There is no such recipe, or a number is out of range.
    """
    if not isinstance(recipe, Recipe | str | Path):
        raise RecipeError(f"a {type(recipe).__name__} is no recipe; give its name, a TOML file or a Recipe")
    settings = (recipe if isinstance(recipe, Recipe) else recipes.load_recipe(str(recipe))).model_dump()
    given = {"seed": seed, "epochs": epochs}
    settings["training"] |= {name: value for name, value in given.items() if value is not None}
    return recipes.parse_recipe(settings, where="train")


def device_of(name: str) -> torch.device:
    """The device of this name; of auto, cuda where there is one.

    Raises:
        RecipeError: There is none here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(name)
        torch.zeros(1, device=chosen)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise RecipeError(f"device {name}: not to be had here ({reason}); use device cpu") from error
    return chosen
