"""Columns of gaia_source are those that astropy reads, whatever else stands in the file."""

import gzip
import logging

import numpy as np
import pytest
from astropy.table import Table
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bulk.toys import write
from scattervae.errors import DataError
from scattervae.gaia.bulk.lines import BrokenFileError
from scattervae.gaia.bulk.reading import is_bulk
from scattervae.gaia.files.reading import read_sources_file
from scattervae.gaia.source_join import is_bulk_sources, read_sources
from scattervae.spectra.star_tables import SOURCE_COLUMNS

# Some of the 152 columns of gaia_source, with their types, in the order of the archive's bulk files.
TYPES = {
    "solution_id": "int64",
    "designation": "string",
    "source_id": "int64",
    "random_index": "int64",
    "ref_epoch": "float64",
    "ra": "float64",
    "ra_error": "float32",
    "dec": "float64",
    "dec_error": "float32",
    "parallax": "float64",
    "parallax_error": "float32",
    "parallax_over_error": "float32",
    "pmra": "float64",
    "astrometric_primary_flag": "bool",
    "ruwe": "float32",
    "phot_g_n_obs": "int16",
    "phot_g_mean_flux": "float64",
    "phot_g_mean_flux_error": "float32",
    "phot_g_mean_mag": "float32",
    "phot_bp_rp_excess_factor": "float32",
    "bp_rp": "float32",
    "phot_variable_flag": "string",
    "has_xp_continuous": "bool",
    "libname_gspphot": "string",
}
NULLABLE = ("parallax", "parallax_error", "ruwe", "phot_g_mean_flux", "bp_rp", "phot_bp_rp_excess_factor")


def header(types=TYPES):
    lines = [
        "# %ECSV 1.0",
        "# ---",
        "# delimiter: ','",
        "# meta: !!omap",
        "# - TABLE: gaia_source",
        "# datatype:",
    ]
    for name, kind in types.items():
        lines += ["# -", f"#   name: {name}", f"#   datatype: {kind}", '#   description: "one, two"']
    return [*lines, ",".join(types)]


def rows(n, seed=0):
    rng = np.random.default_rng(seed)
    made = []
    for row in range(n):
        cells = {}
        for name, kind in TYPES.items():
            value = rng.normal(scale=100) if kind == "float64" else np.float32(rng.normal(scale=3))
            cells[name] = (
                str(value)
                if kind.startswith("float")
                else {"bool": '"False"', "string": '"NOT_AVAILABLE"'}.get(kind, "7")
            )
        cells |= {
            "source_id": str(4295806721 + 2**43 * row),
            "designation": f'"Gaia DR3 {4295806721 + 2**43 * row}"',
            "ra": str(rng.uniform(0, 360)),
            "dec": str(rng.uniform(-90, 90)),
        }
        for name in NULLABLE:
            if rng.random() < 0.3:
                cells[name] = "null"
        made.append(cells)
    return made


def text_of(cells, types=TYPES, newline="\n"):
    lines = [",".join(line.get(name, "9") for name in types) for line in cells]
    return newline.join([*header(types), *lines, ""]).encode()


@pytest.mark.parametrize("name", ["GaiaSource_000000-003111.csv.gz", "GaiaSource.csv"])
def test_as_astropy_reads_them(tmp_path, name):
    path = write(tmp_path, text_of(rows(300)), name)
    assert is_bulk_sources(path)
    assert not is_bulk(path)
    sources = read_sources(path)
    table = Table.read(path, format="ascii.ecsv", fill_values=[("null", "0")])
    assert set(sources.values) == set(SOURCE_COLUMNS)
    np.testing.assert_array_equal(sources.source_id, table["source_id"])
    for column, values in sources.values.items():
        expected = np.ma.filled(np.ma.asarray(table[column]).astype(np.float64), np.nan)
        exact = TYPES[column] == "float64"
        # astropy rounds single precision to float32, which `read_sources` leaves to whoever stores it
        np.testing.assert_array_equal(
            values if exact else values.astype(np.float32).astype(np.float64), expected
        )


def assert_as_read_sources_file(path):
    found, wanted = read_sources(path), read_sources_file(path)
    np.testing.assert_array_equal(found.source_id, wanted.source_id)
    assert found.values.keys() == wanted.values.keys()
    for name, values in wanted.values.items():
        np.testing.assert_array_equal(found.values[name], values)


def test_other_columns_order_and_spelling(tmp_path):
    types = {"DEC": "float64", "extra": "string", "Source_ID": "int64", " ra ": "float64", "dec": "float64"}
    cells = [
        {"DEC": str(row), "extra": '"a, b"', "Source_ID": str(row + 1), " ra ": "5.5"} for row in range(3)
    ]
    path = write(tmp_path, text_of(cells, types, newline="\r\n"))
    sources = read_sources(path)
    assert sources.source_id.tolist() == [1, 2, 3]
    assert sources.values["dec"].tolist() == [0, 1, 2]  # the first of two columns of one name
    assert set(sources.values) == {"ra", "dec"}
    assert_as_read_sources_file(path)


def test_broken_cells_and_rows(tmp_path, caplog):
    cells = rows(12)
    cells[1]["ruwe"] = "x"
    cells[2]["source_id"] = "5.8e18"
    cells[3]["source_id"] = "null"
    cells[4]["source_id"] = "-4"
    cells[5]["source_id"] = cells[0]["source_id"]
    cells[6]["parallax"] = " 1.5 "
    cells[7]["ra"] = "361"
    cells[8]["random_index"] = "1,2"
    path = write(tmp_path, text_of(cells))
    with caplog.at_level(logging.WARNING):
        sources = read_sources(path)
    assert f"{path}: 1 row left out: not {len(TYPES)} cells" in caplog.text
    kept = [0, 1, 6, 7, 9, 10, 11]
    assert sources.source_id.tolist() == [int(cells[row]["source_id"]) for row in kept]
    assert np.isnan(sources.values["ruwe"][1])
    assert sources.values["parallax"][2] == 1.5
    assert np.isnan(sources.values["ra"][3])
    assert_as_read_sources_file(path)


@given(
    cells=st.lists(
        st.fixed_dictionaries(
            {
                "source_id": st.integers(-1, 9).map(str)
                | st.sampled_from(["", "null", "1.0", "x", "9" * 19]),
                "ra": st.floats(0, 360).map(repr)
                | st.sampled_from(["", "null", "nan", "abc", "-0.0", "inf"]),
                "dec": st.floats(-90, 90).map(repr),
                "phot_g_mean_flux": st.floats().map(repr)
                | st.integers().map(str)
                | st.sampled_from(["null", '"7.5"']),
            }
        ),
        min_size=1,
        max_size=30,
    ),
    block=st.integers(1000, 3000),
)
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_table_is_read_as_read_sources_file_reads_it(tmp_path, cells, block):
    types = {
        "source_id": "int64",
        "name": "string",
        "ra": "float64",
        "dec": "float64",
        "phot_g_mean_flux": "float64",
    }
    path = write(tmp_path, text_of(cells, types), "sources.csv")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scattervae.gaia.source_join._BLOCK_BYTES", block)
        assert_as_read_sources_file(path)


def test_empty_and_foreign_files(tmp_path):
    path = write(tmp_path, text_of([]))
    assert len(read_sources(path)) == 0
    cases = {
        "is no gaia_source file: columns a, b; lacks source_id, ra, dec": b"a,b\n1,2\n",
        "lacks dec": b"source_id,ra\n1,2\n",
        "columns not divided by commas; lacks source_id, ra, dec": b"# %ECSV 1.0\nsource_id ra dec\n1 2 3\n",
        "holds no header line": b"# nothing\n",
    }
    for word, content in cases.items():
        path = write(tmp_path, content)
        assert not is_bulk_sources(path)
        with pytest.raises(DataError, match=f"^{path}: .*{word}"):
            read_sources(path)


@pytest.mark.parametrize("part", [0.2, 0.99])
def test_file_cut_off_or_damaged(tmp_path, part):
    packed = gzip.compress(text_of(rows(100)))
    path = tmp_path / "sources.csv.gz"
    path.write_bytes(packed[: int(part * len(packed))])
    with pytest.raises(BrokenFileError, match="is cut off at byte"):
        read_sources(path)
    path.write_bytes(packed[:-8] + bytes(8))
    with pytest.raises(BrokenFileError, match="is damaged before byte"):
        read_sources(path)
