from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import nnls

from scattervae.errors import DataError
from scattervae.gaia import inference
from scattervae.gaia.files.reading import read_file
from scattervae.gaia.files.sampled import SampledSpectra
from scattervae.gaia.flux import design, flux_from_coeffs
from scattervae.gaia.inference import Prior, _fitted_prior, _Whitened, coeff_errors, infer_coeffs
from scattervae.gaia.reading import load
from scattervae.gaia.transport import archive_design, design_at
from scattervae.spectra.spectra import Flag


def sampled_of(flux, errors, *, flags=None, grid_nm=None) -> SampledSpectra:
    n = len(flux)
    return SampledSpectra(
        source_id=np.arange(1, n + 1),
        flux=flux,
        errors=errors,
        grid_nm=design().grid_nm if grid_nm is None else grid_nm,
        g_flux=np.full(n, 1e4),
        flags=np.zeros(n, dtype=np.uint16) if flags is None else flags,
    )


@pytest.fixture(scope="module")
def field(shared_data: Path):
    """Coefficients and errors of real stars as published."""
    table = pd.read_parquet(shared_data / "field_stars.parquet")
    coeffs = np.hstack([np.stack(table.bp_coefficients), np.stack(table.rp_coefficients)]).astype(float)
    errors = np.hstack([np.stack(table.bp_coefficient_errors), np.stack(table.rp_coefficient_errors)])
    return coeffs, errors.astype(float)


def as_archive(coeffs, errors, matrix) -> SampledSpectra:
    """Sampled spectra with the rounding of the archive's float32."""
    flux, flux_error = coeffs @ matrix.T, np.sqrt(errors**2 @ matrix.T**2)
    return sampled_of(*(a.astype(np.float32).astype(float) for a in (flux, flux_error)))


def test_published_spectra_are_the_archive_matrix_times_published_coefficients(formats: Path):
    sampled = pd.read_csv(formats / "XP_SAMPLED_RAW_dr3int6.csv")
    continuous = pd.read_csv(formats / "XP_CONTINUOUS_RAW.csv")  # the same two stars, in this order

    def numbers(column):
        return np.stack([[float(x) for x in cell.strip("()").split(",")] for cell in column])

    coeffs = np.hstack([numbers(continuous.bp_coefficients), numbers(continuous.rp_coefficients)])
    flux = numbers(sampled.flux)
    scale = np.abs(flux).max(axis=1, keepdims=True)
    # float32 rounding of the largest flux is 6e-8
    np.testing.assert_allclose(coeffs @ archive_design().matrix.T / scale, flux / scale, atol=2e-7)
    assert np.abs((coeffs @ design().matrix.T - flux) / scale).max() > 1e-6


def test_archive_matrix_is_the_shipped_one_before_rounding():
    shipped, exact = design().matrix, archive_design().matrix
    size = np.sqrt(np.square(shipped).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(exact / size, shipped / size, atol=3e-6)  # six digits were shipped
    np.testing.assert_array_equal(np.isnan(archive_design().alone), np.isnan(design().alone))


@pytest.mark.parametrize(("grid", "name"), [(archive_design, "archive"), (design, "GaiaXPy")])
def test_field_stars_come_back_within_published_errors(field, grid, name):
    coeffs, errors = field
    result = infer_coeffs(as_archive(coeffs, errors, grid().matrix))
    assert name in result.matrix_name
    away = np.abs(result.spectra.coeffs - coeffs) / errors
    assert (away < 1).mean() > 0.97
    assert np.median(away) < 0.14


@pytest.mark.parametrize("n", [1, 10])
def test_few_stars_lean_on_the_starting_prior(field, n):
    coeffs, errors = field[0][:n], field[1][:n]
    result = infer_coeffs(as_archive(coeffs, errors, archive_design().matrix))
    assert (np.abs(result.spectra.coeffs - coeffs) < errors).mean() > 0.95
    again = infer_coeffs(as_archive(coeffs, errors, archive_design().matrix))
    np.testing.assert_array_equal(result.spectra.coeffs, again.spectra.coeffs)


def test_inferred_coefficients_give_the_spectra_back(field):
    sampled = as_archive(*field, design().matrix)
    result = infer_coeffs(sampled)
    back = flux_from_coeffs(result.spectra.coeffs, result.spectra.errors)
    largest = np.abs(sampled.flux).max(axis=1, keepdims=True)
    np.testing.assert_allclose(back.flux / largest, sampled.flux / largest, atol=3e-6)


def test_posterior_is_the_textbook_formula():
    rng = np.random.default_rng(3)
    matrix, sigma = rng.normal(size=(7, 3)), rng.uniform(0.1, 0.3, 7)
    prior = Prior(mean=rng.normal(size=3), root=np.linalg.cholesky(np.diag([1.0, 0.2, 0.05])))
    flux = rng.normal(size=(2, 7))
    precision = matrix.T @ np.diag(sigma**-2) @ matrix + np.linalg.inv(prior.covariance)
    information = flux @ np.diag(sigma**-2) @ matrix + np.linalg.solve(prior.covariance, prior.mean)
    model = _Whitened.of(matrix, sigma)
    posterior = model.posterior(prior)
    np.testing.assert_allclose(
        posterior.mean_of(model.compress(flux, np.ones(2))), information @ np.linalg.inv(precision), rtol=1e-9
    )
    np.testing.assert_allclose(posterior.root @ posterior.root.T, np.linalg.inv(precision), rtol=1e-9)


def test_em_finds_a_known_prior():
    rng = np.random.default_rng(4)
    n, mean = 40_000, np.array([2.0, -1.0, 0.5])
    mixing = np.array([[1.0, 0.0, 0.0], [0.6, 0.5, 0.0], [-0.3, 0.2, 0.4]])
    coeffs = mean + rng.normal(size=(n, 3)) @ mixing.T
    matrix = rng.normal(size=(9, 3))
    flux = coeffs @ matrix.T + 0.05 * rng.normal(size=(n, 9))
    model = _Whitened.of(matrix, np.full(9, 0.05))
    prior = _fitted_prior(model, model.compress(flux, np.ones(n)), np.ones(3))
    # 40,000 draws know a mean to 0.005 and a variance to 0.7 %; the starting prior counts as 100 stars
    np.testing.assert_allclose(prior.mean, mean, atol=0.02)
    np.testing.assert_allclose(prior.covariance, mixing @ mixing.T, atol=0.03)


def test_posterior_covariance_holds_the_truth(field):
    coeffs, errors = field
    result = infer_coeffs(as_archive(coeffs, errors, archive_design().matrix))
    sd = np.sqrt(np.stack([np.diag(result.covariance_of(i)) for i in range(len(coeffs))]))
    # one covariance for bright and faint: on the whole not too small, star by star it is not exact
    assert (np.abs(result.spectra.coeffs - coeffs) < 2 * sd).mean() > 0.9
    np.testing.assert_allclose(result.prior.covariance, result.prior.covariance.T)


def test_errors_come_back_within_a_quarter_and_are_never_zero(field, shared_data: Path):
    _, errors = field
    matrix = archive_design().matrix
    mean = np.load(shared_data / "mean_correlations.npz")
    correlated = np.zeros((110, 110))
    correlated[:55, :55], correlated[55:, 55:] = mean["bp"], mean["rp"]
    variance = {
        "independent": errors**2 @ matrix.T**2,
        "correlated": np.stack([((matrix * e) @ correlated * (matrix * e)).sum(1) for e in errors]),
    }
    for name, v in variance.items():
        found = coeff_errors(np.sqrt(v).astype(np.float32).astype(float), matrix)
        ratio = found / errors
        low, middle, high = np.percentile(ratio, [16, 50, 84])
        assert found.min() > 0, name
        assert middle == pytest.approx(1, abs=0.05), name
        assert (high - low) / 2 < 0.25, name


def test_without_smoothness_errors_are_those_of_non_negative_least_squares(monkeypatch):
    rng = np.random.default_rng(5)
    matrix = archive_design().matrix
    order = np.concatenate([np.arange(55), np.arange(55)]) / 54
    errors = np.exp(-0.5 * order**2 + 0.05 * rng.normal(size=(3, 110))) * np.array([[1.0], [20.0], [400.0]])
    variance = errors**2 @ matrix.T**2
    unit = np.square(matrix).mean()
    exact = np.stack([nnls(matrix**2 / unit, v / v.mean())[0] * v.mean() / unit for v in variance])
    monkeypatch.setattr(inference, "LENGTH", 0.7)
    monkeypatch.setattr(inference, "TOLERANCE", 0.02)
    found = coeff_errors(np.sqrt(variance), matrix)
    # a soft hold is left, without which noise of 3e-8 would be fitted: nine in ten agree to 10 %
    assert (np.abs(found / np.sqrt(exact) - 1) < 0.1).mean() > 0.9


def test_incomplete_spectra_are_flagged_and_do_not_teach(field):
    coeffs, errors = (a[:40] for a in field)
    whole = as_archive(coeffs, errors, archive_design().matrix)
    flux, flux_error = whole.flux.copy(), whole.errors.copy()
    flux[3, 100], flux[5] = np.nan, 0.0
    flux_error[7, 9] = 0.0
    flags = whole.flags.copy()
    flags[11], flags[12] = Flag.BAD_COEFFS, Flag.DUPLICATE
    result = infer_coeffs(sampled_of(flux, flux_error, flags=flags))
    spectra = result.spectra
    assert (spectra.flags & np.uint16(Flag.INFERRED)).all()
    for row in (3, 5, 11):
        assert spectra.flags[row] & Flag.BAD_COEFFS
        assert np.isnan(spectra.coeffs[row]).all()
    assert spectra.flags[7] & Flag.BAD_ERRORS
    assert np.isfinite(spectra.coeffs[12]).all()
    assert spectra.flags[12] & Flag.DUPLICATE
    assert result.n_teachers == 36
    assert spectra.usable.sum() == 35
    assert "not published" in result.provenance
    np.testing.assert_array_equal(spectra.g_flux, whole.g_flux)
    teachers = np.setdiff1d(np.arange(40), [3, 5, 11, 12])
    alone = infer_coeffs(whole.take(teachers))
    # the rounding of another order of summing
    np.testing.assert_allclose(spectra.coeffs[teachers], alone.spectra.coeffs, rtol=1e-3, atol=1.0)


def test_what_cannot_be_inferred_is_one_line(field):
    whole = as_archive(field[0][:2], field[1][:2], design().matrix)
    with pytest.raises(DataError, match="none of 2 sampled spectra is complete"):
        infer_coeffs(sampled_of(whole.flux * np.nan, whole.errors))
    short = SampledSpectra(
        source_id=whole.source_id,
        flux=whole.flux[:, :100],
        errors=whole.errors[:, :100],
        grid_nm=whole.grid_nm[:100],
        g_flux=whole.g_flux,
        flags=whole.flags,
    )
    with pytest.raises(
        DataError, match="100 points from 336 to 534 nm; expected wavelengths in both BP and RP"
    ):
        infer_coeffs(short)


def on_other_wavelengths(field, grid_nm, *, ends="natural", n=60) -> SampledSpectra:
    """Real stars' spectra as they would be on other wavelengths."""
    matrix = design_at(grid_nm, ends=ends).matrix
    coeffs, errors = (values[:n] for values in field)
    return sampled_of(coeffs @ matrix.T, np.sqrt(errors**2 @ matrix.T**2), grid_nm=grid_nm)


def test_the_matrix_on_other_wavelengths_is_that_of_gaiaxpy(faults):
    """GaiaXPy's calibrate made these of the stars whose coefficients are in the other file."""
    published = load(faults.parent / "data/formats/XP_CONTINUOUS_RAW.csv").spectra
    for name in ("grid343other.csv", "grid126.csv"):
        sampled = read_file(faults / name).stars
        row = [published.source_id.tolist().index(star) for star in sampled.source_id]
        made = published.coeffs[row] @ design_at(sampled.grid_nm, ends="not-a-knot").matrix.T
        size = np.abs(sampled.flux).max(axis=1, keepdims=True)
        np.testing.assert_allclose(made / size, sampled.flux / size, atol=1e-12)


@pytest.mark.parametrize(("step", "within"), [(1.0, 0.9), (4.0, 0.7)])
def test_coefficients_come_back_from_other_wavelengths(field, step, within):
    sampled = on_other_wavelengths(field, np.arange(338.0, 1019.0, step))
    result = infer_coeffs(sampled)
    away = np.abs(result.spectra.coeffs - field[0][:60]) / field[1][:60]
    assert (away < 1).mean() > within
    assert result.matrix_name == "the archive's matrix on other wavelengths"


def test_spectra_on_other_wavelengths_than_stated_are_refused_or_flagged(field, caplog):
    grid_nm = np.linspace(392.0, 992.0, 343)
    other = on_other_wavelengths(field, grid_nm)
    with pytest.raises(
        DataError, match=r"are not Gaia's on 343 points from 336 to 1020 nm: .* of their norm lies outside"
    ):
        infer_coeffs(replace(other, grid_nm=design().grid_nm))
    right = as_archive(*(values[:60] for values in field), archive_design().matrix)
    mixed = replace(right, flux=np.vstack([right.flux[:50], other.flux[50:]]))
    spectra = infer_coeffs(mixed).spectra
    bad = (spectra.flags & np.uint16(Flag.BAD_COEFFS)) > 0
    assert bad.tolist() == [False] * 50 + [True] * 10
    assert "10 of 60 sampled spectra are flagged BAD_COEFFS" in caplog.text
    alone = infer_coeffs(right.take(slice(0, 50))).spectra
    np.testing.assert_allclose(spectra.coeffs[:50], alone.coeffs, rtol=1e-6, atol=1e-3)


def test_too_few_wavelengths_show_nothing(field):
    with pytest.raises(DataError, match=r"on 60 points .* too few to separate Gaia's spectra from others"):
        infer_coeffs(on_other_wavelengths(field, np.linspace(400.0, 900.0, 60)))
    with pytest.raises(DataError, match=r"3360 to 10200 nm; Gaia's lie between 330 and 1050 nm"):
        infer_coeffs(replace(on_other_wavelengths(field, design().grid_nm), grid_nm=design().grid_nm * 10))
