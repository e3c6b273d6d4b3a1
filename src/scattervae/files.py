"""Outputs appear whole or not at all: each is written beside its place and renamed."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """A path to write to, renamed to `path` when the block ends well; otherwise `path` stays as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    yield partial
    os.replace(partial, path)


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
