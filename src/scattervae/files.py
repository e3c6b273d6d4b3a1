"""Outputs appear whole or not at all, written by one run at a time: beside their place, then renamed."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from scattervae.errors import BusyError


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """A path to write to, renamed to `path` when the block ends well; otherwise `path` stays as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    yield partial
    os.replace(partial, path)


@contextmanager
def sole_writer(output: Path) -> Iterator[None]:
    """No other run writes to `output` while the block runs, where the file system can lock.

    The lock is on ``.NAME.lock`` beside the output and ends with the process; the file goes when the block ends.

    Raises:
        BusyError: Another run writes to it.
    """
    place = output.resolve()
    lock = place.with_name(f".{place.name}.lock")
    file = _locked(lock, output)
    try:
        yield
    finally:
        if file is not None:
            lock.unlink(missing_ok=True)
            file.close()


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
            f"{output}: another run is writing to it; wait for its end, or give another --out"
        ) from error
    except (ImportError, OSError):
        return None


def replace_folder(folder: Path, by: Path) -> None:
    """Put the folder `by` in the place of `folder`, which may exist.

    Two folders cannot be exchanged in one step. Stopped between the steps, the old one stands aside, and
    `restored` brings it back.
    """
    aside = _aside(restored(folder))
    shutil.rmtree(aside, ignore_errors=True)  # left where the last step of an earlier replacement was stopped
    if folder.exists():
        folder.rename(aside)
    by.rename(folder)
    shutil.rmtree(aside, ignore_errors=True)


def restored(folder: Path) -> Path:
    """The same folder, put back in its place where a replacement was stopped half-way."""
    if not folder.exists() and _aside(folder).is_dir():
        _aside(folder).rename(folder)
    return folder


def _aside(folder: Path) -> Path:
    return folder.parent / (folder.name + ".replaced")


def write_json(path: Path, content: Any) -> None:
    """Write readable JSON, whole or not at all."""
    with written_aside(path) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def file_digest(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
