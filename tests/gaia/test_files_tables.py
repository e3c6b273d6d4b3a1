"""Tables that other programs hold, each given the same toy stars, or real ones by that program's own reader."""

import warnings

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from astropy.io import votable
from astropy.table import Table
from files_toys import ToyStars

from scattervae.errors import DataError
from scattervae.gaia.files.reading import read_file, read_table

TOY = ToyStars(n=3)
LISTS = {name: list(column) for name, column in TOY.columns().items()}
TABLES = {
    "astropy": lambda: Table(TOY.columns()),
    "pandas": lambda: pd.DataFrame(LISTS),
    "pandas with Arrow's types": lambda: pa.table(LISTS).to_pandas(types_mapper=pd.ArrowDtype),
    "pandas, indexed": lambda: pd.DataFrame(LISTS).set_index("source_id"),
    "arrow": lambda: pa.table(LISTS),
    "record batch": lambda: pa.table(LISTS).to_batches()[0],
    "polars": lambda: pl.DataFrame(
        {name: list(map(list, c)) if np.ndim(c[0]) else c for name, c in LISTS.items()}
    ),
    "polars with arrays": lambda: pl.DataFrame(TOY.columns()),
    "duckdb": lambda: duckdb.from_arrow(pa.table(LISTS)),
    "columns by name": TOY.columns,
    "structured array": lambda: Table(TOY.columns()).as_array(),
    "list of tables": lambda: [Table(TOY.columns())[:1], Table(TOY.columns())[1:]],
    "astroquery": lambda: {
        "EPOCH_PHOTOMETRY_RAW.xml": [Table({"source_id": [1, 1], "flux": [1.0, 2.0]})],
        "XP_CONTINUOUS_RAW.xml": [Table(TOY.columns())[[row]] for row in range(3)],
    },
}


@pytest.mark.parametrize("what", TABLES)
def test_the_same_stars_from_any_table(what):
    contents = read_table(TABLES[what]())
    np.testing.assert_array_equal(contents.stars.source_id, TOY.source_id)
    np.testing.assert_array_equal(contents.stars.coeffs, TOY.coeffs)
    np.testing.assert_array_equal(contents.stars.errors, TOY.errors)
    assert contents.stars.basis.bp_id == 56


def test_missing_band_of_polars_and_arrow(formats):
    expected = read_file(formats / "XP_CONTINUOUS_RAW_with_missing_BP.csv").stars
    table = Table.read(formats / "XP_CONTINUOUS_RAW_with_missing_BP.ecsv", format="ascii.ecsv")
    names = [
        "source_id",
        *(n for n in table.colnames if "coefficient" in n and "corr" not in n),
        "bp_n_parameters",
    ]
    columns = {
        name: [
            None if cell is np.ma.masked or np.size(cell) == 0 else np.asarray(cell).tolist()
            for cell in table[name]
        ]
        for name in names
    }
    for made in (pl.DataFrame(columns, strict=False), pa.table(columns)):
        stars = read_table(made).stars
        np.testing.assert_array_equal(stars.source_id, expected.source_id)
        np.testing.assert_array_equal(stars.coeffs, expected.coeffs)
        np.testing.assert_array_equal(stars.flags, expected.flags)


def test_single_downloads_of_astroquery(faults, formats):
    # load_data names the star in the file's name alone, where the table has no column of it
    name = "XP_SAMPLED-Gaia DR3 5853498713190525696.xml"
    table = votable.parse_single_table(faults / name).to_table()
    table.remove_columns(["source_id", "solution_id"])
    stars = read_table({name: [table], "XP_SAMPLED-Gaia DR3 7.xml": [table]}).stars
    assert stars.source_id.tolist() == [5853498713190525696, 7]
    expected = read_file(formats / "XP_SAMPLED_RAW_dr3int6.fits").stars
    np.testing.assert_allclose(stars.flux, np.stack([expected.flux[0]] * 2), rtol=2e-7)


def test_frames_of_gaiaxpy(formats):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from gaiaxpy import calibrate
        from gaiaxpy.file_parser.parse_internal_continuous import InternalContinuousParser

        path = formats / "XP_CONTINUOUS_RAW_with_missing_BP.csv"
        frame = InternalContinuousParser().parse_file(str(path), disable_info=True)[0]
        sampled = calibrate(formats / "XP_CONTINUOUS_RAW.csv", save_file=False)
    expected = read_file(path).stars
    stars = read_table(frame).stars
    np.testing.assert_array_equal(stars.coeffs, expected.coeffs)
    np.testing.assert_array_equal(stars.flags, expected.flags)
    stars = read_table(sampled).stars
    np.testing.assert_array_equal(stars.flux, np.stack(sampled[0]["flux"]))
    np.testing.assert_array_equal(stars.grid_nm, sampled[1])


def test_a_cell_of_another_length_among_columns_by_name_costs_its_row():
    """numpy makes no array of lists of different lengths."""
    columns = {name: list(cells) for name, cells in TOY.columns().items()}
    columns["bp_coefficients"][1] = 5.0
    contents = read_table(columns)
    assert contents.stars.source_id.tolist() == TOY.source_id[[0, 2]].tolist()
    assert "bp_coefficients is no list of numbers" in contents.skipped[0].reason


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pd.DataFrame(LISTS).drop(columns="source_id").set_index(TOY.source_id), "seem to be in the index"),
        (np.zeros((3, 110)), "a ndarray is no table"),
        ([np.zeros(110)], "a ndarray is no table"),
        ([], "no table is given"),
        ({}, "holds no spectra"),
        ({"XP_CONTINUOUS_RAW.xml": []}, "no table is given|holds no spectra"),
    ],
)
def test_what_is_no_table(table, message):
    with pytest.raises(DataError, match=message):
        read_table(table)
