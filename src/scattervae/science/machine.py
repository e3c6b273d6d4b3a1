"""What this machine has, held against what the package needs, and the whole way in small as a test of it."""

import logging
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from scattervae.gaia.archive.doctor import Finding
from scattervae.spectra.spectra import Spectra

_PACKAGE = "scattervae"
_EXTRAS = ("demo", "cluster")
_LEAST_FREE = 10**9  # bytes: a store of some ten thousand stars with its model
_N_STARS = 64
_SECOND_RADIATION = 0.014387769  # hc/k [m K]; CODATA 2018


def examine_machine(folder: Path) -> list[Finding]:
    """Python, libraries, torch's threads, GPU, disk, GaiaXPy's bases, and the self-test.

    Args:
        folder: Where stores and models are to go; asked for its free space alone.
    """
    return [*_python(), *_libraries(), *_torch(), *_disks(folder), *_bases(), self_test()]


def _python() -> Iterator[Finding]:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    try:
        expected = metadata.metadata(_PACKAGE)["Requires-Python"]
    except metadata.PackageNotFoundError:
        yield Finding.of("Python", "", f"{found}; the package's own metadata is not installed", same=None)
        return
    yield Finding.of("Python", expected, found, same=platform.python_version() in SpecifierSet(expected))


def _libraries() -> Iterator[Finding]:
    """Each dependency by the package's own metadata, those of its extras too, which nothing has to have."""
    try:
        stated = metadata.requires(_PACKAGE) or []
    except metadata.PackageNotFoundError:
        return
    for need in map(Requirement, stated):
        always = need.marker is None or need.marker.evaluate({"extra": ""})
        extra = next((e for e in _EXTRAS if need.marker and need.marker.evaluate({"extra": e})), None)
        if not always and extra is None:
            continue
        try:
            version = metadata.version(need.name)
        except metadata.PackageNotFoundError:
            version = None
        same = None if version is None and not always else bool(version and need.specifier.contains(version))
        expected = str(need.specifier) if always else f"{need.specifier}, if wanted ({extra})"
        advice = f'pip install "{need.name}{need.specifier}"'
        yield Finding.of(need.name, expected, version or "not installed", same=same, advice=advice)


def _torch() -> Iterator[Finding]:
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Finding.of("torch", "can be imported", str(error), same=False, advice="install it again")
        return
    cores = f"{os.cpu_count()} cores"
    yield Finding.of("torch threads", "", f"{torch.get_num_threads()}, {cores}", same=True)
    yield Finding.of("OMP_WAIT_POLICY", "", os.environ.get("OMP_WAIT_POLICY", "not set"), same=True)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none that torch can use"
    yield Finding.of("GPU", "", gpu, same=True)


def _disks(folder: Path) -> Iterator[Finding]:
    for name, path in (("free disk here", folder), ("free disk for temporary files", tempfile.gettempdir())):
        free = shutil.disk_usage(path).free
        expected, found = f"{_LEAST_FREE / 1e9:.0f} GB", f"{free / 1e9:,.1f} GB"
        yield Finding.of(name, expected, found, same=free >= _LEAST_FREE, advice=f"free some of {path}")


def _bases() -> Iterator[Finding]:
    from scattervae.gaia.basis import is_known, known_bases
    from scattervae.gaia.facts import DR3_BASIS

    found = "; ".join(map(str, known_bases())) or "none"
    advice = "install GaiaXPy again"
    yield Finding.of(
        "bases that GaiaXPy knows", str(DR3_BASIS), found, same=is_known(DR3_BASIS), advice=advice
    )


def simulated_stars() -> Spectra:
    r"""Black bodies of 3,500 to 12,000 K in the basis of Gaia DR3, with noise: to test a machine, not a model.

    .. math:: c = \arg\min_c |A c - B_\lambda(T)|^2 + \epsilon^2 |c|^2

    with GaiaXPy's design matrix A and B scaled to a mean flux of 1e-16 W m^-2 nm^-1; the second term settles what
    leaves no flux. The noise is drawn from a generator of its own: the same stars on every machine.
    """
    from scattervae.gaia.basis import g_flux_from_coeffs
    from scattervae.gaia.facts import DR3_BASIS
    from scattervae.gaia.flux import design

    generator, grid = np.random.default_rng(0), design(DR3_BASIS)
    metres, kelvin = grid.grid_nm * 1e-9, np.geomspace(3500.0, 12000.0, _N_STARS)[:, None]
    planck = metres**-5 / np.expm1(_SECOND_RADIATION / (metres * kelvin))
    flux = 1e-16 * planck / planck.mean(axis=1, keepdims=True)
    scale, n = np.sqrt((grid.matrix**2).mean()), DR3_BASIS.n_coeffs
    rows = np.vstack([grid.matrix / scale, 1e-2 * np.eye(n)])
    coeffs = np.linalg.lstsq(rows, np.hstack([flux / scale, np.zeros((_N_STARS, n))]).T, rcond=None)[0].T
    errors = np.tile(1e-3 * np.abs(coeffs).max(axis=0), (_N_STARS, 1))
    coeffs += errors * generator.normal(size=coeffs.shape)
    ids = generator.integers(2**35, 12 * 4**12 * 2**35, _N_STARS)  # all over the sky and the folds
    spectra = Spectra.of(ids, coeffs, errors, basis=DR3_BASIS)
    return Spectra.of(ids, coeffs, errors, basis=DR3_BASIS, g_flux=g_flux_from_coeffs(spectra))


def self_test() -> Finding:
    """Simulated stars written as csv, ingested, trained on and encoded; the catalogue held against Python's numbers."""
    started = time.perf_counter()
    expected = "the written catalogue holds Python's numbers"
    try:
        with tempfile.TemporaryDirectory() as folder, _quiet():
            failure = _self_test(Path(folder))
    except Exception as error:  # noqa: BLE001 - whatever fails on this machine is what is asked for
        failure = f"{type(error).__name__}: {error}"
    found = f"failed: {' '.join(failure.split())[:300]}" if failure else "passed"
    seconds = f"{_N_STARS} simulated stars, {time.perf_counter() - started:.1f} s"
    advice = "install the libraries above in the versions that are expected"
    return Finding.of("self-test", expected, f"{found}; {seconds}", same=not failure, advice=advice)


def _self_test(folder: Path) -> str:
    """What does not hold; empty where all does."""
    from scattervae.gaia.ingest import ingest
    from scattervae.gaia.reading import load
    from scattervae.model.network import NetworkShape
    from scattervae.model.recipe import RECIPES
    from scattervae.model.run import train
    from scattervae.science.catalogue.encoding import catalogue
    from scattervae.science.catalogue.one_file import write_catalogue
    from scattervae.spectra.hats import read_table

    stars, file = simulated_stars(), folder / "stars.csv"
    _write_csv(file, stars)
    store = ingest([file], folder / "store", strict=True)
    training = RECIPES["elbo"].training.model_copy(update={"epochs": 2, "batch_size": 32})
    shape = NetworkShape(n_latent=2, hidden=(16,))
    recipe = RECIPES["elbo"].model_copy(update={"name": "self-test", "training": training, "network": shape})
    model = train(store, recipe)
    write_catalogue(model, store, folder / "catalogue.parquet")
    spectra = load(file).spectra
    if not np.allclose(spectra.coeffs, stars.coeffs, rtol=1e-6, atol=0.0):
        return "the coefficients that were read are not those that were written"
    written, own = (
        table.sort_by("source_id")
        for table in (read_table(folder / "catalogue.parquet"), catalogue(model, spectra))
    )
    if not np.isfinite(own["latent_1_mean"].to_numpy()).all():
        return "latents are not finite"
    for name in own.column_names:
        if not np.array_equal(written[name].to_numpy(), own[name].to_numpy(), equal_nan=True):
            return f"{name} of the written catalogue is not what Python has"
    return ""


def _write_csv(path: Path, stars: Spectra) -> None:
    basis = stars.basis
    columns: dict[str, object] = {"source_id": stars.source_id, "phot_g_mean_flux": stars.g_flux}
    for band, where, basis_id in (("bp", basis.bp, basis.bp_id), ("rp", basis.rp, basis.rp_id)):
        for name, values in (("coefficients", stars.coeffs), ("coefficient_errors", stars.errors)):
            columns[f"{band}_{name}"] = [str(tuple(row)) for row in values[:, where].tolist()]
        columns[f"{band}_basis_function_id"] = basis_id
    pd.DataFrame(columns).to_csv(path, index=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings that two epochs of training are too few."""
    logger = logging.getLogger(_PACKAGE)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
