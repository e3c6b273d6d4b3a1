"""Lists of every kind of file against the table that they were written from."""

import gzip

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.table import MaskedColumn, Table

from scattervae.errors import DataError, StoreError
from scattervae.science import lists
from scattervae.science.lists import read_list
from scattervae.spectra.columns import unit_and_description
from science.sky_toys import everywhere, ids_at, write_hats

IDS = [4295806720, 6917528997577384319, 34361129088]  # more digits than float64 has


def a_table():
    table = Table(
        {"ra": [10.0, 20.0, 30.0], "dec": [-1.0, 0.5, 1.0], "gaia_id": IDS, "name": ["a", "b", "c"]}
    )
    table["ra"].unit = table["dec"].unit = "deg"
    table["ra"].description = "where it is"
    table["teff"] = MaskedColumn(
        np.array([5000, 0, 6000], dtype=np.int32), mask=[False, True, False], unit="K"
    )
    table["spectrum"] = np.ones((3, 2))
    return table


@pytest.mark.parametrize(("form", "end"), [("ascii.ecsv", "ecsv"), ("fits", "fits"), ("votable", "xml")])
@pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gzip"])
def test_astropy_tables(tmp_path, form, end, zipped):
    path = tmp_path / f"list.{end}"
    a_table().write(path, format=form)
    if zipped:
        path.write_bytes(gzip.compress(path.read_bytes()))
    rows = read_list(path)
    assert rows.dropped_columns == ("spectrum",)
    assert rows.table.to_pydict() == {
        "ra": [10.0, 20.0, 30.0],
        "dec": [-1.0, 0.5, 1.0],
        "gaia_id": IDS,
        "name": ["a", "b", "c"],
        "teff": [5000, None, 6000],
        "list_row": [0, 1, 2],
    }
    assert {f.name: unit_and_description(f)["unit"] for f in rows.table.schema} == {
        **{"ra": "deg", "dec": "deg", "gaia_id": "", "name": ""},
        **{"teff": "K", "list_row": ""},
    }
    assert rows.positions() == ("ra", "dec")
    if form != "fits":  # which has no place for it
        assert rows.table.schema.field("ra").metadata[b"description"] == b"where it is"


@pytest.mark.parametrize(
    "text",
    ["ra;dec;name\n1;2;a,b\n3;4;\n", "ra\tdec\tname\n1\t2\ta,b\n3\t4\t\n", "x|y|name\n1|2|a,b\n3|4|\n"],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_text_with_other_separators_encodings_and_line_ends(tmp_path, text, encoding, end):
    path = tmp_path / "list.txt"
    path.write_bytes(text.replace("\n", end).encode(encoding))
    table = read_list(path).table
    assert [column.to_pylist() for column in table.columns] == [[1, 3], [2, 4], ["a,b", ""], [0, 1]]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_long_csv_that_begins_with_the_mark_of_its_encoding(tmp_path, encoding):
    """As Excel saves it; longer than what is read of a file at a time."""
    ra = [k / 100 for k in range(3000)]
    path = tmp_path / "list.csv"
    path.write_bytes("\n".join(["ra,dec", *(f"{value},1.5" for value in ra)]).encode(encoding))
    assert read_list(path).table["ra"].to_pylist() == ra


def test_text_with_its_header_in_a_comment(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text('# made by hand\n# RAJ2000   DEJ2000  name\n 1.5  -2   a\n 3.5   4   "b c"\n# end\n')
    rows = read_list(path)
    assert rows.positions() == ("RAJ2000", "DEJ2000")
    assert rows.table["name"].to_pylist() == ["a", "b c"]


def test_csv_keeps_every_digit_of_identifiers_beside_gaps(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text(f"RAJ2000,DEJ2000,gaia_id\n1,2,{IDS[1]}\n,3,\nnan,4,0\n359.5,5,{IDS[0]}\n")
    rows = read_list(path)
    assert rows.table["gaia_id"].to_pylist() == [IDS[1], None, 0, IDS[0]]
    assert rows.with_ids("gaia_id").table["list_row"].to_pylist() == [0, 3]
    placed = rows.with_positions(*rows.positions())
    assert placed.table["list_row"].to_pylist() == [0, 3]
    assert placed.table["DEJ2000"].to_pylist() == [2.0, 5.0]


def test_parquet_of_pandas_and_polars(tmp_path):
    polars = pytest.importorskip("polars")
    frame = pd.DataFrame({"ra": [1.0], "dec": [2.0], "source_id": [IDS[1]]}, index=[7])
    frame.to_parquet(tmp_path / "pandas.parquet")
    polars.DataFrame({"ra": [1.0], "dec": [2.0], "source_id": [IDS[1]]}).write_parquet(
        tmp_path / "polars.parquet"
    )
    first, second = (read_list(tmp_path / f"{name}.parquet") for name in ("pandas", "polars"))
    assert first.table.equals(second.table)
    assert first.table.column_names == ["ra", "dec", "source_id", "list_row"]


def test_identifiers_as_text_and_columns_that_hold_none(tmp_path):
    path = tmp_path / "list.parquet"
    pq.write_table(pa.table({"text": ["12", None], "words": ["x", "y"], "float": [1.0, 2.0]}), path)
    rows = read_list(path)
    assert rows.with_ids("text").table["text"].to_pylist() == [12]
    with pytest.raises(DataError, match="column words holds something else than source_ids"):
        rows.with_ids("words")
    with pytest.raises(DataError, match="column float is double, which cannot hold source_ids"):
        rows.with_ids("float")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"x": [1.0], "y": [1.0]}, "no column of right ascension among x, y; name one with --ra"),
        ({"ra": [1.0], "y": [1.0]}, "no column of declination among ra, y; name one with --dec"),
        ({"ra": ["10:00"], "dec": [1.0]}, "column ra is in text; expected numbers in degrees"),
        ({"ra": [1.0], "dec": [91.0]}, r"column dec runs from 91.0 to 91.0; expected degrees from -90 to 90"),
        ({"ra": [1.0, 400.0], "dec": [0.0, 0.0]}, r"column ra runs from 1.0 to 400.0"),
    ],
)
def test_positions_that_are_none(tmp_path, columns, message):
    pq.write_table(pa.table(columns), tmp_path / "list.parquet")
    with pytest.raises(DataError, match=message):
        read_list(tmp_path / "list.parquet").positions()


def test_other_units(tmp_path):
    table = a_table()
    table["ra"].unit = "hourangle"
    table.write(tmp_path / "list.ecsv")
    with pytest.raises(DataError, match="column ra is in hourangle; expected numbers in degrees"):
        read_list(tmp_path / "list.ecsv").positions()


def test_hats_folders(tmp_path, monkeypatch):
    ra, dec = everywhere(50)
    source_id = ids_at(ra, dec)
    rows = read_list(write_hats(tmp_path / "hats", ra, dec, source_id))
    assert rows.dropped_columns == ("bp_coefficients", "_healpix_29")
    assert sorted(rows.table["source_id"].to_pylist()) == sorted(source_id.tolist())
    assert unit_and_description(rows.table.schema.field("ra"))["unit"] == "deg"
    monkeypatch.setattr(lists, "LARGEST_LIST", 49)
    with pytest.raises(
        DataError, match="50 rows, more than the 49 of a list; match two catalogues with LSDB"
    ):
        read_list(tmp_path / "hats")


def test_things_that_are_no_list(tmp_path):
    with pytest.raises(StoreError, match="not a HATS catalogue"):
        read_list(tmp_path)
    for content, message in (
        (b"", "is empty"),
        (b"a,b\n1\n", "cannot be read"),
        (b"PAR1", "cannot"),
    ):
        (tmp_path / "list").write_bytes(content)
        with pytest.raises(DataError, match=message):
            read_list(tmp_path / "list")
    with pytest.raises(DataError, match="does not exist"):
        read_list(tmp_path / "absent.csv")
