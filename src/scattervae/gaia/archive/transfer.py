"""One file from a server to the disk, whole and with the right checksum; and which files are known to be so."""

import hashlib
import logging
import os
import re
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import requests

from scattervae.errors import FetchError
from scattervae.files import JsonLines
from scattervae.gaia.archive.listing import BulkFile
from scattervae.gaia.archive.transport import (
    PassingError,
    Patience,
    StoppedError,
    answered,
    is_page,
    new_session,
)
from scattervae.opening import GZIP

logger = logging.getLogger(__name__)

_CHUNK = 2**16  # small enough that a stop takes effect soon on a slow line
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)")

Received = Callable[[int], None]
"""Takes how many bytes more lie on the disk; negative where some had to be thrown away."""


class Partial:
    """What has come of a file so far.

    Its name holds the start of the checksum that the archive promises, so what an earlier run left is only
    continued if the archive still has the same file. Bytes go to the disk as they come: a killed process loses
    none that it had written.
    """

    def __init__(self, folder: Path, file: BulkFile) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = partial_path(folder, file)
        for stale in folder.glob(f"{file.name}.*.partial"):
            if stale != self.path:
                stale.unlink()
        self.size, self.tag = 0, ""  # the tag is what the server calls this version of the file
        self._hash = hashlib.md5(usedforsecurity=False)
        self._file: BinaryIO = self.path.open("a+b", buffering=0)
        self._file.seek(0)
        while chunk := self._file.read(_CHUNK):
            self._hash.update(chunk)
            self.size += len(chunk)
        self.reached = self.size  # the most bytes that there ever were

    def __enter__(self) -> "Partial":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def md5(self) -> str:
        """The checksum of what has come so far."""
        return self._hash.hexdigest()

    def write(self, chunk: bytes) -> None:
        """Add these bytes; all of them are on the disk afterwards, or OSError says why not."""
        rest = memoryview(chunk)
        while rest:
            rest = rest[self._file.write(rest) :]
        self._hash.update(chunk)
        self.size += len(chunk)

    def gained(self) -> bool:
        """True where there are more bytes than ever before: what comes again after a restart is no gain."""
        more, self.reached = self.size > self.reached, max(self.size, self.reached)
        return more

    def restart(self) -> None:
        """Forget all bytes."""
        self._file.truncate(0)
        self._hash = hashlib.md5(usedforsecurity=False)
        self.size, self.tag = 0, ""

    def finish(self, path: Path) -> None:
        """Give the file its own name, once it is whole."""
        os.fsync(self._file.fileno())
        os.replace(self.path, path)


def partial_path(folder: Path, file: BulkFile) -> Path:
    """Where the bytes of an unfinished file lie."""
    return folder / f"{file.name}.{file.md5[:8]}.partial"


def transfer(file: BulkFile, folder: Path, *, patience: Patience, received: Received) -> None:
    """Fetch a file to a folder, going on where an earlier run was stopped.

    A wrong checksum throws away all that came and fetches it once more.

    Raises:
        FetchError: The server does not give it, or gives something else; what came of it stays for another run.
        OSError: The disk is full or cannot be written.
    """
    with Partial(folder, file) as partial, new_session() as session:
        for _ in range(2):
            patience.persist(lambda: _continue(session, file, partial, received=received, patience=patience))
            found = partial.md5
            if found == file.md5:
                partial.finish(folder / file.name)
                return
            logger.info("%s: its MD5 is %s, not %s; thrown away", file.url, found, file.md5)
            _forget(partial, received)
            partial.reached = 0
        partial.path.unlink()
    raise FetchError(
        f"{file.url}: its MD5 is {found}, twice, but the archive's list says {file.md5}; try again later"
    )


def _continue(
    session: requests.Session, file: BulkFile, partial: Partial, *, received: Received, patience: Patience
) -> None:
    """Receive what is missing of a file; on return as many bytes have come as the server says it has."""
    headers = {"Range": f"bytes={partial.size}-"} if partial.size else {}
    if partial.tag:
        headers["If-Range"] = partial.tag
    try:
        with answered(session, "GET", file.url, headers=headers) as response:
            body = _body(response, file)
            total = _agreed_size(response, partial, received)
            for chunk in body:
                if patience.stop.is_set():
                    raise StoppedError
                partial.write(chunk)
                received(len(chunk))
    except PassingError as error:
        error.progressed = partial.gained()
        raise
    if total is not None and partial.size < total:
        lacking = f"{file.url}: the connection ended after {partial.size:,} of {total:,} bytes"
        raise PassingError(lacking, progressed=partial.gained())


def _body(response: requests.Response, file: BulkFile) -> Iterator[bytes]:
    """The bytes of the answer, unless they are something else than the file."""
    if response.status_code == 416:
        return iter(())
    if response.status_code not in (200, 206):
        raise PassingError(f"{file.url}: the server answers {response.status_code}, without the file")
    chunks = response.raw.stream(_CHUNK, decode_content=False)
    first = next(chunks, b"")
    if is_page(response, first):
        raise PassingError(f"{file.url}: the server sent a web page instead of the file")
    if response.status_code == 200 and first and not first.startswith(GZIP):
        raise PassingError(f"{file.url}: the server sent something that is not gzipped")
    return chain([first], chunks)


def _agreed_size(response: requests.Response, partial: Partial, received: Received) -> int | None:
    """The size of the whole file by the server, None where it does not say; starts over where it must."""
    if response.status_code == 200:  # the whole file, whatever was asked for
        _forget(partial, received)
        length = response.headers.get("Content-Length", "")
        total = int(length) if length.isdigit() else None
    else:  # 206: the part that was asked for; 416: there is no more
        stated = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        start = int(stated[1] or partial.size) if stated else -1
        total = int(stated[2]) if stated and stated[2].isdigit() else None
        if start != partial.size or (total is not None and total < partial.size):
            _forget(partial, received)
            raise PassingError(f"{response.url}: the server sent another part than was asked for")
    tag = str(response.headers.get("ETag", ""))  # a weak one, W/"...", may be of other bytes
    partial.tag = tag if tag.startswith('"') else str(response.headers.get("Last-Modified", ""))
    return total


def _forget(partial: Partial, received: Received) -> None:
    if partial.size:
        received(-partial.size)
    partial.restart()


CHECKSUMS = "checksums.jsonl"
_HASHED_BYTES = 2**20


class CheckedFiles:
    """Checksums of files that were read whole, each good for as long as its size and its time stay the same.

    They are kept in ``checksums.jsonl``, a line a file, added as files are finished: a killed run loses none,
    and a line that was cut short is passed over.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lines = JsonLines(folder / CHECKSUMS)
        self._entries = {str(line.get("path")): line for line in self._lines.read}

    def knows(self, path: str, md5: str) -> bool:
        """True where the file lies there as it was when this was found to be its checksum."""
        return path in self._entries and self._entries[path] == self._entry(path, md5)

    def note(self, path: str, md5: str) -> None:
        """Remember the checksum of a file as it lies there now."""
        entry = self._entry(path, md5)
        if entry is not None and self._entries.get(path) != entry:
            self._lines.add(entry)
            self._entries[path] = entry

    def _entry(self, path: str, md5: str) -> dict[str, Any] | None:
        try:
            status = (self._folder / path).stat()
        except FileNotFoundError:
            return None
        return {"path": path, "md5": md5, "bytes": status.st_size, "changed_ns": status.st_mtime_ns}


def md5_of(path: Path, *, stopped: Callable[[], bool]) -> str:
    """The MD5 of a file."""
    found = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_HASHED_BYTES):
            if stopped():
                raise StoppedError
            found.update(chunk)
    return found.hexdigest()
