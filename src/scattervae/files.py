"""Outputs appear whole or not at all, say what made them, carry digests, and are checked against these when read.

Each is written beside its place and renamed. JSON has one way to disk and back, `write_json` and `read_json`, as
tensors have in `scattervae.files`; `written_folder` notes the digest of each file of a folder.
"""

import hashlib
import json
import math
import os
import platform
import shutil
import subprocess
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from importlib import metadata
from pathlib import Path
from threading import Lock
from typing import IO, Any, NamedTuple, TypeVar

import numpy as np
import safetensors.numpy
from numpy.typing import ArrayLike
from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json
from safetensors import SafetensorError, safe_open

import scattervae
from scattervae.errors import BusyError, CheckpointError, StoreError

CREDIT = "ESA/Gaia/DPAC"
"""Source: the Gaia archive's guide, "How to acknowledge Gaia"."""
DIGESTS = "digests.json"
_SAMPLE = "#sample"  # behind a parquet file's name: its `sample_digest`
_N_SAMPLES, _SAMPLE_BYTES, _END = 64, 1024, 2**14  # bytes of a file that its sample is of
_SHOWN = 60  # characters of a wrong value

Content = TypeVar("Content")


@contextmanager
def written_file(path: Path) -> Iterator[Path]:
    """A path to write to, renamed to `path` when the block ends well; otherwise it goes, and `path` stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        os.replace(partial, path)
    except OSError as error:  # a full disk does not say which file it was
        if error.filename is None:
            error.filename = str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def sole_writer(output: Path) -> Iterator[None]:
    """No other run writes to `output` while the block runs, where the file system can lock.

    The lock is on ``.NAME.lock`` beside the output and ends with the process; the file goes when the block ends.

    Raises:
        BusyError: Another run writes to it.
    """
    target = Path(os.path.realpath(output))  # of a loop of links as well
    lock = target.with_name(f".{target.name}.lock")
    file = _locked(lock, output)
    try:
        yield
    finally:
        if file is not None:
            with file:
                lock.unlink(missing_ok=True)


def _locked(lock: Path, output: Path) -> IO[str] | None:
    """The lock's file, locked; None on a system, or in a folder, without locks."""
    try:
        import fcntl

        lock.parent.mkdir(parents=True, exist_ok=True)
        while True:
            with ExitStack() as opened:
                file = opened.enter_context(lock.open("a", encoding="utf-8"))
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if lock.exists() and os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                    opened.pop_all()
                    return file  # and no file that another run removed at its end, between these lines
    except BlockingIOError as error:
        raise BusyError(
            f"{output}: another run is writing to it; wait for its end, or write to another place"
        ) from error
    except (ImportError, OSError):
        return None


@contextmanager
def written_folder(folder: Path) -> Iterator[Path]:
    """A folder to write files to, put in the place of `folder` when the block ends well, with their digests."""
    partial = folder.with_name(folder.name + ".saving")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    write_digests(partial, partial.iterdir())
    replace_folder(folder, partial)


def write_digests(folder: Path, files: Iterable[Path], *, unchanged: Collection[Path] = ()) -> None:
    """Note the digests of these files in their folder; the `unchanged` keep those that are noted, and are not read.

    Of a parquet file a `sample_digest` is noted as well, which is quickly compared when the file is opened.
    """
    noted = digests_in(folder)
    names = {file.relative_to(folder).as_posix(): file for file in sorted(files)}
    digests = {n: noted[n] if n in noted and f in unchanged else file_digest(f) for n, f in names.items()}
    samples = {n + _SAMPLE: sample_digest(f) for n, f in names.items() if f.suffix == ".parquet"}
    write_json(folder / DIGESTS, digests | samples)


def require_own_sample(folder: Path, file: Path, digests: Mapping[str, str]) -> None:
    """Refuse a parquet file that another was put in the place of, where its folder has noted a sample."""
    noted = digests.get(file.relative_to(folder).as_posix() + _SAMPLE)
    if noted is not None and sample_digest(file) != noted:
        raise StoreError(
            f"{file}: not the file that was written here, though of the same pixel and as many rows; put its own file "
            "back, or ingest again"
        )


def sample_digest(file: Path) -> str:
    """The SHA-256 of a file's size, its end, and samples spread evenly over it, in hexadecimal.

    It separates one file from others without reading all of them; a changed byte may lie between the samples.
    """
    size = file.stat().st_size
    sha = hashlib.sha256(str(size).encode())
    with file.open("rb") as content:
        for start in (
            *np.linspace(0, max(size - _SAMPLE_BYTES, 0), _N_SAMPLES).astype(int).tolist(),
            size - _END,
        ):
            content.seek(max(start, 0))
            sha.update(content.read(_SAMPLE_BYTES if start != size - _END else _END))
    return sha.hexdigest()


def digests_in(folder: Path) -> dict[str, str]:
    """What `write_digests` noted, by the files' paths below the folder; nothing where there is no such note."""
    if not (folder / DIGESTS).is_file():
        return {}
    return read_json(folder / DIGESTS, TypeAdapter(dict[str, str]).validate_python)


def damaged_files(folder: Path, names: Collection[str] | None = None) -> Iterator[str]:
    """A line for each file (of these names; of all where None) that is not the one whose digest was noted."""
    for name, digest in digests_in(folder).items():
        if name.endswith(_SAMPLE):
            continue
        file = folder / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise CheckpointError(f"{folder / DIGESTS}: {_shown(name)} leads out of the folder")
        if names is not None and name not in names:
            continue
        if not file.is_file():
            yield f"{file}: is missing, but {DIGESTS} names it; copy the folder again"
        elif (found := file_digest(file)) != digest:
            yield (
                f"{file}: not the file that was written here ({DIGESTS} has SHA-256 {digest[:12]}..., not "
                f"{found[:12]}...): damaged, edited or of another folder; copy the folder again"
            )


def verified_folder(folder: str | Path, required: Collection[str], what: str) -> Path:
    """The folder that `written_folder` wrote, each of its files as it was written.

    A folder without digests, of an earlier format, passes: whoever reads it decides by its format.

    Raises:
        CheckpointError: A file is missing, or is not the one that was written.
    """
    folder = restored(Path(folder))
    missing = [name for name in required if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(f"{folder}: no {', '.join(missing)}; not the folder of {what}")
    if not (folder / DIGESTS).is_file():
        return folder
    for line in damaged_files(folder):
        raise CheckpointError(line)
    unknown = sorted(set(required) - set(digests_in(folder)))
    if unknown:
        raise CheckpointError(f"{folder / DIGESTS}: no digest of {', '.join(unknown)}; copy the folder again")
    return folder


def replace_folder(folder: Path, by: Path) -> None:
    """Put the folder `by` in the place of `folder`, which may exist.

    Two folders cannot be exchanged in one step. Stopped between the steps, the old one lies beside it, and
    `restored` brings it back.
    """
    old = _old(restored(folder))
    shutil.rmtree(old, ignore_errors=True)  # left where the last step of an earlier replacement was stopped
    if folder.exists():
        folder.rename(old)
    by.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def restored(folder: Path) -> Path:
    """The same folder, put back in its place where a replacement was stopped half-way."""
    if not folder.exists() and _old(folder).is_dir():
        _old(folder).rename(folder)
    return folder


def _old(folder: Path) -> Path:
    return folder.parent / (folder.name + ".replaced")


def json_values(value: Any) -> Any:
    """The same value where NaN and infinity, which JSON lacks, are None."""
    if isinstance(value, Mapping):
        return {key: json_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_values(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8, whole or not at all."""
    with written_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write readable JSON, whole or not at all."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def read_json(path: Path, check: Callable[[Any], Content], *, formats: Collection[int] = ()) -> Content:
    """What a JSON file holds, as its schema has it.

    Args:
        check: What gives the content as its schema has it, as ``Model.model_validate`` of pydantic does.
        formats: Where some are given, the file has a number ``format``, which is one of these.

    Raises:
        CheckpointError: It is no JSON, is of another format, has control characters, or does not fit the schema.
    """
    try:
        content = from_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable as JSON: {error}") from error
    if formats:
        if not isinstance(content, dict):
            raise CheckpointError(f"{path}: holds no JSON object")
        found = content.get("format")
        if type(found) is not int or found not in formats:
            raise CheckpointError(
                f"{path}: format {_shown(found)}, this version reads {', '.join(map(str, formats))}; "
                "use the version of scattervae that wrote it"
            )
    _require_plain_text(content, path)
    try:
        return check(content)
    except ValidationError as error:
        raise CheckpointError(f"{path}: {problems(error)}") from error


class JsonLines:
    """A file of a JSON object a line, added to as they come; one that a killed run left unfinished is passed over."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, Lock()
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        self._start = "" if text.endswith("\n") or not text else "\n"  # after a line left unfinished
        self.read: list[dict[str, Any]] = []  # what it held when it was opened
        for line in text.splitlines():
            with suppress(ValueError):
                self.read += [value] if isinstance(value := json.loads(line), dict) else []

    def add(self, content: Mapping[str, Any]) -> None:
        with self._lock, self._path.open("a", encoding="utf-8") as file:
            file.write(self._start + json.dumps(content) + "\n")
            self._start = ""


def problems(error: ValidationError) -> str:
    """What is wrong with settings or a file, in one line."""
    found = error.errors(include_url=False)
    lines = [
        f"{'.'.join(map(str, one['loc'])) or 'it'} = {_shown(one['input'])}: {one['msg']}"
        for one in found[:5]
    ]
    return "; ".join([*lines, *([f"and {len(found) - 5} more"] if len(found) > 5 else [])])


def _shown(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "..."


def _require_plain_text(content: object, path: Path) -> None:
    """Refuse what a terminal would take for commands."""
    if isinstance(content, str) and any(unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp") for c in content):
        raise CheckpointError(f"{path}: control characters in {_shown(content)}; nobody here writes any")
    if isinstance(content, dict):
        for key, value in content.items():
            _require_plain_text(key, path)
            _require_plain_text(value, path)
    elif isinstance(content, list):
        for value in content:
            _require_plain_text(value, path)


def file_digest(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_NOTES = "scattervae"  # one key: safetensors writes several in random order


def tensors_digest(tensors: Mapping[str, ArrayLike], *words: str) -> str:
    """The SHA-256 of arrays by their names, and of words that belong to them, in hexadecimal."""
    sha = hashlib.sha256(json.dumps(words).encode())
    for name, values in sorted(tensors.items()):
        array = np.asarray(values, order="C")
        sha.update(json.dumps([name, str(array.dtype), array.shape]).encode() + array.tobytes())
    return sha.hexdigest()


class StoredTensors(NamedTuple):
    """A file of tensors."""

    path: Path  # where it is
    arrays: dict[str, np.ndarray]  # its numbers, by name
    notes: dict[str, str]  # what it says of them

    def under(self, prefix: str) -> dict[str, np.ndarray]:
        """The arrays whose names begin with this, by the rest of their names."""
        return {n.removeprefix(prefix): a for n, a in self.arrays.items() if n.startswith(prefix)}


def write_tensors(
    path: Path, tensors: Mapping[str, ArrayLike], notes: Mapping[str, str] | None = None
) -> None:
    """Write arrays or CPU tensors as safetensors, whole or not at all; equal ones give equal bytes."""
    arrays = {name: np.asarray(values, order="C") for name, values in tensors.items()}
    noted = json.dumps(dict(notes or {}), sort_keys=True)
    signed = json.dumps({"digest": tensors_digest(arrays, noted), "notes": noted})
    with written_file(path) as partial:
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
        digest, noted = signed["digest"], signed["notes"]
        if digest != tensors_digest(arrays, noted):
            raise CheckpointError(
                f"{path}: damaged: its numbers are not those that were written; copy it again"
            )
        return StoredTensors(path, arrays, json.loads(noted))
    except (SafetensorError, OSError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not readable: {' '.join(str(error).split())}") from error


def software_versions() -> dict[str, str]:
    """The versions that a model or catalogue was made with."""
    libraries = {name: metadata.version(name) for name in ("torch", "numpy")}
    return {"scattervae": scattervae.__version__, **libraries, "python": platform.python_version()}


def commit() -> str | None:
    """The commit of the source tree that runs, or None where it is an installed package."""
    here = Path(__file__).resolve().parent
    command = ["git", "-C", str(here), "log", "-1", "--format=%H", "--", str(here)]
    try:
        found = subprocess.check_output(command, stderr=subprocess.DEVNULL, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.strip() or None
