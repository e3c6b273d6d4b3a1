"""Arrays on disk as safetensors: one way there and back, whole or not at all, with a digest of their numbers."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors.numpy
from numpy.typing import ArrayLike
from safetensors import SafetensorError, safe_open

from scattervae.errors import CheckpointError
from scattervae.files import written_aside

_NOTES = "scattervae"  # one key: safetensors writes several in random order


def tensors_digest(tensors: Mapping[str, ArrayLike], *words: str) -> str:
    """The SHA-256 of arrays by their names, and of words that belong to them, in hexadecimal."""
    sha = hashlib.sha256(json.dumps(words).encode())
    for name, values in sorted(tensors.items()):
        array = np.asarray(values, order="C")
        sha.update(json.dumps([name, str(array.dtype), array.shape]).encode() + array.tobytes())
    return sha.hexdigest()


class StoredTensors(NamedTuple):
    """A file of tensors.

    Attributes:
        path: Where it is.
        arrays: Its numbers, by name.
        notes: What it says of them.
    """

    path: Path
    arrays: dict[str, np.ndarray]
    notes: dict[str, str]

    def under(self, prefix: str) -> dict[str, np.ndarray]:
        """The arrays whose names begin with this, by the rest of their names."""
        return {n.removeprefix(prefix): a for n, a in self.arrays.items() if n.startswith(prefix)}


def write_tensors(
    path: Path, tensors: Mapping[str, ArrayLike], notes: Mapping[str, str] | None = None
) -> None:
    """Write arrays or CPU tensors as safetensors, whole or not at all; equal ones give equal bytes.

    Raises:
        OSError: The disk is full, or the folder cannot be written to.
    """
    arrays = {name: np.asarray(values, order="C") for name, values in tensors.items()}
    said = json.dumps(dict(notes or {}), sort_keys=True)
    signed = json.dumps({"digest": tensors_digest(arrays, said), "notes": said})
    with written_aside(path) as partial:
        partial.write_bytes(safetensors.numpy.save(arrays, {_NOTES: signed}))


def read_tensors(path: Path) -> StoredTensors:
    """What `write_tensors` wrote, each byte of it; a file without a digest, of an earlier format, as it is.

    Raises:
        CheckpointError: It cannot be read, or is not as it was written.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if _NOTES not in metadata:
            return StoredTensors(path, arrays, metadata)
        signed = json.loads(metadata[_NOTES])
        digest, said = signed["digest"], signed["notes"]
        if digest != tensors_digest(arrays, said):
            raise CheckpointError(
                f"{path}: damaged: its numbers are not those that were written; copy it again"
            )
        return StoredTensors(path, arrays, json.loads(said))
    except (SafetensorError, OSError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not readable: {' '.join(str(error).split())}") from error
