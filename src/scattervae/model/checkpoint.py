"""The trained folder: config, weights, normalization and provenance, with no pickle anywhere.

``config.json`` holds the recipe, ``weights.safetensors`` the network, ``normalization.safetensors`` mean and
standard deviation of each coefficient, ``provenance.json`` what it was made from and with, and
``training.jsonl`` a line for each epoch.
"""

import copy
import hashlib
import json
import platform
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

import scattervae
from scattervae.arrays import Latents, StarMask
from scattervae.errors import CheckpointError, RecipeError
from scattervae.files import replace_folder, restored, write_json
from scattervae.model.network import Reconstruction, ScatterVAE
from scattervae.model.posterior import Posterior
from scattervae.model.recipe import Recipe, parse_recipe
from scattervae.model.records import EpochRecord, read_records, write_records
from scattervae.spectra.chunks import rechunk
from scattervae.spectra.normalization import Inputs, Normalization
from scattervae.spectra.spectra import Basis, Spectra

CONFIG = "config.json"
WEIGHTS = "weights.safetensors"
NORMALIZATION = "normalization.safetensors"
PROVENANCE = "provenance.json"
TRAINING = "training.jsonl"
_FORMAT = 1
BATCH = 4096


class Answer(NamedTuple):
    """What the model says of some stars.

    Attributes:
        posterior: Where they lie in the latent space.
        reconstruction: Coefficients and scatter at the posterior mean.
    """

    posterior: Posterior
    reconstruction: Reconstruction

    def take(self, rows: slice) -> "Answer":
        """The answer for these rows."""
        return Answer(
            self.posterior.each(lambda values: values[rows]),
            Reconstruction(*(part[rows] for part in self.reconstruction)),
        )


@dataclass(frozen=True)
class Encoded:
    """One batch of stars with all that the model says of them.

    Attributes:
        spectra: The stars in archive units.
        inputs: The same as the model saw them.
        posterior: Where they lie in the latent space.
        reconstruction: Coefficients and scatter at the posterior mean.
    """

    spectra: Spectra
    inputs: Inputs
    posterior: Posterior
    reconstruction: Reconstruction


@dataclass(frozen=True)
class Checkpoint:
    """A trained model: everything that is needed to encode stars and to generate them.

    Attributes:
        recipe: Every setting it was trained with.
        normalization: From archive units to its inputs.
        network: The weights, in evaluation mode.
        provenance: Version, data digest, counts of stars; readable JSON values.
        records: What training said after each epoch.
    """

    recipe: Recipe
    normalization: Normalization
    network: ScatterVAE
    provenance: dict[str, Any]
    records: tuple[EpochRecord, ...] = ()

    @property
    def n_latent(self) -> int:
        return self.recipe.network.n_latent

    def save(self, folder: str | Path) -> None:
        """Write the files; the folder appears whole or not at all, and an old one stays until then."""
        folder = Path(folder)
        partial = folder.with_name(folder.name + ".saving")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        normalization = self.normalization
        config = {
            "format": _FORMAT,
            "recipe": self.recipe.model_dump(mode="json"),
            "basis": vars(normalization.basis),
            "n_coeffs": normalization.n_coeffs,
        }
        write_json(partial / CONFIG, config)
        weights = {name: w.cpu().contiguous() for name, w in self.network.state_dict().items()}
        save_file(weights, partial / WEIGHTS)
        safetensors.numpy.save_file(
            {"columns": normalization.columns, "mean": normalization.mean, "std": normalization.std},
            partial / NORMALIZATION,
            {
                "n_stars": str(normalization.n_stars),
                "n_g_flux_from_table": str(normalization.n_g_flux_from_table),
            },
        )
        write_json(partial / PROVENANCE, self.provenance)
        write_records(partial / TRAINING, self.records)
        replace_folder(folder, partial)

    @staticmethod
    def is_model(folder: Path) -> bool:
        """True where `folder` is the folder of a trained model."""
        folder = restored(folder)
        return (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()

    @classmethod
    def load(cls, folder: str | Path) -> "Checkpoint":
        """Read a trained folder; nothing else is needed, and nothing is guessed from weight shapes.

        Raises:
            CheckpointError: A file is missing, unreadable, or does not fit the others.
        """
        folder = restored(Path(folder))
        missing = [n for n in (CONFIG, WEIGHTS, NORMALIZATION, PROVENANCE) if not (folder / n).is_file()]
        if missing:
            raise CheckpointError(f"{folder}: no {', '.join(missing)}; not the folder of a trained model")
        config = _read_json(folder / CONFIG)
        if config.get("format") != _FORMAT:
            raise CheckpointError(
                f"{folder / CONFIG}: format {config.get('format')}, this version reads {_FORMAT}; "
                "use the version of scattervae in its provenance.json"
            )
        try:
            recipe = parse_recipe(config["recipe"], where=CONFIG)
            network = ScatterVAE(config["n_coeffs"], recipe.network)
            network.load_state_dict(load_file(folder / WEIGHTS))
            normalization = _read_normalization(folder / NORMALIZATION, Basis(**config["basis"]))
            records = read_records(folder / TRAINING) if (folder / TRAINING).is_file() else ()
        except (RecipeError, SafetensorError, RuntimeError, LookupError, TypeError, ValueError) as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())  # PyTorch's have many lines
            raise CheckpointError(
                f"{folder}: its files are broken or do not fit each other: {reason}"
            ) from error
        if normalization.n_coeffs != network.n_coeffs:
            raise CheckpointError(
                f"{folder}: {NORMALIZATION} has {normalization.n_coeffs} coefficients, "
                f"{CONFIG} has {network.n_coeffs}"
            )
        return cls(recipe, normalization, network.eval(), _read_json(folder / PROVENANCE), records)

    def to(self, device: torch.device) -> "Checkpoint":
        """The same model, computing on this device."""
        return replace(self, network=copy.deepcopy(self.network).to(device))

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def usable(self, spectra: Spectra) -> StarMask:
        """Stars that are usable and that the encoder can read: with one band where it sees errors, else with both."""
        return spectra.usable_with_one_band if self.network.sees_errors else spectra.usable

    def encode(self, spectra: Spectra) -> Posterior:
        """The latent posterior of each star, in the stars' order; NaN for a star that cannot be encoded.

        Where the encoder sees errors, a star with a missing band or bad coefficients is encoded from the others.

        Raises:
            DataError: The spectra are of another basis than the model's.
            TypeError: They are no spectra.
        """
        if not isinstance(spectra, Spectra):
            found = type(spectra).__name__
            raise TypeError(
                f"encode takes Spectra, not {found}; scattervae.load(...).spectra gives those of a file"
            )
        parts = [encoded.posterior for encoded in self.encode_batches([spectra])]
        if not parts:
            none = torch.empty(0, self.network.n_coeffs, device=self.device)
            return self.network.encode(none, none).each(lambda values: values.detach().cpu())
        return Posterior.concatenate(parts)

    def encode_batches(self, chunks: Iterable[Spectra], *, batch: int = BATCH) -> Iterator[Encoded]:
        """All that the model says of the stars, in batches of a fixed size that do not depend on the chunks.

        The last batch is padded for the arithmetic and cut after it, so that the bits of a star's answer do
        not depend on how many stars come with it.
        """
        for spectra in rechunk(chunks, batch):
            inputs = self.normalization.apply(spectra, gaps=self.network.sees_errors)
            answer = self.answer(inputs, batch=batch)
            yield Encoded(
                spectra=spectra,
                inputs=inputs,
                posterior=answer.posterior.each(lambda values: values.cpu()),
                reconstruction=Reconstruction(*(part.cpu() for part in answer.reconstruction)),
            )

    @torch.no_grad()
    def answer(self, inputs: Inputs, *, batch: int = BATCH) -> Answer:
        """What the model says of at most `batch` stars, left on its device.

        Matrix products round differently for other numbers of rows, so fewer stars are padded to `batch`.
        """
        n = len(inputs)
        x, errors = inputs.x.to(self.device), inputs.errors.to(self.device)
        if n < batch:
            x, errors = (torch.nn.functional.pad(values, (0, 0, 0, batch - n)) for values in (x, errors))
        posterior = self.network.encode(x, errors)
        answer = Answer(posterior, self.network.decode(posterior.mean))
        return answer if n == batch else answer.take(slice(0, n))

    @torch.no_grad()
    def decode(self, z: Latents | Float[np.ndarray, "star latent"]) -> Reconstruction:
        """Coefficients and scatter at these latent vectors, in training standard deviations."""
        reconstruction = self.network.decode(torch.as_tensor(z, dtype=torch.float32, device=self.device))
        return Reconstruction(reconstruction.mean.cpu(), reconstruction.scatter.cpu())

    @property
    def digest(self) -> str:
        """What identifies the model in catalogues: a digest of its shape, weights and normalization."""
        sha = hashlib.sha256(f"{self.recipe.network!r} {self.normalization.basis!r}".encode())
        for name, weights in sorted(self.network.state_dict().items()):
            sha.update(name.encode() + weights.cpu().numpy().tobytes())
        for values in (self.normalization.columns, self.normalization.mean, self.normalization.std):
            sha.update(values.tobytes())
        return sha.hexdigest()[:32]

    def __dask_tokenize__(self) -> tuple[str, str]:
        """What Dask names tasks by that are given this model."""
        return type(self).__name__, self.digest


def software_versions() -> dict[str, str]:
    """The versions that a model or catalogue was made with, for its provenance."""
    return {
        "scattervae": scattervae.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def _read_normalization(path: Path, basis: Basis) -> Normalization:
    with safe_open(path, framework="numpy") as file:
        notes = file.metadata() or {}
        return Normalization(
            basis=basis,
            columns=file.get_tensor("columns"),
            mean=file.get_tensor("mean"),
            std=file.get_tensor("std"),
            n_stars=int(notes["n_stars"]),
            n_g_flux_from_table=int(notes["n_g_flux_from_table"]),
        )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds no JSON object")
    return content
