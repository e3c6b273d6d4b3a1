import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from basis_toys import BP_MODEL, expressed, without_last_four
from scattervae.gaia.basis import g_flux_from_coeffs, known_bases
from scattervae.gaia.facts import G_ZERO_POINT
from scattervae.gaia.flux import design, flux_from_coeffs, sample_flux
from scattervae.spectra.spectra import Basis, Correlations, Spectra

DR3 = Basis(n_bp=55, n_rp=55, bp_id=56, rp_id=57)
MISSING_BP = 5405570973190252288


def numbers(text, n):
    if not isinstance(text, str):
        return np.full(n, np.nan)
    return np.array([float(value) for value in text.strip("()").split(",")])


def read(path: Path, *, correlated: bool = True) -> Spectra:
    table = pd.read_csv(path)

    def column(name, n):
        return np.stack([numbers(cell, n) for cell in table[name]])

    sizes = {"coefficients": 55, "coefficient_errors": 55, "coefficient_correlations": 1485}
    bands = [[column(f"{band}_{name}", n) for band in ("bp", "rp")] for name, n in sizes.items()]
    pairs = Correlations(*(c.astype(np.float32) for c in bands[2])) if correlated else None
    return Spectra.of(
        table.source_id.to_numpy(), np.hstack(bands[0]), np.hstack(bands[1]), basis=DR3, correlations=pairs
    )


def gaiaxpy_input(spectra: Spectra) -> pd.DataFrame:
    """The same float64 numbers as GaiaXPy wants them; the standard deviation cancels and is any number."""
    rows = []
    for i in range(len(spectra)):
        row = {"source_id": spectra.source_id[i]}
        for band, part in (("bp", spectra.basis.bp), ("rp", spectra.basis.rp)):
            absent = np.isnan(spectra.coeffs[i, part]).all()
            pairs = np.zeros(1485)
            if spectra.correlations is not None:
                pairs = getattr(spectra.correlations, band)[i].astype(np.float64)
            row |= {
                f"{band}_n_parameters": np.nan if absent else 55,
                f"{band}_standard_deviation": np.nan if absent else 1.7,
                f"{band}_coefficients": None if absent else spectra.coeffs[i, part],
                f"{band}_coefficient_errors": None if absent else spectra.errors[i, part],
                f"{band}_coefficient_correlations": None if absent else pairs,
                f"{band}_n_relevant_bases": 55,
            }
        rows.append(row)
    return pd.DataFrame(rows)


def calibrated(spectra: Spectra):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from gaiaxpy import calibrate

        table, grid = calibrate(gaiaxpy_input(spectra), save_file=False)
    return np.stack(table.flux), np.stack(table.flux_error), grid


@pytest.mark.parametrize("correlated", [True, False])
def test_flux_and_errors_match_gaiaxpy_also_for_a_star_without_bp(formats: Path, correlated):
    spectra = read(formats / "XP_CONTINUOUS_RAW_with_missing_BP.csv", correlated=correlated)
    assert MISSING_BP in spectra.source_id
    sampled = sample_flux(spectra)
    flux, errors, grid = calibrated(spectra)
    np.testing.assert_array_equal(sampled.grid_nm, grid)
    np.testing.assert_array_equal(np.isnan(sampled.flux), np.isnan(flux))
    np.testing.assert_array_equal(np.isnan(sampled.errors), np.isnan(errors))
    assert (np.nanmax(np.abs(sampled.flux - flux), 1) <= 1e-10 * np.nanmax(np.abs(flux), 1)).all()
    np.testing.assert_allclose(sampled.errors, errors, rtol=1e-10)


def test_a_star_without_rp_matches_gaiaxpy(formats: Path):
    spectra = read(formats / "XP_CONTINUOUS_RAW.csv")
    coeffs = spectra.coeffs.copy()
    coeffs[0, DR3.rp] = np.nan
    spectra = Spectra.of(
        spectra.source_id, coeffs, spectra.errors, basis=DR3, correlations=spectra.correlations
    )
    sampled = sample_flux(spectra)
    flux, errors, grid = calibrated(spectra)
    assert np.isnan(sampled.flux[0, grid > 643]).all()
    np.testing.assert_allclose(sampled.flux, flux, rtol=1e-9)
    np.testing.assert_allclose(sampled.errors, errors, rtol=1e-10)


def test_errors_are_the_diagonal_of_the_propagated_covariance(formats: Path):
    spectra = read(formats / "XP_CONTINUOUS_RAW.csv")
    assert spectra.correlations is not None
    covariance = np.zeros((110, 110))
    for part, pairs in ((DR3.bp, spectra.correlations.bp[0]), (DR3.rp, spectra.correlations.rp[0])):
        r = np.eye(55)
        r[np.tril_indices(55, -1)] = pairs
        r.T[np.tril_indices(55, -1)] = pairs
        covariance[part, part] = r * np.outer(spectra.errors[0, part], spectra.errors[0, part])
    expected = np.sqrt(np.diag(design().matrix @ covariance @ design().matrix.T))
    np.testing.assert_allclose(sample_flux(spectra).errors[0], expected, rtol=1e-9)


def test_a_star_whose_correlations_are_missing_has_independent_errors(formats: Path):
    spectra = read(formats / "XP_CONTINUOUS_RAW.csv")
    assert spectra.correlations is not None
    spectra.correlations.bp[1] = np.nan
    spectra.correlations.rp[1] = np.nan
    independent = sample_flux(read(formats / "XP_CONTINUOUS_RAW.csv", correlated=False))
    np.testing.assert_allclose(sample_flux(spectra).errors[1], independent.errors[1], rtol=1e-12)


def test_plain_coefficients_and_the_sign_of_their_errors():
    rng = np.random.default_rng(1)
    coeffs, errors = rng.normal(size=(3, 110)), rng.normal(size=(3, 110))
    sampled = flux_from_coeffs(coeffs, errors)
    np.testing.assert_allclose(sampled.flux, coeffs @ design().matrix.T)
    np.testing.assert_allclose(sampled.errors, np.sqrt(errors**2 @ design().matrix.T ** 2))
    np.testing.assert_array_equal(sampled.errors, flux_from_coeffs(coeffs, np.abs(errors)).errors)


def test_more_stars_than_a_chunk_change_nothing():
    rng = np.random.default_rng(2)
    coeffs, errors = rng.normal(size=(5000, 110)), rng.random((5000, 110))
    many = flux_from_coeffs(coeffs, errors)
    np.testing.assert_allclose(
        many.flux[4321:4322], flux_from_coeffs(coeffs[4321:4322], errors[4321:4322]).flux
    )
    np.testing.assert_allclose(many.errors, np.sqrt(errors**2 @ design().matrix.T ** 2))


def test_no_band_gives_nan():
    nothing = np.full((1, 110), np.nan)
    assert np.isnan(flux_from_coeffs(nothing, nothing).flux).all()


def test_g_flux_matches_gaiaxpy_and_is_nan_without_bp(formats: Path):
    spectra = read(formats / "XP_CONTINUOUS_RAW_with_missing_BP.csv")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from gaiaxpy import PhotometricSystem, generate

        table = generate(
            gaiaxpy_input(spectra), photometric_system=[PhotometricSystem.Gaia_DR3_Vega], save_file=False
        )
    flux = g_flux_from_coeffs(spectra)
    assert np.isnan(flux[spectra.source_id == MISSING_BP]).all()
    magnitude = G_ZERO_POINT - 2.5 * np.log10(flux)
    np.testing.assert_allclose(magnitude, table.GaiaDr3Vega_mag_G.to_numpy(dtype=float), atol=1e-9)


def test_g_flux_of_field_stars_matches_gaiaxpy(shared_data: Path):
    table = pd.read_parquet(shared_data / "field_stars.parquet")
    coeffs = np.hstack([np.stack(table.bp_coefficients), np.stack(table.rp_coefficients)]).astype(float)
    spectra = Spectra.of(table.source_id.to_numpy(), coeffs, np.ones_like(coeffs), basis=DR3)
    magnitude = G_ZERO_POINT - 2.5 * np.log10(g_flux_from_coeffs(spectra))
    np.testing.assert_allclose(magnitude, table.phot_g_mean_mag_synth, atol=1e-5)


def test_g_of_18_sco_matches_the_catalogue(formats: Path):
    spectra = read(formats / "18Sco-XP-spectra.csv")
    catalogue = pd.read_csv(formats / "18Sco-XP-spectra.csv").phot_g_mean_mag
    # 0.02 mag is how well synthetic and published G agree on real stars
    np.testing.assert_allclose(
        G_ZERO_POINT - 2.5 * np.log10(g_flux_from_coeffs(spectra)), catalogue, atol=0.02
    )


def test_a_basis_that_a_newer_gaiaxpy_knows_by_id_gives_the_same_flux_and_g_flux(formats: Path, other_basis):
    assert [*known_bases()] == [DR3, other_basis]
    own = read(formats / "XP_CONTINUOUS_RAW.csv", correlated=False)
    coeffs = without_last_four(own.coeffs)
    same = Spectra.of(own.source_id, expressed(coeffs), expressed(own.errors) ** 2, basis=other_basis)
    old = flux_from_coeffs(coeffs, own.errors)
    np.testing.assert_allclose(sample_flux(same).flux, old.flux, rtol=0, atol=1e-12 * np.abs(old.flux).max())
    of_dr3 = Spectra.of(own.source_id, coeffs, own.errors, basis=DR3)
    np.testing.assert_allclose(g_flux_from_coeffs(same), g_flux_from_coeffs(of_dr3), rtol=1e-12)
    assert flux_from_coeffs(same.coeffs, same.errors, other_basis).flux.shape == old.flux.shape


def test_flux_of_51_and_55_coefficients_matches_gaiaxpy_with_that_model(formats: Path, other_basis):
    own = read(formats / "XP_CONTINUOUS_RAW.csv", correlated=False)
    same = Spectra.of(own.source_id, expressed(own.coeffs), np.abs(expressed(own.errors)), basis=other_basis)
    frame = gaiaxpy_input(same)
    frame["bp_n_parameters"] = 51
    frame["bp_coefficient_correlations"] = [np.zeros(1275)] * len(frame)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from gaiaxpy.calibrator.calibrator import _calibrate

        table, _ = _calibrate(frame, save_file=False, bp_model=BP_MODEL)
    sampled = sample_flux(same)
    np.testing.assert_allclose(sampled.flux, np.stack(table.flux), rtol=1e-9)
    np.testing.assert_allclose(sampled.errors, np.stack(table.flux_error), rtol=1e-9)
