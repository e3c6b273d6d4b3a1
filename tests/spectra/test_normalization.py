import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from sklearn.preprocessing import StandardScaler

from scattervae.errors import DataError
from scattervae.spectra.columns import StoredSpectra
from scattervae.spectra.normalization import Inputs, Normalization, NormalizationSettings
from scattervae.spectra.spectra import Basis, Flag, GFluxSource, Spectra
from toy import DR3, SMALL, SPOILED, spoiled, toy_sky, without_bands

STARS = toy_sky(300, basis=DR3).spectra
SMALL_STARS = toy_sky(40).spectra


def fit(*chunks: Spectra, **settings: object) -> Normalization:
    return Normalization.fit(lambda: chunks, NormalizationSettings.model_validate(settings))


def scaled_by_scikit_learn(spectra: Spectra) -> StandardScaler:
    return StandardScaler().fit(spectra.coeffs / spectra.g_flux[:, None])


def with_coeffs(spectra: Spectra, coeffs: np.ndarray) -> Spectra:
    return Spectra.of(spectra.source_id, coeffs, spectra.errors, basis=spectra.basis, g_flux=spectra.g_flux)


def field_stars(path: Path) -> Spectra:
    """999 real field stars, their coefficients up to 1e7 and their G flux from magnitudes."""
    table = pq.read_table(path)
    coeffs, errors = (
        np.hstack([np.stack(table[f"{band}_{name}"].to_numpy()).astype(np.float64) for band in ("bp", "rp")])
        for name in ("coefficients", "coefficient_errors")
    )
    g_flux = 10 ** (0.4 * (25.6873668671 - table["phot_g_mean_mag_synth"].to_numpy().astype(np.float64)))
    return Spectra.of(table["source_id"].to_numpy(), coeffs, errors, basis=DR3, g_flux=g_flux)


def check_against_scikit_learn(stars: Spectra) -> None:
    normalization, scaler = fit(stars), scaled_by_scikit_learn(stars)
    spread = scaler.scale_
    np.testing.assert_allclose(normalization.std, spread, rtol=1e-11)
    np.testing.assert_allclose((normalization.mean - scaler.mean_) / spread, 0.0, atol=1e-11)
    x = normalization.apply(stars, dtype=torch.float64).x.numpy()
    np.testing.assert_allclose(x, scaler.transform(stars.coeffs / stars.g_flux[:, None]), atol=1e-10)


def test_statistics_are_those_of_scikit_learn():
    check_against_scikit_learn(STARS)


def test_statistics_of_real_stars_are_those_of_scikit_learn(shared_data):
    stars = field_stars(shared_data / "field_stars.parquet")
    check_against_scikit_learn(stars.take(stars.usable))


def test_more_stars_than_a_block_of_sums():
    """Blocks of 8192 are merged; a large common offset would show lost digits."""
    n = 20_000
    draws = np.random.default_rng(1)
    coeffs = 1e4 + draws.normal(size=(n, 11))
    stars = Spectra.of(np.arange(n, dtype=np.int64), coeffs, np.ones((n, 11)), basis=SMALL, g_flux=np.ones(n))
    normalization = fit(stars)
    np.testing.assert_allclose(normalization.mean, coeffs.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(normalization.std, coeffs.std(axis=0), rtol=1e-11)


def test_training_stars_have_zero_mean_and_unit_variance():
    x = fit(STARS).apply(STARS, dtype=torch.float64).x
    torch.testing.assert_close(x.mean(dim=0), torch.zeros(110, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(x.var(dim=0, correction=0), torch.ones(110, dtype=torch.float64))


def test_errors_are_scaled_as_coefficients_and_not_shifted():
    normalization, shift = fit(STARS), 1e-3
    inputs = normalization.apply(STARS, dtype=torch.float64)
    moved = with_coeffs(STARS, STARS.coeffs + shift * STARS.errors)
    difference = normalization.apply(moved, dtype=torch.float64).x - inputs.x
    torch.testing.assert_close(difference, shift * inputs.errors, atol=1e-12, rtol=1e-6)


@given(st.integers(0, 100), st.booleans(), st.floats(1e-3, 1e9))
def test_invert_undoes_apply(seed, truncated, flux):
    stars = toy_sky(20, seed=seed).spectra
    stars = Spectra.of(
        stars.source_id, stars.coeffs * flux, stars.errors * flux, basis=SMALL, g_flux=stars.g_flux * flux
    )
    normalization = fit(stars, n_bp=4 if truncated else None)
    inputs = normalization.apply(stars, dtype=torch.float64)
    coeffs = normalization.invert(inputs.x, stars.g_flux)
    errors = normalization.invert_errors(inputs.errors, stars.g_flux)
    scale = normalization.std * stars.g_flux[:, None]
    np.testing.assert_allclose((coeffs - stars.coeffs[:, normalization.columns]) / scale, 0.0, atol=1e-12)
    np.testing.assert_allclose(errors, stars.errors[:, normalization.columns], rtol=1e-12)


def test_invert_undoes_apply_in_float32():
    inputs = fit(STARS).apply(STARS)
    assert inputs.x.dtype == inputs.errors.dtype == torch.float32
    back = fit(STARS).invert(inputs.x, STARS.g_flux)
    scale = fit(STARS).std * STARS.g_flux[:, None]
    np.testing.assert_allclose(
        (back - STARS.coeffs) / scale, 0.0, atol=1e-6
    )  # x reaches about 4, times 2**-24


def bits(normalization: Normalization) -> tuple[object, ...]:
    return normalization.mean.tobytes(), normalization.std.tobytes(), normalization.n_stars


@given(st.lists(st.integers(0, 25), max_size=8), st.sampled_from([None, 2.0]))
def test_chunks_change_no_bit(sizes, clip_sigma):
    stars = spoiled(SMALL_STARS)
    ends = np.cumsum(sizes).clip(max=len(stars)).tolist()
    chunks = [stars.take(slice(a, b)) for a, b in zip([0, *ends], [*ends, len(stars)], strict=True)]
    settings = {"clip_sigma": clip_sigma}
    assert bits(fit(*chunks, **settings)) == bits(fit(stars, **settings))


def test_chunks_change_no_bit_over_more_than_one_block(monkeypatch):
    monkeypatch.setattr("scattervae.spectra.moments._ROWS_A_SUM", 7)
    chunks = [SMALL_STARS.take(slice(a, a + 3)) for a in range(0, 40, 3)]
    assert bits(fit(*chunks)) == bits(fit(SMALL_STARS))
    check_against_scikit_learn(SMALL_STARS)


@given(st.randoms())
def test_the_order_of_stars_changes_rounding_alone(random):
    order = np.array(random.sample(range(300), 300))
    first, other = fit(STARS), fit(STARS.take(order))
    np.testing.assert_allclose((other.mean - first.mean) / first.std, 0.0, atol=1e-12)
    np.testing.assert_allclose(other.std, first.std, rtol=1e-12)


def test_only_usable_stars_count_and_one_band_is_enough_for_its_own_coefficients():
    stars = spoiled(STARS)
    normalization = fit(stars)
    kept = stars.take(stars.usable_with_one_band)
    assert normalization.n_stars == len(kept) == len(stars) - len(SPOILED) + 3
    shapes = kept.coeffs / kept.g_flux[:, None]
    assert np.isnan(shapes).any(axis=1).tolist() == [True, True] + [False] * 294
    np.testing.assert_allclose(normalization.mean, np.nanmean(shapes, axis=0), rtol=1e-11)
    np.testing.assert_allclose(normalization.std, np.nanstd(shapes, axis=0), rtol=1e-11)


def test_stars_with_one_band_move_no_statistics_of_the_other():
    stars = without_bands(STARS)
    complete = stars.take(stars.usable | ((stars.flags & np.uint16(Flag.MISSING_RP)) > 0))
    whole, bp_alone = fit(stars), fit(complete)
    np.testing.assert_allclose(whole.mean[DR3.bp], bp_alone.mean[DR3.bp], rtol=1e-11)
    np.testing.assert_allclose(whole.std[DR3.bp], bp_alone.std[DR3.bp], rtol=1e-11)


def test_g_fluxes_from_a_table_are_counted():
    g_flux = STARS.g_flux.copy()
    g_flux[:7] = np.nan
    stars = Spectra.of(STARS.source_id, STARS.coeffs, STARS.errors, basis=DR3, g_flux=g_flux)
    stars = stars.with_g_flux(STARS.g_flux, GFluxSource.COEFFICIENTS)
    assert (fit(stars).n_stars, fit(stars).n_g_flux_from_table) == (300, 293)


def test_clipped_statistics_are_those_of_the_values_inside():
    values = SMALL_STARS.coeffs / SMALL_STARS.g_flux[:, None]
    values[3, 2], values[8, 2], values[5, 9] = 900.0, -30.0, 60.0
    stars = with_coeffs(SMALL_STARS, values * SMALL_STARS.g_flux[:, None])
    expected_mean, expected_std = np.empty(11), np.empty(11)
    for i in range(11):
        column = values[:, i]
        kept = column
        for _ in range(5):
            kept = column[np.abs(column - kept.mean()) <= 3.0 * kept.std()]
        expected_mean[i], expected_std[i] = kept.mean(), kept.std()
    normalization = fit(stars, clip_sigma=3.0)
    np.testing.assert_allclose(normalization.std, expected_std, rtol=1e-10)
    np.testing.assert_allclose((normalization.mean - expected_mean) / expected_std, 0.0, atol=1e-10)
    assert normalization.n_stars == 40
    assert fit(stars, clip_sigma=1e6).std[2] > 50 * normalization.std[2]
    far = normalization.apply(stars).x[3, 2].item()
    assert far > 100


def test_the_first_coefficients_of_each_band():
    normalization = fit(STARS, n_bp=20, n_rp=15)
    columns = [*range(20), *range(55, 70)]
    assert normalization.columns.tolist() == columns
    assert (normalization.n_coeffs, normalization.bp, normalization.rp) == (35, slice(0, 20), slice(20, 35))
    whole = fit(STARS)
    np.testing.assert_array_equal(normalization.mean, whole.mean[columns])
    torch.testing.assert_close(normalization.apply(STARS).x, whole.apply(STARS).x[:, columns], rtol=0, atol=0)


@pytest.mark.parametrize("settings", [{"n_bp": 7}, {"n_rp": 6}])
def test_more_coefficients_than_there_are_are_refused(settings):
    with pytest.raises(DataError, match=r"asked for, but the spectra have 6 BP \+ 5 RP") as caught:
        fit(SMALL_STARS, **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("settings", [{"n_bp": 0}, {"n_rp": -1}, {"clip_sigma": 0.0}, {"clip": 3.0}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValidationError):
        NormalizationSettings.model_validate(settings)


@pytest.mark.parametrize(
    "basis", [Basis(51, 55), Basis(55, 55, bp_id=99, rp_id=57), Basis(55, 55, bp_id=56, rp_id=99)]
)
def test_another_basis_is_refused_in_one_line(basis):
    other = toy_sky(10, basis=basis).spectra
    with pytest.raises(DataError, match=r"the model was trained on 55 BP \(basis 56\)") as caught:
        fit(STARS).apply(other)
    assert "\n" not in str(caught.value)


def test_training_stars_of_two_bases_are_refused_however_they_arrive():
    one, other = (toy_sky(40, basis=Basis(6, 5, bp_id=i)).spectra for i in (1, 2))
    unnamed = toy_sky(40, basis=SMALL).spectra
    with pytest.raises(DataError, match=r"basis 1.*basis 2"):
        fit(one, other)
    with pytest.raises(DataError, match=r"training stars of 6 BP \+ 5 RP .* stars of 6 BP \(basis 1\)"):
        fit(unnamed, one)
    assert fit(unnamed, unnamed).basis == SMALL


@pytest.mark.parametrize("value", [0.0, 0.1, -1e3])
def test_a_constant_coefficient_is_refused_whatever_rounding_leaves_of_it(value):
    coeffs = STARS.coeffs.copy()
    coeffs[:, 57] = value * STARS.g_flux
    with pytest.raises(DataError, match="coefficient 57 is the same in all 300") as caught:
        fit(with_coeffs(STARS, coeffs))
    assert "\n" not in str(caught.value)
    assert "it holds no measurement" in str(caught.value)  # more stars would not help
    with pytest.raises(DataError, match="train on more stars"):
        fit(with_coeffs(STARS, coeffs).take(slice(0, 2)))


def test_a_coefficient_with_a_small_spread_is_not_constant():
    coeffs = STARS.coeffs.copy()
    coeffs[:, 57] = (1.0 + 1e-7 * np.random.default_rng(0).normal(size=300)) * STARS.g_flux
    assert fit(with_coeffs(STARS, coeffs)).std[57] == pytest.approx(1e-7, rel=0.2)


@pytest.mark.parametrize("n", [0, 3])
def test_no_usable_star_is_an_error(n):
    stars = STARS.take(slice(0, n)).with_flags(np.full(n, Flag.BAD_ERRORS, dtype=np.uint16))
    with pytest.raises(DataError, match="no usable star"):
        fit(stars)
    with pytest.raises(DataError, match="no usable star"):
        fit()


def test_stars_that_cannot_be_encoded_are_rows_of_nan_and_leave_others_alone():
    stars, normalization = spoiled(STARS), fit(STARS)
    inputs, good = normalization.apply(stars), normalization.apply(STARS)
    unknown = np.array([flag not in (Flag(0), Flag.DUPLICATE) for flag in SPOILED] + [False] * 293)
    assert inputs.x[unknown].isnan().all()
    assert inputs.errors[unknown].isnan().all()
    torch.testing.assert_close(inputs.x[~unknown], good.x[~unknown], rtol=0, atol=0)
    torch.testing.assert_close(inputs.errors[~unknown], good.errors[~unknown], rtol=0, atol=0)


def stored_of(spectra: Spectra) -> StoredSpectra:
    coeffs, errors = (values.astype(np.float32) for values in (spectra.coeffs, spectra.errors))
    source = spectra.g_flux_source
    return StoredSpectra(spectra.source_id, coeffs, errors, spectra.g_flux, source, spectra.flags)


@given(st.lists(st.integers(0, 25), max_size=8), st.sampled_from([None, 2.0]), st.sampled_from([None, 4]))
def test_blocks_give_the_bits_of_spectra(sizes, clip_sigma, n_bp):
    stars = stored_of(spoiled(SMALL_STARS))
    coeffs, errors = stars.coeffs.astype(np.float64), stars.errors.astype(np.float64)
    spectra = replace(spoiled(SMALL_STARS), coeffs=coeffs, errors=errors)
    ends = np.cumsum(sizes).clip(max=len(stars)).tolist()
    rows = [np.arange(a, b) for a, b in zip([0, *ends], [*ends, len(stars)], strict=True)]
    settings = NormalizationSettings(clip_sigma=clip_sigma, n_bp=n_bp)
    by_row_groups = Normalization.fit(lambda: [stars.take(some) for some in rows], settings, basis=SMALL)
    by_spectra = Normalization.fit(lambda: [spectra], settings)
    assert bits(by_row_groups) == bits(by_spectra)
    assert by_row_groups.n_g_flux_from_table == by_spectra.n_g_flux_from_table
    for found, wanted in ((by_row_groups.apply(stars), by_spectra.apply(spectra)),):
        assert torch.equal(found.x.nan_to_num(7.0), wanted.x.nan_to_num(7.0))
        assert torch.equal(found.errors.nan_to_num(7.0), wanted.errors.nan_to_num(7.0))
        assert found.x.isnan().any(dim=1).sum() == 5


def test_blocks_need_a_basis():
    with pytest.raises(TypeError, match="basis"):
        Normalization.fit(lambda: [stored_of(SMALL_STARS)])


def test_the_quick_way_rounds_and_no_more():
    stars = stored_of(spoiled(STARS))
    rows = np.flatnonzero(stars.usable)[::-1].copy()
    normalization = fit(STARS)
    quick, exact = Inputs.empty(len(rows), 110), normalization.apply(stars)
    normalization.apply_to(stars, rows, quick, quick=True)
    torch.testing.assert_close(quick.x, exact.x[rows], rtol=1e-5, atol=1e-5)  # a mean may be some deviations
    torch.testing.assert_close(quick.errors, exact.errors[rows])
    whole = Inputs.empty(len(stars), 110)
    normalization.apply_to(stars, np.arange(len(stars)), whole, quick=True)
    assert torch.equal(whole.x.isnan(), exact.x.isnan())


def test_inputs_are_taken_by_rows_and_cut():
    inputs = fit(STARS).apply(STARS)
    rows = torch.tensor([5, 0, 299, 5])
    assert torch.equal(inputs.take(rows).x, inputs.x[rows])
    assert torch.equal(inputs.take(rows).errors, inputs.errors[rows])
    assert torch.equal(inputs[3:9].errors, inputs.errors[3:9])
    assert len(Inputs.empty(4, 2)) == 4


def test_gaps_keep_what_is_known_of_a_star_and_nothing_else():
    nan, inf = math.nan, math.inf
    inputs = Inputs(
        x=torch.tensor([[1.0, 2.0], [nan, 2.0], [1.0, 2.0], [1.0, 2.0], [nan, 3.0]]),
        errors=torch.tensor([[0.1, 0.2], [0.1, 0.2], [0.0, 0.2], [nan, -1.0], [0.1, nan]]),
    ).with_gaps()
    assert inputs.x[:3].tolist() == [[1.0, 2.0], [0.0, 2.0], [0.0, 2.0]]
    expected = torch.tensor([[0.1, 0.2], [inf, 0.2], [inf, 0.2]])
    assert torch.equal(inputs.errors[:3], expected)
    assert inputs.x[3:].isnan().all()
    assert inputs.errors[3:].isnan().all()


def test_stars_without_gaps_are_the_same_with_gaps_allowed():
    sky = toy_sky(20)
    normalization = Normalization.fit(lambda: [sky.spectra])
    for one, other in zip(
        vars(normalization.apply(sky.spectra)).values(),
        vars(normalization.apply(sky.spectra, gaps=True)).values(),
        strict=True,
    ):
        assert torch.equal(one, other)
