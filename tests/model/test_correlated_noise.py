import logging

import numpy as np
import pytest
import torch

from model.noise_toys import N_BP, N, a_noise, correlated, covariance_by_hand
from scattervae.model.correlated_noise import CorrelatedNoise, draw_correlated, square
from scattervae.seeds import numpy_stream, stream
from scattervae.spectra.normalization import Normalization, NormalizationSettings
from scattervae.spectra.spectra import Correlations, GFluxSource, Spectra
from toy import SMALL, spoiled, toy_sky

SKY = toy_sky(60)
NORMALIZATION = Normalization.fit(lambda: [SKY.spectra])


def test_triangles_run_as_the_archive_has_them():
    """Row by row below the diagonal: (1,0), (2,0), (2,1)."""
    (matrix,) = square(torch.tensor([[0.1, 0.2, 0.3]]))
    assert matrix.tolist() == torch.tensor([[1, 0.1, 0.2], [0.1, 1, 0.3], [0.2, 0.3, 1]]).tolist()
    assert square(torch.empty(1, 0)).tolist() == [[[1.0]]]


def test_draws_have_the_correlations_of_their_star():
    n = 200_000
    noise = a_noise(2)
    many = noise.take(torch.zeros(n, dtype=torch.long)).to(torch.float32)
    drawn = many.draw(torch.randn(n, N, generator=stream(0, "draws"))).double()
    expected = torch.block_diag(square(noise.bp[:1])[0], square(noise.rp[:1])[0])
    torch.testing.assert_close(
        torch.from_numpy(np.cov(drawn.numpy().T)), expected, rtol=0, atol=0.02
    )  # 4 sigma


def test_measured_stars_scatter_as_the_covariance_says():
    """One star, measured again and again in archive units with correlated noise and an error of its G flux."""
    n, g, star = 100_000, 0.05, 3
    rng = numpy_stream(0, "measured")
    spectra = correlated(SKY.spectra).take(np.full(n, star))
    noise = CorrelatedNoise.of(spectra.take([0]), NORMALIZATION, g_flux_error=g * spectra.g_flux[:1])
    root = np.linalg.cholesky(
        torch.block_diag(*(square(p)[0].double() for p in (noise.bp, noise.rp))).numpy()
    )
    coeffs = spectra.coeffs + spectra.errors * (rng.standard_normal((n, N)) @ root.T)
    measured = Spectra.of(
        np.arange(n),
        coeffs,
        spectra.errors,
        basis=SMALL,
        g_flux=spectra.g_flux * (1 + g * rng.standard_normal(n)),
    )
    true = NORMALIZATION.apply(spectra.take([0]), dtype=torch.float64)
    flux = (true.x[0] + noise.origin.double()).numpy()
    expected = covariance_by_hand(true.errors[0].numpy(), np.zeros(N), flux, noise, 0)
    found = np.cov(NORMALIZATION.apply(measured, dtype=torch.float64).x.numpy().T)
    sd = np.sqrt(np.diag(expected))
    assert found / np.outer(sd, sd) == pytest.approx(expected / np.outer(sd, sd), abs=0.03)  # g^2 and chance


def test_noise_of_stars_without_any_is_none():
    noise = CorrelatedNoise.of(SKY.spectra, NORMALIZATION)
    assert not noise.given.any()
    assert not noise.refused.any()
    assert (noise.bp == 0).all()
    assert (noise.rp == 0).all()
    assert (noise.g_error == 0).all()


def test_correlations_of_the_first_orders_are_those_of_the_corner():
    stars = correlated(SKY.spectra)
    fewer = Normalization.fit(lambda: [SKY.spectra], NormalizationSettings(n_bp=4, n_rp=1))
    noise, all_of_it = CorrelatedNoise.of(stars, fewer), CorrelatedNoise.of(stars, NORMALIZATION)
    assert noise.rp.shape == (60, 0)
    assert noise.bp.shape == (60, 6)
    torch.testing.assert_close(square(noise.bp), square(all_of_it.bp)[:, :4, :4])


def test_what_is_no_correlation_matrix_is_refused_and_told(caplog):
    stars = correlated(SKY.spectra)
    stars.correlations.bp[0] = 0.9
    stars.correlations.bp[0, :2] = -0.9, 0.9  # of no three numbers
    stars.correlations.rp[1, 4] = np.nan
    stars.correlations.bp[2] = stars.correlations.rp[2] = np.nan
    stars.correlations.bp[3] = 1.0
    with caplog.at_level(logging.WARNING):
        noise = CorrelatedNoise.of(stars, NORMALIZATION)
    assert noise.refused.nonzero().flatten().tolist() == [0, 1, 3]
    assert noise.given[:4].tolist() == [True, True, False, True]  # by their other band
    assert (noise.bp[[0, 2, 3]] == 0).all()
    assert (noise.rp[[1, 2]] == 0).all()
    assert noise.bp[1].any()
    assert "3 of 60 stars have correlations that are no correlation matrix" in caplog.text


def test_an_unknown_error_of_the_g_flux_is_none():
    stars = spoiled(correlated(SKY.spectra))
    errors = np.full(60, 2.0)
    errors[10], errors[12] = np.nan, np.inf
    noise = CorrelatedNoise.of(stars, NORMALIZATION, g_flux_error=errors)
    assert noise.g_error[[4, 10, 12]].tolist() == [0, 0, 0]  # row 4 has no G flux
    assert noise.g_error[11].item() == pytest.approx(2.0 / stars.g_flux[11])


def test_a_g_flux_of_the_coefficients_has_no_error_of_its_own():
    stars = correlated(SKY.spectra)
    unknown = Spectra.of(stars.source_id, stars.coeffs, stars.errors, basis=SMALL)
    found = unknown.with_g_flux(stars.g_flux, GFluxSource.COEFFICIENTS)
    assert (CorrelatedNoise.of(found, NORMALIZATION, g_flux_error=np.ones(60)).g_error == 0).all()


def test_draws_of_all_coefficients_are_those_of_each_star():
    stars = correlated(SKY.spectra)
    stars.correlations.bp[2] = 1.0  # of none: stays as it is
    noise = numpy_stream(0, "draws").standard_normal((60, N))
    drawn = draw_correlated(stars.correlations, noise)
    for star in (0, 2, 59):
        for pairs, here in ((stars.correlations.bp, slice(0, N_BP)), (stars.correlations.rp, slice(N_BP, N))):
            own = square(torch.from_numpy(pairs[star : star + 1]).double())[0].numpy()
            root = np.eye(N_BP) if star == 2 and here.start == 0 else np.linalg.cholesky(own)
            np.testing.assert_allclose(drawn[star, here], root @ noise[star, here], atol=1e-6)


def test_shared_correlations_may_take_no_memory():
    one = correlated(SKY.spectra).correlations
    shared = Correlations(
        *(np.broadcast_to(values[:1], (60, values.shape[1])) for values in (one.bp, one.rp))
    )
    noise = numpy_stream(0, "draws").standard_normal((60, N))
    assert draw_correlated(shared, noise).shape == (60, N)


def test_independent_noise_has_no_correlation_left():
    noise = a_noise().independent()
    assert not any(values.any() for values in (noise.bp, noise.rp, noise.g_error, noise.given, noise.refused))
    drawn = torch.randn(4, N, generator=stream(0, "draws"), dtype=torch.float64)
    assert torch.equal(noise.draw(drawn), drawn)
