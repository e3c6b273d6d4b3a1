"""The trained folder: config, weights, normalization and provenance, with no pickle anywhere.

``config.json`` holds the recipe, ``weights.safetensors`` the network, ``normalization.safetensors`` mean and
standard deviation of each coefficient, ``provenance.json`` what it was made from and with, ``training.jsonl`` a line
for each epoch, ``training_stars.safetensors`` the stars' identifiers, and ``digests.json`` the digest of each of these.
"""

import copy
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from pydantic import PositiveInt, TypeAdapter, ValidationError
from torch import nn

from scattervae.arrays import Latents, SourceIds, StarMask
from scattervae.display import Shown
from scattervae.errors import CheckpointError, counted
from scattervae.files import (
    CREDIT,
    DIGESTS,
    problems,
    read_json,
    read_tensors,
    restored,
    software_versions,
    tensors_digest,
    verified_folder,
    write_json,
    write_tensors,
    written_folder,
)
from scattervae.model.network import Posterior, Reconstruction, ScatterVAE
from scattervae.model.recipe import Recipe
from scattervae.settings import Facts, Settings
from scattervae.spectra.normalization import Inputs, Normalization
from scattervae.spectra.spectra import Basis, Spectra, rechunk

CONFIG = "config.json"
WEIGHTS = "weights.safetensors"
NORMALIZATION = "normalization.safetensors"
PROVENANCE = "provenance.json"
TRAINING = "training.jsonl"
STARS = "training_stars.safetensors"
_FORMAT = 2  # 1 had no digests
BATCH = 4096

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class EpochRecord:
    """Means over the stars of one epoch, in nats per star; the same whatever the objective weighs."""

    epoch: int  # counted from 1
    objective: float  # what was minimised
    chi2: float  # half the squared normalised errors, summed over coefficients
    penalty: float  # half the log variances, summed over coefficients
    kl: float  # divergence from the prior, summed over latents
    negative_elbo: float  # chi2 + penalty + kl
    learning_rate: float  # at the epoch's last step


Progress = Callable[[EpochRecord], None]


def write_records(path: Path, records: Iterable[EpochRecord]) -> None:
    """Write one JSON line an epoch."""
    path.write_text("".join(json.dumps(asdict(record)) + "\n" for record in records), encoding="utf-8")


def read_records(path: Path) -> tuple[EpochRecord, ...]:
    """The records that `write_records` wrote.

    Raises:
        CheckpointError: A line is nothing of the kind.
    """
    schema = TypeAdapter(EpochRecord)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return tuple(schema.validate_json(line) for line in lines)
    except ValidationError as error:
        raise CheckpointError(f"{path}: {problems(error)}") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable: {error}") from error


class _Config(Settings):
    """``config.json``."""

    format: int
    recipe: Recipe
    basis: Basis
    n_coeffs: PositiveInt


class Prediction(NamedTuple):
    """Where stars lie in the latent space, and coefficients and scatter at their posterior means."""

    posterior: Posterior
    reconstruction: Reconstruction


@dataclass(frozen=True)
class Encoded:
    """One batch of stars in archive units, as the model saw them, and what it predicts."""

    spectra: Spectra
    inputs: Inputs
    posterior: Posterior
    reconstruction: Reconstruction


@dataclass(frozen=True, repr=False)
class Checkpoint(Shown):
    """A trained model: everything that is needed to encode stars and to generate them.

    Example:
        >>> import scattervae as sv
        >>> model = sv.load_model("best")
        >>> isinstance(model, sv.Checkpoint), model.normalization.n_coeffs, model.device.type
        (True, 110, 'cpu')
    """

    recipe: Recipe  #: every setting it was trained with
    normalization: Normalization  #: from archive units to its inputs
    network: ScatterVAE  #: in evaluation mode
    provenance: dict[str, Any]  #: version, data digest, counts of stars; readable JSON values
    records: tuple[EpochRecord, ...] = ()  #: one an epoch of its training
    #: of the stars that it was trained on, rising; none where they were not kept
    source_id: SourceIds = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    def __repr__(self) -> str:
        latents = counted(self.n_latent, "latent")
        return f"<scatter VAE, recipe {self.recipe.name}: {latents}, {self.normalization.basis}>"

    @property
    def n_latent(self) -> int:
        return self.recipe.network.n_latent

    def save(self, folder: str | Path) -> None:
        """Write the files; the folder appears whole or not at all, and an old one stays until then."""
        normalization = self.normalization
        config = {"format": _FORMAT, "recipe": self.recipe.model_dump(mode="json")}
        config |= {"basis": vars(normalization.basis), "n_coeffs": normalization.n_coeffs}
        with written_folder(Path(folder)) as partial:
            write_json(partial / CONFIG, config)
            write_tensors(partial / WEIGHTS, on_cpu(self.network))
            normalization.write(partial / NORMALIZATION)
            write_json(partial / PROVENANCE, self.provenance)
            write_records(partial / TRAINING, self.records)
            if len(self.source_id):
                write_tensors(partial / STARS, {"source_id": self.source_id}, {})

    @staticmethod
    def is_model(folder: Path) -> bool:
        """True where `folder` is the folder of a trained model."""
        folder = restored(folder)
        return (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()

    def to(self, device: torch.device) -> "Checkpoint":
        """The same model, computing on this device."""
        return replace(self, network=copy.deepcopy(self.network).to(device))

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @property
    def sees_errors(self) -> bool:
        """True where the encoder is given the errors, and so can do with some coefficients missing."""
        return self.recipe.network.encoder_sees == "errors"

    def usable(self, spectra: Spectra) -> StarMask:
        """Stars that are usable and that the encoder can read: with one band where it sees errors, else with both."""
        return spectra.usable_with_one_band if self.sees_errors else spectra.usable

    def encode(self, spectra: Spectra) -> Posterior:
        """The latent posterior of each star, in the stars' order; NaN for a star that cannot be encoded.

        Where the encoder sees errors, a star with a missing band or bad coefficients is encoded from the others.

        Raises:
            DataError: The spectra are of another basis than the model's.
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

    def encode_batches(
        self, chunks: Iterable[Spectra], *, batch: int = BATCH, quick: bool = False
    ) -> Iterator[Encoded]:
        """The stars with what the model predicts, in batches of a fixed size that do not depend on the chunks.

        Args:
            quick: As `Normalization.apply` has it: to the bit what the catalogue's rows are made from.
        """
        for spectra in rechunk(chunks, batch):
            inputs = self.normalization.apply(spectra, quick=quick, gaps=self.sees_errors)
            posterior, reconstruction = self.predict(inputs, batch=batch)
            on_cpu = Reconstruction(*(part.cpu() for part in reconstruction))
            yield Encoded(spectra, inputs, posterior.each(lambda values: values.cpu()), on_cpu)

    @torch.no_grad()
    def predict(self, inputs: Inputs, *, batch: int = BATCH) -> Prediction:
        """Posterior and reconstruction of at most `batch` stars, left on the model's device.

        Matrix products round differently for other numbers of rows, so fewer stars are padded to `batch`.
        """
        posterior = self._posterior(inputs, batch)
        return Prediction(posterior, self._decoded(posterior.mean, batch))

    def _posterior(self, inputs: Inputs, batch: int) -> Posterior:
        """The posterior of at most `batch` stars, padded as in `predict`."""
        x, errors = inputs.x.to(self.device), inputs.errors.to(self.device)
        n = len(x)
        if n < batch:
            x, errors = (torch.nn.functional.pad(values, (0, 0, 0, batch - n)) for values in (x, errors))
        return self.network.encode(x, errors).each(lambda values: values[:n])

    def _decoded(self, z: Latents, batch: int) -> Reconstruction:
        """Coefficients and scatter at at most `batch` latent vectors, padded as in `predict`."""
        padded = torch.nn.functional.pad(z, (0, 0, 0, batch - len(z)))
        return Reconstruction(*(part[: len(z)] for part in self.network.decode(padded)))

    @torch.no_grad()
    def reconstruct(self, z: Latents | Float[np.ndarray, "star latent"]) -> Reconstruction:
        """Coefficients and scatter at these latent vectors, in training standard deviations."""
        reconstruction = self.network.decode(torch.as_tensor(z, dtype=torch.float32, device=self.device))
        return Reconstruction(reconstruction.mean.cpu(), reconstruction.scatter.cpu())

    @property
    def digest(self) -> str:
        """What identifies the model in catalogues: a digest of its shape, weights and normalization.

        Settings that are at their defaults do not count, so that a new one changes no digest; no default ever changes.
        """
        shape = self.recipe.network.model_dump(mode="json", exclude_defaults=True)
        basis = {name: value for name, value in vars(self.normalization.basis).items() if value is not None}
        tensors = on_cpu(self.network)
        tensors |= {name: getattr(self.normalization, name) for name in ("columns", "mean", "std")}
        return tensors_digest(tensors, json.dumps([shape, basis], sort_keys=True))[:32]

    @property
    def about(self) -> dict[str, Any]:
        """What tables of results say of the model they are made with."""
        return {
            "model": self.digest,
            "recipe": self.recipe.name,
            "versions": software_versions(),
            "credit": CREDIT,
        }

    @property
    def latent_digest(self) -> str:
        """What identifies the latents that it gives: as `digest`, whatever labels are predicted from them."""
        return self.digest

    def __dask_tokenize__(self) -> tuple[str, str]:
        """What Dask names tasks by that are given this model."""
        return type(self).__name__, self.digest


def on_cpu(network: nn.Module) -> dict[str, Any]:
    """Weights and buffers by name, to be written or hashed."""
    return {name: weights.cpu() for name, weights in network.state_dict().items()}


def read_checkpoint(folder: str | Path) -> Checkpoint:
    """The model of a trained folder as it was trained, without what was fitted to it later (see `load_model`).

    Nothing is guessed from weight shapes, and nothing is built before each file fits its schema and the weights fit
    the config.

    Raises:
        CheckpointError: A file is missing, unreadable, not as it was written, of a newer format, or does not fit the
            others.
    """
    folder = verified_folder(folder, (CONFIG, WEIGHTS, NORMALIZATION, PROVENANCE), "a trained model")
    config = read_json(folder / CONFIG, _Config.model_validate, formats=(1, _FORMAT))
    if config.format > 1 and not (folder / DIGESTS).is_file():
        raise CheckpointError(f"{folder}: no {DIGESTS}; copy the folder again")
    normalization = Normalization.read(folder / NORMALIZATION, config.basis)
    if normalization.n_coeffs != config.n_coeffs:
        raise CheckpointError(
            f"{folder}: {NORMALIZATION} has {normalization.n_coeffs} coefficients, {CONFIG} has {config.n_coeffs}"
        )
    weights = read_tensors(folder / WEIGHTS)
    network = with_weights(
        lambda: ScatterVAE(config.n_coeffs, config.recipe.network), weights.arrays, weights.path
    )
    facts = read_json(folder / PROVENANCE, Facts.model_validate)
    records = read_records(folder / TRAINING) if (folder / TRAINING).is_file() else ()
    provenance = facts.model_dump(mode="json", exclude_unset=True)
    return Checkpoint(config.recipe, normalization, network, provenance, records, _source_ids(folder / STARS))


def _source_ids(file: Path) -> SourceIds:
    """The identifiers in a file; none where there is no file, as in models of earlier versions."""
    if not file.is_file():
        return np.empty(0, dtype=np.int64)
    ids = read_tensors(file).arrays.get("source_id", np.empty(0))
    if ids.dtype != np.int64 or ids.ndim != 1 or (ids[1:] <= ids[:-1]).any():
        raise CheckpointError(f"{file}: holds no rising list of source_ids; train or fetch the model again")
    return ids


def with_weights(make: Callable[[], Network], weights: Mapping[str, np.ndarray], where: Path) -> Network:
    """The network that `make` makes, with these weights, in evaluation mode.

    It is made without memory for its weights, so that settings of a stranger's file cannot ask for any.

    Raises:
        CheckpointError: Names, shapes or kinds are others than the settings say, or a weight is no finite number.
    """
    try:
        with torch.device("meta"):
            network = make()
    except (RuntimeError, TypeError, ValueError, OverflowError, MemoryError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{where}: its settings make no network: {reason}") from error
    wanted = {
        name: (tuple(w.shape), str(w.dtype).removeprefix("torch."))
        for name, w in network.state_dict().items()
    }
    found = {name: (w.shape, str(w.dtype)) for name, w in weights.items()}
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise CheckpointError(
                f"{where}: {_described(found.get(name))} for {name!r}, its settings say "
                f"{_described(wanted.get(name))}; the files do not fit each other"
            )
    require_finite(weights, where)
    network.load_state_dict({name: torch.from_numpy(w) for name, w in weights.items()}, assign=True)
    return network.eval()


def require_finite(arrays: Mapping[str, np.ndarray], where: Path) -> None:
    """Refuse what is no finite number.

    Raises:
        CheckpointError: It says how many numbers of which array.
    """
    for name, values in arrays.items():
        n_bad = int((~np.isfinite(values)).sum())
        if n_bad:
            raise CheckpointError(
                f"{where}: {n_bad} of {values.size} numbers in {name!r} are not finite; the model is broken: "
                "train or fetch it again"
            )


def _described(shape_and_kind: tuple[tuple[int, ...], str] | None) -> str:
    return "nothing" if shape_and_kind is None else f"{shape_and_kind[1]} of shape {shape_and_kind[0]}"
