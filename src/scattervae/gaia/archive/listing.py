"""What each data release calls its tables, spectra and bulk files, and the archive's own lists of the latter."""

import logging
import re
import tomllib
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import quote, urlencode, urljoin, urlsplit

import requests
from pydantic import Field, PositiveFloat, PositiveInt, ValidationError

from scattervae.errors import DataError, FetchError
from scattervae.gaia.archive.transport import PageError, PassingError, Patience, read_text
from scattervae.settings import Settings
from scattervae.spectra.spectra import Basis
from scattervae.spectra.star_tables import DataRelease

logger = logging.getLogger(__name__)

# The order-8 nested HEALPix pixels that bulk files are cut along: 12 * 4**8.
# Source: names of the files, GaiaSource_000000-003111.csv.gz to GaiaSource_786097-786431.csv.gz; Gaia DR3
# documentation, gaia_source.source_id (order 12 is source_id // 2**35, so order 8 is source_id // 2**43).
N_PIXELS = 12 * 4**8
_LARGEST_BYTES = 2**16  # of a release's file


class Product(Settings):
    """One kind of bulk file."""

    name: str  # the archive's name of the table, which is also the folder we write to
    folder: str  # its folder below the release's bulk address
    prefix: str  # what its file names begin with


class Bulk(Settings):
    """Where a release's bulk files are."""

    url: str  # the folder above all
    # an object store that lists the same objects by the same paths, where there is one
    listing_url: str | None = None
    products: tuple[Product, ...] = ()  # its files, a kind each


class DataLink(Settings):
    """The words of the service that gives single spectra."""

    release: str  # its ``RELEASE``
    retrieval_type: str  # its ``RETRIEVAL_TYPE`` of mean spectra as coefficients
    # ``DATA_STRUCTURE`` of many stars in one table; the first that it knows is used
    data_structures: tuple[str, ...]
    batch_limit: PositiveInt = 5000  # stars that it gives at once


class Tables(Settings):
    """The release's tables."""

    sources: str  # with positions and photometry
    photometry: str | None = None  # another one with the G flux of sources that the first one lacks
    astrometry: str | None = None  # another one with their positions
    columns: dict[str, str] = Field(default_factory=dict)  # its own names where they are not DR3's

    @property
    def others(self) -> tuple[str, ...]:
        """The tables that have sources which the first one lacks."""
        return tuple(filter(None, (self.photometry, self.astrometry)))

    def own(self, *names: str) -> dict[str, str]:
        """What the release calls these columns of DR3's."""
        return {name: self.columns.get(name, name) for name in names}


class Release(Settings):
    """One data release."""

    name: str
    preliminary: bool = False  # true where it was written before the release was published
    epoch: PositiveFloat  # reference epoch of positions [Julian year]
    g_zero_point: PositiveFloat | None = None  # of G, VEGAMAG: flux [electron/s] = 10**(0.4 (zero point - G))
    # true where source_ids are documented to begin with an order-12 nested pixel
    ids_hold_pixels: bool = False
    archive_url: str  # its TAP and DataLink servers
    basis: Basis | None = None  # of its mean spectra; ids where they are known
    datalink: DataLink
    tap: Tables
    bulk: Bulk | None = None  # None where it is not known where they are

    def product(self, name: str) -> Product:
        """The bulk files of this name."""
        products = {} if self.bulk is None else {product.name: product for product in self.bulk.products}
        if name not in products:
            known = ", ".join(products) or "none that are known yet"
            raise FetchError(
                f"{self.name} has no bulk files {name}; it has {known}; name its folders, which `scattervae doctor "
                f"--release {self.name}` looks for, in a release file (--release FILE.toml)"
            )
        return products[name]

    @property
    def meaning(self) -> DataRelease:
        """What it means by identifiers, positions and magnitudes."""
        return DataRelease(self.name, self.epoch, self.ids_hold_pixels, self.g_zero_point)

    def require_own(self, basis: Basis, *, where: str) -> None:
        """Refuse spectra of a basis that is another built-in release's, and not this one's."""
        if self.basis is None or self.has_basis(basis):
            return
        others = [other.name for other in built_in().values() if other.has_basis(basis)]
        if others and self.name not in others:
            raise DataError(
                f"{where}: spectra of {basis}, which are those of {others[0]}, not of {self.name}; give "
                f"--release {others[0]}"
            )

    def warn_if_preliminary(self) -> None:
        """Warn, where the release was described before it was published, that it may have changed."""
        if self.preliminary:
            logger.warning(
                "%s: what is known of it was written before it was published; `scattervae doctor --release %s` "
                "says what has changed",
                *(self.name, self.name),
            )

    def has_basis(self, basis: Basis) -> bool:
        """True where spectra of this basis may be this release's: equal sizes, and equal ids as far as both say."""
        return self.basis is not None and self.basis.agrees_with(basis)


@cache
def built_in() -> dict[str, Release]:
    """The releases that come with the package, by name."""
    files = sorted(Path(__file__).parent.glob("*.toml"))
    return {release.name: release for release in map(_read, files)}


def release_of(name: str) -> Release:
    """The release of this name, in any case, or the one that a TOML file describes."""
    if name.endswith(".toml"):
        return _read(Path(name))
    if name.upper() not in built_in():
        known = " or ".join(built_in())
        raise FetchError(f"no release is called {name}; choose {known}, or give a .toml file")
    return built_in()[name.upper()]


def _read(path: Path) -> Release:
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise FetchError(f"{path}: larger than {_LARGEST_BYTES:,} bytes; no release's file is")
        return Release.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise FetchError(f"{path}: does not exist; check the path") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise FetchError(f"{path}: {where}: {first['msg']}; see docs/reference/releases.md") from None
    except (OSError, ValueError, RecursionError) as error:
        raise FetchError(f"{path}: is no TOML file that can be read ({error})") from error


# Source: the archive's folders, as MyGaiaDB's README lists them.
_LIST_NAME = "_MD5SUM.txt"
_MOST_PAGES = 1000  # of a store's listing, 1,000 objects each
_LINE = re.compile(r"([0-9a-fA-F]{32})\s+\*?(?:\./)?(\S+)")


@dataclass(frozen=True)
class BulkFile:
    """One bulk file of the archive."""

    product: str  # the table it is a part of, which is also the folder it is kept in
    name: str
    url: str  # where it is
    md5: str  # its checksum by the archive's list
    pixels: range  # the order-8 nested HEALPix pixels whose stars are in it

    @property
    def path(self) -> str:
        """Where it is kept, below the folder for all."""
        return f"{self.product}/{self.name}"


def read_listing(
    session: requests.Session,
    base_url: str,
    product: Product,
    patience: Patience,
    *,
    listing_url: str | None = None,
) -> tuple[BulkFile, ...]:
    """All files of a product, in the order of the sky.

    The archive's own list of checksums is asked for. Where a web page comes in its place, or nothing, the links of
    the page are followed to the list, and the server is asked as an object store is (S3, ListObjects), or the store
    that has its objects.

    Args:
        listing_url: An object store that lists what is below the server of `base_url`, by the same paths.
    """
    folder = f"{base_url.rstrip('/')}/{product.folder}"
    url = folder + _LIST_NAME

    def ask() -> tuple[BulkFile, ...]:
        try:
            return parse_listing(read_text(session, url), folder, product)
        except (PageError, FetchError) as error:
            page = error.page if isinstance(error, PageError) else ""
            found = _linked(session, url, page, product) or _stored(session, folder, product, listing_url)
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


def _stored(
    session: requests.Session, folder: str, product: Product, listing_url: str | None
) -> tuple[BulkFile, ...]:
    """The files that an object store lists below a folder; none where the server is no such store.

    Checksums are those of the list among them, else the objects' own, where they are MD5.

    Source:
        Amazon S3 API Reference, ListObjectsV2; its ETag is the MD5 of an object that was put at once.
    """
    for root, prefix in _stores(folder, listing_url):
        try:
            tags = dict(objects_below(session, root, prefix))
            if prefix + _LIST_NAME in tags:
                listed = read_text(session, root + quote(prefix + _LIST_NAME))
            else:
                listed = "\n".join(f"{tag} {key.removeprefix(prefix)}" for key, tag in tags.items())
        except (PassingError, FetchError, ET.ParseError):
            continue
        where = folder if root == listing_url else root + quote(prefix)
        if files := parse_listing(listed, where, product):
            return files
    return ()


def _stores(folder: str, listing_url: str | None) -> Iterator[tuple[str, str]]:
    """Where an object store may list a folder, and by what its keys then begin."""
    address = urlsplit(folder)
    path = address.path.lstrip("/")
    bucket, _, rest = path.partition("/")
    origin = f"{address.scheme}://{address.netloc}/"
    if listing_url is not None:
        yield listing_url, path
    yield origin, path
    yield f"{origin}{bucket}/", rest


def objects_below(
    session: requests.Session, root: str, prefix: str, *, delimiter: str = ""
) -> Iterator[tuple[str, str]]:
    """Key and tag of every object of a store whose key begins so, and of folders, without a tag, with a delimiter.

    Source:
        Amazon S3 API Reference, ListObjectsV2 (tokens) and ListObjects (markers, for stores that know no tokens).
    """
    following: dict[str, str] = {}
    asked = {"list-type": "2", "prefix": prefix} | ({"delimiter": delimiter} if delimiter else {})
    for _ in range(_MOST_PAGES):
        text = read_text(session, f"{root}?{urlencode(asked | following)}")
        if "<!DOCTYPE" in text or "<!ENTITY" in text:
            raise FetchError(f"{root}: its listing declares entities, which no object store's does")
        listing = ET.fromstring(text)
        folders = [(entry.findtext("{*}Prefix", ""), "") for entry in listing.iterfind("{*}CommonPrefixes")]
        found = [
            (entry.findtext("{*}Key", ""), entry.findtext("{*}ETag", "").strip('"'))
            for entry in listing.iterfind("{*}Contents")
        ]
        yield from folders + found
        if token := listing.findtext("{*}NextContinuationToken"):
            following = {"continuation-token": token}
        elif listing.findtext("{*}IsTruncated", "").strip().lower() == "true" and (folders or found):
            last = max(key for key, _ in folders + found)
            following = {"marker": listing.findtext("{*}NextMarker") or last}
        else:
            return
    raise FetchError(f"{root}: its listing of {prefix} does not end")


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
    """The files with stars of any of these order-8 pixels."""
    if not 0 <= pixels.start < pixels.stop <= N_PIXELS:
        raise FetchError(
            f"pixels {pixels.start}-{pixels.stop - 1}: expected a range of order-8 pixels within 0-{N_PIXELS - 1}"
        )
    return tuple(
        file for file in files if file.pixels.start < pixels.stop and pixels.start < file.pixels.stop
    )
