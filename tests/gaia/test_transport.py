"""Stars of a made-up basis, a rotation and truncation of DR3's, brought back to DR3's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import scattervae as sv
from basis_toys import expressed, without_last_four
from basis_toys import rotation as basis_rotation
from scattervae.errors import DataError
from scattervae.gaia.facts import DR3_BASIS
from scattervae.gaia.flux import sample_flux
from scattervae.gaia.transport import Functions, functions_of, transport
from scattervae.spectra.spectra import Basis, Correlations, Spectra
from toy import DR3, toy_sky

GRID = np.arange(330.0, 1050.1, 0.5)


def rotation(n, seed):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))[0]


def truncated(seed=0):
    """A rotation of the first 51 of 55 functions; the last four are left out."""
    matrix = np.zeros((51, 55))
    matrix[:, :51] = rotation(51, seed)
    return matrix


def made_up(stars, bp, rp):
    """Functions and stars of the basis that these matrices make of DR3's, covariances included."""
    known = functions_of(DR3_BASIS, GRID)
    coeffs, errors, pairs = [], [], []
    for matrix, where in ((bp, DR3_BASIS.bp), (rp, DR3_BASIS.rp)):
        covariance = np.einsum("ij,nj,kj->nik", matrix, stars.errors[:, where] ** 2, matrix)
        sigma = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
        lower = np.tril_indices(len(matrix), -1)
        coeffs.append(stars.coeffs[:, where] @ matrix.T)
        errors.append(sigma)
        pairs.append((covariance / (sigma[:, :, None] * sigma[:, None, :]))[:, *lower].astype(np.float32))
    spectra = Spectra.of(
        stars.source_id,
        np.hstack(coeffs),
        np.hstack(errors),
        basis=Basis(len(bp), len(rp), 90, 91),
        g_flux=stars.g_flux,
        correlations=Correlations(*pairs),
    )
    return Functions(GRID, known.bp @ bp.T, known.rp @ rp.T), spectra


@pytest.fixture(scope="module")
def field(shared_data):
    return sv.load(shared_data / "field_stars.parquet").spectra


def test_what_both_bases_span_comes_back_and_the_rest_has_large_errors(field):
    source, stars = made_up(field, truncated(), rotation(55, 1))
    moved = transport(stars, DR3_BASIS, source=source)
    assert moved.n_unknown == (4, 0)
    assert "4 combinations of BP and 0 of RP coefficients are not determined" in moved.loss
    assert moved.outside.max() < 1e-9
    known = np.delete(np.arange(110), [51, 52, 53, 54])
    off = (moved.spectra.coeffs - field.coeffs) / field.errors
    assert np.abs(off[:, known]).max() < 1e-3
    np.testing.assert_allclose(moved.spectra.errors[:, known], field.errors[:, known], rtol=1e-3)
    assert (moved.spectra.errors[:, 51:55] > field.errors[:, 51:55]).all()
    assert (np.abs(off[:, 51:55]) * field.errors[:, 51:55] < 3 * moved.spectra.errors[:, 51:55]).mean() > 0.95


def test_the_flux_is_the_same_where_it_must_be(field):
    some = field.take(slice(0, 50))
    source, stars = made_up(some, truncated(), rotation(55, 1))
    moved = transport(stars, DR3_BASIS, source=source)
    flux = (
        stars.coeffs[:, :51] @ np.nan_to_num(source.bp).T,
        stars.coeffs[:, 51:] @ np.nan_to_num(source.rp).T,
    )
    known = functions_of(DR3_BASIS, GRID)
    again = (
        moved.spectra.coeffs[:, :55] @ np.nan_to_num(known.bp).T,
        moved.spectra.coeffs[:, 55:] @ np.nan_to_num(known.rp).T,
    )
    for before, after in zip(flux, again, strict=True):
        assert np.abs(after - before).max(axis=1) == pytest.approx(0.0, abs=1e-6 * np.abs(before).max())
    rp_only = sample_flux(some).flux[:, 160:]  # beyond BP: the published flux itself
    np.testing.assert_allclose(
        sample_flux(moved.spectra).flux[:, 160:], rp_only, atol=1e-6 * np.abs(rp_only).max()
    )


def test_a_model_of_one_basis_reads_stars_of_the_other(field):
    """As if the four coefficients that the other basis lacks had been measured badly, and not otherwise."""
    recipe = sv.load_recipe("best")
    recipe = recipe.model_copy(update={"training": recipe.training.model_copy(update={"epochs": 3})})
    model = sv.train(field, recipe)
    source, stars = made_up(field, truncated(), rotation(55, 1))
    moved = transport(stars, DR3_BASIS, source=source).spectra
    coeffs, errors = field.coeffs.copy(), field.errors.copy()
    coeffs[:, 51:55], errors[:, 51:55] = 0.0, moved.errors[:, 51:55]
    same = Spectra.of(field.source_id, coeffs, errors, basis=DR3_BASIS, g_flux=field.g_flux)
    a, b = model.encode(same), model.encode(moved)
    assert ((a.mean - b.mean).abs() / a.sd).nan_to_num().max() < 0.1
    assert (b.sd / a.sd - 1).abs().nan_to_num().max() < 0.01


@settings(max_examples=10)
@given(st.integers(0, 10_000))
def test_there_and_back_is_where_it_was(seed):
    stars = toy_sky(5, basis=DR3).spectra
    bp, rp = rotation(55, seed), rotation(55, seed + 1)
    own = Functions(GRID, functions_of(DR3_BASIS, GRID).bp @ bp.T, functions_of(DR3_BASIS, GRID).rp @ rp.T)
    there = transport(stars, Basis(55, 55, 90, 91), target=own)
    back = transport(there.spectra, DR3_BASIS, source=own)
    assert (there.n_unknown, back.n_unknown) == ((0, 0), (0, 0))
    scale = np.abs(stars.coeffs).max()
    np.testing.assert_allclose(back.spectra.coeffs, stars.coeffs, atol=1e-4 * scale)


def test_a_richer_source_says_what_the_target_cannot_make():
    stars = toy_sky(20, basis=DR3).spectra
    known = functions_of(DR3_BASIS, GRID)
    few = Functions(GRID, known.bp[:, :40], known.rp)
    moved = transport(stars, Basis(40, 55, 90, 91), target=few)
    assert moved.n_unknown == (0, 0)
    assert (moved.outside > 1e-4).all()
    assert f"{moved.outside.max():.1e} of a star's flux lies outside" in moved.loss


def test_a_missing_band_stays_missing_and_the_other_comes_across():
    sky = toy_sky(6, basis=DR3).spectra
    coeffs, errors = sky.coeffs.copy(), sky.errors.copy()
    coeffs[:3, :55] = errors[:3, :55] = np.nan
    stars = Spectra.of(sky.source_id, coeffs, errors, basis=DR3, g_flux=sky.g_flux)
    own = functions_of(DR3_BASIS, GRID)
    moved = transport(stars, Basis(55, 55, 90, 91), target=own).spectra
    assert np.isnan(moved.coeffs[:3, :55]).all()
    np.testing.assert_allclose(moved.coeffs[:, 55:], stars.coeffs[:, 55:], rtol=1e-6, atol=1e-6)
    assert (moved.flags == stars.flags).all()


def test_the_same_basis_is_left_as_it_is():
    stars = toy_sky(3, basis=DR3).spectra
    assert transport(stars, DR3_BASIS).spectra is stars
    assert transport(stars, (56, 57)).spectra is stars
    with pytest.raises(DataError, match="GaiaXPy knows"):
        transport(stars, (55, 55))


def test_functions_with_six_digits_hold_less_and_the_prior_gives_the_rest(field, other_basis):
    """As of a release that is known only by the tables of GaiaXPy: on the archive's grid, rounded."""
    coeffs = without_last_four(field.coeffs)
    rotated = np.square(basis_rotation())
    errors = np.sqrt(np.hstack([field.errors[:, :51] ** 2 @ rotated.T, field.errors[:, 55:] ** 2]))
    stars = Spectra.of(field.source_id, expressed(coeffs), errors, basis=other_basis, g_flux=field.g_flux)
    moved = transport(stars, DR3_BASIS)
    assert 4 < moved.n_unknown[0] < 20
    assert 0 < moved.n_unknown[1] < 20
    assert moved.outside.max() < 1e-5
    off = np.abs(moved.spectra.coeffs - coeffs) / moved.spectra.errors
    assert np.median(off, axis=0).max() < 0.7
    truth = sample_flux(field.take(slice(0, 50))).flux[:, 160:]
    again = sample_flux(moved.spectra.take(slice(0, 50))).flux[:, 160:]
    np.testing.assert_allclose(again, truth, atol=1e-5 * np.abs(truth).max())


def test_functions_that_are_not_known_or_do_not_fit_are_refused():
    stars = toy_sky(3, basis=DR3).spectra
    with pytest.raises(DataError, match="GaiaXPy knows"):
        transport(stars, Basis(51, 55, 90, 91))
    own = functions_of(DR3_BASIS, GRID)
    with pytest.raises(DataError, match=r"functions of 55 BP and 55 RP coefficients for 51"):
        transport(stars, Basis(51, 55, 90, 91), target=own)
    with pytest.raises(DataError, match="on different wavelengths"):
        transport(stars, Basis(55, 55, 90, 91), source=functions_of(DR3_BASIS), target=own)
