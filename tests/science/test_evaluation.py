"""Scores against scikit-learn-free closed forms and torch.distributions."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from scattervae.errors import DataError
from scattervae.science.evaluation import evaluate
from scattervae.seeds import folds
from toy import spoiled, toy_model, toy_sky, untrained_model

SKY = toy_sky(500)


@pytest.fixture(scope="module")
def model():
    return toy_model(SKY)


def test_scores_match_torch_distributions(model):
    result = evaluate(model, SKY.spectra, fold="all")
    inputs = model.normalization.apply(SKY.spectra)
    posterior = model.encode(SKY.spectra)
    predicted = model.reconstruct(posterior.mean)
    sigma = (inputs.errors**2 + predicted.scatter**2).sqrt()
    constant = 0.5 * inputs.x.shape[1] * math.log(2 * math.pi)
    nll = -Normal(predicted.mean, sigma).log_prob(inputs.x).sum(-1) - constant
    z = ((inputs.x - predicted.mean) / sigma).abs().numpy()
    kl = kl_divergence(Normal(posterior.mean, posterior.sd), Normal(0.0, 1.0))
    assert result.n_stars == 500
    assert result.nll_at_mean == pytest.approx(nll.mean().item(), rel=1e-5)
    assert result.kl == pytest.approx(kl.sum(-1).mean().item(), rel=1e-5)
    np.testing.assert_allclose(result.kl_per_latent, kl.mean(0).numpy(), rtol=1e-4, atol=1e-6)
    assert result.active_latents == int((kl.mean(0) > 0.1).sum())
    assert result.mean_abs_normalised_error["bp10"] == pytest.approx(z[:, :6].mean(), rel=1e-5)
    assert result.mean_abs_normalised_error["rp10"] == pytest.approx(z[:, 6:].mean(), rel=1e-5)
    assert result.share_beyond_5_sigma == pytest.approx((z > 5).mean(), abs=1e-9)
    assert result.largest_normalised_error == pytest.approx(z.max(), rel=1e-6)


def test_negative_elbo_is_the_mean_over_draws(model):
    """Many draws of our own, by torch.distributions, agree within four standard errors of the difference."""
    result = evaluate(model, SKY.spectra, fold="all", n_draws=200)
    inputs = model.normalization.apply(SKY.spectra)
    posterior = model.encode(SKY.spectra)
    draws = []
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for _ in range(200):
            predicted = model.reconstruct(Normal(posterior.mean, posterior.sd).sample())
            sigma = (inputs.errors**2 + predicted.scatter**2).sqrt()
            constant = 0.5 * inputs.x.shape[1] * math.log(2 * math.pi)
            draws.append(-Normal(predicted.mean, sigma).log_prob(inputs.x).sum(-1) - constant)
    mine = torch.stack(draws).double()
    expected = mine.mean().item() + result.kl
    error = (mine.mean(1).std() / math.sqrt(100)).item()  # both sides have draws of their own
    assert abs(result.negative_elbo - expected) < 4 * error


def test_same_seed_same_scores_other_seed_other_draws(model):
    assert evaluate(model, SKY.spectra, fold="all", seed=3) == evaluate(
        model, SKY.spectra, fold="all", seed=3
    )
    assert evaluate(model, SKY.spectra, fold="all", seed=3) != evaluate(
        model, SKY.spectra, fold="all", seed=4
    )


def test_unusable_stars_are_left_out(model):
    assert evaluate(model, spoiled(SKY.spectra), fold="all").n_stars == 494


def test_a_trained_model_beats_an_untrained_one_on_stars_it_has_not_seen(model):
    test = SKY.spectra.take(folds(SKY.spectra.source_id).test)
    before, after = evaluate(untrained_model(SKY.spectra), test), evaluate(model, test)
    assert after.negative_elbo < before.negative_elbo - 3 * before.negative_elbo_error
    assert after.active_latents >= 2


def test_no_usable_star_is_an_error_of_one_line(model):
    with pytest.raises(DataError, match="none of 3 stars is usable") as error:
        evaluate(model, spoiled(SKY.spectra).take(slice(0, 3)), fold="all")
    assert "\n" not in str(error.value)


def test_stars_that_trained_are_not_scored_unless_asked_for(model):
    stars, fold = SKY.spectra, folds(SKY.spectra.source_id)
    assert evaluate(model, stars) == evaluate(model, stars.take(fold.test), fold="all")
    assert evaluate(model, stars, fold="validation") == evaluate(
        model, stars.take(fold.validation), fold="all"
    )
    with pytest.raises(DataError, match=r'stars is usable and of the test fold; fold="all" takes every star'):
        evaluate(model, stars.take(fold.train))
