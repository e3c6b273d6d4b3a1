"""A bulk file read in chunks gives what the careful reader and Gaia's own package give, to the last bit."""

import gzip
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bulk.toys import ARRAYS, COLUMNS, BulkToy, as_text, assert_same, read_whole, text_of, write
from scattervae.errors import DataError
from scattervae.gaia.bulk.reading import is_bulk, read_bulk
from scattervae.gaia.files.reading import read_file
from scattervae.spectra.spectra import Basis, Flag

REAL = "XpContinuousMeanSpectrum_000000-003111.csv.gz"


def assert_as_read_file(path: Path, **options) -> None:
    """The same stars and the same skipped rows as the reader that takes each cell on its own."""
    found, skipped = read_whole(path, correlations=True, **options)
    wanted = read_file(path, correlations=True)
    assert_same(found, wanted.stars)
    assert skipped == [(row.row, row.reason) for row in wanted.skipped]


def test_real_file_as_gaiaxpy_reads_it(formats, tmp_path):
    unpacked = write(tmp_path, gzip.decompress((formats / REAL).read_bytes()), "spectra.csv")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from gaiaxpy.file_parser.parse_internal_continuous import InternalContinuousParser

        frame = InternalContinuousParser().parse_file(str(unpacked), disable_info=True)[0]
    stars, skipped = read_whole(formats / REAL, correlations=True)
    assert skipped == []
    np.testing.assert_array_equal(stars.source_id, frame["source_id"].to_numpy(dtype=np.int64))
    for band, part in (("bp", stars.basis.bp), ("rp", stars.basis.rp)):
        np.testing.assert_array_equal(stars.coeffs[:, part], np.stack(frame[f"{band}_coefficients"]))
        # GaiaXPy keeps errors in single precision
        errors = np.stack(frame[f"{band}_coefficient_errors"])
        np.testing.assert_array_equal(stars.errors[:, part].astype(np.float32), errors.astype(np.float32))
        matrices = np.stack(frame[f"{band}_coefficient_correlations"])
        rows, columns = np.tril_indices(matrices.shape[1], -1)
        np.testing.assert_array_equal(
            getattr(stars.correlations, band), matrices[:, rows, columns].astype(np.float32)
        )


@pytest.mark.parametrize("name", [REAL, "XP_CONTINUOUS_RAW.ecsv", "XP_CONTINUOUS_RAW_with_missing_BP.ecsv"])
def test_real_files_as_read_file(formats, name):
    assert is_bulk(formats / name)
    assert_as_read_file(formats / name)


@pytest.mark.parametrize("correlations", [False, True])
def test_stars_are_those_that_were_written(tmp_path, correlations):
    toy = BulkToy(n=150, n_bp=7, n_rp=3)
    stars, skipped = read_whole(write(tmp_path, toy.text()), correlations=correlations, rows=40)
    assert skipped == []
    assert stars.basis == Basis(7, 3, 56, 57)
    np.testing.assert_array_equal(stars.source_id, toy.source_id)
    np.testing.assert_array_equal(stars.coeffs, toy.coeffs)
    # a float32 is written with the digits that separate it from other float32s, and read as a float64
    np.testing.assert_array_equal(stars.errors.astype(np.float32), toy.errors.astype(np.float32))
    np.testing.assert_array_equal(stars.n_relevant_bases, np.stack([2 + np.arange(150) % 3] * 2, axis=1))
    assert set(stars.flags.tolist()) == {Flag.NO_G_FLUX}
    assert (stars.correlations is not None) == correlations
    if stars.correlations is not None:
        np.testing.assert_array_equal(stars.correlations.bp, toy.correlations[0])
        np.testing.assert_array_equal(stars.correlations.rp, toy.correlations[1])


def test_chunks_are_of_the_size_asked_for(tmp_path):
    path = write(tmp_path, BulkToy(n=10).text())
    assert [len(chunk.spectra) for chunk in read_bulk(path, rows=4)] == [4, 4, 2]
    assert [len(chunk.spectra) for chunk in read_bulk(path, rows=5)] == [5, 5]
    with pytest.raises(ValueError, match="chunks of 0 rows"):
        next(read_bulk(path, rows=0))


def test_sizes_of_the_next_release(tmp_path):
    toy = BulkToy(n=3, n_bp=51, n_rp=55)
    path = write(tmp_path, toy.text())
    stars, _ = read_whole(path)
    assert stars.basis == Basis(51, 55, 56, 57)
    np.testing.assert_array_equal(stars.coeffs, toy.coeffs)
    assert_as_read_file(path)


@pytest.mark.parametrize(
    "lacking",
    [
        "n_parameters",
        "basis_function_id",
        "n_relevant_bases",
        "coefficient_correlations",
        "rp_coefficient_correlations",
        "bp_n_parameters",
    ],
)
def test_columns_that_a_file_may_lack(tmp_path, lacking):
    columns = tuple(name for name in COLUMNS if not name.endswith(lacking))
    assert_as_read_file(write(tmp_path, BulkToy().text(columns)))


def test_other_columns_and_another_order(tmp_path):
    toy = BulkToy(n=6)
    for row, line in enumerate(toy.cells):
        line["note"] = f'"a, {row}"'
        line["more"] = "x"
    columns = ("more", "RP_Coefficients", "note", *sorted(COLUMNS, reverse=True))
    columns = tuple(dict.fromkeys(name for name in columns if name != "rp_coefficients"))
    for line in toy.cells:
        line["RP_Coefficients"] = line["rp_coefficients"]
    path = write(tmp_path, toy.text(columns))
    stars, _ = read_whole(path)
    np.testing.assert_array_equal(stars.coeffs, toy.coeffs)
    assert_as_read_file(path)


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("name", ["spectra.csv", "spectra.csv.gz"])
def test_ends_of_lines_blank_lines_and_comments(tmp_path, newline, name):
    toy = BulkToy(n=4)
    first, *others = toy.lines()
    path = write(tmp_path, text_of([first, "", " ", "# note", *others], newline=newline), name)
    assert_as_read_file(path)
    stars, skipped = read_whole(path)
    assert skipped == []
    np.testing.assert_array_equal(stars.coeffs, toy.coeffs)


def test_file_that_begins_with_a_byte_order_mark_and_ends_without_a_line_end(tmp_path):
    toy = BulkToy(n=3)
    path = write(tmp_path, b"\xef\xbb\xbf" + toy.text().rstrip(b"\n"))
    assert is_bulk(path)
    assert_as_read_file(path)
    assert len(read_whole(path)[0]) == 3


@pytest.mark.parametrize("text", ["", "nan", "null", "NaN", '""', '"[]"', '"null"', '"[null,null]"'])
@pytest.mark.parametrize("band", ["bp", "rp"])
def test_missing_band(tmp_path, band, text):
    toy = BulkToy(n=7)
    for row in (0, 3):
        toy.without_band(row, band)
        for name in ("coefficients", "coefficient_errors", "coefficient_correlations"):
            toy.cells[row][f"{band}_{name}"] = text
    path = write(tmp_path, toy.text())
    stars, skipped = read_whole(path)
    assert skipped == []
    missing = Flag.MISSING_BP if band == "bp" else Flag.MISSING_RP
    assert np.flatnonzero(stars.flags & missing).tolist() == [0, 3]
    there = stars.basis.rp if band == "bp" else stars.basis.bp
    np.testing.assert_array_equal(stars.coeffs[:, there], toy.coeffs[:, there])
    assert_as_read_file(path)


def test_file_whose_first_hundred_stars_have_no_bp(tmp_path):
    toy = BulkToy(n=140, n_bp=6, n_rp=3)
    for row in range(100):
        toy.without_band(row, "bp")
    path = write(tmp_path, toy.text())
    stars, skipped = read_whole(path, rows=30)
    assert stars.basis == Basis(6, 3, 56, 57)
    assert skipped == []
    np.testing.assert_array_equal(stars.coeffs[100:], toy.coeffs[100:])
    assert_as_read_file(path)


def test_file_without_a_single_bp(tmp_path):
    toy = BulkToy(n=3)
    for row in range(3):
        toy.without_band(row, "bp")
    assert_as_read_file(write(tmp_path, toy.text()))


BREAKS = {
    "no JSON": ("bp_coefficients", '"[1.0,2.0"', "bp_coefficients is no list of numbers: [1.0,2.0"),
    "no numbers": (
        "rp_coefficient_errors",
        '"[a,b,c]"',
        "rp_coefficient_errors is no list of numbers: [a,b,c]",
    ),
    "an array of arrays": (
        "bp_coefficients",
        '"[[1.0,2.0,3.0,4.0,5.0]]"',
        "bp_coefficients is no list of numbers",
    ),
    "another size": ("rp_coefficients", '"[1,2,3]"', None),
    "no basis": ("bp_basis_function_id", "x6", "bp_basis_function_id is no integer: x6"),
    "another basis": ("rp_basis_function_id", "3", "basis 56+3 where others have 56+57"),
    "no integer": ("source_id", "5.85e18", "source_id is no integer: 5.85e18"),
    "no identifier": ("source_id", "", "no source_id"),
    "zero": ("source_id", "0", "source_id is 0, not an identifier"),
    "negative": ("source_id", "-5", "source_id is -5, not an identifier"),
    "beyond int64": ("source_id", "9223372036854775808", "source_id is no integer: 9223372036854775808"),
    "beyond any integer": ("source_id", "1" * 5000, "source_id is no integer: 1111"),
    "a cell more": ("solution_id", "1,2", "27 cells where the header has 26"),
    "an open quote": ("rp_coefficients", '"[1.0,2.0', "a quote is opened and not closed"),
    "a line break": ("bp_coefficient_correlations", '"[1.0,\n2.0]"', "a quote is opened and not closed"),
}


@pytest.mark.parametrize("what", BREAKS)
def test_broken_row_is_skipped_and_named(tmp_path, what):
    name, text, reason = BREAKS[what]
    toy = BulkToy(n=5)
    toy.cells[2][name] = text
    path = write(tmp_path, toy.text())
    stars, skipped = read_whole(path)
    assert_as_read_file(path)
    if reason is None:  # it contradicts the stated number: the star stays, without the band
        assert skipped == []
        assert stars.flags[2] & Flag.BAD_COEFFS
        return
    np.testing.assert_array_equal(stars.source_id, np.delete(toy.source_id, 2))
    assert skipped[0][0] == 9  # five lines of comments, the header, two stars
    assert reason in skipped[0][1]


@pytest.mark.parametrize(
    "cell",
    [
        "[1.5,nan,2,3,4]",
        "[1.5,null,2,3,4]",
        "[1.5,Infinity,2,3,4]",
        "[1.5,-inf,2,3,4]",
        "[1e400,0,2,3,4]",
        "[-0,-0.0,0,5e-324,4]",
        "[123456789012345678901234567890,18446744073709551615,-9223372036854775808,9007199254740993,1]",
        "[true,0,2,3,4]",
        "[ 1 , 2,3 ,4,5 ]",
        "(1.5, 2.5, 3.5, 4.5, 5.5)",
        "[[1,2],[],3,4,5]",
        "[[1,2,3,4,5]]",
        "[[1],[2],[3],[4],[5]]",
        "[1,2,3,4,5]]",
        "[1,2,3,4,5],[6]",
        "[1,2,3,4,]",
        "[01,2,3,4,5]",
        "[+1,2,3,4,5]",
        "[1.,2,3,4,5]",
        "[{},2,3,4,5]",
        "[1,2,3,4,5",
        "1,2,3,4,5",
        "7",
        "{}",
    ],
)
@pytest.mark.parametrize("column", ["bp_coefficients", "bp_coefficient_errors"])
def test_odd_arrays_are_read_as_read_file_reads_them(tmp_path, cell, column):
    toy = BulkToy(n=4)
    toy.cells[1][column] = f'"{cell}"'
    assert_as_read_file(write(tmp_path, toy.text()))


def test_a_cell_in_the_place_of_another_is_noticed(tmp_path):
    # as many quotes as in any other line, but one array stands where a number should
    toy = BulkToy(n=4)
    toy.cells[1]["bp_chi_squared"], toy.cells[1]["bp_coefficients"] = toy.cells[1]["bp_coefficients"], ""
    toy.cells[2]["bp_coefficients"] += "5"
    path = write(tmp_path, toy.text())
    stars, _ = read_whole(path)
    assert np.isnan(stars.coeffs[1, :5]).all()
    assert_as_read_file(path)


def test_numbers_of_integers_in_other_spellings(tmp_path):
    toy = BulkToy(n=4)
    toy.cells[0]["bp_n_relevant_bases"] = "null"
    toy.cells[1]["bp_n_parameters"] = " 5"
    toy.cells[2]["source_id"] = "+77"
    toy.cells[3]["rp_n_relevant_bases"] = "99999"
    path = write(tmp_path, toy.text())
    stars, skipped = read_whole(path)
    assert skipped == []
    assert stars.source_id[2] == 77
    assert stars.n_relevant_bases.tolist() == [[-1, 2], [3, 3], [4, 4], [2, -1]]
    assert_as_read_file(path)


def test_repeated_stars(tmp_path):
    toy = BulkToy(n=8)
    for row in (2, 5, 7):
        toy.cells[row]["source_id"] = toy.cells[1]["source_id"]
    toy.cells[1]["bp_coefficient_errors"] = as_text(np.zeros(5))
    path = write(tmp_path, toy.text())
    assert_as_read_file(path)  # in one chunk the first unbroken row is the star
    stars, _ = read_whole(path, rows=4)
    repeated = np.flatnonzero(stars.flags & Flag.DUPLICATE).tolist()
    assert repeated == [1, 5, 7]  # rows in later chunks all repeat it
    assert np.flatnonzero(read_whole(path, rows=1)[0].flags & Flag.DUPLICATE).tolist() == [2, 5, 7]


def test_no_row_left(tmp_path):
    toy = BulkToy(n=3)
    for line in toy.cells:
        line["source_id"] = "?"
    chunks = read_bulk(write(tmp_path, toy.text()), rows=2)
    assert [len(chunk.skipped) for chunk in (next(chunks), next(chunks))] == [2, 1]
    with pytest.raises(
        DataError, match=r"none of 3 rows can be used; the first, row 7: source_id is no integer: \?"
    ):
        next(chunks)


def test_files_that_are_no_bulk_files(tmp_path, formats):
    toy = BulkToy()
    assert is_bulk(write(tmp_path, toy.text()))
    cases = {
        "is no bulk file: columns source_id, solution_id.*; lacks rp_coefficients": toy.text(COLUMNS[:-6]),
        "lacks source_id, bp_coefficients": b"a,b\n1,2\n",
        "columns not divided by commas": toy.text().replace(b"'", b" ").replace(b",", b" "),
        "no rows": text_of([]),
        "holds no header line": b"# %ECSV 1.0\n",
        "holds no header": b'"a,b\n1,2\n',
        "is a web page": b"<!DOCTYPE html><html>busy</html>",
        "is empty": b"",
        "is FITS; expected csv or ecsv": b"SIMPLE  =" + bytes(5000),
        "unknown binary kind": bytes(5000),
    }
    for word, content in cases.items():
        path = write(tmp_path, content)
        assert is_bulk(path) == (word == "no rows")
        with pytest.raises(DataError, match=f"^{path}: .*{word}"):
            list(read_bulk(path))
    for name in (
        "XP_CONTINUOUS_RAW.csv",
        "XP_CONTINUOUS_RAW.fits",
        "XP_CONTINUOUS_RAW.xml",
        "XP_SAMPLED_RAW_dr3int6.ecsv",
    ):
        assert not is_bulk(formats / name)
    for name, message in (("nothing", "does not exist"), ("", "is a directory")):
        assert not is_bulk(tmp_path / name)
        with pytest.raises(DataError, match=message):
            list(read_bulk(tmp_path / name))


@pytest.mark.parametrize("extra", ["phot_g_mean_flux", "ra", "teff", "snr"])
def test_files_with_more_than_spectra_are_left_to_read_file(tmp_path, extra):
    path = write(tmp_path, BulkToy().text((*COLUMNS, extra)))
    assert not is_bulk(path)
    assert len(read_whole(path)[0]) == 5


MISSING = st.sampled_from(["", "null", "nan", '""', '"[]"'])


@st.composite
def tables(draw):
    """Text of a bulk file: some stars, some without a band, some broken, columns in any order."""
    toy = BulkToy(
        draw(st.integers(1, 12)), draw(st.integers(1, 4)), draw(st.integers(1, 4)), draw(st.integers(0, 99))
    )
    for row in range(toy.n):
        kind = draw(st.sampled_from(["sound"] * 4 + ["missing", "null", "cell", "number"]))
        band = draw(st.sampled_from(["bp", "rp"]))
        if kind == "missing":
            toy.without_band(row, band, text=draw(MISSING))
        elif kind == "null":
            toy.cells[row][draw(st.sampled_from(COLUMNS))] = draw(MISSING)
        elif kind == "cell":
            name = draw(st.sampled_from(COLUMNS))
            toy.cells[row][name] = draw(st.text(alphabet='0159.,-+eE[]"()nul \r\n#', max_size=8))
        elif kind == "number":
            size = toy.n_bp if band == "bp" else toy.n_rp
            numbers = draw(st.lists(st.floats(width=64), min_size=size, max_size=size))
            toy.cells[row][f"{band}_coefficients"] = '"[' + ",".join(map(repr, numbers)) + ']"'
    columns = tuple(draw(st.permutations([*COLUMNS, "extra"])))
    return toy.text(columns, newline=draw(st.sampled_from(["\n", "\r\n"])))


def failure(read) -> str | None:
    """What a reader says of a file that it cannot read."""
    try:
        read()
    except DataError as error:
        return str(error)
    return None


@given(text=tables(), rows=st.integers(1, 14), block=st.sampled_from([50, 700, 2**20]))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_table_is_read_as_read_file_reads_it(tmp_path, text, rows, block):
    path = write(tmp_path, text, "spectra.csv")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scattervae.gaia.bulk.lines._TEXT_BYTES", block)
        message = failure(lambda: read_file(path, correlations=True))
        assert failure(lambda: list(read_bulk(path, correlations=True, rows=rows))) == message
        if message is None:
            assert_as_read_file(path, rows=rows)


assert set(ARRAYS) < set(COLUMNS)
