"""Files that a stranger made on purpose: none is followed out of itself, none costs more than it may."""

import contextlib
import gzip
import resource
import socket
from pathlib import Path

import h5py
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from files_toys import ToyStars, csv_of, write
from hostile_files import MAKERS

from scattervae.errors import DataError, ScatterVaeError
from scattervae.gaia.bulk.reading import read_bulk
from scattervae.gaia.files.reading import read_file, read_ids_file
from scattervae.gaia.reading import load
from scattervae.gaia.source_join import read_sources
from scattervae.opening import LARGEST_RATIO, LIMIT_VARIABLE, Budget
from scattervae.science.lists import read_list
from scattervae.spectra.spectra import Flag

_PART = 0.02  # of the size that the files have in earnest, and of the memory that they may take
_SPARE = 150 * 2**20  # what libraries take when they are first used


@pytest.fixture
def small_limit(monkeypatch):
    """A hundredth of a gigabyte in place of half."""
    monkeypatch.setenv(LIMIT_VARIABLE, str(0.5 * _PART))


def refusal(path: Path) -> str:
    """The one line in which reading a file ends."""
    with pytest.raises(ScatterVaeError) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", MAKERS)
def test_hostile_files_are_refused_in_one_line(tmp_path, monkeypatch, small_limit, name):
    def connect(*_):
        raise AssertionError("an address in the file was opened")

    make, expected = MAKERS[name]
    path = tmp_path / "spectra.dat"
    make(path, _PART)
    monkeypatch.setattr(socket.socket, "connect", connect)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert expected in refusal(path)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    assert grown < 4 * Budget(path.stat().st_size if path.is_file() else 0).limit + _SPARE


def test_limit_is_raised_by_the_environment(tmp_path, monkeypatch):
    stars = ToyStars(n=100)
    path = write(tmp_path, gzip.compress(stars.csv().encode()))
    monkeypatch.setenv(LIMIT_VARIABLE, "0.0001")
    monkeypatch.setattr("scattervae.opening.LARGEST_RATIO", 1)
    assert LIMIT_VARIABLE in refusal(path)
    monkeypatch.setenv(LIMIT_VARIABLE, "1")
    np.testing.assert_array_equal(read_file(path).stars.source_id, stars.source_id)
    monkeypatch.setenv(LIMIT_VARIABLE, "much")
    assert "is 'much'; expected a number of gigabytes" in refusal(path)


def test_real_files_need_a_small_part_of_what_they_may(formats, monkeypatch):
    spent = []
    monkeypatch.setenv(LIMIT_VARIABLE, "1e-9")
    monkeypatch.setattr(Budget, "spend", lambda self, n: spent.append((self, n)))
    for path in sorted(formats.iterdir()):
        with contextlib.suppress(DataError):  # some of them have no continuous spectra
            read_file(path, correlations=True)
        costs = sum(n for budget, n in spent if budget.limit < 2**40)
        assert costs < LARGEST_RATIO * max(path.stat().st_size, 2**16)
        spent.clear()


@pytest.mark.parametrize(
    "name", ["blank lines.csv.gz", "short lines.csv.gz", "bulk short lines.csv.gz", "fifo"]
)
@pytest.mark.parametrize("read", [lambda p: list(read_bulk(p)), read_sources, read_ids_file])
def test_other_readers_have_the_same_bound(tmp_path, small_limit, name, read):
    path = tmp_path / "spectra.dat"
    MAKERS[name][0](path, _PART)
    with pytest.raises(DataError, match=f"^{path}: .*"):
        read(path)


@pytest.mark.parametrize(
    "name", ["votable BINARY2 file", "votable entities", "fits lists that share", "parquet run"]
)
def test_lists_for_crossmatch_have_the_same_bound(tmp_path, small_limit, name):
    make, expected = MAKERS[name]
    make(tmp_path / "list", _PART)
    with pytest.raises(DataError, match=expected):
        read_list(tmp_path / "list")


@pytest.mark.parametrize("path", ["x" * 5000, "a\0b", "/dev/null"])
def test_paths_that_cannot_be_opened(path):
    with pytest.raises(DataError, match=r"is no path that can be opened|is a pipe or a device"):
        load(path)


def test_links_within_a_file_are_read_once(tmp_path):
    stars, path = ToyStars(), tmp_path / "spectra.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("a")
        for name, values in stars.columns().items():
            group[name] = values
        file["b"] = group
    np.testing.assert_array_equal(read_file(path).stars.source_id, stars.source_id)


# What a file says of itself, held against what it holds.


def test_fits_checksums_are_verified(tmp_path):
    path = tmp_path / "spectra.fits"
    fits.BinTableHDU(Table(ToyStars().columns())).writeto(path, checksum=True)
    assert len(read_file(path).stars) == 3
    whole = path.read_bytes()
    with fits.open(path) as hdus:
        data = hdus[1].fileinfo()["datLoc"]
    for place, name in ((data + 40, "DATASUM"), (whole.index(b"TTYPE4") + 12, "CHECKSUM")):
        changed = bytearray(whole)
        changed[place] ^= 1
        assert f"HDU 1 is not as it was written: its {name} disagrees" in refusal(
            write(tmp_path, bytes(changed))
        )


@pytest.mark.parametrize("form", ["csv", "bulk"])
def test_fit_that_contradicts_itself_flags_the_star(tmp_path, form):
    names = ("standard_deviation", "chi_squared", "degrees_of_freedom")
    toy = ToyStars(n=4)
    header, *rows = toy.csv().splitlines()
    header += "".join(f",{band}_{name}" for band in ("bp", "rp") for name in names)
    sound = "1.0479343,1317.8046,1200"
    fitted = [
        f"{sound},{sound}",
        f"1.1479343,1317.8046,1200,{sound}",
        f"{sound},1.0479343,1317.8046,1300",
        ",,,,,",
    ]
    text = csv_of([[f"{row},{fit}"] for row, fit in zip(rows, fitted, strict=True)], header)
    if form == "bulk":
        text = "# %ECSV 1.0\n# delimiter: ','\n" + text.replace('"(', '"[').replace(')"', ']"')
    spectra = load(write(tmp_path, text)).spectra
    assert ((spectra.flags & Flag.BAD_COEFFS) > 0).tolist() == [False, True, True, False]
    np.testing.assert_array_equal(spectra.coeffs, toy.coeffs)


def test_real_fits_agree(formats):
    for name in (
        "XP_CONTINUOUS_RAW.fits",
        "XP_CONTINUOUS_COMBINED_examples.vot",
        "MeanSpectrumSolutionWithCov.avro",
    ):
        assert not (read_file(formats / name).stars.flags & Flag.BAD_COEFFS).any()
