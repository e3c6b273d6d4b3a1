"""A table's G flux is believed where the coefficients allow it."""

import logging
from dataclasses import replace

import numpy as np
import pytest

from scattervae.errors import DataError
from scattervae.gaia.basis import g_flux_from_coeffs
from scattervae.gaia.facts import g_flux_of
from scattervae.gaia.ingest import ingest
from scattervae.gaia.reading import BLENDED_BY, GFluxes, has_excess, load
from scattervae.spectra.spectra import Basis, Flag, GFluxSource, Spectra
from scattervae.spectra.star_tables import SourceColumns
from toy import DR3


def real_stars(shared_data, *, fainter=0.0) -> Spectra:
    """999 real stars with the G flux of their coefficients, as by a table that is so many magnitudes fainter."""
    stars = load(shared_data / "field_stars.parquet").spectra
    g_flux = g_flux_from_coeffs(stars) * 10 ** (-0.4 * fainter)
    return Spectra.of(stars.source_id, stars.coeffs, stars.errors, basis=DR3, g_flux=g_flux)


def test_placeholders_for_g_are_not_believed(faults, caplog):
    stars = load(faults / "sentinels6.parquet").spectra
    catalogue = [1799313.7, 1129137.2, 1894464.9, 2893788.3]  # phot_g_mean_flux of gaia_source
    np.testing.assert_allclose(stars.g_flux[[0, 1, 3, 4]], catalogue, rtol=0.02)
    np.testing.assert_array_equal(stars.g_flux, g_flux_from_coeffs(stars))
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
    settled = GFluxes("file").of(stars)
    np.testing.assert_array_equal(settled.g_flux, stars.g_flux)
    assert (settled.g_flux_source == GFluxSource.TABLE).all()


@pytest.mark.parametrize("fainter", [3.5, 12.0, -1.8, -5.0, -60.0])
def test_a_g_flux_that_is_magnitudes_off_is_replaced(shared_data, fainter, caplog):
    stars = real_stars(shared_data, fainter=fainter)
    g_fluxes = GFluxes("file")
    with caplog.at_level(logging.WARNING):
        halves = [g_fluxes.of(stars.take(rows)) for rows in (slice(0, 500), slice(500, None))]
        g_fluxes.warn()
    settled = Spectra.concatenate(halves)
    np.testing.assert_allclose(settled.g_flux, g_flux_from_coeffs(stars))
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
    settled = GFluxes("file").of(stars)
    assert settled.flags.tolist() == [Flag.NO_G_FLUX, 0, 0]
    with pytest.raises(DataError, match="give phot_g_mean_flux"):
        GFluxes("file").of(stars.take([0]))
