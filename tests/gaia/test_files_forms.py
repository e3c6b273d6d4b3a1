"""Forms that pandas, numpy, STILTS, TOPCAT, duckdb and the archive's single downloads give; truth by other readers."""

import gzip
import io
import json
import re

import numpy as np
import pandas as pd
import pytest
from files_toys import HEADER, ToyStars, csv_of, set_cell, write
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import feather

from scattervae.errors import DataError
from scattervae.gaia.archive.listing import release_of
from scattervae.gaia.files.cells import arrays
from scattervae.gaia.files.reading import read_file, read_ids_file, read_labels_file, read_table
from scattervae.gaia.reading import load

EXACT = [
    *(
        "semicolon.csv",
        "tab.tsv",
        "cr.csv",
        "utf16.csv",
        "wide_columns.csv",
        "designation.csv",
        "float_id.csv",
    ),
    *("space_separated.csv", "list_of_npfloat.csv", "list_trailing_comma.csv"),
    *("arrays.npz", "duckdb.json", "frame.feather"),
]
PRINTED_SHORT = ["numpy_str_oneline.csv", "numpy_str_multiline.csv", "numpy_repr.csv", "list_plus_sign.csv"]


@pytest.fixture(scope="module")
def truth(faults):
    """The stars of all small tables, as pyarrow reads one of them."""
    frame = feather.read_table(faults / "frame.feather").to_pandas()
    return frame.set_index("source_id")


def coeffs_and_errors(frame):
    return (
        np.stack(
            [np.concatenate(pair) for pair in zip(frame[f"bp_{what}"], frame[f"rp_{what}"], strict=True)]
        )
        for what in ("coefficients", "coefficient_errors")
    )


@pytest.mark.parametrize("name", EXACT + PRINTED_SHORT)
def test_the_same_stars_whatever_wrote_them(faults, truth, name):
    contents = read_file(faults / name)
    stars = contents.stars
    assert contents.skipped == ()
    assert len(stars) in (4, 6)
    np.testing.assert_array_equal(stars.source_id, truth.index[: len(stars)])
    coeffs, errors = coeffs_and_errors(truth.iloc[: len(stars)])
    rtol = 0 if name in EXACT else 6e-8  # numpy prints nine digits
    np.testing.assert_allclose(stars.coeffs, coeffs, rtol=rtol, atol=0)
    np.testing.assert_allclose(
        stars.errors, errors, rtol=1e-7 if name in EXACT else 1e-5
    )  # of single precision
    if name != "arrays.npz":
        g_flux = 10 ** (0.4 * (25.6873668671 - truth["phot_g_mean_mag"].iloc[: len(stars)]))
        np.testing.assert_allclose(stars.g_flux, g_flux)


def test_fits_inside_a_votable(faults, formats):
    contents = read_file(faults / "votable-fits-inline.votable", correlations=True)
    expected = read_file(formats / "XP_CONTINUOUS_RAW_with_missing_BP.fits", correlations=True).stars
    np.testing.assert_array_equal(contents.stars.source_id, expected.source_id)
    np.testing.assert_array_equal(contents.stars.coeffs, expected.coeffs)
    np.testing.assert_array_equal(contents.stars.errors, expected.errors)
    np.testing.assert_array_equal(contents.stars.flags, expected.flags)
    np.testing.assert_array_equal(contents.stars.correlations.rp, expected.correlations.rp)


def test_sampled_spectra_that_gaiaxpy_212_wrote(faults):
    stars = read_file(faults / "v212.csv").stars
    rows = [
        re.findall(r"np\.float64\(([^)]*)\)", line)
        for line in (faults / "v212.csv").read_text().splitlines()[1:]
    ]
    np.testing.assert_array_equal(stars.flux, np.array(rows, dtype=float)[:, :343])
    np.testing.assert_array_equal(stars.errors, np.array(rows, dtype=float)[:, 343:])


def test_none_inside_an_array_is_missing(faults, truth):
    stars = read_file(faults / "list_None.csv").stars
    coeffs, _ = coeffs_and_errors(truth.iloc[:4])
    missing = np.isnan(stars.coeffs)
    assert missing.any(axis=1).all()
    np.testing.assert_array_equal(stars.coeffs[~missing], coeffs[~missing])


@pytest.mark.parametrize(("name", "n"), [("pandas_roundtrip.csv", 3), ("all_float.csv", 2)])
def test_integers_that_pandas_made_floats(formats, faults, name, n):
    stars = load(faults / name)
    assert (len(stars.spectra), stars.skipped) == (n, ())
    assert stars.spectra.flags.tolist() == ([0, 17, 0] if n == 3 else [0, 0])
    expected = read_file(formats / "XP_CONTINUOUS_RAW_with_missing_BP.csv").stars
    expected = expected.take(np.isin(expected.source_id, stars.spectra.source_id))
    np.testing.assert_array_equal(stars.spectra.source_id, expected.source_id)
    np.testing.assert_array_equal(stars.spectra.coeffs, expected.coeffs)
    assert stars.spectra.basis == expected.basis


def test_a_fraction_is_no_integer(tmp_path):
    rows = ToyStars(n=3).cells()
    set_cell(rows, 1, "bp_n_parameters", "55.5")
    set_cell(rows, 2, "bp_n_parameters", "1e999")
    skipped = read_file(write(tmp_path, csv_of(rows))).skipped
    assert [(s.row, s.reason) for s in skipped] == [
        (3, "bp_n_parameters is no integer: 55.5"),
        (4, "bp_n_parameters is no integer: 1e999"),
    ]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "truncated_ellipsis.csv",
            "bp_coefficients is no list of numbers: .*shortened when it was printed; write arrays whole",
        ),
        ("ascii.ascii", "bp_coefficients is no list of numbers: .*cut off before its end"),
        (
            "pandas_unnamed_index.parquet",
            "they seem to be in the index, which has no name: call it source_id",
        ),
    ],
)
def test_what_cannot_be_read_says_why(faults, name, message):
    with pytest.raises(DataError, match=message) as caught:
        read_file(faults / name)
    assert "\n" not in str(caught.value)


PRINT = {
    "str": str,
    "repr": repr,
    "one line": lambda a: " ".join(str(a).split()),
    "list": lambda a: str(a.tolist()),
    "list of scalars": lambda a: str(list(a)),
    "tuple of scalars": lambda a: str(tuple(a)),
    "single precision": lambda a: repr(a.astype("f4")),
    "masked": lambda a: repr(np.ma.masked_invalid(a)),
    "masked, str": lambda a: str(np.ma.masked_invalid(a)),
    "json": lambda a: json.dumps(a.tolist()),
    "postgres": lambda a: "{" + ",".join(map(str, a)) + "}",
    "plain": lambda a: " ".join(map(str, a)),
    "commas": lambda a: ", ".join(map(repr, a.tolist())),
}


@pytest.mark.parametrize("how", PRINT)
@given(
    st.lists(
        st.one_of(st.floats(-(2.0**40), 2.0**40, width=32), st.just(float("nan"))), min_size=2, max_size=60
    )
)
def test_however_an_array_is_printed(how, values):
    array = np.array(values)
    read = arrays(np.array([PRINT[how](array), None], dtype=object))
    assert (read.why, read.lengths[1]) == ({}, 0)
    if np.isnan(array).all():
        assert read.lengths[0] == 0
    else:  # str and repr of numpy give eight digits after the point of the largest
        np.testing.assert_allclose(
            read.rows[0], array, rtol=1e-6, atol=6e-9 + 1e-8 * np.nanmax(np.abs(array))
        )


@pytest.mark.parametrize(
    "text",
    [
        "[1.0, 2.0",
        "1.0, 2.0]",
        "(1.0, 2.0]",
        "[1.0 2.0, 3.0]",
        "[1.0, x]",
        "array(1.0, 2.0)",
        "x",
        "[[1.0]",
        "5",
    ],
)
def test_what_is_no_whole_array(text):
    read = arrays(np.array([text], dtype=object))
    assert (read.lengths[0], len(read.why)) == (-1, 1)


def test_a_shortened_array_is_never_read(tmp_path):
    array = np.arange(1485.0)
    for text in (str(array), repr(array), "[1.0, 2.0, \N{HORIZONTAL ELLIPSIS} 3.0]"):
        read = arrays(np.array([text], dtype=object))
        assert "shortened when it was printed" in read.why[0]


def test_a_stray_quote_costs_one_line_beside_arrays_over_several(tmp_path):
    toy = ToyStars(n=5)
    frame = pd.DataFrame({name: list(column) for name, column in toy.columns().items()})
    with np.printoptions(precision=17, floatmode="unique"):
        text = frame.to_csv(index=False)
    rows = re.split(r"\n(?=585)", text)
    assert len(rows) == 6
    assert all(row.count("\n") > 10 for row in rows[1:])  # numpy wraps its lines
    rows[2] = rows[2].replace('"', "", 1)
    rows.insert(4, '5853,"' + ",".join(["1"] * 8))
    contents = read_file(write(tmp_path, "\n".join(rows)))
    np.testing.assert_array_equal(contents.stars.source_id, toy.source_id[[0, 2, 3, 4]])
    np.testing.assert_array_equal(contents.stars.coeffs, toy.coeffs[[0, 2, 3, 4]])
    assert "a quote is opened and not closed" in {skipped.reason for skipped in contents.skipped}


@pytest.mark.parametrize("separator", [",", ";", "\t", "|", " "])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_separators_line_ends_and_encodings(tmp_path, separator, line_end, encoding):
    toy = ToyStars(n=2)
    text = csv_of(toy.cells())
    if separator != ",":
        text = re.sub(r',(?=(?:[^"]*"[^"]*")*[^"]*$)', separator, text, flags=re.MULTILINE)
    path = write(tmp_path, gzip.compress(text.replace("\n", line_end).encode(encoding)))
    stars = read_file(path).stars
    np.testing.assert_array_equal(stars.source_id, toy.source_id)
    np.testing.assert_array_equal(stars.coeffs, toy.coeffs)


def test_a_header_behind_a_mark_of_comment(tmp_path):
    toy = ToyStars(n=2)
    text = csv_of(toy.cells(), header=f"# made by hand\n# {HEADER}")
    np.testing.assert_array_equal(read_file(write(tmp_path, text)).stars.coeffs, toy.coeffs)


def test_names_of_other_tables(tmp_path):
    toy = ToyStars(n=3)
    columns = {"source_id_1": toy.source_id, "source_id_2": toy.source_id}
    for band in ("bp", "rp"):
        for number in range(1, 56):
            columns[f"{band.upper()}_coeff_{number}"] = getattr(toy, band)[:, number - 1]
            columns[f"e_{band}_coeff_{number}"] = getattr(toy, f"{band}_errors")[:, number - 1]
    frame = pd.DataFrame(columns)
    stars = read_table(frame).stars
    np.testing.assert_array_equal(stars.source_id, toy.source_id)
    np.testing.assert_array_equal(stars.coeffs, toy.coeffs)
    np.testing.assert_array_equal(stars.errors, toy.errors)
    frame["source_id_2"] += 1
    with pytest.raises(
        DataError, match="source_id_1 and source_id_2 differ in 3 rows; rename that of the spectra"
    ):
        read_table(frame)
    with pytest.raises(DataError, match="lacks bp_coefficients"):
        read_table(frame.drop(columns=["source_id_2", "BP_coeff_17"]))


BIG = 5762406957886626816  # a multiple of 1024, so float64 holds it


@pytest.mark.parametrize(
    ("ids", "reasons"),
    [
        (["38655544960.0", "1275606125952.", "4"], []),
        ([f"{BIG}.0", "5853498713190525696.0"], []),  # the second is no float64, so neither has been one
        ([f"{BIG}.0", "7"], [f"may be no integer: {BIG}.0 (a float, which rounds"]),
        (["1.27560612595e12", "7"], ["is no integer: 1.27560612595e12 (a float, which rounds"]),
        (
            ["Gaia DR3 7", "gaia edr3  8", "Gaia DR2 9"],
            ["is of another release: Gaia DR2 9; expected Gaia DR3"],
        ),
        (["7", str(2**63), "eight"], [f"is no integer: {2**63}", "is no integer: eight"]),
    ],
)
def test_identifiers_as_text(tmp_path, ids, reasons):
    rows = ToyStars(n=len(ids)).cells()
    for row, text in enumerate(ids):
        set_cell(rows, row, "source_id", text)
    contents = read_file(write(tmp_path, csv_of(rows)))
    assert len(contents.skipped) == len(reasons)
    for skipped, reason in zip(contents.skipped, reasons, strict=True):
        assert skipped.reason.startswith(f"source_id {reason}")
    read = [
        int(re.split(r"[ .]", text)[-1] if " " in text else text.split(".")[0])
        for text in ids[: len(ids) - len(reasons)]
    ]
    if not reasons:
        assert contents.stars.source_id.tolist() == read


def test_lists_of_another_release(tmp_path):
    path = write(tmp_path, "Gaia DR4 7\nGaia DR4 8\n")
    assert read_ids_file(path, release=release_of("DR4").meaning).tolist() == [7, 8]
    with pytest.raises(DataError, match="line 1: is of another release: Gaia DR4 7; expected Gaia DR3"):
        read_ids_file(path)
    wide = write(tmp_path, "7\r8\r".encode("utf-16"))
    assert read_ids_file(wide).tolist() == [7, 8]


def test_labels_with_semicolons(tmp_path):
    path = write(tmp_path, "source_id;teff;teff_err\n7;5000.5;10\n")
    assert read_labels_file(path)["teff"].tolist() == [5000.5]


@pytest.mark.parametrize("how", ["lines", "records", "columns", "lists", "pretty"])
def test_json(tmp_path, how):
    toy = ToyStars(n=3)
    frame = pd.DataFrame({name: list(column) for name, column in toy.columns().items()})
    records = json.loads(frame.to_json(orient="records", double_precision=15))
    text = {
        "lines": "\n".join(map(json.dumps, records)),
        "records": json.dumps(records),
        "columns": json.dumps({name: {str(i): r[name] for i, r in enumerate(records)} for name in frame}),
        "lists": json.dumps({name: [r[name] for r in records] for name in frame}),
        "pretty": json.dumps(records, indent=2),
    }[how]
    contents = read_file(write(tmp_path, text))
    np.testing.assert_array_equal(contents.stars.source_id, toy.source_id)
    np.testing.assert_allclose(contents.stars.coeffs, toy.coeffs, rtol=1e-14)


def test_json_lines_that_are_none(tmp_path):
    toy = ToyStars(n=3)
    frame = pd.DataFrame({name: list(column) for name, column in toy.columns().items()})
    lines = frame.to_json(orient="records", lines=True).splitlines()
    lines[1] = lines[1][:-40]
    contents = read_file(write(tmp_path, "\n".join(lines)))
    np.testing.assert_array_equal(contents.stars.source_id, toy.source_id[[0, 2]])
    assert [(s.row, s.reason) for s in contents.skipped] == [(2, "is no JSON record")]


def packed(**arrays):
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (packed(a=np.zeros(3)), "holds no spectra: columns a"),
        (packed(source_id=np.arange(3), bp_coefficients=np.zeros((2, 55))), "arrays of different lengths"),
        (b"PK\x03\x04" + bytes(22) + b"\x13\x00\x00\x00[Content_Types].xml", "a workbook of Excel's"),
        (b"PK\x03\x04" + bytes(22) + b"\x05\x00\x00\x00a.csv", "a zip archive; unpack it"),
        (b"\x80\x04\x95" + bytes(20), "a pickle"),
        (b"# %ECSV 1.0\n# delimiter: '::'\nsource_id::x\n", "names '::' as its delimiter"),
        (b"{}\n", "holds no spectra"),
        (b"[[1, 2]", "cannot be read"),
    ],
)
def test_messages_give_the_true_reason(tmp_path, content, message):
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        read_file(write(tmp_path, content))
    assert "\n" not in str(caught.value)


def test_labels_whose_star_cannot_be_read_are_warned_of(tmp_path, caplog):
    path = write(tmp_path, "source_id,teff\n7,5000\nGaia DR2 8,5100\n,5200\n1.5e18,5300\n")
    assert read_labels_file(path).source_id.tolist() == [7]
    (warning,) = caplog.messages
    assert warning.startswith(
        "archive csv: 2 of 4 rows left out; row 3: source_id is of another release: Gaia DR2 8"
    )
