"""Differences of populations: nothing found between random halves, injected differences found and held."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from scipy import stats

from scattervae.errors import DataError
from scattervae.gaia.flux import design
from scattervae.model.network import Posterior
from scattervae.science.relative.contrast import Contrast, Significance
from scattervae.science.relative.differences import (
    coefficient_difference,
    energy_test,
    flux_difference,
    latent_difference,
    observed_shapes,
)
from scattervae.science.relative.matching import Groups, covariates_of, groups_of, match
from scattervae.seeds import numpy_stream
from toy import DR3, spoiled, toy_model, toy_sky

SKY = toy_sky(300)
WIDE = toy_sky(160, basis=DR3)
FEW = Significance(n_permutations=499)
HOT = SKY.labels["teff"] > 5000.0


@pytest.fixture(scope="module")
def model():
    return toy_model(SKY)


def random_halves(spectra, seed):
    """Two groups of the same stars, at random: there is nothing to find between them."""
    in_a = numpy_stream(seed, "halves").random(len(spectra)) < 0.5
    return groups_of(spectra, in_a, ~in_a)


def random_matched_halves(sky, seed):
    in_a = numpy_stream(seed, "halves").random(len(sky.spectra)) < 0.5
    covariates = covariates_of(sky.spectra, sky.labels, ["teff", "logg"])
    return match(covariates, in_a, ~in_a, caliper=0.5).groups


def at_most_five_percent(n_with_a_finding, n_repeats):
    """The bound of a binomial count of 5 % at 99.9 %."""
    return n_with_a_finding <= stats.binom.ppf(0.999, n_repeats, 0.05)


def gaussian(mean, sd=0.1):
    mean = torch.as_tensor(mean)
    return Posterior(mean, torch.full_like(mean, 2 * np.log(sd)))


@pytest.mark.parametrize("paired", [True, False])
def test_random_halves_give_no_more_than_five_percent_false_findings(model, paired):
    """Latents, energy distance and coefficients; share of repeats with any finding, which here is the FDR."""
    posterior, shapes = model.encode(SKY.spectra), observed_shapes(SKY.spectra)
    counts = np.zeros(3, dtype=int)
    n_repeats = 60
    for seed in range(n_repeats):
        groups = random_matched_halves(SKY, seed) if paired else random_halves(SKY.spectra, seed)
        settings = Significance(n_permutations=199, seed=seed)
        latents = latent_difference(posterior, groups, significance=settings)
        coeffs = coefficient_difference(shapes, groups, significance=settings)
        counts += [latents.means.found.any(), latents.energy.p_value <= 0.05, coeffs.found.any()]
    assert all(at_most_five_percent(count, n_repeats) for count in counts), counts


def test_random_matched_halves_give_no_more_than_five_percent_false_findings_over_wavelengths():
    shapes = observed_shapes(WIDE.spectra)
    n_repeats = 20
    n_with_a_finding = 0
    for seed in range(n_repeats):
        groups = random_matched_halves(WIDE, seed)
        settings = Significance(n_permutations=199, seed=seed)
        n_with_a_finding += bool(flux_difference(shapes, groups, significance=settings).contrast.found.any())
    assert at_most_five_percent(n_with_a_finding, n_repeats)


def test_an_injected_difference_of_some_coefficients_is_found_and_held():
    """Coefficients 2 and 7 of group A moved; coverage of 95 % intervals over 50 repeats."""
    truth = np.zeros(11)
    truth[[2, 7]] = 0.06, -0.04
    inside, found, false, n_repeats = 0, 0, 0, 50
    for seed in range(n_repeats):
        groups = random_matched_halves(SKY, seed)
        coeffs = SKY.spectra.coeffs.copy()
        coeffs[groups.rows_a] += truth * SKY.spectra.g_flux[groups.rows_a, None]
        moved = replace(SKY.spectra, coeffs=coeffs)
        result = coefficient_difference(observed_shapes(moved), groups, significance=FEW)
        inside += int(((result.low <= truth) & (truth <= result.high)).sum())
        found += result.found[[2, 7]].sum()
        false += bool(result.found[truth == 0].any())
    assert abs(inside / (11 * n_repeats) - 0.95) < 0.03  # the halves of 300 stars are not independent repeats
    assert found > 1.9 * n_repeats
    assert false <= stats.binom.ppf(0.999, n_repeats, 0.1)  # 9 true nulls and 2 certain findings


def test_matching_takes_away_what_the_covariate_explains():
    """Coefficients depend on two latents that are labels: hot and cool stars differ, matched ones less so."""
    sky = toy_sky(3000)
    rng = np.random.default_rng(0)
    in_a = rng.random(3000) < 1 / (1 + np.exp(-(sky.labels["teff"] - 5000.0) / 300.0))
    shapes = observed_shapes(sky.spectra)
    covariates = covariates_of(sky.spectra, sky.labels, ["teff", "logg"])
    matched = match(covariates, in_a, ~in_a, caliper=0.2)
    as_they_are = coefficient_difference(
        shapes, groups_of(sky.spectra, in_a, ~in_a), significance=Significance(n_permutations=219)
    )
    alike = coefficient_difference(shapes, matched.groups, significance=FEW)
    assert np.abs(matched.balance.after).max() < 0.1 < np.abs(matched.balance.before).max()
    assert as_they_are.n_found >= 9
    assert np.abs(alike.difference).max() < 0.1 * np.abs(as_they_are.difference).max()


def test_latent_difference_is_that_of_known_gaussians():
    """Both groups drawn from Gaussians with a known covariance; the posterior's own width is added."""
    rng = np.random.default_rng(2)
    root = np.array([[1.0, 0.0], [0.6, 0.8]])
    z = rng.normal(size=(2000, 2)) @ root.T
    z[:1000] += [0.3, 0.0]
    groups = Groups(np.arange(1000), np.arange(1000, 2000), paired=False)
    result = latent_difference(gaussian(z, 0.5), groups, significance=FEW)
    expected = root @ root.T + 0.25 * np.eye(2)
    np.testing.assert_allclose(result.covariance, expected * 2 / 1000, rtol=0.15)
    np.testing.assert_allclose(np.sqrt(np.diag(result.covariance)), result.means.standard_error)
    assert (np.abs(result.means.difference - [0.3, 0.0]) < 4 * result.means.standard_error).all()
    assert result.means.found[0]
    assert result.energy.p_value == 0.001


def test_pairs_that_share_a_latent_differ_by_less_than_strangers():
    rng = np.random.default_rng(3)
    shared = rng.normal(size=(100, 2))
    z = np.concatenate([shared, shared]) + 0.1 * rng.normal(size=(200, 2))
    rows = np.arange(100), np.arange(100, 200)
    pairs, strangers = (
        latent_difference(gaussian(z), Groups(*rows, paired=paired), significance=FEW)
        for paired in (True, False)
    )
    np.testing.assert_allclose(np.diag(pairs.covariance), pairs.means.standard_error**2)
    assert np.trace(pairs.covariance) < 0.1 * np.trace(strangers.covariance)


def test_energy_distance_is_scipys_and_sees_a_difference_of_spread():
    rng = np.random.default_rng(4)
    z = rng.normal(size=(300, 1))
    z[:150] *= 2.0  # the same mean
    groups = Groups(np.arange(150), np.arange(150, 300), paired=False)
    result = latent_difference(gaussian(z), groups, significance=FEW)
    assert result.energy.distance == pytest.approx(stats.energy_distance(z[:150, 0], z[150:, 0]))
    assert result.energy.p_value < 0.01
    assert result.means.n_found == 0


def test_the_energy_distance_of_large_groups_is_that_of_a_part():
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=(2150, 1)), rng.normal(size=(2100, 1)) + 0.5
    part, same = energy_test(a, b, n_permutations=1), stats.energy_distance(a[:, 0], b[:, 0])
    assert part.distance == pytest.approx(same, rel=0.03)
    assert part.distance != same


def test_flux_difference_is_the_coefficients_difference_through_the_design_matrix():
    shapes = observed_shapes(WIDE.spectra)
    groups = random_halves(WIDE.spectra, 0)
    coeffs = coefficient_difference(shapes, groups, significance=FEW)
    flux = flux_difference(shapes, groups, significance=FEW)
    matrix = design().matrix
    np.testing.assert_allclose(flux.contrast.difference, matrix @ coeffs.difference, rtol=1e-9, atol=1e-30)
    a, b = (
        WIDE.spectra.coeffs[rows] / WIDE.spectra.g_flux[rows, None] for rows in (groups.rows_a, groups.rows_b)
    )
    covariance = np.cov(a.T) / len(a) + np.cov(b.T) / len(b)
    errors = np.sqrt(np.diag(matrix @ covariance @ matrix.T))
    np.testing.assert_allclose(flux.contrast.standard_error, errors)
    np.testing.assert_allclose(flux.reference, matrix @ b.mean(axis=0))
    np.testing.assert_allclose(flux.relative * flux.reference, flux.contrast.difference)


def test_stars_that_cannot_be_used_have_no_shape():
    assert np.isnan(observed_shapes(spoiled(SKY.spectra)).coeffs[[0, 1, 2, 3, 4, 6]]).any(axis=1).all()


def test_the_order_of_the_stars_changes_nothing(model):
    order = np.random.default_rng(6).permutation(len(SKY.spectra))
    results = []
    for rows in (np.arange(len(order)), order):
        spectra, hot = SKY.spectra.take(rows), HOT[rows]
        covariates = covariates_of(spectra, SKY.labels, ["logg", "bp1_rp1"])
        groups = match(covariates, hot, ~hot, caliper=0.5).groups
        results.append(
            [
                coefficient_difference(observed_shapes(spectra), groups, significance=FEW),
                coefficient_difference(
                    observed_shapes(spectra), groups_of(spectra, hot, ~hot), significance=FEW
                ),
                latent_difference(gaussian(SKY.latents[rows]), groups, significance=FEW).means,
            ]
        )
    for one, other in zip(*results, strict=True):
        for field in fields(Contrast):
            np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name))


def test_a_basis_without_flux_is_an_error_of_one_line():
    with pytest.raises(DataError, match="GaiaXPy knows only") as error:
        flux_difference(observed_shapes(SKY.spectra), random_halves(SKY.spectra, 0))
    assert "\n" not in str(error.value)


def test_stars_that_cannot_be_encoded_are_an_error_of_one_line(model):
    spectra = spoiled(SKY.spectra)
    groups = Groups(np.arange(20), np.arange(20, 40), paired=True)
    with pytest.raises(DataError, match="stars of the two groups with a value that is no number") as error:
        latent_difference(model.encode(spectra), groups)
    assert "\n" not in str(error.value)
