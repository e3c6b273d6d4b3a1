import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from scattervae.model.network import Posterior
from scattervae.seeds import stream


def a_posterior(n: int = 7) -> Posterior:
    draws = stream(0, "posterior")
    mean = torch.randn(n, 3, generator=draws, dtype=torch.float64)
    return Posterior(mean, torch.randn(n, 3, generator=draws, dtype=torch.float64))


def test_the_divergence_is_that_of_torch_distributions():
    posterior = a_posterior()
    expected = kl_divergence(Normal(posterior.mean, posterior.sd), Normal(torch.zeros(3).double(), 1.0))
    torch.testing.assert_close(posterior.kl(), expected)
    torch.testing.assert_close(posterior.sd, posterior.log_variance.exp().sqrt())
    assert posterior.kl_per_latent() == pytest.approx(expected.mean(dim=0).tolist())


def test_the_divergence_from_the_prior_itself_is_zero():
    zeros = torch.zeros(2, 3)
    assert Posterior(zeros, zeros).kl().tolist() == zeros.tolist()


def test_active_latents_are_those_above_a_tenth_of_a_nat_and_nan_rows_do_not_count():
    mean = torch.tensor([[0.5, 0.44, 2.0], [0.5, 0.44, 0.0], [torch.nan] * 3])
    log_variance = torch.zeros(3, 3)
    log_variance[2] = torch.nan
    posterior = Posterior(mean, log_variance)
    assert posterior.kl_per_latent() == pytest.approx([0.125, 0.0968, 1.0])  # half the mean square
    assert posterior.active_latents() == [2, 0]


def test_draws_have_the_mean_and_spread_of_the_posterior_and_come_from_their_stream():
    mean, log_variance = (
        torch.tensor([[3.0, -1.0]]).expand(20_000, 2),
        torch.tensor([[0.0, -2.0]]).expand(20_000, 2),
    )
    posterior = Posterior(mean, log_variance)
    z = posterior.sample(stream(0, "latents"))
    assert torch.equal(z, posterior.sample(stream(0, "latents")))
    assert not torch.equal(z, posterior.sample(stream(0, "others")))
    torch.testing.assert_close(z.mean(dim=0), mean[0], atol=0.03, rtol=0)  # four standard errors
    torch.testing.assert_close(z.std(dim=0), posterior.sd[0], atol=0, rtol=0.02)  # four standard errors


def test_draws_pass_the_gradient_to_mean_and_variance():
    """The reparametrised draw: dz/dmean = 1, dz/dlogvar = sd eps / 2."""
    mean = torch.zeros(4, 2, dtype=torch.float64, requires_grad=True)
    log_variance = torch.full((4, 2), 0.3, dtype=torch.float64, requires_grad=True)
    z = Posterior(mean, log_variance).sample(stream(0, "latents"))
    z.sum().backward()
    torch.testing.assert_close(mean.grad, torch.ones(4, 2, dtype=torch.float64))
    torch.testing.assert_close(log_variance.grad, 0.5 * z.detach())


def correlated(seed: int = 0, n: int = 5, n_latent: int = 4) -> Posterior:
    draws = stream(seed, "correlated")
    mean, log_variance = (torch.randn(n, n_latent, generator=draws).double() for _ in range(2))
    return Posterior(
        mean, log_variance, torch.randn(n, n_latent, n_latent, generator=draws).double().tril(-1)
    )


def as_torch_has_it(posterior: Posterior) -> MultivariateNormal:
    """Its covariance in the textbook's order of operations: (1 + C) diag(s^2) (1 + C)^T."""
    assert posterior.coupling is not None
    factor = torch.eye(posterior.mean.shape[1]).double() + posterior.coupling
    covariance = factor @ torch.diag_embed(posterior.log_variance.exp()) @ factor.mT
    return MultivariateNormal(posterior.mean, covariance)


@given(st.integers(0, 200), st.integers(1, 6))
def test_a_correlated_posterior_is_that_of_torch_distributions(seed, n_latent):
    posterior = correlated(seed, n_latent=n_latent)
    known = as_torch_has_it(posterior)
    prior = MultivariateNormal(torch.zeros(n_latent).double(), torch.eye(n_latent).double())
    torch.testing.assert_close(posterior.covariance, known.covariance_matrix)
    torch.testing.assert_close(posterior.variance, known.variance)
    torch.testing.assert_close(posterior.sd, known.stddev)
    torch.testing.assert_close(posterior.kl().sum(dim=1), kl_divergence(known, prior))
    z = torch.randn(5, n_latent, generator=stream(seed, "z")).double()
    torch.testing.assert_close(posterior.log_density(z), known.log_prob(z))


def test_the_density_of_an_independent_one_is_that_of_torch_distributions():
    posterior = a_posterior()
    z = torch.randn(7, 3, generator=stream(0, "z")).double()
    known = Normal(posterior.mean, posterior.sd).log_prob(z).sum(dim=1)
    torch.testing.assert_close(posterior.log_density(z), known)


def test_draws_of_a_correlated_one_have_its_covariance():
    one = correlated(n=1)
    many = one.each(lambda values: values.expand(40_000, *values.shape[1:]))
    z = many.sample(stream(0, "latents"))
    scale = one.sd[0]
    found = torch.cov(z.T) / (scale[:, None] * scale)
    torch.testing.assert_close(found, one.covariance[0] / (scale[:, None] * scale), atol=0.03, rtol=0)
    torch.testing.assert_close(z.mean(dim=0) / scale, one.mean[0] / scale, atol=0.03, rtol=0)


def test_no_coupling_is_independence():
    independent = a_posterior()
    same = independent._replace(coupling=torch.zeros(7, 3, 3).double())
    noise = torch.randn(7, 3, generator=stream(0, "noise")).double()
    for one, other in (
        (independent.at(noise), same.at(noise)),
        (independent.covariance, same.covariance),
        (independent.kl(), same.kl()),
    ):
        torch.testing.assert_close(one, other)


def test_parts_come_together_with_their_couplings():
    whole = correlated(n=6)
    parts = [whole.each(lambda values, rows=rows: values[rows]) for rows in (slice(0, 2), slice(2, 6))]
    for one, other in zip(Posterior.concatenate(parts), whole, strict=True):
        assert torch.equal(one, other)
    assert Posterior.concatenate([a_posterior(2), a_posterior(3)]).coupling is None


def test_the_largest_divergence_is_that_of_a_sharp_far_posterior():
    sharp = Posterior(torch.tensor([[3.0]]).double(), torch.tensor([[-8.0]]).double())
    assert sharp.kl().item() == pytest.approx(0.5 * (9.0 + math.exp(-8.0) - 1.0 + 8.0))
