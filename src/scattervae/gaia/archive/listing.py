"""The archive's own list of its bulk files: names, checksums, and the part of the sky in each."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import requests

from scattervae.errors import FetchError
from scattervae.gaia.archive.releases import N_PIXELS, Product
from scattervae.gaia.archive.transport import Patience, read_text

# Source: the archive's folders, as MyGaiaDB's README lists them.
_LIST_NAME = "_MD5SUM.txt"
_LINE = re.compile(r"([0-9a-fA-F]{32})\s+\*?(?:\./)?(\S+)")


@dataclass(frozen=True)
class BulkFile:
    """One bulk file of the archive.

    Attributes:
        product: The table it is a part of, which is also the folder it is kept in.
        name: Its name.
        url: Where it is.
        md5: Its checksum by the archive's list.
        pixels: The order-8 nested HEALPix pixels whose stars are in it.
    """

    product: str
    name: str
    url: str
    md5: str
    pixels: range

    @property
    def path(self) -> str:
        """Where it is kept, below the folder for all."""
        return f"{self.product}/{self.name}"


def read_listing(
    session: requests.Session, base_url: str, product: Product, patience: Patience
) -> tuple[BulkFile, ...]:
    """All files of a product, in the order of the sky.

    Raises:
        FetchError: The list cannot be had, or holds no such files.
    """
    folder = f"{base_url.rstrip('/')}/{product.folder}"
    url = folder + _LIST_NAME
    files = parse_listing(patience.persist(lambda: read_text(session, url)), folder, product)
    if not files:
        raise FetchError(
            f"{url}: lists no {product.prefix}_*.csv.gz with a checksum; give the folder above it as --base-url"
        )
    return files


def parse_listing(text: str, folder: str, product: Product) -> tuple[BulkFile, ...]:
    """The product's files in the text of a list: a line each of a checksum and a name.

    Other files are left out, and so is any name that is not one of the product's, such as one with a path.
    """
    name_pattern = re.compile(rf"{re.escape(product.prefix)}_(\d{{6}})-(\d{{6}})\.csv\.gz")
    files = {}
    for line in text.splitlines():
        entry = _LINE.fullmatch(line.strip())
        name = entry and name_pattern.fullmatch(entry[2])
        if entry and name:
            pixels = range(int(name[1]), int(name[2]) + 1)
            files[name[0]] = BulkFile(product.name, name[0], folder + name[0], entry[1].lower(), pixels)
    return tuple(sorted(files.values(), key=lambda file: (file.pixels.start, file.name)))


def overlapping(files: Iterable[BulkFile], pixels: range) -> tuple[BulkFile, ...]:
    """The files with stars of any of these order-8 pixels.

    Raises:
        FetchError: There are no such pixels.
    """
    if not 0 <= pixels.start < pixels.stop <= N_PIXELS:
        raise FetchError(
            f"pixels {pixels.start}-{pixels.stop - 1}: expected a range of order-8 pixels within 0-{N_PIXELS - 1}"
        )
    return tuple(
        file for file in files if file.pixels.start < pixels.stop and pixels.start < file.pixels.stop
    )
