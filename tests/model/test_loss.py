import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence

from scattervae.model.loss import LossTerms, loss_terms, objective
from scattervae.model.network import Posterior, Reconstruction, gaussian_terms
from scattervae.seeds import stream

Batch = tuple[torch.Tensor, torch.Tensor, Posterior, Reconstruction]


def a_batch(n: int = 6, n_coeffs: int = 11, n_latent: int = 3, *, seed: int = 0) -> Batch:
    """Numbers in float64 of the size that training meets."""
    draws = stream(seed, "batch")

    def normal(width: int) -> torch.Tensor:
        return torch.randn(n, width, generator=draws, dtype=torch.float64)

    posterior = Posterior(normal(n_latent), normal(n_latent))
    reconstruction = Reconstruction(normal(n_coeffs), (normal(n_coeffs) - 1.0).exp())
    return normal(n_coeffs), (normal(n_coeffs) - 2.0).exp(), posterior, reconstruction


def test_nll_is_that_of_torch_distributions():
    x, errors, posterior, reconstruction = a_batch()
    terms = loss_terms(x, errors, posterior, reconstruction)
    sd = torch.hypot(errors, reconstruction.scatter)
    log_prob = Normal(reconstruction.mean, sd).log_prob(x).sum(dim=-1)
    torch.testing.assert_close(terms.nll, -log_prob - 0.5 * 11 * math.log(2 * math.pi))
    torch.testing.assert_close(terms.chi2, 0.5 * ((x - reconstruction.mean) / sd).square().sum(dim=-1))
    torch.testing.assert_close(terms.penalty, sd.log().sum(dim=-1))


def test_kl_is_that_of_torch_distributions():
    x, errors, posterior, reconstruction = a_batch()
    terms = loss_terms(x, errors, posterior, reconstruction)
    q = Normal(posterior.mean, posterior.log_variance.exp().sqrt())
    prior = Normal(torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(terms.kl, kl_divergence(q, prior).sum(dim=-1))
    torch.testing.assert_close(terms.negative_elbo, terms.nll + terms.kl)


def test_one_star_by_hand():
    terms = loss_terms(
        torch.tensor([[1.0, 0.0]], dtype=torch.float64),
        torch.tensor([[3.0, 1.0]], dtype=torch.float64),
        Posterior(torch.tensor([[2.0]], dtype=torch.float64), torch.tensor([[0.0]], dtype=torch.float64)),
        Reconstruction(
            torch.tensor([[-4.0, 1.0]], dtype=torch.float64), torch.tensor([[4.0, 1.0]], dtype=torch.float64)
        ),
    )
    # variances 25 and 2; residuals 5 and -1
    assert terms.chi2.item() == pytest.approx(0.5 * (25 / 25 + 1 / 2))
    assert terms.penalty.item() == pytest.approx(0.5 * (math.log(25) + math.log(2)))
    assert terms.kl.item() == pytest.approx(2.0)  # (4 + 1 - 1 - 0) / 2


def printed_by_loops(x: torch.Tensor, errors: torch.Tensor, q: Posterior, r: Reconstruction) -> list[float]:
    """Laroche & Speagle (2023), eqs. 1 to 5, symbol by symbol, in Python's floats."""
    losses = []
    N, n_z = x.shape[1], q.mean.shape[1]
    for star in range(len(x)):
        chi2 = penalty = kl = 0.0
        for i in range(N):
            s2 = errors[star, i].item() ** 2 + r.scatter[star, i].item() ** 2
            chi2 += (x[star, i].item() - r.mean[star, i].item()) ** 2 / s2
            penalty += math.log(s2)
        for j in range(n_z):
            mu, ln_var = q.mean[star, j].item(), q.log_variance[star, j].item()
            kl += -1.0 - ln_var + mu**2 + math.exp(ln_var)
        losses.append(chi2 / (2 * N) + penalty / (2 * N) + kl / (2 * n_z))
    return losses


@given(st.integers(0, 1000), st.integers(1, 12), st.integers(1, 5))
def test_printed_is_the_papers_equations_to_the_letter(seed, n_coeffs, n_latent):
    batch = a_batch(4, n_coeffs, n_latent, seed=seed)
    found = objective(loss_terms(*batch), "printed", n_coeffs=n_coeffs, n_latent=n_latent)
    assert found.tolist() == pytest.approx(printed_by_loops(*batch))


@given(st.integers(0, 1000), st.integers(1, 12), st.integers(1, 5))
def test_printed_times_n_is_a_beta_vae(seed, n_coeffs, n_latent):
    terms = loss_terms(*a_batch(4, n_coeffs, n_latent, seed=seed))
    printed = objective(terms, "printed", n_coeffs=n_coeffs, n_latent=n_latent)
    beta = n_coeffs / n_latent
    torch.testing.assert_close(n_coeffs * printed, terms.nll + beta * terms.kl)


def test_beta_is_18_for_the_papers_numbers():
    nothing, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    kl_alone = objective(LossTerms(nothing, nothing, one), "printed", n_coeffs=110, n_latent=6)
    nll_alone = objective(LossTerms(one, nothing, nothing), "printed", n_coeffs=110, n_latent=6)
    assert (kl_alone / nll_alone).item() == pytest.approx(18.3, abs=0.05)


def test_elbo_is_the_plain_sum():
    terms = loss_terms(*a_batch())
    found = objective(terms, "elbo", n_coeffs=11, n_latent=3)
    torch.testing.assert_close(found, terms.chi2 + terms.penalty + terms.kl)
    assert not torch.allclose(found, 11 * objective(terms, "printed", n_coeffs=11, n_latent=3))


@pytest.mark.parametrize("kind", ["printed", "elbo"])
def test_gradients_are_those_of_finite_differences(kind):
    x, errors, posterior, reconstruction = a_batch(3, 4, 2)
    free = (*posterior[:2], *reconstruction)

    def loss(*values: torch.Tensor) -> torch.Tensor:
        terms = loss_terms(x, errors, Posterior(*values[:2]), Reconstruction(*values[2:]))
        return objective(terms, kind, n_coeffs=4, n_latent=2)

    assert torch.autograd.gradcheck(loss, tuple(value.requires_grad_() for value in free))


def test_a_star_does_not_change_anothers_loss():
    x, errors, posterior, reconstruction = a_batch()
    alone = loss_terms(
        x[2:3],
        errors[2:3],
        posterior.each(lambda values: values[2:3]),
        Reconstruction(*(r[2:3] for r in reconstruction)),
    )
    together = loss_terms(x, errors, posterior, reconstruction)
    for one, all_of_them in zip(alone, together, strict=True):
        torch.testing.assert_close(one, all_of_them[2:3])


def test_gaussian_terms_are_those_of_torch_distributions_over_the_coefficients_that_are_not_missing():
    x, errors, _, reconstruction = a_batch(n_coeffs=7)
    missing = torch.zeros(x.shape, dtype=torch.bool)
    missing[0, 2:5] = missing[3, 6] = True
    variance = (errors.square() + reconstruction.scatter.square()).masked_fill(missing, math.inf)
    terms = gaussian_terms(x.masked_fill(missing, 1e30), reconstruction.mean, variance)
    log_prob = Normal(reconstruction.mean, variance.masked_fill(missing, 1.0).sqrt()).log_prob(x)
    expected = -log_prob.masked_fill(missing, 0.0).sum(dim=1) - 0.5 * terms.n_known.double() * math.log(
        2 * math.pi
    )
    torch.testing.assert_close(terms.nll, expected)
    assert terms.n_known.tolist() == [4, 7, 7, 6, 7, 7]
    assert (terms.log_variance[missing] == 0.0).all()


def test_a_star_without_numbers_has_no_likelihood():
    x, errors, _, reconstruction = a_batch()
    x[1] = errors[1] = math.nan
    terms = gaussian_terms(x, reconstruction.mean, errors.square())
    assert terms.nll.isnan().tolist() == [False, True, False, False, False, False]


def test_sums_in_float64_lose_less():
    x, errors, _, reconstruction = a_batch(n=50, n_coeffs=110)
    exact = gaussian_terms(x.float().double(), reconstruction.mean.float().double(), errors.float().double())
    single = (x.float(), reconstruction.mean.float(), errors.float())
    assert gaussian_terms(*single, dtype=torch.float64).nll.dtype == torch.float64
    torch.testing.assert_close(
        gaussian_terms(*single, dtype=torch.float64).nll, exact.nll, rtol=1e-6, atol=1e-4
    )
