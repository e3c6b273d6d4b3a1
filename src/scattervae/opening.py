"""A file opened, unpacked, and held to a bound: what reading it may cost in memory is in proportion to its size."""

import gzip
import io
import os
import re
import stat
import sys
from io import BufferedIOBase
from pathlib import Path
from typing import Any

from scattervae.errors import DataError

# What text takes in memory beside its characters: a line, a cell that is kept, what is noted of a line that is not.
LINE_BYTES = 150
CELL_BYTES = 100
BROKEN_LINE_BYTES = 1000
LONGEST_LINE = 2**27  # a star with correlations is 40 kB
LIMIT_VARIABLE = "SCATTERVAE_READ_LIMIT_GB"
LARGEST_RATIO = 50
"""Bytes in memory for each byte on disk that no table of spectra needs; lists of identifiers come to about 30."""
_LIMIT_GB = 0.5
GZIP = b"\x1f\x8b"


def require_local(path: str | Path) -> None:
    """Refuse an address: files are read many times, and in parts, from where they lie."""
    if re.match(r"[a-z][a-z0-9+.-]+:/", str(path).lower()):
        raise DataError(f"{path}: an address, and only files on this machine are read; download it first")


class Budget:
    """What reading a file may cost: half a gigabyte, or `LARGEST_RATIO` times its size where that is more.

    Readers spend what they are about to take into memory before they take it, so a file of a few kilobytes
    that stands for gigabytes is refused, not unpacked. The environment variable `LIMIT_VARIABLE` raises the half
    gigabyte.
    """

    def __init__(self, size: int) -> None:
        """The budget of a file of so many bytes."""
        self._size = size
        self.limit = max(_limit(), LARGEST_RATIO * size)
        self._spent = 0

    @property
    def left(self) -> int:
        """How many bytes may still be spent."""
        return self.limit - self._spent

    def spend(self, n_bytes: int) -> None:
        """Count bytes that are about to be read, unpacked or decoded.

        Raises:
            DataError: They are more than a file of this size may need.
        """
        self._spent += n_bytes
        if self._spent > self.limit:
            raise DataError(
                f"has {self._size} bytes but needs more than {self.limit / 2**20:.0f} MiB of memory; no file of "
                f"spectra grows like that. If you trust it, allow more with {LIMIT_VARIABLE}"
            )


def _limit() -> int:
    given = os.environ.get(LIMIT_VARIABLE, str(_LIMIT_GB))
    try:
        limit = float(given)
    except ValueError:
        limit = 0.0
    if not 0 < limit < 2**20:
        raise DataError(f"cannot be read while {LIMIT_VARIABLE} is {given!r}; expected a number of gigabytes")
    return int(limit * 2**30)


class OpenFile(io.BufferedReader):
    """The bytes of a file, unpacked where it is gzipped, with the budget for reading them."""

    def __init__(self, raw: io.RawIOBase, budget: Budget, *, zipped: bool) -> None:
        super().__init__(raw, 2**16)
        self.budget = budget
        self.zipped = zipped


class _Unpacking(io.RawIOBase):
    """The content of a gzip file, of which every byte is counted once."""

    def __init__(self, path: Path | io.BytesIO, budget: Budget) -> None:
        self._file = gzip.GzipFile(path) if isinstance(path, Path) else gzip.GzipFile(fileobj=path)
        self._budget = budget
        self._counted = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        n_read = self._file.readinto(buffer)
        position = self._file.tell()
        self._budget.spend(max(position - self._counted, 0))
        self._counted = max(position, self._counted)
        return n_read

    def close(self) -> None:
        self._file.close()
        super().close()


class InMemory(io.BytesIO):
    """Unpacked bytes of a file, with the budget for decoding them."""

    def __init__(self, content: bytes, budget: Budget) -> None:
        super().__init__(content)
        self.budget = budget


def unpacked_bytes(content: bytes) -> InMemory:
    """The same bytes, unpacked where they are gzipped, with the budget for decoding them."""
    budget = Budget(len(content))
    if content.startswith(GZIP):
        content = io.BufferedReader(_Unpacking(io.BytesIO(content), budget)).read()
    return InMemory(content, budget)


def require_file(path: Path) -> int:
    """The size of a file.

    Raises:
        DataError: There is no such file, it may not be looked at, or it is a folder, a pipe or a device.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        raise DataError("does not exist; check the path") from None
    except PermissionError:
        raise DataError("may not be read; check its permissions") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"is no path that can be opened ({reason}); check it") from None
    if stat.S_ISDIR(status.st_mode):
        raise DataError("is a directory; pass the files in it one by one")
    if not stat.S_ISREG(status.st_mode):
        raise DataError(
            "is a pipe or a device, not a file; write what comes out of it to a file, and pass that"
        )
    return status.st_size


def open_file(path: Path) -> OpenFile:
    """The bytes of a file, unpacked if they are gzipped."""
    budget = Budget(require_file(path))
    with path.open("rb") as file:
        zipped = file.read(2) == GZIP
    raw: io.RawIOBase = _Unpacking(path, budget) if zipped else io.FileIO(path)
    return OpenFile(raw, budget, zipped=zipped)


def unpacked(stream: OpenFile) -> BufferedIOBase:
    """The same bytes where libraries can seek in them at no cost."""
    return InMemory(stream.read(), stream.budget) if stream.zipped else stream


def budget_of(stream: BufferedIOBase) -> Budget:
    """The budget of an open file; one without bound for bytes from elsewhere."""
    budget = getattr(stream, "budget", None)
    return budget if isinstance(budget, Budget) else Budget(sys.maxsize)
