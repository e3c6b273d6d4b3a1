"""Evidence against closed forms, numerical integration, and the bound that it is above."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from scattervae.model.posterior import Posterior
from scattervae.science.evaluation import evaluate
from scattervae.science.importance import (
    importance_weighted,
    log_evidence,
    log_likelihood,
    standard_normal,
)
from scattervae.science.refinement import refine_means
from scattervae.seeds import folds, stream
from science.decoders import CurvedDecoder, LinearDecoder, integrated
from science.test_refinement import stars_of, without
from toy import spoiled, toy_model, toy_recipe, toy_sky

SKY = toy_sky(600)


@pytest.fixture(scope="module")
def model():
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


def test_with_the_exact_posterior_every_draw_tells_the_evidence():
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


def test_few_draws_tell_too_little_on_average():
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


def test_a_models_evidence_is_above_its_bound(model):
    stars = SKY.spectra.take(folds(SKY.spectra.source_id).test)
    bound = -evaluate(model, stars, fold="all").negative_elbo
    encoder = log_evidence(model, stars, 50, proposals="encoder")
    refined = log_evidence(model, stars, 50)
    assert encoder.mean > bound + 0.05
    assert refined.mean > encoder.mean - 0.05
    assert refined.effective_draws.median() > encoder.effective_draws.median()
    assert 1 <= refined.effective_draws.min() <= refined.effective_draws.max() <= 50.001


def test_the_prior_may_be_another(model):
    """A prior that is e times as dense everywhere is no density, but tells where it enters."""
    stars = SKY.spectra.take(slice(0, 20))
    usual = log_evidence(model, stars, 10)
    again = log_evidence(model, stars, 10, prior=standard_normal)
    more = log_evidence(model, stars, 10, prior=lambda z: standard_normal(z) + 1.0)
    torch.testing.assert_close(usual.log_evidence, again.log_evidence, rtol=0, atol=0)
    torch.testing.assert_close(more.log_evidence, usual.log_evidence + 1.0)


def test_seeds(model):
    stars = SKY.spectra.take(slice(0, 20))
    first, same, other = (log_evidence(model, stars, 5, seed=seed).log_evidence for seed in (1, 1, 2))
    torch.testing.assert_close(first, same, rtol=0, atol=0)
    assert (first != other).all()


def test_stars_that_cannot_be_encoded_have_none(model):
    stars = spoiled(SKY.spectra.take(slice(0, 20)))
    bad = model.encode(stars).mean.isnan().any(dim=1)
    evidence = log_evidence(model, stars, 5)
    assert bad.any()
    assert (evidence.log_evidence.isnan() == bad).all()
    assert (evidence.effective_draws.isnan() == bad).all()
    assert math.isfinite(evidence.mean)
    assert len(log_evidence(model, SKY.spectra.take(slice(0, 0)), 5).log_evidence) == 0
