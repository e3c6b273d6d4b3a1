"""Which files in a folder are known to be whole, so that terabytes are not hashed again at every run."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from scattervae.gaia.archive.transport import StoppedError

NAME = "checksums.jsonl"
_CHUNK = 2**20


@dataclass(frozen=True)
class _Entry:
    md5: str
    n_bytes: int
    changed_ns: int


class CheckedFiles:
    """Checksums of files that were read whole, each good for as long as its size and its time stay the same.

    They are kept in ``checksums.jsonl``, a line a file, added as files are finished: a killed run loses none,
    and a line that was cut short is passed over.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = Lock()
        self._entries: dict[str, _Entry] = {}
        path = folder / NAME
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        self._before_next = "\n" if text and not text.endswith("\n") else ""
        for line in text.splitlines():
            try:
                values = json.loads(line)
                self._entries[values["path"]] = _Entry(values["md5"], values["bytes"], values["changed_ns"])
            except (ValueError, KeyError, TypeError):
                continue

    def knows(self, path: str, md5: str) -> bool:
        """True where the file lies there as it was when this was found to be its checksum."""
        entry = self._entries.get(path)
        return entry is not None and entry == self._entry(path, md5)

    def note(self, path: str, md5: str) -> None:
        """Remember the checksum of a file as it lies there now."""
        entry = self._entry(path, md5)
        if entry is None or self._entries.get(path) == entry:
            return
        line = {"path": path, "md5": md5, "bytes": entry.n_bytes, "changed_ns": entry.changed_ns}
        with self._lock, (self._folder / NAME).open("a", encoding="utf-8") as file:
            file.write(self._before_next + json.dumps(line) + "\n")
            self._before_next = ""
            self._entries[path] = entry

    def _entry(self, path: str, md5: str) -> _Entry | None:
        try:
            status = (self._folder / path).stat()
        except FileNotFoundError:
            return None
        return _Entry(md5, status.st_size, status.st_mtime_ns)


def md5_of(path: Path, *, stopped: Callable[[], bool]) -> str:
    """The MD5 of a file.

    Raises:
        StoppedError: `stopped` came true on the way.
    """
    found = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            if stopped():
                raise StoppedError
            found.update(chunk)
    return found.hexdigest()
