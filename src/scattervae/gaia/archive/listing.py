"""The archive's own list of its bulk files: names, checksums, and the part of the sky in each."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from urllib.parse import quote, urlencode, urljoin, urlsplit

import requests

from scattervae.errors import FetchError
from scattervae.gaia.archive.releases import N_PIXELS, Product
from scattervae.gaia.archive.transport import PageError, PassingError, Patience, read_text

# Source: the archive's folders, as MyGaiaDB's README lists them.
_LIST_NAME = "_MD5SUM.txt"
_MOST_PAGES = 1000  # of a store's listing, 1,000 objects each
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

    The archive's own list of checksums is asked for. Where a web page comes in its place, or nothing, the links of
    the page are followed to the list, and the server is asked as an object store is (S3, ListObjectsV2).

    Args:
        session: Of this thread.
        base_url: The folder above those of all products.
        product: Its folder and names.
        patience: How often to ask again.

    Raises:
        FetchError: The list cannot be had, or holds no such files.
    """
    folder = f"{base_url.rstrip('/')}/{product.folder}"
    url = folder + _LIST_NAME

    def ask() -> tuple[BulkFile, ...]:
        try:
            return parse_listing(read_text(session, url), folder, product)
        except (PageError, FetchError) as error:
            page = error.page if isinstance(error, PageError) else ""
            found = _linked(session, url, page, product) or _stored(session, folder, product)
            if not found:
                raise
            return found

    files = patience.persist(ask)
    if not files:
        raise FetchError(
            f"{url}: lists no {product.prefix}_*.csv.gz with a checksum; give the folder above it as --base-url"
        )
    return files


def _linked(session: requests.Session, url: str, page: str, product: Product) -> tuple[BulkFile, ...]:
    """The files of the list of checksums that a page leads to; none where it leads to no other."""
    for link in re.findall(r"""href\s*=\s*["']([^"'<>\s]+)""", page):
        there = urljoin(url, link)
        if there != url and there.endswith("/" + _LIST_NAME) and urlsplit(there).scheme in ("http", "https"):
            try:
                return parse_listing(read_text(session, there), there.removesuffix(_LIST_NAME), product)
            except (PassingError, FetchError):
                continue
    return ()


def _stored(session: requests.Session, folder: str, product: Product) -> tuple[BulkFile, ...]:
    """The files that an object store lists below a folder; none where the server is no such store.

    Checksums are those of the list among them, else the objects' own, where they are MD5.

    Source:
        Amazon S3 API Reference, ListObjectsV2; its ETag is the MD5 of an object that was put at once.
    """
    address = urlsplit(folder)
    path = address.path.lstrip("/")
    bucket, _, rest = path.partition("/")
    origin = f"{address.scheme}://{address.netloc}/"
    for root, prefix in ((origin, path), (f"{origin}{bucket}/", rest)):
        try:
            tags = dict(_objects(session, root, prefix))
            if prefix + _LIST_NAME in tags:
                listed = read_text(session, root + quote(prefix + _LIST_NAME))
            else:
                listed = "\n".join(f"{tag} {key.removeprefix(prefix)}" for key, tag in tags.items())
        except (PassingError, FetchError, ET.ParseError):
            continue
        if files := parse_listing(listed, root + quote(prefix), product):
            return files
    return ()


def _objects(session: requests.Session, root: str, prefix: str) -> Iterator[tuple[str, str]]:
    """Key and tag of every object whose key begins so."""
    token: str | None = None
    for _ in range(_MOST_PAGES):
        asked = {"list-type": "2", "prefix": prefix} | ({"continuation-token": token} if token else {})
        text = read_text(session, f"{root}?{urlencode(asked)}")
        if "<!DOCTYPE" in text or "<!ENTITY" in text:
            raise FetchError(f"{root}: its listing declares entities, which no object store's does")
        listing = ET.fromstring(text)
        for entry in listing.iterfind("{*}Contents"):
            yield entry.findtext("{*}Key", ""), entry.findtext("{*}ETag", "").strip('"')
        token = listing.findtext("{*}NextContinuationToken")
        if not token:
            return


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
