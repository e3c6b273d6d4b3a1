import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from studies.covariance_gain import (
    best_latents,
    covariances,
    full_scores,
    latent_coverage,
    mean_correlations,
    scatter_over_flux,
)
from studies.sensitivity import draw_correlated
from torch.distributions import MultivariateNormal

import scattervae
from model.noise_toys import N, correlated
from scattervae.errors import DataError
from scattervae.model.covariance import CorrelatedNoise
from scattervae.model.network import Reconstruction
from scattervae.model.run import train
from scattervae.science.evaluation import evaluate
from scattervae.seeds import folds, stream
from scattervae.spectra.spectra import Correlations, Spectra
from toy import DR3, SMALL, toy_recipe, toy_sky, untrained_model

SKY = toy_sky(300)
MODEL = untrained_model(SKY.spectra)


class Linear:
    """A decoder m(z) = A z + b, whose best latents have a closed form."""

    def __init__(self, n_latent: int = 3) -> None:
        draws = stream(0, "linear")
        self.a = torch.randn(N, n_latent, generator=draws, dtype=torch.float64)
        self.b = torch.randn(N, generator=draws, dtype=torch.float64)

    def decode(self, z: torch.Tensor) -> Reconstruction:
        mean = z @ self.a.T + self.b
        return Reconstruction(mean, torch.ones_like(mean))


def matrices(n: int) -> torch.Tensor:
    """Noise of a few common causes."""
    factors = torch.randn(n, N, 3, generator=stream(0, "matrices"), dtype=torch.float64)
    return factors @ factors.mT + 0.1 * torch.eye(N, dtype=torch.float64)


def test_scores_are_those_of_torch_distributions():
    stars, errors = correlated(SKY.spectra), 0.01 * SKY.spectra.g_flux
    scores = full_scores(MODEL, stars, g_flux_error=errors)
    inputs, answer = MODEL.normalization.apply(stars), MODEL.encode(stars)
    predicted = MODEL.reconstruct(answer.mean)
    noise = CorrelatedNoise.of(stars, MODEL.normalization, g_flux_error=errors)
    matrix = covariances(inputs.errors, mean=predicted.mean, scatter=predicted.scatter, noise=noise).double()
    log_prob = MultivariateNormal(predicted.mean.double(), matrix).log_prob(inputs.x.double())
    expected = -log_prob - 0.5 * N * math.log(2 * math.pi)
    np.testing.assert_allclose(scores.nll_at_mean, expected, rtol=1e-4, atol=1e-3)  # float32
    assert scores.correlated.all()


def test_without_correlations_scores_are_those_of_independent_coefficients():
    scores, expected = full_scores(MODEL, SKY.spectra), evaluate(MODEL, SKY.spectra, fold="all")
    assert scores.negative_elbo.mean() == pytest.approx(expected.negative_elbo, rel=1e-5)
    assert scores.nll_at_mean.mean() == pytest.approx(expected.nll_at_mean, rel=1e-5)
    assert not scores.correlated.any()


def test_knowing_of_correlations_gives_a_better_likelihood_of_correlated_stars():
    """Noise that all coefficients of a band share."""
    sky = toy_sky(800, signal_to_noise=3.0)
    shared = Correlations(np.full((800, 15), 0.9, np.float32), np.full((800, 10), 0.9, np.float32))
    noise = draw_correlated(shared, np.random.default_rng(0).standard_normal((800, N)))
    coeffs = sky.shapes * sky.spectra.g_flux[:, None] + sky.spectra.errors * noise
    stars = replace(sky.spectra, coeffs=coeffs, correlations=shared)
    held_out = stars.take(folds(stars.source_id).test)
    recipe = toy_recipe(epochs=20)
    scores = [
        full_scores(
            train(stars, recipe.model_copy(update={"likelihood": likelihood})), held_out
        ).negative_elbo
        for likelihood in ("diagonal", "full")
    ]
    gain = scores[0] - scores[1]
    assert gain.mean() > 5 * gain.std() / math.sqrt(len(gain))


@pytest.mark.parametrize("prior", [True, False])
def test_best_latents_of_a_linear_decoder_are_those_of_least_squares(prior):
    decoder, precision = Linear(), torch.linalg.inv(matrices(5))
    x = torch.randn(5, N, generator=stream(0, "x"), dtype=torch.float64)
    fit = best_latents(decoder.decode, x, precision, torch.zeros(5, 3, dtype=torch.float64), prior=prior)
    for star in range(5):
        normal = decoder.a.T @ precision[star] @ decoder.a + (torch.eye(3) if prior else 0.0)
        expected = torch.linalg.solve(normal, decoder.a.T @ precision[star] @ (x[star] - decoder.b))
        torch.testing.assert_close(fit.z[star], expected)
        torch.testing.assert_close(fit.precision[star], normal)


def test_latents_of_a_linear_decoder_are_covered_as_stated():
    """Truth from the prior, spectra with correlated noise: exact where the noise is known, not where it is not."""
    n, decoder, draws = 4000, Linear(), stream(0, "coverage")
    matrix = matrices(1).expand(n, N, N)
    z = torch.randn(n, 3, generator=draws, dtype=torch.float64)
    noise = torch.randn(n, N, generator=draws, dtype=torch.float64) @ torch.linalg.cholesky(matrix[0]).T
    x = decoder.decode(z).mean + noise
    shares = []
    for known in (matrix, matrix.diagonal(dim1=1, dim2=2).diag_embed()):
        fit = best_latents(decoder.decode, x, torch.linalg.inv(known), torch.zeros_like(z), prior=True)
        shares.append(latent_coverage(fit.z - z, torch.linalg.inv(fit.precision)))
    assert shares[0].each == pytest.approx(0.6827, abs=4 * math.sqrt(0.22 / n))
    assert shares[0].jointly == pytest.approx(0.6827, abs=4 * math.sqrt(0.22 / n))
    assert shares[0].square == pytest.approx(1.0, abs=0.08)
    assert shares[0].squares == pytest.approx([1.0] * 3, abs=0.12)
    assert abs(shares[1].jointly - 0.6827) > 0.05


def test_scatter_over_flux_does_not_depend_on_the_scale():
    predicted = MODEL.reconstruct(torch.zeros(2, MODEL.n_latent))
    ones = np.ones(2)
    np.testing.assert_allclose(
        scatter_over_flux(MODEL, predicted), MODEL.normalization.invert_errors(predicted.scatter, ones)
    )


def test_mean_correlations_are_those_of_the_file(tmp_path):
    rng = np.random.default_rng(0)
    bp, rp = (np.corrcoef(rng.normal(size=(size, 40))) for size in (6, 5))
    np.savez(tmp_path / "mean.npz", bp=bp, rp=rp)
    found = mean_correlations(tmp_path / "mean.npz", 7, SMALL)
    assert found.bp.shape == (7, 15)
    np.testing.assert_allclose(found.bp[3, :3], [bp[1, 0], bp[2, 0], bp[2, 1]], rtol=1e-6)
    np.testing.assert_allclose(found.rp[6, -1], rp[4, 3], rtol=1e-6)
    with pytest.raises(DataError, match=r"bp is \(6, 6\), expected \(55, 55\)"):
        mean_correlations(tmp_path / "mean.npz", 7, DR3)


def test_a_file_without_matrices_is_an_error(tmp_path):
    np.savez(tmp_path / "other.npz", a=np.ones(3))
    (tmp_path / "text.npz").write_text("bp, rp")
    for name in ("other.npz", "text.npz", "absent.npz"):
        with pytest.raises(DataError, match=r"not an \.npz file with matrices bp and rp"):
            mean_correlations(tmp_path / name, 7, SMALL)


def test_real_stars_with_correlations_have_a_likelihood(formats):
    """In every band of every star: their published matrices are sound."""
    spectra: Spectra = scattervae.load(
        formats / "XP_CONTINUOUS_COMBINED_examples.vot", correlations=True
    ).spectra
    model = untrained_model(toy_sky(100, basis=DR3).spectra)
    scores = full_scores(model, spectra)
    assert scores.correlated.all()
    assert np.isfinite(scores.nll_at_mean).all()
