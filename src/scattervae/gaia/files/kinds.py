"""What kind a file is, told from its first bytes and never from its name."""

import codecs
import re
from enum import Enum
from io import BufferedIOBase

from scattervae.errors import DataError

_HEAD_BYTES = 65536


class Kind(Enum):
    """The forms that spectra are published in."""

    TEXT = "csv or ecsv"
    FITS = "FITS"
    VOTABLE = "VOTable"
    AVRO = "avro"
    HDF5 = "HDF5"
    PARQUET = "parquet"
    FEATHER = "feather"
    NUMPY = "npz"
    JSON = "JSON"


_SIGNATURES = {
    b"SIMPLE  =": Kind.FITS,
    b"\x89HDF\r\n\x1a\n": Kind.HDF5,
    b"PAR1": Kind.PARQUET,
    b"Obj\x01": Kind.AVRO,
    b"ARROW1": Kind.FEATHER,
    b"\x93NUMPY": Kind.NUMPY,
}
_REFUSED = {
    b"BZh": "compressed with bzip2; unpack it first",
    b"\xfd7zXZ\x00": "compressed with xz; unpack it first",
    b"\x28\xb5\x2f\xfd": "compressed with zstandard; unpack it first",
    b"\x80\x04\x95": "a pickle, which may run anything when it is opened; write the table to parquet",
    b"\x80\x05\x95": "a pickle, which may run anything when it is opened; write the table to parquet",
}
_ZIP = b"PK\x03\x04"
_EXPECTED = "expected csv, ecsv, FITS, VOTable, avro, HDF5, parquet, feather, npz or JSON"
_ENCODINGS = {  # by the mark that text may begin with, the longer first
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def encoding_of(head: bytes) -> str:
    """The encoding of a text by its first bytes."""
    return next((name for mark, name in _ENCODINGS.items() if head.startswith(mark)), "utf-8")


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
    if head.startswith(_ZIP):
        return _recognise_zip(head)
    return _recognise_text(head)


def _recognise_text(head: bytes) -> Kind:
    start = head.decode(encoding_of(head), errors="replace").lstrip()
    if not start:
        raise DataError("is empty; download it again")
    if start.startswith("<"):
        return _recognise_markup(start.lower())
    if start.startswith(("{", "[")):
        return Kind.JSON
    if "\x00" in start:
        raise DataError(f"is of an unknown binary kind; {_EXPECTED}")
    return Kind.TEXT


def _recognise_zip(head: bytes) -> Kind:
    """By the name of its first member. Source: PKWARE's APPNOTE.TXT 6.3, section 4.3.7."""
    name = head[30 : 30 + int.from_bytes(head[26:28], "little")].decode(errors="replace")
    if name.endswith(".npy"):
        return Kind.NUMPY
    if name.startswith(("[Content_Types]", "xl/", "docProps/", "_rels/")):
        raise DataError("is a workbook of Excel's; save the sheet as csv")
    raise DataError("is a zip archive; unpack it and pass the files inside")


def _recognise_markup(start: str) -> Kind:
    root = re.search(r"<([a-z][\w.:-]*)", start)
    if root and root[1].endswith("votable"):
        return Kind.VOTABLE
    if (root and root[1] == "html") or start.startswith("<!doctype html"):
        raise DataError("is a web page, not spectra; the download failed, so open the page to see why")
    raise DataError(f"is XML but no VOTable; {_EXPECTED}")
