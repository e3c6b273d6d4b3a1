"""Layouts without a real file at hand, made from arrays after the code that writes or reads them elsewhere.

Flatiron mirror: gaia_XP_forward_model, compile_training_data.py. MyGaiaDB: data/compile.py.
MultimodalUniverse: scripts/gaia/merge_parts.py and gaia.py. xp_vae: scripts/train_apogee.py and
notebooks/alpha.ipynb.
"""

import fastavro
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.table import Table
from files_toys import ToyStars, csv_of, write

from scattervae.errors import DataError
from scattervae.gaia.files.reading import read_file, read_table
from scattervae.spectra.spectra import Basis, Flag

JOINED_BASIS = Basis(n_bp=55, n_rp=55)


@pytest.fixture
def toy():
    return ToyStars(n=4)


def assert_same(stars, toy):
    np.testing.assert_array_equal(stars.source_id, toy.source_id)
    np.testing.assert_array_equal(stars.coeffs, toy.coeffs)
    np.testing.assert_array_equal(stars.errors, toy.errors)


def write_hdf5(group, columns):
    for name, values in columns.items():
        group.create_dataset(name, data=values)


def test_flat_mirror(tmp_path, toy):
    columns = toy.columns()
    columns["bp_coefficients"] = toy.bp.astype(">f8")
    columns["rp_n_parameters"] = np.array([55, 54, 55, 55], dtype=np.int8)
    columns["rp_coefficients"] = toy.rp.copy()
    columns["rp_coefficients"][2] = np.nan
    with h5py.File(tmp_path / "m", "w") as file:
        write_hdf5(file, columns)
        file.create_dataset("bp_coefficient_correlations", data=np.full((4, 1485), 0.5, dtype="f4"))
    contents = read_file(tmp_path / "m", correlations=True)
    stars = contents.stars
    assert contents.kind == "HDF5 mirror"
    np.testing.assert_array_equal(stars.coeffs[:, :55], toy.bp)
    np.testing.assert_array_equal(np.isnan(stars.coeffs[:, 55:]).all(axis=1), [False, True, True, False])
    missing = Flag.MISSING_RP | Flag.NO_G_FLUX
    assert stars.flags.tolist() == [Flag.NO_G_FLUX, missing | Flag.BAD_COEFFS, missing, Flag.NO_G_FLUX]
    assert (stars.correlations.bp == 0.5).all()
    assert np.isnan(stars.correlations.rp).all()


def test_mygaiadb_groups_are_joined(tmp_path, toy):
    columns = toy.columns()
    columns["bp_basis_function_id"] = np.array([56, 56, 7, 56], dtype=np.int16)
    with h5py.File(tmp_path / "m", "w") as file:
        for name, rows in (("0-3111", slice(0, 1)), ("3112-5000", slice(1, 4))):
            write_hdf5(file.create_group(name), {k: v[rows] for k, v in columns.items()})
    contents = read_file(tmp_path / "m")
    assert contents.kind == "MyGaiaDB HDF5"
    np.testing.assert_array_equal(contents.stars.source_id, toy.source_id[[0, 1, 3]])
    np.testing.assert_array_equal(contents.stars.coeffs, toy.coeffs[[0, 1, 3]])
    assert [s.row for s in contents.skipped] == [3]
    assert contents.skipped[0].reason == "basis 7+57 where others have 56+57"


def test_multimodal_universe(tmp_path, toy):
    columns = {
        "source_id": toy.source_id,
        "coeff": toy.coeffs.astype("f4"),
        "coeff_error": toy.errors.astype("f4"),
        "phot_g_mean_flux": np.arange(4) + 10.0,
        "ra": np.zeros(4, dtype="f4"),
        "healpix": np.zeros(4, dtype=np.int64),
    }
    with h5py.File(tmp_path / "m", "w") as file:
        write_hdf5(file, columns)
    contents = read_file(tmp_path / "m")
    assert contents.kind == "MultimodalUniverse HDF5"
    assert contents.stars.basis == JOINED_BASIS
    np.testing.assert_allclose(contents.stars.coeffs, toy.coeffs, rtol=1e-7)
    np.testing.assert_array_equal(contents.stars.g_flux, [10, 11, 12, 13])
    as_parquet = {
        "object_id": [str(i) for i in toy.source_id],
        "spectral_coefficients": [
            {"coeff": c, "coeff_error": e} for c, e in zip(toy.coeffs, toy.errors, strict=True)
        ],
    }
    pq.write_table(pa.table(as_parquet), tmp_path / "p")
    assert_same(read_file(tmp_path / "p").stars, toy)


def test_xp_vae_catalogue(tmp_path, toy):
    table = Table({"ids": toy.source_id, "coeffs": toy.coeffs, "coeff_errs": toy.errors})
    table["coeffs"][3] = np.nan
    table["phot_g_mean_flux"] = np.arange(4) + 1.0
    table["GAIAEDR3_SOURCE_ID"] = toy.source_id
    table["TEFF"], table["TEFF_ERR"] = [4000.0, 5000.0, 6000.0, np.nan], [1.0, 2.0, 3.0, 4.0]
    table["M_H"], table["FE_H"] = [9.0] * 4, [-1.0, -0.5, 0.0, 0.5]
    table["APOGEE_ID"] = [b"a", b"b", b"c", b"d"]
    with h5py.File(tmp_path / "m", "w") as file:  # astropy keeps a table as one compound dataset
        file["__astropy_table__"] = table.as_array()
    contents = read_file(tmp_path / "m")
    assert contents.kind == "xp_vae HDF5"
    np.testing.assert_array_equal(contents.stars.coeffs[:3], toy.coeffs[:3])
    np.testing.assert_array_equal(contents.stars.errors[:3], toy.errors[:3])
    assert contents.stars.flags.tolist() == [0, 0, 0, Flag.MISSING_BP | Flag.MISSING_RP]
    np.testing.assert_array_equal(contents.labels["teff"], [4000, 5000, 6000, np.nan])
    np.testing.assert_array_equal(contents.labels["fe_h"], [-1, -0.5, 0, 0.5])


def test_joined_coefficients_of_unknown_split_are_refused(toy):
    table = Table({"ids": toy.source_id, "coeffs": toy.coeffs[:, :106], "coeff_errs": toy.errors[:, :106]})
    with pytest.raises(DataError, match="106 numbers; expected 110"):
        read_table(table)


def test_hdf5_with_side_tables(tmp_path, toy):
    with h5py.File(tmp_path / "m", "w") as file:
        write_hdf5(file.create_group("spectra"), toy.columns())
        write_hdf5(file.create_group("photometry"), {"source_id": toy.source_id[:2]})
        write_hdf5(file.create_group("notes"), {"text": np.arange(3)})
    assert_same(read_file(tmp_path / "m").stars, toy)


def test_hdf5_of_other_things(tmp_path, toy):
    with h5py.File(tmp_path / "m", "w") as file:
        file["wavelength"] = np.arange(3)
    with pytest.raises(DataError, match="HDF5 that holds wavelength; expected a dataset source_id"):
        read_file(tmp_path / "m")
    with h5py.File(tmp_path / "m", "w") as file:
        write_hdf5(file, toy.columns() | {"phot_g_mean_flux": np.ones(3)})
    with pytest.raises(DataError, match="datasets of different lengths"):
        read_file(tmp_path / "m")


@pytest.mark.parametrize("width", [None, 55])
def test_parquet_lists(tmp_path, toy, width):
    arrays = {}
    for name, values in toy.columns().items():
        kind = pa.list_(pa.float64(), width or -1) if values.ndim == 2 else None
        arrays[name] = pa.array([list(v) if values.ndim == 2 else v for v in values], type=kind)
    arrays["bp_coefficients"] = pa.array(
        [None, *map(list, toy.bp[1:])], type=pa.list_(pa.float64(), width or -1)
    )
    arrays["bp_n_parameters"] = pa.array([None, 55, 55, 55], type=pa.int8())
    arrays["_healpix_29"] = pa.array(range(4))
    pq.write_table(pa.table(arrays), tmp_path / "Npix=3.parquet")
    stars = read_file(tmp_path / "Npix=3.parquet").stars
    np.testing.assert_array_equal(stars.source_id, toy.source_id)
    np.testing.assert_array_equal(stars.coeffs[1:], toy.coeffs[1:])
    np.testing.assert_array_equal(stars.errors[:, 55:], toy.rp_errors)
    assert stars.flags.tolist() == [Flag.MISSING_BP | Flag.NO_G_FLUX] + [Flag.NO_G_FLUX] * 3


def test_parquet_identifiers_with_nulls_stay_integers(tmp_path, toy):
    frame = pd.DataFrame({k: list(v) for k, v in toy.columns().items()})
    table = pa.Table.from_pandas(frame)
    ids = pa.array([None, *toy.source_id[1:].tolist()], type=pa.int64())
    pq.write_table(table.set_column(0, "Source_ID", ids), tmp_path / "p")
    contents = read_file(tmp_path / "p")
    np.testing.assert_array_equal(contents.stars.source_id, toy.source_id[1:])
    assert [(s.row, s.reason) for s in contents.skipped] == [(1, "no source_id")]


def test_ecsv_and_fits_that_astropy_writes(tmp_path, toy):
    table = Table(toy.columns(), meta={"comment": "made for a test"})
    table.write(tmp_path / "spaces", format="ascii.ecsv")
    table.write(tmp_path / "commas", format="ascii.ecsv", delimiter=",")
    table.write(tmp_path / "binary", format="votable")
    table.write(tmp_path / "fits", format="fits")
    for name in ("spaces", "commas", "binary", "fits"):
        assert_same(read_file(tmp_path / name).stars, toy)


def test_fits_takes_the_extension_with_spectra(tmp_path, toy):
    other = fits.BinTableHDU(Table({"source_id": [1, 2]}))
    spectra = fits.BinTableHDU(Table(toy.columns()))
    fits.HDUList([fits.PrimaryHDU(), other, spectra]).writeto(tmp_path / "f")
    assert_same(read_file(tmp_path / "f").stars, toy)
    fits.HDUList([fits.PrimaryHDU(np.zeros((3, 3)))]).writeto(tmp_path / "image")
    with pytest.raises(DataError, match="FITS without a table extension"):
        read_file(tmp_path / "image")


def test_votable_with_a_table_for_each_star(tmp_path, toy):
    from astropy.io import votable

    whole = votable.from_table(Table({k: v[:1] for k, v in toy.columns().items()}))
    for row in range(1, toy.n):
        one = votable.from_table(Table({k: v[row : row + 1] for k, v in toy.columns().items()}))
        whole.resources.append(one.resources[0])
    whole.to_xml(str(tmp_path / "v"))
    assert_same(read_file(tmp_path / "v").stars, toy)


def test_avro_without_a_band(tmp_path):
    number = {"type": "array", "items": "double"}
    solution = {
        "type": "record",
        "name": "S",
        "fields": [
            {"name": "parameters", "type": number},
            {"name": "covariance", "type": ["null", number]},
            {"name": "standardDeviation", "type": "double"},
            {"name": "numberOfParameters", "type": "int"},
        ],
    }
    spectrum = {
        "type": "record",
        "name": "X",
        "fields": [
            {"name": "solution", "type": solution},
            {"name": "NRelevantBases", "type": "int"},
            {"name": "basisFunctionSetDefId", "type": "long"},
        ],
    }
    fields = [
        {"name": "sourceId", "type": "long"},
        {"name": "bpSpec", "type": ["null", spectrum]},
        {"name": "rpSpec", "type": ["null", "X"]},
    ]
    # covariance of two coefficients with formal errors 2 and 3, correlation 0.5, s = 1.5
    values = {"parameters": [1.0, 2.0], "covariance": [4.0, 3.0, 9.0], "standardDeviation": 1.5}
    good = {"solution": values | {"numberOfParameters": 2}, "NRelevantBases": 1, "basisFunctionSetDefId": 57}
    bare = {**good, "solution": {**good["solution"], "covariance": None}}
    records = [
        {"sourceId": 11, "bpSpec": good, "rpSpec": good},
        {"sourceId": 12, "bpSpec": None, "rpSpec": bare},
    ]
    with (tmp_path / "a").open("wb") as file:
        fastavro.writer(file, {"type": "record", "name": "R", "fields": fields}, records)
    stars = read_file(tmp_path / "a", correlations=True).stars
    assert stars.basis == Basis(n_bp=2, n_rp=2, bp_id=57, rp_id=57)
    np.testing.assert_allclose(stars.errors[0], [3.0, 4.5, 3.0, 4.5], rtol=1e-15)
    np.testing.assert_array_equal(stars.correlations.bp, [[0.5], [np.nan]])
    assert stars.flags.tolist() == [Flag.NO_G_FLUX, Flag.NO_G_FLUX | Flag.MISSING_BP | Flag.BAD_ERRORS]
    with (tmp_path / "b").open("wb") as file:
        schema = {"type": "record", "name": "R", "fields": [{"name": "x", "type": "int"}]}
        fastavro.writer(file, schema, [{"x": 1}])
    with pytest.raises(DataError, match="avro with fields x; expected sourceId"):
        read_file(tmp_path / "b")


def test_file_whose_stars_all_lack_a_band(tmp_path):
    toy = ToyStars(n=1)
    rows = toy.cells()
    rows[0][1:5] = ["", "", "", ""]
    stars = read_file(write(tmp_path, csv_of(rows))).stars
    assert stars.basis == Basis(n_bp=55, n_rp=55, bp_id=56, rp_id=57)  # the known basis with that RP
    assert stars.flags.tolist() == [Flag.MISSING_BP | Flag.NO_G_FLUX]


def test_a_joined_array_is_divided_as_the_known_basis_of_its_length(other_basis):
    """51 + 55 where GaiaXPy knows such a basis; a length that no known basis has is refused."""
    coeffs = np.random.default_rng(0).normal(size=(3, 106))
    frame = pd.DataFrame({"source_id": [1, 2, 3], "coeff": list(coeffs), "coeff_error": list(np.abs(coeffs))})
    stars = read_table(frame, basis=other_basis).stars
    assert stars.basis == other_basis
    np.testing.assert_array_equal(stars.coeffs, coeffs)
    frame["coeff"] = frame["coeff_error"] = [np.ones(107)] * 3
    with pytest.raises(DataError, match=r"coeff holds arrays of 107 numbers; expected 110 or 106"):
        read_table(frame)
