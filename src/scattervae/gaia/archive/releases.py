"""What each data release calls its tables, its spectra and its bulk folders: one TOML file a release.

Those of the releases that are known lie beside this module; a user's own file is read alike.
"""

import logging
import tomllib
from functools import cache
from pathlib import Path

from pydantic import Field, PositiveFloat, PositiveInt, ValidationError

from scattervae.errors import DataError, FetchError
from scattervae.settings import Settings
from scattervae.spectra.sources import DataRelease
from scattervae.spectra.spectra import Basis

logger = logging.getLogger(__name__)

# The order-8 nested HEALPix pixels that bulk files are cut along: 12 * 4**8.
# Source: names of the files, GaiaSource_000000-003111.csv.gz to GaiaSource_786097-786431.csv.gz; Gaia DR3
# documentation, gaia_source.source_id (order 12 is source_id // 2**35, so order 8 is source_id // 2**43).
N_PIXELS = 12 * 4**8
_LARGEST_BYTES = 2**16  # of a release's file


class Product(Settings):
    """One kind of bulk file.

    Attributes:
        name: The archive's name of the table, which is also the folder we write to.
        folder: Its folder below the release's bulk address.
        prefix: What its file names begin with.
    """

    name: str
    folder: str
    prefix: str


class Bulk(Settings):
    """Where a release's bulk files are.

    Attributes:
        url: The folder above all.
        products: Its files, a kind each.
    """

    url: str
    products: tuple[Product, ...] = ()


class DataLink(Settings):
    """The words of the service that gives single spectra.

    Attributes:
        release: Its ``RELEASE``.
        retrieval_type: Its ``RETRIEVAL_TYPE`` of mean spectra as coefficients.
        data_structures: Its ``DATA_STRUCTURE`` of many stars in one table; the first that it knows is used.
        batch_limit: Stars that it gives at once.
    """

    release: str
    retrieval_type: str
    data_structures: tuple[str, ...]
    batch_limit: PositiveInt = 5000


class Tables(Settings):
    """The release's tables.

    Attributes:
        sources: The table of all sources, with positions and photometry.
        photometry: Another table with the G flux of sources that the first one lacks.
        columns: Its own names of columns that it calls otherwise than DR3 did.
    """

    sources: str
    photometry: str | None = None
    columns: dict[str, str] = Field(default_factory=dict)


class ReleaseBasis(Settings):
    """The basis of its mean spectra; ids where they are known."""

    n_bp: PositiveInt
    n_rp: PositiveInt
    bp_id: int | None = None
    rp_id: int | None = None


class Release(Settings):
    """One data release.

    Attributes:
        name: As messages call it.
        preliminary: True where it was written before the release was published.
        epoch: Reference epoch of positions [Julian year].
        g_zero_point: VEGAMAG zero point of G, where it is known: flux [electron/s] = 10**(0.4 (zero point - G)).
        ids_hold_pixels: True where a source_id is documented to begin with an order-12 nested HEALPix pixel.
        archive_url: Its TAP and DataLink servers.
        basis: Of its mean spectra.
        datalink: Words of the service that gives single spectra.
        tap: Its tables.
        bulk: Its bulk files; None where it is not known where they are.
    """

    name: str
    preliminary: bool = False
    epoch: PositiveFloat
    g_zero_point: PositiveFloat | None = None
    ids_hold_pixels: bool = False
    archive_url: str
    basis: ReleaseBasis | None = None
    datalink: DataLink
    tap: Tables
    bulk: Bulk | None = None

    def product(self, name: str) -> Product:
        """The bulk files of this name.

        Raises:
            FetchError: The release has no such files.
        """
        products = {} if self.bulk is None else {product.name: product for product in self.bulk.products}
        if name not in products:
            known = ", ".join(products) or "none that are known yet"
            raise FetchError(
                f"{self.name} has no bulk files {name}; it has {known}; name its folders in a release file "
                "(--release FILE.toml)"
            )
        return products[name]

    @property
    def meaning(self) -> DataRelease:
        """What it means by identifiers, positions and magnitudes."""
        return DataRelease(self.name, self.epoch, self.ids_hold_pixels, self.g_zero_point)

    def require_own(self, basis: Basis, *, where: str) -> None:
        """Refuse spectra of a basis that is another release's.

        Raises:
            DataError: The basis is that of another built-in release, and not of this one; `where` leads the message.
        """
        if self.basis is None or self.has_basis(basis):
            return
        others = [other.name for other in built_in().values() if other.has_basis(basis)]
        if others and self.name not in others:
            raise DataError(
                f"{where}: spectra of {basis}, which are those of {others[0]}, not of {self.name}; give "
                f"--release {others[0]}"
            )

    def warn_if_preliminary(self) -> None:
        """Say, where the release was described before it was published, that it may have changed."""
        if self.preliminary:
            logger.warning(
                "%s: what is known of it was written before it was published; `scattervae doctor --release %s` "
                "says what has changed",
                self.name,
                self.name,
            )

    def has_basis(self, basis: Basis) -> bool:
        """True where spectra of this basis may be this release's: equal sizes, and equal ids as far as both say."""
        own = self.basis
        return own is not None and Basis(own.n_bp, own.n_rp, own.bp_id, own.rp_id).agrees_with(basis)


@cache
def built_in() -> dict[str, Release]:
    """The releases that come with the package, by name."""
    files = sorted(Path(__file__).parent.glob("*.toml"))
    return {release.name: release for release in map(_read, files)}


def release_of(name: str) -> Release:
    """The release of this name, in any case, or the one that a TOML file describes.

    Raises:
        FetchError: There is none, or the file is not what a release's file is.
    """
    if name.endswith(".toml"):
        release = _read(Path(name))
    elif name.upper() in built_in():
        release = built_in()[name.upper()]
    else:
        raise FetchError(
            f"no release is called {name}; choose {' or '.join(built_in())}, or give a .toml file"
        )
    return release


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
        raise FetchError(f"{path}: {where}: {first['msg']}; see docs/releases.md") from None
    except (OSError, ValueError, RecursionError) as error:
        raise FetchError(f"{path}: is no TOML file that can be read ({error})") from error
