"""gzip files written fast: cells that come again and again are compressed once, and their bytes are spliced in.

Deflate blocks that refer to nothing before them may follow each other in any order. So a reader has the same
work as with the archive's files, which a slow compressor made, at a tenth of the writer's.
"""

import zlib
from dataclasses import dataclass
from io import BufferedIOBase

from isal import isal_zlib

_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
_LAST_BLOCK = b"\x03\x00"
_CELL_LEVEL, _TEXT_LEVEL = 9, 4


@dataclass(frozen=True)
class Cell:
    """A piece of text that is used often, and its deflate blocks."""

    text: bytes
    blocks: bytes

    @classmethod
    def of(cls, text: bytes) -> "Cell":
        return cls(text, _blocks(text, zlib.compressobj(_CELL_LEVEL, wbits=-15)))


class SplicedGzip:
    """One gzip member on a file that is open for writing."""

    def __init__(self, file: BufferedIOBase) -> None:
        self._file = file
        self._compressor = zlib.compressobj(_TEXT_LEVEL, wbits=-15)
        self._pending: list[bytes] = []
        self._checksum = 0
        self._size = 0
        file.write(_HEADER)

    def __enter__(self) -> "SplicedGzip":
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        tail = self._checksum.to_bytes(4, "little") + (self._size % 2**32).to_bytes(4, "little")
        self._file.write(_LAST_BLOCK + tail)

    def write(self, text: bytes) -> None:
        """Text that is compressed here and now."""
        self._pending.append(text)

    def splice(self, cell: Cell) -> None:
        """A cell that was compressed before."""
        self._flush()
        self._count(cell.text)
        self._file.write(cell.blocks)

    def _flush(self) -> None:
        text = b"".join(self._pending)
        self._pending.clear()
        if text:
            self._count(text)
            self._file.write(_blocks(text, self._compressor))

    def _count(self, text: bytes) -> None:
        self._checksum = isal_zlib.crc32(text, self._checksum)
        self._size += len(text)


def _blocks(text: bytes, compressor: "zlib._Compress") -> bytes:
    return compressor.compress(text) + compressor.flush(zlib.Z_FULL_FLUSH)
