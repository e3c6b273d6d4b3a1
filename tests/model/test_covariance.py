import logging
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from studies.covariance_gain import covariances
from torch.distributions import MultivariateNormal

from model.noise_toys import N_BP, N, a_noise, correlated, covariance_by_hand
from scattervae.model.covariance import (
    CorrelatedNoise,
    full_terms,
    is_sound,
    square,
)
from scattervae.model.loss import loss_terms
from scattervae.model.network import Posterior, Reconstruction
from scattervae.seeds import numpy_stream, stream
from scattervae.spectra.normalization import Normalization, NormalizationSettings
from scattervae.spectra.spectra import GFluxSource, Spectra
from toy import SMALL, spoiled, toy_sky


def a_batch(n: int = 4, *, seed: int = 0) -> dict[str, torch.Tensor]:
    draws = stream(seed, "batch")
    x, errors, mean, scatter = (torch.randn(n, N, generator=draws, dtype=torch.float64) for _ in range(4))
    return {"x": x, "errors": (errors - 1.0).exp(), "mean": mean, "scatter": (scatter - 2.0).exp()}


def of_star(batch: dict[str, torch.Tensor], noise: CorrelatedNoise, star: int) -> np.ndarray:
    errors, scatter = batch["errors"][star].numpy(), batch["scatter"][star].numpy()
    return covariance_by_hand(errors, scatter, (batch["mean"][star] + noise.origin).numpy(), noise, star)


@given(st.integers(0, 1000), st.sampled_from([0.0, 1e-3, 0.5]))
def test_nll_is_that_of_torch_distributions(seed, g_error):
    batch, noise = a_batch(seed=seed), a_noise(g_error=g_error, seed=seed)
    terms = full_terms(**batch, noise=noise)
    matrices = torch.from_numpy(np.stack([of_star(batch, noise, star) for star in range(4)]))
    log_prob = MultivariateNormal(batch["mean"], matrices).log_prob(batch["x"])
    torch.testing.assert_close(terms.chi2 + terms.penalty, -log_prob - 0.5 * N * math.log(2 * math.pi))
    torch.testing.assert_close(terms.penalty, 0.5 * torch.logdet(matrices))


@given(st.integers(0, 1000), st.integers(0, 2**N - 2))
def test_missing_coefficients_leave_the_likelihood_of_the_others(seed, bits):
    missing = torch.tensor([bool(bits >> i & 1) for i in range(N)])
    batch, noise = a_batch(1, seed=seed), a_noise(1, seed=seed)
    kept = (~missing).numpy()
    matrix = torch.from_numpy(of_star(batch, noise, 0)[np.ix_(kept, kept)])
    there = MultivariateNormal(batch["mean"][0, kept], matrix)
    expected = -there.log_prob(batch["x"][0, kept]) - 0.5 * kept.sum() * math.log(2 * math.pi)
    batch["errors"][0, missing] = math.inf
    inputs = {name: batch[name].clone().requires_grad_() for name in ("mean", "scatter")}
    terms = full_terms(batch["x"], batch["errors"], noise=noise, **inputs)
    torch.testing.assert_close((terms.chi2 + terms.penalty)[0], expected)
    (terms.chi2 + terms.penalty).sum().backward()
    for values in inputs.values():
        assert (values.grad[0, missing] == 0).all()
        assert values.grad.isfinite().all()


def test_one_star_of_two_correlated_coefficients_by_hand():
    one = torch.ones(1, dtype=torch.float64)
    noise = CorrelatedNoise(
        bp=torch.tensor([[0.5]], dtype=torch.float64),
        rp=torch.zeros(1, 0, dtype=torch.float64),
        g_error=0 * one,
        origin=torch.zeros(3, dtype=torch.float64),
        given=one.bool(),
        refused=~one.bool(),
    )
    values = {"x": [3.0, 1.0, 2.0], "errors": [2.0, 1.0, 3.0], "mean": [0.0] * 3, "scatter": [0.0, 1.0, 4.0]}
    terms = full_terms(**{k: torch.tensor([v], dtype=torch.float64) for k, v in values.items()}, noise=noise)
    # BP: S = [[4, 1], [1, 2]], its inverse [[2, -1], [-1, 4]] / 7; RP: S = 9 + 16
    assert terms.chi2.item() == pytest.approx(0.5 * ((2 * 9 - 2 * 3 + 4) / 7 + 4 / 25))
    assert terms.penalty.item() == pytest.approx(0.5 * (math.log(7) + math.log(25)))


def test_error_of_the_g_flux_by_hand():
    """n equal coefficients of variance v and level u: S has the eigenvalues v + n g^2 u^2 and, n - 1 times, v."""
    n, v, u, g = N, 0.2**2 + 0.1**2, 5.0, 0.1
    noise = a_noise(1, g_error=g)._replace(
        bp=torch.zeros(1, 15, dtype=torch.float64),
        rp=torch.zeros(1, 10, dtype=torch.float64),
        origin=torch.full((n,), u - 1.0, dtype=torch.float64),
    )
    full = torch.full((1, n), 1.0, dtype=torch.float64)
    terms = full_terms(full + 0.3, 0.2 * full, mean=full, scatter=0.1 * full, noise=noise)
    assert terms.chi2.item() == pytest.approx(0.5 * n * 0.3**2 / (v + n * g**2 * u**2))
    assert terms.penalty.item() == pytest.approx(
        0.5 * (math.log(v + n * g**2 * u**2) + (n - 1) * math.log(v))
    )


@given(st.integers(0, 1000))
def test_nothing_correlated_is_the_loss_of_independent_coefficients(seed):
    batch, noise = a_batch(seed=seed), a_noise(g_error=0.0, seed=seed)
    noise = noise._replace(bp=torch.zeros_like(noise.bp), rp=torch.zeros_like(noise.rp))
    batch["errors"][1, 3] = math.inf
    found = full_terms(**batch, noise=noise)
    prior = Posterior(torch.zeros(4, 2, dtype=torch.float64), torch.zeros(4, 2, dtype=torch.float64))
    predicted = Reconstruction(batch["mean"], batch["scatter"])
    expected = loss_terms(batch["x"], batch["errors"], prior, predicted)
    torch.testing.assert_close(found.chi2, expected.chi2)
    torch.testing.assert_close(found.penalty, expected.penalty)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.0, 0.0), (0.0, 1.0)], ids=["nll", "chi2", "penalty"])
def test_gradients_are_those_of_finite_differences(weights):
    batch, noise = a_batch(3), a_noise(3)
    batch["errors"][1, 2] = batch["errors"][2, :N_BP] = math.inf

    def loss(mean: torch.Tensor, scatter: torch.Tensor) -> torch.Tensor:
        terms = full_terms(batch["x"], batch["errors"], mean=mean, scatter=scatter, noise=noise)
        return weights[0] * terms.chi2 + weights[1] * terms.penalty

    assert torch.autograd.gradcheck(loss, (batch["mean"].requires_grad_(), batch["scatter"].requires_grad_()))


@given(st.integers(0, 1000))
def test_gradients_are_those_of_differentiating_the_cholesky_factor(seed):
    batch, noise = a_batch(2, seed=seed), a_noise(2, seed=seed)
    batch = {name: values.requires_grad_() for name, values in batch.items()}
    blocks = [
        torch.block_diag(square(noise.bp[star : star + 1])[0], square(noise.rp[star : star + 1])[0])
        for star in (0, 1)
    ]
    errors, flux = batch["errors"].detach(), batch["mean"] + noise.origin
    matrices = errors[:, :, None] * torch.stack(blocks) * errors[:, None, :] + torch.diag_embed(
        batch["scatter"].square()
    )
    matrices = matrices + noise.g_error.square()[:, None, None] * flux[:, :, None] * flux[:, None, :]
    expected = -MultivariateNormal(batch["mean"], matrices).log_prob(batch["x"]).sum()
    found = sum(term.sum() for term in full_terms(**batch | {"errors": errors}, noise=noise))
    free = [batch[name] for name in ("x", "mean", "scatter")]
    for gradient, wanted in zip(
        torch.autograd.grad(found, free), torch.autograd.grad(expected, free), strict=True
    ):
        torch.testing.assert_close(gradient, wanted)


def test_float32_is_enough_for_the_mean_correlations_of_real_stars(shared_data):
    published = np.load(shared_data / "mean_correlations.npz")
    below = np.tril_indices(55, -1)
    n = 20
    bp, rp = (torch.from_numpy(published[band][below]).double().expand(n, -1) for band in ("bp", "rp"))
    assert is_sound(bp[:1]).all()
    assert is_sound(rp[:1]).all()
    draws = stream(0, "float32")
    origin = 3.0 * torch.randn(110, generator=draws, dtype=torch.float64)
    one = torch.ones(n, dtype=torch.bool)
    noise = CorrelatedNoise(bp, rp, torch.full((n,), 1e-3, dtype=torch.float64), origin, one, ~one)
    x, mean, errors, scatter = (torch.randn(n, 110, generator=draws, dtype=torch.float64) for _ in range(4))
    values = {"x": mean + 0.1 * x, "mean": mean, "errors": (errors - 2).exp(), "scatter": (scatter - 5).exp()}
    exact = full_terms(**values, noise=noise)
    rounded = full_terms(**{k: v.float() for k, v in values.items()}, noise=noise.to(torch.float32))
    torch.testing.assert_close(
        rounded.chi2.double(), exact.chi2, rtol=1e-4, atol=0
    )  # x rounds to 1e-7 of 0.1
    torch.testing.assert_close(rounded.penalty.double(), exact.penalty, rtol=1e-5, atol=1e-3)


def test_a_star_does_not_change_anothers_terms():
    batch, noise = a_batch(), a_noise()
    together = full_terms(**batch, noise=noise)
    alone = full_terms(**{name: v[2:3] for name, v in batch.items()}, noise=noise.take(slice(2, 3)))
    torch.testing.assert_close(alone.chi2, together.chi2[2:3])
    torch.testing.assert_close(alone.penalty, together.penalty[2:3])


def test_a_covariance_that_is_none_gives_no_number():
    batch, noise = a_batch(), a_noise()
    noise.bp[1] = -0.99
    batch["scatter"][1] = 1e-4
    terms = full_terms(**batch, noise=noise)
    assert terms.penalty.isnan().tolist() == [False, True, False, False]


def test_the_covariance_written_out_is_that_by_hand():
    batch, noise = a_batch(), a_noise()
    del batch["x"]
    found = covariances(**batch, noise=noise)
    for star in range(4):
        np.testing.assert_allclose(found[star], of_star(batch, noise, star), rtol=1e-12)
    batch["errors"][1, 2] = math.inf
    assert covariances(**batch, noise=noise)[1].isinf().nonzero().tolist() == [[2, 2]]


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


def test_what_is_no_correlation_matrix_is_refused_and_logged(caplog):
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


def test_independent_noise_has_no_correlation_left():
    noise = a_noise().independent()
    assert not any(values.any() for values in (noise.bp, noise.rp, noise.g_error, noise.given, noise.refused))
    drawn = torch.randn(4, N, generator=stream(0, "draws"), dtype=torch.float64)
    assert torch.equal(noise.draw(drawn), drawn)
