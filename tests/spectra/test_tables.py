"""Tables in every form, read back by astropy, which checks them against the forms' own standards."""

import io
import json
import shutil
import subprocess

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.io.votable import parse, validate
from astropy.io.votable.ucd import check_ucd
from astropy.table import Table

from scattervae.errors import DataError
from scattervae.spectra import tables
from scattervae.spectra.columns import described
from scattervae.spectra.tables import is_scattervae_table, require_form, result_schema, ucd_of, written_table

IDS = [2**62 + 1, 5, 2**53 + 1]
COLUMNS = [
    (described("source_id", pa.int64(), "", "Gaia source identifier"), IDS),
    (described("teff", pa.float32(), "K", "effective temperature"), [5777.25, None, float("nan")]),
    (described("kl", pa.float32(), "nat", "divergence"), [0.1, 1e-30, 3.5]),
    (described("flags", pa.uint16(), "", "bits"), [0, 65535, 1]),
    (described("n", pa.uint8(), "", "counts"), [None, 255, 0]),
    (described("name", pa.string(), "", "as the list has it"), ["a, b", None, "ε Eri"]),
    (described("known", pa.bool_(), "", "whether it is"), [True, False, True]),
    (
        described("flux", pa.list_(pa.float32()), "W m^-2 nm^-1", "on the grid"),
        [[1.0, 2.5], [3.0, 4.0], [5.0, 1e-17]],
    ),
]
ABOUT = {"model": "abc", "recipe": "best"}
TABLE = pa.table(
    [values for _, values in COLUMNS],
    schema=result_schema([f for f, _ in COLUMNS], {"scattervae.catalogue": json.dumps(ABOUT)}),
)


def write(out, table=TABLE):
    with written_table(out) as partial:
        pq.write_table(table, partial, row_group_size=2)
    assert [file.name for file in out.parent.iterdir()] == [out.name]
    return out


def read(path):
    forms = {".fits": "fits", ".vot": "votable", ".ecsv": "ascii.ecsv"}
    return Table.read(path, format=forms[path.suffix])


@pytest.mark.parametrize("suffix", [".fits", ".vot", ".ecsv"])
def test_astropy_reads_values_units_and_descriptions(tmp_path, suffix):
    table = read(write(tmp_path / f"t{suffix}"))
    assert table.colnames == TABLE.column_names
    assert (table["source_id"].dtype.kind, table["source_id"].dtype.itemsize) == ("i", 8)
    assert list(table["source_id"]) == IDS
    assert list(table["flags"]) == [0, 65535, 1]
    assert table["flags"].dtype.kind == "i"
    np.testing.assert_array_equal(
        np.ma.filled(table["teff"], np.nan), np.array([5777.25, np.nan, np.nan], "f4")
    )
    np.testing.assert_array_equal(table["kl"], np.array([0.1, 1e-30, 3.5], "f4"))
    assert [value is np.ma.masked for value in table["n"]] == [True, False, False]
    assert list(table["n"][1:]) == [255, 0]
    assert list(np.ma.filled(table["name"], "")) == ["a, b", "", "? Eri" if suffix == ".fits" else "ε Eri"]
    assert list(table["known"]) == [True, False, True]
    np.testing.assert_array_equal(table["flux"], np.array([[1.0, 2.5], [3.0, 4.0], [5.0, 1e-17]], "f4"))
    assert table["teff"].unit == "K"
    assert table["flux"].unit == "W m^-2 nm^-1"
    assert table["kl"].unit is None  # which no standard knows, so it follows the description
    if suffix != ".fits":
        assert table["teff"].description == "effective temperature"
        assert table["kl"].description == "divergence [nat]"


def test_a_fits_file_holds_to_the_standard_and_describes_its_columns(tmp_path):
    with fits.open(write(tmp_path / "t.fits"), checksum=True) as file:
        file.verify("exception")
        header = file[1].header
        assert (header["TTYPE3"], header["TCOMM3"]) == ("kl", "divergence [nat]")
        assert json.loads(header["SCATVAE"]) == {"scattervae.catalogue": ABOUT}


def test_a_votable_is_valid(tmp_path):
    report = io.StringIO()
    assert validate(str(write(tmp_path / "t.vot")), output=report), report.getvalue()


def test_a_csv_file_has_lists_in_brackets_and_empty_cells_where_nothing_is_known(tmp_path):
    path = write(tmp_path / "t.csv")
    assert path.read_text().splitlines()[:2] == [
        "source_id,teff,kl,flags,n,name,known,flux",
        '4611686018427387905,5777.25,0.1,0,,"a, b",true,"[1, 2.5]"',
    ]
    back = pa.csv.read_csv(path, pa.csv.ReadOptions(use_threads=False))
    assert back["source_id"].to_pylist() == IDS
    assert back["teff"].null_count == 2
    np.testing.assert_array_equal(back["kl"].to_numpy().astype("f4"), TABLE["kl"].to_numpy())


def test_parquet_stays_as_it_was_written(tmp_path):
    back = pq.read_table(write(tmp_path / "t.parquet"))
    assert (
        back.cast(TABLE.schema).drop_columns("teff").equals(TABLE.drop_columns("teff"))
    )  # NaN equals nothing
    assert back.schema.metadata == TABLE.schema.metadata


@pytest.mark.parametrize("suffix", [".fits", ".vot", ".ecsv", ".csv"])
def test_no_rows(tmp_path, suffix):
    path = write(tmp_path / f"t{suffix}", TABLE.slice(0, 0).drop_columns("flux"))
    if suffix == ".csv":
        assert path.read_text() == "source_id,teff,kl,flags,n,name,known\n"
    else:
        assert len(read(path)) == 0


@pytest.mark.parametrize("suffix", [".fits", ".vot", ".ecsv"])
def test_a_file_says_who_made_it(tmp_path, suffix):
    assert is_scattervae_table(write(tmp_path / f"t{suffix}"))
    Table({"source_id": IDS}).write(tmp_path / f"other{suffix}", format={".vot": "votable"}.get(suffix))
    assert not is_scattervae_table(tmp_path / f"other{suffix}")


def test_lists_of_several_lengths_are_refused_where_they_cannot_be(tmp_path):
    table = pa.table({"v": [[1.0], [1.0, 2.0]]})
    with pytest.raises(DataError, match="v: its lists differ in length"):
        write(tmp_path / "t.fits", table)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("suffix", "columns", "reason"),
    [
        (
            ".fits",
            {"a": [1], "": [2]},
            "{out}: .fits cannot hold this table: its column 2 has no name; .parquet can",
        ),
        (".vot", {"": [2]}, "{out}: .vot cannot hold this table: its column 1 has no name; .parquet can"),
        (
            ".fits",
            {f"c{n}": [n] for n in range(1000)},
            "{out}: .fits cannot hold this table: it has 1000 columns, more than 999",
        ),
        (".ecsv", {"a": [{"b": 1}]}, "{out}: .ecsv cannot hold this table: Unsupported cast from struct"),
        (".csv", {"a": [{"b": 1}]}, "{out}: .csv cannot hold this table: Unsupported Type:struct"),
        (".vot", {"a": [b"\xff"]}, "{out}: .vot cannot hold this table: Invalid UTF8 payload; .parquet can"),
        (".fits", {"a": pa.array([2**64 - 1], pa.uint64())}, "{out}: .fits cannot hold this table: Integer "),
    ],
)
def test_a_table_that_a_form_cannot_hold_is_refused_with_the_reason(tmp_path, suffix, columns, reason):
    out = tmp_path / f"t{suffix}"
    with pytest.raises(DataError) as raised:
        write(out, pa.table(columns))
    assert str(raised.value).startswith(reason.format(out=out))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["t.txt", "t.FITS", "t.csv.gz", "t"])
def test_a_name_that_says_no_form_is_refused(tmp_path, name):
    with pytest.raises(DataError, match=r"end it in \.parquet, \.fits, \.vot, \.ecsv or \.csv$"):
        require_form(tmp_path / name)
    with pytest.raises(DataError), written_table(tmp_path / name):
        pass


def test_a_name_without_a_suffix_may_be_a_folder(tmp_path):
    require_form(tmp_path / "latents", folders=True)
    with pytest.raises(DataError, match=r"or without a suffix for the folder of a HATS catalogue"):
        require_form(tmp_path / "latents.v2", folders=True)


def test_ucds_are_of_the_vocabulary_of_the_ivoa():
    for ucd in [*tables._UCDS.values(), ucd_of("teff_low_68"), ucd_of("logg_high_95")]:
        assert check_ucd(ucd, check_controlled_vocabulary=True, has_colon=False), ucd
    assert (ucd_of("latent_3_sd"), ucd_of("anything")) == ("stat.stdev", None)


def test_votable_and_fits_have_the_ucds(tmp_path):
    fields = parse(str(write(tmp_path / "t.vot"))).get_first_table().fields
    assert {f.name: f.ucd for f in fields if f.ucd} == {n: ucd_of(n) for n in TABLE.column_names if ucd_of(n)}
    (tmp_path / "fits").mkdir()
    with fits.open(write(tmp_path / "fits" / "t.fits")) as file:
        assert file[1].header["TUCD1"] == "meta.id;meta.main"


def test_parquet_says_of_its_columns_what_a_votable_would(tmp_path):
    out = write(tmp_path / "t.parquet", TABLE.drop_columns(["flux", "name", "n", "flags"]))
    content = pq.read_schema(out).metadata[b"IVOA.VOTable-Parquet.content"]
    report = io.StringIO()
    (tmp_path / "content.vot").write_bytes(content)
    assert validate(str(tmp_path / "content.vot"), output=report), report.getvalue()
    table = Table.read(out, format="parquet.votable")
    assert table["teff"].unit == "K"
    assert table["kl"].description == "divergence [nat]"
    assert table["source_id"].dtype == np.int64
    assert list(table["source_id"]) == IDS


@pytest.mark.skipif(
    not (shutil.which("java") and shutil.which("stilts")), reason="STILTS or Java is not at hand"
)
@pytest.mark.parametrize("suffix", [".parquet", ".fits", ".vot", ".csv"])
def test_stilts_opens_it(tmp_path, suffix):
    form = {".parquet": "parquet", ".fits": "fits", ".vot": "votable", ".csv": "csv"}[suffix]
    command = ["stilts", "tpipe", f"ifmt={form}", f"in={write(tmp_path / ('t' + suffix))}", "omode=count"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "rows: 3" in run.stdout
