"""What each data release calls its bulk folders, its spectra and its tables."""

from dataclasses import dataclass

from scattervae.errors import FetchError

# The order-8 nested HEALPix pixels that bulk files are cut along: 12 * 4**8.
# Source: names of the files, GaiaSource_000000-003111.csv.gz to GaiaSource_786097-786431.csv.gz; Gaia DR3
# documentation, gaia_source.source_id (order 12 is source_id // 2**35, so order 8 is source_id // 2**43).
N_PIXELS = 12 * 4**8

# Where the archive keeps its bulk files, and its TAP and DataLink servers.
# Source: MyGaiaDB, src/mygaiadb/data/download.py; astroquery 0.4.11, gaia/core.py.
BULK_URL = "https://cdn.gea.esac.esa.int/Gaia/"
ARCHIVE_URL = "https://gea.esac.esa.int/"


@dataclass(frozen=True)
class Product:
    """One kind of bulk file.

    Attributes:
        name: The archive's name of the table, which is also the folder we write to.
        folder: Its folder below `BULK_URL`.
        prefix: What its file names begin with.
    """

    name: str
    folder: str
    prefix: str


@dataclass(frozen=True)
class Release:
    """The names of one data release.

    Attributes:
        name: As given to ``--release``.
        datalink: The archive's own name, DataLink's ``RELEASE``.
        spectra: DataLink's ``RETRIEVAL_TYPE`` of mean spectra as coefficients.
        sources: The table of all sources, for TAP.
        products: Its bulk files; none as long as the archive has not said where they are.
    """

    name: str
    datalink: str
    spectra: str
    sources: str
    products: tuple[Product, ...] = ()

    def product(self, name: str) -> Product:
        """The bulk files of this name.

        Raises:
            FetchError: The release has no such files.
        """
        for product in self.products:
            if product.name == name:
                return product
        known = ", ".join(product.name for product in self.products) or "none that are known yet"
        raise FetchError(f"{self.name} has no bulk files {name}; it has {known}")


RELEASES = {
    "DR3": Release(
        name="DR3",
        datalink="Gaia DR3",
        spectra="XP_CONTINUOUS",
        sources="gaiadr3.gaia_source",
        products=(
            Product(
                "xp_continuous_mean_spectrum",
                "gdr3/Spectroscopy/xp_continuous_mean_spectrum/",
                "XpContinuousMeanSpectrum",
            ),
            Product("gaia_source", "gdr3/gaia_source/", "GaiaSource"),
        ),
    ),
    "DR4": Release(
        name="DR4", datalink="Gaia DR4", spectra="MEAN_SPECTRUM_XP", sources="gaiadr4.gaia_source"
    ),
}
"""Releases by name.

DR4 is not published yet: its names are those that astroquery was given ahead of it, and its bulk folders are not
known.

Source:
    DR3: MyGaiaDB, README (3,386 files of each product, cut along the same pixels); astroquery, gaia/core.py,
    ``load_data``. DR4: astroquery pull request 3382, which renamed ``XP_MEAN_SPECTRUM`` of pull request 3110.
"""


def release_of(name: str) -> Release:
    """The release of this name, in any case.

    Raises:
        FetchError: There is none.
    """
    if name.upper() not in RELEASES:
        raise FetchError(f"no release is called {name}; choose {' or '.join(RELEASES)}")
    return RELEASES[name.upper()]
