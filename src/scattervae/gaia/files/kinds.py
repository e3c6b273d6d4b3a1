"""What kind a file is, told from its first bytes and never from its name."""

import gzip
import re
from enum import Enum
from io import BufferedIOBase, BytesIO
from pathlib import Path

from scattervae.errors import DataError

_HEAD_BYTES = 65536
_GZIP = b"\x1f\x8b"


class Kind(Enum):
    """The forms that spectra are published in."""

    TEXT = "csv or ecsv"
    FITS = "FITS"
    VOTABLE = "VOTable"
    AVRO = "avro"
    HDF5 = "HDF5"
    PARQUET = "parquet"


_SIGNATURES = {
    b"SIMPLE  =": Kind.FITS,
    b"\x89HDF\r\n\x1a\n": Kind.HDF5,
    b"PAR1": Kind.PARQUET,
    b"Obj\x01": Kind.AVRO,
}
_REFUSED = {
    b"PK\x03\x04": "a zip archive; unpack it and pass the files inside",
    b"BZh": "compressed with bzip2; unpack it first",
    b"\xfd7zXZ\x00": "compressed with xz; unpack it first",
    b"\x28\xb5\x2f\xfd": "compressed with zstandard; unpack it first",
}
_EXPECTED = "expected csv, ecsv, FITS, VOTable, avro, HDF5 or parquet"


def open_file(path: Path) -> BufferedIOBase:
    """The bytes of a file, unpacked if they are gzipped.

    Raises:
        DataError: The path is a directory.
    """
    if path.is_dir():
        raise DataError("is a directory; pass the files in it one by one")
    with path.open("rb") as file:
        zipped = file.read(2) == _GZIP
    return gzip.open(path) if zipped else path.open("rb")


def recognise(stream: BufferedIOBase) -> Kind:
    """The kind of a file; the stream is left at its start.

    Raises:
        DataError: The file is empty or of no kind that holds spectra.
    """
    head = stream.read(_HEAD_BYTES)
    stream.seek(0)
    for signature, kind in _SIGNATURES.items():
        if head.startswith(signature):
            return kind
    for signature, found in _REFUSED.items():
        if head.startswith(signature):
            raise DataError(f"is {found}")
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not start:
        raise DataError("is empty; download it again")
    if start.startswith(b"<"):
        return _recognise_markup(start.lower())
    if b"\x00" in head:
        raise DataError(f"is of an unknown binary kind; {_EXPECTED}")
    return Kind.TEXT


def _recognise_markup(start: bytes) -> Kind:
    root = re.search(rb"<([a-z][\w.:-]*)", start)
    if root and root[1].endswith(b"votable"):
        return Kind.VOTABLE
    if (root and root[1] == b"html") or start.startswith(b"<!doctype html"):
        raise DataError("is a web page, not spectra; the download failed, so open the page to see why")
    raise DataError(f"is XML but no VOTable; {_EXPECTED}")


def unpacked(stream: BufferedIOBase) -> BufferedIOBase:
    """The same bytes where libraries can seek in them at no cost."""
    return BytesIO(stream.read()) if isinstance(stream, gzip.GzipFile) else stream
