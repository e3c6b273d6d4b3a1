"""From published files to stars a model can use."""

import logging
from functools import partial

import numpy as np
import pandas as pd
import pytest
from astropy.table import Table
from files_toys import HEADER, ToyStars, csv_of, set_cell, write

from ingest_toys import bulk_rows, sky_stars, write_bulk
from scattervae.errors import DataError, StoreError
from scattervae.gaia import reading
from scattervae.gaia.basis import flux_from_coeffs, g_flux_from_coeffs
from scattervae.gaia.files.reading import read_file
from scattervae.gaia.ingest import ingest
from scattervae.gaia.reading import load, load_chunks
from scattervae.spectra.spectra import Flag, GFluxSource


def bright(n=3, n_bp=55, seed=0):
    """Toy stars whose G flux is positive: the first coefficient of each band is by far the largest."""
    toy = ToyStars(n=n, n_bp=n_bp, seed=seed)
    toy.bp[:, 0] = toy.rp[:, 0] = 1e4
    return toy


def with_g(toy, g_flux, name="phot_g_mean_flux"):
    """The archive's csv with one more column; None leaves its cell empty."""
    header = toy.csv().splitlines()[0] + f",{name}"
    rows = [[*row, "" if g is None else repr(g)] for row, g in zip(toy.cells(), g_flux, strict=True)]
    return csv_of(rows, header)


def test_g_flux_from_the_coefficients(tmp_path):
    toy = bright()
    stars = load(write(tmp_path, toy.csv()))
    np.testing.assert_array_equal(stars.spectra.source_id, toy.source_id)
    np.testing.assert_array_equal(stars.spectra.coeffs, toy.coeffs)
    np.testing.assert_array_equal(stars.spectra.g_flux, g_flux_from_coeffs(stars.spectra))
    assert (stars.spectra.g_flux_source == GFluxSource.COEFFICIENTS).all()
    assert stars.spectra.usable.all()
    assert (stars.kind, stars.note, stars.skipped) == ("archive csv", None, ())


def test_g_flux_from_the_table_comes_first(tmp_path):
    toy = bright()
    stars = load(write(tmp_path, with_g(toy, [5e4, None, -1.0]))).spectra
    assert stars.g_flux[0] == 5e4
    np.testing.assert_array_equal(stars.g_flux[1:], g_flux_from_coeffs(stars)[1:])
    table, coefficients = GFluxSource.TABLE, GFluxSource.COEFFICIENTS
    assert stars.g_flux_source.tolist() == [table, coefficients, coefficients]


def test_g_flux_of_real_stars_against_their_magnitude(shared_data):
    frame = pd.read_parquet(shared_data / "field_stars.parquet")
    stars = load(shared_data / "field_stars.parquet").spectra
    g_mag = 25.6873668671 - 2.5 * np.log10(stars.g_flux)
    # by GaiaXPy on the same coefficients
    np.testing.assert_allclose(g_mag, frame["phot_g_mean_mag_synth"], atol=1e-5)


def test_star_without_bp_gets_no_g_flux(tmp_path):
    toy = bright()
    rows = toy.cells()
    for name in ("bp_coefficients", "bp_coefficient_errors"):
        set_cell(rows, 1, name, "")
    stars = load(write(tmp_path, csv_of(rows))).spectra
    assert stars.flags.tolist() == [0, Flag.MISSING_BP | Flag.NO_G_FLUX, 0]
    assert np.isnan(stars.g_flux[1])


def test_unknown_basis_with_its_g_flux(tmp_path):
    stars = load(write(tmp_path, with_g(bright(n_bp=51), [1e4, 2e4, 3e4]))).spectra
    assert (stars.basis.n_bp, stars.basis.n_rp) == (51, 55)
    assert stars.usable.all()
    assert (stars.g_flux_source == GFluxSource.TABLE).all()


def test_unknown_basis_without_g_flux(tmp_path):
    path = write(tmp_path, bright(n_bp=51).csv())
    with pytest.raises(DataError) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: no flux or G flux from 51 BP (basis 56) + 55 RP (basis 57)")
    assert message.endswith("give phot_g_mean_flux in the table")
    assert "\n" not in message


def test_unknown_basis_where_some_stars_have_their_g_flux(tmp_path, caplog):
    path = write(tmp_path, with_g(bright(n_bp=51), [1e4, None, 3e4]))
    with caplog.at_level(logging.WARNING):
        stars = load(path).spectra
    assert stars.flags.tolist() == [0, Flag.NO_G_FLUX, 0]
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{path}: 1 of 3 stars are flagged: they have no G flux")


def test_sampled_spectra_are_inferred_and_flagged(formats):
    path = formats / "XP_SAMPLED_RAW_dr3int6.csv"
    stars = load(path)
    assert stars.kind == "sampled csv"
    assert "inferred from sampled spectra, not published" in stars.note
    assert (stars.spectra.flags == Flag.INFERRED).all()
    assert stars.spectra.usable.all()
    assert (stars.spectra.g_flux_source == GFluxSource.COEFFICIENTS).all()
    flux = flux_from_coeffs(stars.spectra.coeffs, stars.spectra.errors)
    published = read_file(path).stars.flux
    largest = np.abs(published).max(axis=1, keepdims=True)
    np.testing.assert_allclose(flux.flux / largest, published / largest, atol=3e-6)  # GaiaXPy's six digits


@pytest.mark.parametrize("form", ["astropy", "pandas"])
def test_tables_in_memory(form):
    toy = bright()
    columns = {k: v if v.ndim == 1 else list(v) for k, v in toy.columns().items()}
    table = pd.DataFrame(columns) if form == "pandas" else Table(toy.columns())
    table["phot_g_mean_flux"] = [1e4, 2e4, 3e4]
    stars = load(table)
    np.testing.assert_array_equal(stars.spectra.source_id, toy.source_id)
    np.testing.assert_array_equal(stars.spectra.coeffs, toy.coeffs)
    assert stars.spectra.g_flux.tolist() == [1e4, 2e4, 3e4]


def test_masked_values_of_a_table():
    toy = bright()
    table = Table(toy.columns(), masked=True)
    table["rp_coefficients"].mask[1] = True
    table["bp_coefficient_errors"].mask[2, 7] = True
    table["phot_g_mean_flux"] = np.ma.MaskedArray([1e4, 2e4, 3e4], mask=[True, False, False])
    stars = load(table).spectra
    assert stars.flags.tolist() == [0, Flag.MISSING_RP, Flag.BAD_ERRORS]
    assert stars.g_flux_source.tolist() == [2, 1, 1]


def test_labels_are_those_of_the_stars_in_their_order(tmp_path):
    toy = bright(n=4)
    stars = load(write(tmp_path, with_g(toy, [5000.0, None, -9999.0, 4000.0], "teff")))
    np.testing.assert_array_equal(stars.labels.source_id, stars.spectra.source_id)
    np.testing.assert_array_equal(stars.labels["teff"], [5000.0, np.nan, np.nan, 4000.0])


def test_load_of_a_store_gives_back_what_was_ingested(tmp_path):
    path = write(tmp_path, with_g(bright(n=50), [1e4] * 25 + [None] * 25))
    first = load(path)
    ingest([path], tmp_path / "store")
    again = load(tmp_path / "store")
    assert again.kind == "store"
    order = np.argsort(first.spectra.source_id)  # of stars in one pixel, as these are
    for name in ("source_id", "flags", "g_flux", "g_flux_source", "n_relevant_bases"):
        np.testing.assert_array_equal(getattr(again.spectra, name), getattr(first.spectra, name)[order])
    np.testing.assert_array_equal(again.spectra.coeffs, first.spectra.coeffs[order].astype(np.float32))
    chunks = np.concatenate([chunk.source_id for chunk in load_chunks(tmp_path / "store")])
    np.testing.assert_array_equal(chunks, again.spectra.source_id)
    (chunk,) = load_chunks(path)
    np.testing.assert_array_equal(chunk.coeffs, first.spectra.coeffs)


def test_folder_that_is_no_store(tmp_path):
    for read in (load, lambda path: list(load_chunks(path))):
        with pytest.raises(StoreError, match=r"not a store. `scattervae ingest"):
            read(tmp_path)


def test_correlations_when_asked_for(formats):
    path = formats / "XP_CONTINUOUS_RAW.csv"
    assert load(path).spectra.correlations is None
    assert load(path, correlations=True).spectra.correlations is not None


def test_a_bulk_file_comes_in_chunks_and_is_the_same_stars(tmp_path, monkeypatch):
    toy = sky_stars(40, seed=1)
    rows = bulk_rows(toy)
    rows[7] = "broken"
    path = write_bulk(tmp_path, toy, rows=rows)
    plain = load(write(tmp_path, "\n".join([HEADER, *rows]) + "\n"))
    with monkeypatch.context() as patch:
        patch.setattr(reading, "read_bulk", partial(reading.read_bulk, rows=16))
        chunks = list(load_chunks(path))
        stars = load(path)
    assert [len(chunk) for chunk in chunks] == [15, 16, 8]
    assert stars.kind == "bulk csv"
    assert [row.reason for row in stars.skipped] == [row.reason for row in plain.skipped]
    for name in ("source_id", "coeffs", "errors", "g_flux", "g_flux_source", "flags"):
        np.testing.assert_array_equal(getattr(stars.spectra, name), getattr(plain.spectra, name))
        together = np.concatenate([getattr(chunk, name) for chunk in chunks])
        np.testing.assert_array_equal(together, getattr(plain.spectra, name))


def test_source_columns_that_a_file_has_itself(tmp_path):
    toy = bright(n=4)
    columns = {k: v if v.ndim == 1 else list(v) for k, v in toy.columns().items()}
    frame = pd.DataFrame(columns).assign(
        RA=[0.0, 10.5, 370.0, 360.0], Dec=[-90.0, 1.5, 2.0, np.nan], ruwe=1.5
    )
    sources = load(frame).sources
    np.testing.assert_array_equal(sources.source_id, toy.source_id)
    np.testing.assert_array_equal(sources.values["ra"], [0.0, 10.5, np.nan, 360.0])
    np.testing.assert_array_equal(sources.values["dec"], [-90.0, 1.5, 2.0, np.nan])
    np.testing.assert_array_equal(sources.values["ruwe"], [1.5] * 4)
    assert sources.located.tolist() == [True, True, False, False]
    assert len(load(frame.drop(columns="Dec")).sources) == 0


def test_correlations_of_a_store_when_asked_for(formats, tmp_path):
    store = ingest(formats / "XP_CONTINUOUS_RAW.ecsv", tmp_path / "store", correlations=True)
    assert load(store.path).spectra.correlations is None
    assert load(store.path, correlations=True).spectra.correlations is not None
