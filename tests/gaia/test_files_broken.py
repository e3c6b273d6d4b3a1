"""Broken files end in flagged or named rows, or in one line that says what to do; never in a traceback."""

import contextlib
import gzip
import logging

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.table import Table
from files_toys import HEADER, ToyStars, csv_of, set_cell, write

from scattervae.errors import DataError
from scattervae.gaia.files.reading import read_file, read_table
from scattervae.gaia.reading import load
from scattervae.spectra.spectra import Flag


def failure(path) -> str:
    """What a reader of this file gets to read; one line that begins with the path."""
    with pytest.raises(DataError) as caught:
        read_file(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def bulk(rows):
    """Text of a bulk file: ECSV header, arrays in brackets."""
    header = "# %ECSV 1.0\n# ---\n# delimiter: ','\n# meta: !!omap\n# - TABLE: xp_continuous_mean_spectrum\n"
    return header + csv_of(rows).replace('"(', '"[').replace(')"', ']"').replace(", ", ",")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (gzip.compress(b"", mtime=0), "is empty"),
        (b"# only a comment\n", "no header line"),
        (b"<!DOCTYPE html>\n<html><body>503</body></html>", "a web page, not spectra"),
        (b"\xef\xbb\xbf <html><body>the VOTable service is down</body></html>", "a web page, not spectra"),
        (b"<?xml version='1.0'?><svg></svg>", "XML but no VOTable"),
        (b"PK\x03\x04" + bytes(50), "a zip archive; unpack it"),
        (b"\x7fELF\x02\x01\x01\x00" + bytes(50), "unknown binary kind"),
        (b"source_id,ra,dec\n1,2,3\n", "columns source_id, ra, dec; lacks bp_coefficients"),
        (b"name,bp_coefficients\nx,y\n", "lacks source_id or ids"),
        (b"Error 500: try again later", "columns Error 500: try again later; lacks source_id"),
        (HEADER.encode() + b"\n", "no rows"),
    ],
)
def test_files_without_spectra(tmp_path, content, message):
    assert message in failure(write(tmp_path, content, name="spectra.csv"))


def test_missing_file_and_directory(tmp_path):
    assert "does not exist" in failure(tmp_path / "nothing.csv")
    assert "is a directory" in failure(tmp_path)


@pytest.mark.parametrize("part", [0.0005, 0.3, 0.9, 0.9999])
def test_truncated_gzip(tmp_path, part):
    packed = gzip.compress(ToyStars(n=20).csv().encode())
    assert "download it again" in failure(write(tmp_path, packed[: max(15, int(part * len(packed)))]))


def test_corrupted_gzip(tmp_path):
    packed = bytearray(gzip.compress(ToyStars(n=20).csv().encode()))
    packed[len(packed) // 2] ^= 0xFF
    assert "download it again" in failure(write(tmp_path, bytes(packed)))


@pytest.mark.parametrize("form", ["fits", "votable", "hdf5", "parquet"])
@pytest.mark.parametrize("part", [0.02, 0.5, 0.8, 0.95])
def test_truncated_binary_files(tmp_path, form, part):
    toy = ToyStars(n=40)
    whole = tmp_path / "whole"
    if form == "hdf5":
        with h5py.File(whole, "w") as file:
            for name, values in toy.columns().items():
                file[name] = values
    elif form == "parquet":
        pq.write_table(pa.table({k: list(v) for k, v in toy.columns().items()}), whole)
    else:
        Table(toy.columns()).write(whole, format=form)
    assert len(read_file(whole).stars) == 40
    content = whole.read_bytes()
    assert "download it again" in failure(write(tmp_path, content[: int(part * len(content))]))


@pytest.mark.parametrize("name", ["MeanSpectrumSolutionWithCov.avro", "XP_CONTINUOUS_RAW.fits"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_truncated_real_files(formats, tmp_path, name, part):
    content = (formats / name).read_bytes()
    failure(write(tmp_path, content[: int(part * len(content))]))


def test_damaged_real_files_never_give_a_traceback(formats, tmp_path):
    rng = np.random.default_rng(7)
    names = ("XP_CONTINUOUS_RAW.xml", "XP_CONTINUOUS_RAW.fits", "MeanSpectrumSolutionWithCov.avro")
    for name in (*names, "XP_CONTINUOUS_RAW.csv", "XP_CONTINUOUS_RAW.ecsv"):
        content = (formats / name).read_bytes()
        for _ in range(12):
            damaged = bytearray(content)
            for place in rng.integers(0, min(len(damaged), 20000), size=5):
                damaged[place] = rng.integers(256)
            with contextlib.suppress(DataError):
                read_file(write(tmp_path, bytes(damaged)))


def test_votable_of_an_error(tmp_path):
    text = '<?xml version="1.0"?><VOTABLE version="1.3" xmlns="http://www.ivoa.net/xml/VOTable/v1.3">'
    text += (
        '<RESOURCE type="results"><INFO name="QUERY_STATUS" value="ERROR">busy</INFO></RESOURCE></VOTABLE>'
    )
    assert "VOTable without a table" in failure(write(tmp_path, text))


def test_broken_rows_are_skipped_and_named(tmp_path, caplog):
    toy = ToyStars(n=9)
    rows = toy.cells()
    rows[1] = rows[1][:-1]
    set_cell(rows, 2, "source_id", "")
    set_cell(rows, 3, "source_id", "5.85e18")
    set_cell(rows, 4, "bp_coefficients", '"(1.0, 2.0"')
    set_cell(rows, 5, "rp_coefficients", '"(1.0, 2.0)')
    set_cell(rows, 6, "bp_basis_function_id", "x6")
    set_cell(rows, 7, "source_id", "-5")
    path = write(tmp_path, "# a comment\r\n" + csv_of(rows).replace("\n", "\r\n"))
    with caplog.at_level(logging.WARNING):
        contents = read_file(path)
    np.testing.assert_array_equal(contents.stars.source_id, toy.source_id[[0, 8]])
    np.testing.assert_array_equal(contents.stars.coeffs, toy.coeffs[[0, 8]])
    assert [(skipped.row, skipped.reason) for skipped in contents.skipped] == [
        (4, "8 cells where the header has 9"),
        (5, "no source_id"),
        (
            6,
            "source_id is no integer: 5.85e18 (a float, which rounds; expected integers that never were one)",
        ),
        (7, "bp_coefficients is no list of numbers: (1.0, 2.0 (it is cut off before its end)"),
        (8, "a quote is opened and not closed"),
        (9, "bp_basis_function_id is no integer: x6"),
        (10, "source_id is -5, not an identifier"),
    ]
    assert "7 rows skipped; row 4: 8 cells" in caplog.text


def test_no_row_left(tmp_path):
    rows = ToyStars(n=2).cells()
    for row in range(2):
        set_cell(rows, row, "source_id", "?")
    assert "none of 2 rows can be used; the first, row 2: source_id is no integer: ?" in failure(
        write(tmp_path, csv_of(rows))
    )


def test_missing_bands_of_a_bulk_file(tmp_path):
    toy = ToyStars(n=6)
    rows = toy.cells()
    for row, empty in enumerate(("", "nan", "null", '""', '"()"')):
        for name in ("bp_n_parameters", "bp_coefficients", "bp_coefficient_errors"):
            set_cell(rows, row, name, "null" if name == "bp_n_parameters" else empty)
    contents = read_file(write(tmp_path, bulk(rows)))
    assert contents.kind == "bulk csv"
    assert contents.skipped == ()
    expected = [Flag.MISSING_BP | Flag.NO_G_FLUX] * 5 + [Flag.NO_G_FLUX]
    assert contents.stars.flags.tolist() == expected
    np.testing.assert_array_equal(contents.stars.coeffs[:, 55:], toy.rp)


def test_nan_and_null_inside_an_array(tmp_path):
    toy = ToyStars(n=3)
    rows = toy.cells()
    for row, text in enumerate(("nan", "null", "Infinity")):
        set_cell(rows, row, "bp_coefficients", '"[' + ",".join(["1.5", text] + ["0.25"] * 53) + ']"')
    stars = read_file(write(tmp_path, bulk(rows))).stars
    assert stars.flags.tolist() == [Flag.BAD_COEFFS | Flag.NO_G_FLUX] * 3
    np.testing.assert_array_equal(stars.coeffs[:, 1], [np.nan, np.nan, np.inf])
    assert (stars.coeffs[:, 0] == 1.5).all()


def test_zero_and_negative_errors(tmp_path):
    toy = ToyStars(n=3)
    toy.bp_errors[0, 4], toy.rp_errors[1, 5], toy.rp_errors[2, 0] = 0.0, -0.5, np.nan
    stars = read_file(write(tmp_path, toy.csv())).stars
    assert stars.flags.tolist() == [Flag.BAD_ERRORS | Flag.NO_G_FLUX] * 3
    np.testing.assert_array_equal(stars.errors, toy.errors)


def test_length_that_contradicts_n_parameters(tmp_path):
    toy = ToyStars(n=3)
    rows = toy.cells()
    set_cell(rows, 0, "bp_coefficients", '"(' + ", ".join(["1.5"] * 54) + ')"')
    set_cell(rows, 1, "rp_n_parameters", "54")
    contents = read_file(write(tmp_path, csv_of(rows)))
    flags = contents.stars.flags
    assert ((flags & Flag.BAD_COEFFS) > 0).tolist() == [True, True, False]
    assert np.isnan(contents.stars.coeffs[0, :55]).all()
    assert np.isnan(contents.stars.coeffs[1, 55:]).all()
    np.testing.assert_array_equal(contents.stars.coeffs[0, 55:], toy.rp[0])
    assert contents.skipped == ()


def test_errors_of_another_length(tmp_path):
    rows = ToyStars(n=3).cells()
    set_cell(rows, 2, "bp_coefficient_errors", '"(1.0, 2.0)"')
    flags = read_file(write(tmp_path, csv_of(rows))).stars.flags
    assert ((flags & Flag.BAD_ERRORS) > 0).tolist() == [False, False, True]


def test_rows_of_another_basis_are_skipped(tmp_path):
    rows = ToyStars(n=3).cells() + ToyStars(n=1, n_bp=48, seed=5).cells()
    set_cell(rows, 1, "rp_basis_function_id", "3")
    contents = read_file(write(tmp_path, csv_of(rows)))
    assert len(contents.stars) == 2
    assert [(skipped.row, skipped.reason) for skipped in contents.skipped] == [
        (3, "basis 56+3 where others have 56+57"),
        (5, "48 bp_coefficients where others have 55"),
    ]


def test_files_pasted_together(tmp_path):
    first, second = ToyStars(n=2), ToyStars(n=2, seed=3)
    contents = read_file(write(tmp_path, first.csv() + "\n" + second.csv()))
    assert len(contents.stars) == 4
    assert [(s.row, s.reason) for s in contents.skipped] == [(5, "source_id is no integer: source_id")]


def test_last_line_cut_off(tmp_path):
    toy = ToyStars(n=3)
    contents = read_file(write(tmp_path, toy.csv()[:-500]))
    np.testing.assert_array_equal(contents.stars.source_id, toy.source_id[:2])
    assert [skipped.row for skipped in contents.skipped] == [4]


@pytest.mark.parametrize("n", ["342", "2,401"])
def test_sampled_spectra_on_another_grid(n):
    flux = np.ones((2, int(n.replace(",", ""))))
    table = Table({"source_id": [1, 2], "flux": flux, "flux_error": flux})
    with pytest.raises(DataError, match=f"column flux holds {n} values per star; expected 343"):
        read_table(table)


def test_error_column_that_is_absent():
    columns = ToyStars().columns()
    del columns["rp_coefficient_errors"]
    with pytest.raises(DataError, match="lacks rp_coefficient_errors"):
        read_table(Table(columns))


def test_empty_table_in_memory():
    with pytest.raises(DataError, match="no rows"):
        read_table(Table({k: v[:0] for k, v in ToyStars().columns().items()}))


def test_a_parquet_column_whose_name_is_no_text(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"source_id": [1], "zzzz": [2.0]}), path, store_schema=False)
    path.write_bytes(path.read_bytes().replace(b"zzzz", b"z\xff\xffz"))
    for read in (load, read_file):
        with pytest.raises(DataError, match=r"^[^\n]*a\.parquet: [^\n]*$"):
            read(path)


@pytest.mark.parametrize(
    "change",
    [
        ("# - {name: source_id", "# - {56: source_id"),
        ("# datatype:", "# datatype: [1, 2]\n# other:"),
        ("# schema: astropy-2.0", "# meta: [1]\n# schema: astropy-2.0"),
    ],
)
def test_an_ecsv_header_of_another_form(tmp_path, change):
    path = tmp_path / "a.ecsv"
    Table({"source_id": [1], "v": [2.0]}).write(path, format="ascii.ecsv")
    text = path.read_text()
    assert change[0] in text
    path.write_text(text.replace(*change))
    for read in (load, read_file):
        with pytest.raises(
            DataError, match=r"^[^\n]*a\.ecsv: its header states [^\n]*; write the file again$"
        ):
            read(path)


def test_python_objects_in_numpy_files_are_never_read(tmp_path):
    for name, save in (("a.npy", np.save), ("a.npz", lambda path, array: np.savez(path, source_id=array))):
        save(tmp_path / name, np.array([{}], dtype=object))
        with pytest.raises(DataError, match=rf"^[^\n]*{name}: holds Python objects, which are never read: "):
            read_file(tmp_path / name)


def test_an_npz_archive_that_contradicts_itself(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, source_id=np.array([1]), bp_coefficients=np.zeros((1, 55)))
    path.write_bytes(b"PK\x03\x04" + b"PL" + path.read_bytes()[6:].replace(b"PK\x03\x04", b"PK\x03\x07"))
    for read in (load, read_file):
        with pytest.raises(DataError, match=r"^[^\n]*a\.npz: [^\n]*$"):
            read(path)
