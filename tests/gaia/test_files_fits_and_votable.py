from io import BytesIO

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from scattervae.gaia.files import fits_and_votable
from scattervae.gaia.files.fits_and_votable import read_mapped_fits

N = 25
RNG = np.random.default_rng(0)


@pytest.fixture
def path(tmp_path):
    """A table with columns of every kind of number that FITS has, behind one that has fewer of those wanted."""
    columns = [
        fits.Column("A", "K", array=5853498713190525697 + np.arange(N)),
        fits.Column("wide", "30E", array=RNG.normal(size=(N, 30))),
        fits.Column("b", "E", array=RNG.normal(size=N)),
        fits.Column("c", "D", array=RNG.normal(size=N)),
        fits.Column("d", "I", array=np.arange(N), null=3),
        fits.Column("e", "J", bzero=2**31, array=np.arange(N, dtype=np.uint32) + np.uint32(2**31 - 5)),
        fits.Column("f", "K", bzero=2**63, array=np.arange(N, dtype=np.uint64) + np.uint64(2**63 - 5)),
        fits.Column("g", "I", array=np.arange(N)),
        fits.Column("h", "12A", array=[f"star {i}" for i in range(N)]),
        fits.Column("ragged", "PD()", array=np.array([np.arange(i % 3) for i in range(N)], dtype=object)),
    ]
    other = fits.BinTableHDU(Table({"a": [1], "b": [2.0]}))
    table = fits.BinTableHDU.from_columns(columns)
    table.header["TSCAL8"], table.header["TZERO8"] = 0.01, 5.0
    fits.HDUList([fits.PrimaryHDU(np.zeros((7, 7))), other, table]).writeto(tmp_path / "table.fits")
    return tmp_path / "table.fits"


@pytest.mark.parametrize("rows", [1, 7, 25, 1000])
@pytest.mark.parametrize("unpacked", [False, True])
def test_numbers_are_those_that_astropy_reads(path, monkeypatch, rows, unpacked):
    monkeypatch.setattr(fits_and_votable, "_ROWS", rows)
    table = Table.read(path, hdu=2)
    wanted = frozenset("abcdefgh") | {"wide", "ragged"}
    with BytesIO(path.read_bytes()) if unpacked else path.open("rb") as stream:
        columns = read_mapped_fits(stream, wanted)
    assert columns.names == tuple(table.colnames)
    assert set(columns.cells) == set("abcdefgh")
    for name, cells in columns.cells.items():
        own = table["A" if name == "a" else name]
        truth = np.ma.asarray(own)
        np.testing.assert_array_equal(np.ma.getmaskarray(cells), np.ma.getmaskarray(truth))
        if name == "h":
            assert [cell.decode() for cell in cells] == list(own)
        else:
            np.testing.assert_allclose(cells.astype(float), truth.astype(float), rtol=1e-14)
    assert columns.cells["a"].tolist() == table["A"].tolist()  # which no float64 holds
    assert columns.cells["f"].tolist() == table["f"].tolist()
    np.testing.assert_allclose(columns.cells["g"], 5 + 0.01 * np.arange(N), rtol=1e-14)


def test_a_table_without_rows(tmp_path):
    Table({"a": np.empty(0, dtype=np.int64)}).write(tmp_path / "empty", format="fits")
    with (tmp_path / "empty").open("rb") as stream:
        assert len(read_mapped_fits(stream, frozenset("a"))) == 0


def test_the_table_with_most_of_the_wanted_columns_is_read(path):
    for wanted, rows in (("ab", 1), ("abc", N)):  # of equals the first
        with path.open("rb") as stream:
            assert len(read_mapped_fits(stream, frozenset(wanted))) == rows
