"""Refined posteriors, weighted draws and evidence against closed forms, numerical integration and optimisation."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from scattervae.model.loss import loss_terms
from scattervae.model.network import NetworkShape, Posterior, Reconstruction, gaussian_terms
from scattervae.model.recipe import DegradationSettings, Recipe, TrainingSettings
from scattervae.science.calibration.widths import latent_coverage
from scattervae.science.evaluation import evaluate
from scattervae.science.exact_posterior import (
    _look,
    importance_weighted,
    log_evidence,
    log_likelihood,
    posterior_draws,
    refine,
    refine_cheaply,
    refine_means,
    root_of_inverse,
    standard_normal,
)
from scattervae.seeds import folds, stream
from scattervae.spectra.normalization import Inputs
from science.calibration import linear
from science.decoders import CurvedDecoder, LinearDecoder, integrated
from toy import spoiled, toy_model, toy_recipe, toy_sky, without_bands

SKY = toy_sky(900)
KNOWING = Recipe(
    name="knowing",
    network=NetworkShape(
        n_latent=3, hidden=(24, 24), layers="residual", encoder_sees="errors", posterior="correlated"
    ),
    training=TrainingSettings(epochs=25, batch_size=64, learning_rate=5e-3),
    degradation=DegradationSettings(share=0.3),
)


@pytest.fixture(scope="module", params=["plain", "residual"])
def model(request):
    return toy_model(SKY, toy_recipe(epochs=25) if request.param == "plain" else KNOWING)


def stars_of(decoder, n_latent, n_coeffs, *, n=5, seed=1, error=0.3):
    """Stars drawn from a decoder: coefficients and errors."""
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(n, n_latent, generator=g, dtype=torch.float64)
    errors = error * (0.5 + torch.rand(n, n_coeffs, generator=g, dtype=torch.float64))
    predicted = decoder(z)
    noise = torch.randn(n, n_coeffs, generator=g, dtype=torch.float64)
    return predicted.mean + (errors**2 + predicted.scatter**2).sqrt() * noise, errors


def without(x, errors, missing):
    return x.masked_fill(missing, 0.0), errors.masked_fill(missing, math.inf)


@given(seed=st.integers(0, 100), n_latent=st.integers(1, 8), share=st.sampled_from([0.0, 0.3, 1.0]))
@settings(max_examples=30)
def test_a_linear_decoders_posterior_is_reached_in_one_step(seed, n_latent, share):
    decoder = LinearDecoder.drawn(12, n_latent, seed)
    x, errors = stars_of(decoder, n_latent, 12, seed=seed)
    missing = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) < share
    x, errors = without(x, errors, missing)
    start = torch.randn(5, n_latent, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    refined = refine_means(decoder, x, errors, start, n_steps=1)
    mean, covariance = decoder.posterior(x, errors)
    np.testing.assert_allclose(refined.posterior.mean, mean, atol=1e-8)
    np.testing.assert_allclose(refined.posterior.covariance, covariance, atol=1e-8)
    assert (refined.n_steps == 1).all()


def test_a_curved_decoders_posterior_is_close_to_the_integrated_one():
    """Twelve coefficients, errors of 0.02: little is left of the curvature, but for Laplace's own error."""
    decoder = CurvedDecoder(12)
    x, errors = stars_of(decoder, 2, 12, error=0.02)
    x, errors = without(x, errors, torch.arange(12) >= torch.tensor([12, 9, 12, 10, 8])[:, None])
    refined = refine_means(decoder, x, errors, torch.zeros(5, 2, dtype=torch.float64), n_steps=12)
    sd = refined.posterior.sd.numpy()
    for star in range(5):
        mean, covariance, _ = integrated(decoder, x[star : star + 1], errors[star : star + 1], reach=4.0)
        np.testing.assert_allclose(refined.posterior.mean[star], mean, rtol=0, atol=0.15 * sd[star].max())
        np.testing.assert_allclose(sd[star], np.sqrt(np.diag(covariance)), rtol=0.15)


def test_the_last_mean_is_the_most_probable():
    decoder = CurvedDecoder(9, seed=3)
    x, errors = stars_of(decoder, 2, 9, seed=3)
    start = torch.full((5, 2), 0.3, dtype=torch.float64)
    refined = refine_means(decoder, x, errors, start, n_steps=60)
    for star in range(5):

        def loss(z, star=star):
            predicted = decoder(torch.tensor(z)[None])
            variance = errors[star] ** 2 + predicted.scatter[0] ** 2
            terms = (x[star] - predicted.mean[0]) ** 2 / variance + variance.log()
            return 0.5 * float(terms.sum()) + 0.5 * float((z**2).sum())

        found = refined.posterior.mean[star].numpy()
        best = minimize(loss, found, method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12})
        np.testing.assert_allclose(found, best.x, atol=1e-4)
        np.testing.assert_allclose(refined.gain[star], loss(start[star].numpy()) - loss(found), atol=1e-8)


def test_without_steps_the_precision_is_the_mean_curvature_over_stars_so_drawn():
    """The Fisher information of mean and scatter, against autograd's second derivatives of 40,000 stars."""
    decoder = CurvedDecoder(4, seed=5)
    z = torch.tensor([[0.4, -0.7]], dtype=torch.float64)
    errors = torch.full((1, 4), 0.1, dtype=torch.float64)
    predicted = decoder(z)
    g = torch.Generator().manual_seed(0)
    x = (
        predicted.mean
        + (errors**2 + predicted.scatter**2).sqrt() * torch.randn(40_000, 4, generator=g).double()
    )

    def loss(at):
        made = decoder(at[None])
        variance = errors**2 + made.scatter**2
        return 0.5 * ((x - made.mean) ** 2 / variance + variance.log()).sum(dim=1).mean()

    curvature = torch.autograd.functional.hessian(loss, z[0]) + torch.eye(2, dtype=torch.float64)
    refined = refine_means(decoder, x[:1], errors, z, n_steps=0)
    torch.testing.assert_close(refined.posterior.mean, z)
    torch.testing.assert_close(refined.posterior.covariance[0].inverse(), curvature, rtol=0.03, atol=0.0)


@given(seed=st.integers(0, 1000), far=st.floats(0.1, 30.0))
@settings(max_examples=30)
def test_no_star_loses(seed, far):
    decoder = CurvedDecoder(6, seed % 7)
    x, errors = stars_of(decoder, 2, 6, seed=seed, n=8)
    start = far * torch.randn(8, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    refined = refine_means(decoder, x, errors, start)
    assert (refined.gain >= 0).all()
    assert (refined.n_steps <= 4).all()
    assert (refined.gain[refined.n_steps == 0] == 0).all()
    assert refined.posterior.covariance.isfinite().all()


def test_a_decoder_that_overflows_is_not_followed():
    def decode(z):
        mean = torch.where(z < 0.05, z, math.nan) * torch.ones(1, 3, dtype=z.dtype)
        return Reconstruction(mean, torch.full_like(mean, 0.1))

    x, errors = torch.full((1, 3), 2.0), torch.full((1, 3), 0.1)
    refined = refine_means(decode, x, errors, torch.zeros(1, 1), n_steps=8)
    assert 0 < refined.posterior.mean.item() < 0.05
    assert refined.gain.item() > 0


@given(seed=st.integers(0, 1000), n=st.integers(1, 8))
def test_root_of_inverse(seed, n):
    g = torch.Generator().manual_seed(seed)
    draws = torch.randn(3, n, n + 3, generator=g, dtype=torch.float64)
    precision = draws @ draws.mT
    root = root_of_inverse(precision)
    torch.testing.assert_close(root, root.tril())
    torch.testing.assert_close(root @ root.mT @ precision, torch.eye(n).double().expand(3, -1, -1))


def test_the_bound_of_stars_not_trained_on_falls(model):
    """Counted with other draws than anything refinement has seen."""
    stars = SKY.spectra.take(folds(SKY.spectra.source_id).test)
    inputs, posterior = model.normalization.apply(stars), model.encode(stars)
    refined = refine(model, inputs, posterior)

    def bound(of: Posterior):
        draws = stream(0, "bound")
        predicted = (
            loss_terms(inputs.x, inputs.errors, of, model.reconstruct(of.sample(draws))).negative_elbo
            for _ in range(30)
        )
        return torch.stack([*predicted]).double().mean(dim=0)

    assert (bound(posterior) - bound(refined.posterior)).mean() > 0.2
    assert (refined.n_steps > 0).all()


def test_stars_that_cannot_be_encoded_stay_nan_and_disturb_no_other(model):
    stars = spoiled(SKY.spectra.take(slice(0, 60)))
    (encoded,) = model.encode_batches([stars])
    inputs, posterior = encoded.inputs, encoded.posterior
    refined = refine(model, inputs, posterior, batch=7)
    bad = posterior.mean.isnan().any(dim=1)
    assert bad.any()
    assert refined.posterior.mean[bad].isnan().all()
    assert refined.gain[bad].isnan().all()
    for part in (*refined.posterior, refined.gain):
        assert part[~bad].isfinite().all()
    empty = Inputs(*(torch.full_like(part, math.nan) for part in (inputs.x, inputs.errors)))
    kept = refine(model, empty, posterior).posterior
    torch.testing.assert_close(kept.covariance, posterior.covariance, equal_nan=True)
    alone = refine(model, inputs, posterior, batch=1024)
    away = (
        refined.posterior.mean - alone.posterior.mean
    ) / alone.posterior.sd  # rounding decides on last steps
    assert away[~bad].abs().max() < 0.02


def test_no_stars(model):
    stars = SKY.spectra.take(slice(0, 0))
    refined = refine(model, model.normalization.apply(stars), model.encode(stars))
    assert refined.posterior.mean.shape == (0, 3)
    assert refined.posterior.covariance.shape == (0, 3, 3)


def test_the_model_is_left_as_it_was(model):
    stars = SKY.spectra.take(slice(0, 5))
    digest = model.digest
    posterior = model.encode(stars)
    before = posterior.each(torch.clone)
    refine(model, model.normalization.apply(stars), posterior)
    assert model.digest == digest
    assert all(weights.requires_grad for weights in model.network.parameters())
    torch.testing.assert_close(posterior.mean, before.mean, rtol=0, atol=0)


def test_with_a_band_less_the_posterior_is_wider_in_every_direction(model):
    inputs = model.normalization.apply(SKY.spectra.take(slice(0, 50)))
    bp = torch.arange(inputs.x.shape[1]) < model.normalization.bp.stop
    x, errors = without(inputs.x, inputs.errors, bp)
    network = copy.deepcopy(model.network).requires_grad_(requires_grad=False)
    whole, part = (
        refine_means(network.decode, values, sigma, torch.zeros(50, 3), n_steps=0).posterior.covariance
        for values, sigma in ((inputs.x, inputs.errors), (x, errors))
    )
    assert (torch.linalg.eigvalsh(part - whole) > -1e-6).all()
    assert (torch.linalg.eigvalsh(part) <= 1.0 + 1e-6).all()


@pytest.fixture(scope="module")
def plain_model():
    return toy_model(SKY, toy_recipe(epochs=20))


def joint(decoder, x, errors):
    return lambda z: log_likelihood(x, errors, decoder(z)) + standard_normal(z)


def exact(decoder, x, errors):
    """ln p(x) of each star under a linear decoder, the constant of the coefficients left out as in all scores."""
    found = []
    A = decoder.slopes.numpy()
    for values, sigma in zip(x.numpy(), errors.numpy(), strict=True):
        seen = np.isfinite(sigma)
        covariance = A[seen] @ A[seen].T + np.diag(sigma[seen] ** 2 + decoder.scatter.numpy()[seen] ** 2)
        density = multivariate_normal(decoder.offset.numpy()[seen], covariance)
        found.append(density.logpdf(values[seen]) + 0.5 * seen.sum() * math.log(2 * math.pi))
    return np.array(found)


def linear_stars():
    decoder = LinearDecoder.drawn(10, 3)
    x, errors = stars_of(decoder, 3, 10, n=6, error=1.0)
    x, errors = without(x, errors, torch.arange(10) >= torch.tensor([10, 8, 5, 10, 2, 9])[:, None])
    return decoder, x, errors


def test_with_the_exact_posterior_every_draw_gives_the_evidence():
    decoder, x, errors = linear_stars()
    posterior = refine_means(decoder, x, errors, torch.zeros(6, 3).double(), n_steps=1).posterior
    evidence = importance_weighted(joint(decoder, x, errors), posterior, 3, stream(0, "test"))
    np.testing.assert_allclose(evidence.log_evidence, exact(decoder, x, errors), atol=1e-8)
    np.testing.assert_allclose(evidence.effective_draws, 3.0, rtol=1e-8)


def test_with_a_poor_proposal_many_draws_come_close():
    decoder, x, errors = linear_stars()
    best = refine_means(decoder, x, errors, torch.zeros(6, 3).double(), n_steps=1).posterior
    shifted = Posterior(best.mean + 0.5 * best.sd, best.log_variance + 0.5, best.coupling)
    evidence = importance_weighted(joint(decoder, x, errors), shifted, 3000, stream(0, "test"))
    np.testing.assert_allclose(evidence.log_evidence, exact(decoder, x, errors), atol=0.1)
    assert (evidence.effective_draws < 2500).all()


def test_few_draws_give_too_little_on_average():
    decoder, x, errors = linear_stars()
    zeros = torch.zeros(6, 3).double()
    generator = stream(0, "test")
    few, more = (
        np.mean(
            [
                importance_weighted(
                    joint(decoder, x, errors), Posterior(zeros, zeros), n, generator
                ).log_evidence.numpy()
                for _ in range(60)
            ],
            axis=0,
        )
        for n in (1, 20)
    )
    truth = exact(decoder, x, errors)
    assert (few < more).all()
    assert (more < truth + 0.02).all()
    assert (more < truth - 0.1).any()


def test_a_curved_decoders_evidence_is_the_integral():
    decoder = CurvedDecoder(8)
    x, errors = stars_of(decoder, 2, 8, n=4, error=0.1)
    x, errors = without(x, errors, torch.arange(8) >= torch.tensor([8, 7, 6, 8])[:, None])
    posterior = refine_means(decoder, x, errors, torch.zeros(4, 2).double(), n_steps=10).posterior
    evidence = importance_weighted(joint(decoder, x, errors), posterior, 4000, stream(0, "test"))
    for star in range(4):
        _, _, truth = integrated(decoder, x[star : star + 1], errors[star : star + 1])
        assert evidence.log_evidence[star].item() == pytest.approx(truth, abs=0.05)


def test_far_from_every_draw_sums_do_not_underflow():
    decoder, x, errors = linear_stars()
    evidence = importance_weighted(
        joint(decoder, x + 1e4, errors), Posterior(*[torch.zeros(6, 3).double()] * 2), 5, stream(0, "test")
    )
    assert evidence.log_evidence.isfinite().all()
    assert (evidence.log_evidence < -1e6).all()


def test_a_models_evidence_is_above_its_bound(plain_model):
    stars = SKY.spectra.take(folds(SKY.spectra.source_id).test)
    bound = -evaluate(plain_model, stars, fold="all").negative_elbo
    encoder = log_evidence(plain_model, stars, 50, proposals="encoder")
    refined = log_evidence(plain_model, stars, 50)
    assert encoder.mean > bound + 0.05
    assert refined.mean > encoder.mean - 0.05
    assert refined.effective_draws.median() > encoder.effective_draws.median()
    assert 1 <= refined.effective_draws.min() <= refined.effective_draws.max() <= 50.001


def test_the_prior_may_be_another(plain_model):
    """A prior that is e times as dense everywhere is no density, but shows where it enters."""
    stars = SKY.spectra.take(slice(0, 20))
    usual = log_evidence(plain_model, stars, 10)
    again = log_evidence(plain_model, stars, 10, prior=standard_normal)
    more = log_evidence(plain_model, stars, 10, prior=lambda z: standard_normal(z) + 1.0)
    torch.testing.assert_close(usual.log_evidence, again.log_evidence, rtol=0, atol=0)
    torch.testing.assert_close(more.log_evidence, usual.log_evidence + 1.0)


def test_seeds(plain_model):
    stars = SKY.spectra.take(slice(0, 20))
    first, same, other = (log_evidence(plain_model, stars, 5, seed=seed).log_evidence for seed in (1, 1, 2))
    torch.testing.assert_close(first, same, rtol=0, atol=0)
    assert (first != other).all()


def test_stars_that_cannot_be_encoded_have_none(plain_model):
    stars = spoiled(SKY.spectra.take(slice(0, 20)))
    bad = plain_model.encode(stars).mean.isnan().any(dim=1)
    evidence = log_evidence(plain_model, stars, 5)
    assert bad.any()
    assert (evidence.log_evidence.isnan() == bad).all()
    assert (evidence.effective_draws.isnan() == bad).all()
    assert math.isfinite(evidence.mean)
    assert len(log_evidence(plain_model, SKY.spectra.take(slice(0, 0)), 5).log_evidence) == 0


def test_draws_have_the_exact_posteriors_moments_whatever_the_encoder():
    exact = linear.linear_model()
    stars = linear.stars_of(exact, 2000)
    truth = exact.network.encode(stars.x, stars.errors)
    sure = linear.with_widths(exact, 0.2)
    start = sure.network.encode(stars.x, stars.errors)
    draws = posterior_draws(sure, stars, start, stream(0, "d"), n_draws=64)
    torch.testing.assert_close(draws.weights.sum(dim=0), torch.ones(2000, dtype=torch.float64))
    one = draws.one(stream(1, "d"))
    found = latent_coverage(truth, one)
    np.testing.assert_allclose([found.jointly, *found.per_latent], 0.6827, atol=0.03)
    assert abs(found.mean_square - 2.0) < 0.15
    mean = (draws.z * draws.weights[:, :, None]).sum(dim=0)
    assert latent_coverage(truth, mean.float()).mean_square < 0.1


def test_the_loss_of_refinement_is_the_likelihood_and_the_prior():
    decoder = CurvedDecoder(12)
    x, errors = stars_of(decoder, 2, 12)
    missing = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < 0.3
    x, errors = without(x, errors, missing)
    z = torch.randn(5, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    at = decoder(z)
    nll = gaussian_terms(x, at.mean, errors.square() + at.scatter.square()).nll
    torch.testing.assert_close(_look(decoder, x, errors, z).loss, nll + 0.5 * z.square().sum(dim=1))


def test_refining_cheaply_comes_near_the_most_probable_latents_with_and_without_gaps(model):
    """To a tenth of a width of where twenty full steps lead, in the median star; with one band as with both."""
    if not model.sees_errors:
        pytest.skip("this encoder reads no stars with gaps")
    for stars in (SKY.spectra, without_bands(SKY.spectra, share=1.0)):
        inputs, posterior = model.normalization.apply(stars, gaps=True), model.encode(stars)
        best = refine(model, inputs, posterior, n_steps=20).posterior
        cheap = refine_cheaply(model, inputs, posterior)
        first, last = (((p.mean - best.mean) / best.sd).abs().median() for p in (posterior, cheap))
        assert last < 0.1
        assert last < 0.5 * first
        np.testing.assert_allclose((cheap.sd / best.sd).median(), 1.0, atol=0.05)


def test_refining_cheaply_gives_a_star_the_same_bits_in_any_company(model):
    inputs, posterior = model.normalization.apply(SKY.spectra), model.encode(SKY.spectra)
    together = refine_cheaply(model, inputs, posterior)
    alone = refine_cheaply(model, inputs[300:303], posterior.each(lambda values: values[300:303]))
    for a, b in zip(together, alone, strict=True):
        assert torch.equal(a[300:303], b)
