"""A stand-in for a GaiaXPy that knows another basis: 51 BP functions made of its own 55, and its 55 of RP."""

import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from scattervae.gaia import basis
from scattervae.spectra.spectra import Basis

OTHER = Basis(n_bp=51, n_rp=55, bp_id=156, rp_id=157)
BP_MODEL = "standin"  # with GaiaXPy's own model of RP
_IDS = {"bp": ("56", "156"), "rp": ("57", "157")}


@cache
def rotation() -> np.ndarray:
    """Turns the first 51 of the old BP functions, or coefficients, into the 51 of the stand-in; orthogonal."""
    return np.linalg.qr(np.random.default_rng(51).normal(size=(51, 51)))[0]


def expressed(coeffs: np.ndarray) -> np.ndarray:
    """Coefficients of DR3's basis in the other; exact for stars whose last four of BP are 0."""
    return np.hstack([coeffs[:, :51] @ rotation().T, coeffs[:, 55:]])


def without_last_four(coeffs: np.ndarray) -> np.ndarray:
    """Coefficients of DR3's basis that the other can express."""
    kept = coeffs.copy()
    kept[:, 51:55] = 0.0
    return kept


def write_configuration(folder: Path) -> None:
    """GaiaXPy's configuration with the other basis beside its own."""
    from gaiaxpy.config.paths import config_path

    shutil.copytree(config_path, folder, symlinks=False)
    own = next(folder.glob("OptimisedCalibratedBases_*.xml"))
    text = own.read_text()
    for old, new in _IDS.values():
        text = text.replace(f"<uniqueId>{old}<", f"<uniqueId>{new}<")
    text = text.replace("<transformedSetDimension>55<", "<transformedSetDimension>51<", 1)  # BP comes first
    (folder / "OtherBases.xml").write_text(text)
    for system in ("", "GaiaDr3Vega_"):
        tree = ElementTree.parse(folder / "filters" / f"XpFilter_{system}v375wiv142r.xml")
        sampled = tree.getroot().find("XpSampling/bpSampledBases")
        assert sampled is not None
        functions = np.array([float(str(value.text)) for value in sampled]).reshape(-1, 55)
        for value in list(sampled):
            sampled.remove(value)
        for number in (functions[:, :51] @ rotation().T).ravel().tolist():
            ElementTree.SubElement(sampled, "value").text = repr(number)
        sampled.set("dimension", "51")
        tree.write(folder / "filters" / f"XpFilter_{system}{BP_MODEL}v142r.xml")


@pytest.fixture(scope="session")
def other_configuration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gaiaxpy") / "config"
    with basis.as_if_not_imported():
        write_configuration(folder)
    return folder


@pytest.fixture
def other_basis(other_configuration: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Basis]:
    """The installed GaiaXPy knows `OTHER` too while a test runs."""
    with basis.as_if_not_imported():
        from gaiaxpy.config import paths
        from gaiaxpy.core import config
    monkeypatch.setattr(paths, "config_path", str(other_configuration))
    for module in (paths, config):
        monkeypatch.setattr(module, "filters_path", str(other_configuration / "filters"))
    forget = basis.known_bases.cache_clear  # a test may put something else in its place
    forget()
    yield OTHER
    forget()
