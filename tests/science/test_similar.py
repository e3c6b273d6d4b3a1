"""More like these: densities against closed forms, a hidden group found, and memory that does not grow."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import multivariate_normal

import scattervae as sv
from scattervae.errors import DataError
from scattervae.science.similar import Group, Population, rank_features, similar
from scattervae.science.star_parts import Features
from scattervae.spectra.spectra import Spectra
from toy import toy_model, toy_recipe, toy_sky

SKY = toy_sky(1500)


@pytest.fixture(scope="module")
def model():
    return toy_model(SKY, toy_recipe(epochs=20))


def drawn(n, seed, *, centre=0.0, spread=1.0, residual=0.0):
    """Stars with three latents drawn from a Gaussian, known to 0.1, and white residuals about a mean."""
    draw = np.random.default_rng(seed)
    return Features(
        source_id=draw.integers(1, 2**62, n),
        g_mag=draw.uniform(8, 18, n),
        latents=centre + spread * draw.normal(size=(n, 3)),
        covariance=np.broadcast_to(0.01 * np.eye(3), (n, 3, 3)),
        residuals=residual + draw.normal(size=(n, 60)),
    )


def test_features_are_the_encoders_own_where_posteriors_are_refined():
    best, made = sv.load_model("best"), sv.load_model("best").generate(100, seed=1)
    errors = 0.01 * np.abs(made.coeffs) + 1.0
    spectra = Spectra.of(np.arange(1, 101), made.coeffs, errors, basis=made.basis, g_flux=made.g_flux)
    inputs = best.normalization.apply(spectra, gaps=True)
    with torch.no_grad():
        own = best.network.encode(inputs.x, inputs.errors).mean.numpy()
    found = Features.of(best, [spectra])
    np.testing.assert_allclose(np.concatenate([part.latents for part in found]), own, atol=1e-4)
    assert np.abs(best.encode(spectra).mean.numpy() - own).max() > 0.01


def test_the_population_has_the_density_it_was_drawn_from():
    sample, at = drawn(5000, 0), drawn(500, 1).latents
    off = Population.of(sample).log_density(at) - multivariate_normal(np.zeros(3)).logpdf(at)
    assert abs(np.median(off)) < 0.1
    assert np.percentile(np.abs(off), 68) < 0.25


def test_many_examples_give_the_ratio_of_two_gaussians():
    population = Population.of(drawn(5000, 0))
    group = Group.of(drawn(1000, 1, centre=1.0, spread=0.3), population)
    stars = drawn(300, 2, centre=0.7, spread=0.4)
    known = multivariate_normal(np.ones(3), (0.3**2 + 0.01) * np.eye(3)).logpdf(stars.latents)
    expected = known - multivariate_normal(np.zeros(3)).logpdf(stars.latents)
    found = group.likeness(stars)
    assert np.corrcoef(found.latents, expected)[0, 1] > 0.99
    assert abs(np.median(found.latents - expected)) < 0.3
    np.testing.assert_array_equal(found.residuals, 0.0)  # the examples share nothing there


@pytest.mark.parametrize("n_examples", [1, 5, 100])
def test_what_the_model_does_not_reproduce_counts_where_examples_share_it(n_examples):
    population = Population.of(drawn(5000, 0))
    group = Group.of(drawn(n_examples, 1, residual=3.0), population)
    found, ordinary = (group.likeness(drawn(200, 2, residual=r)).residuals for r in (3.0, 0.0))
    assert np.median(found) > 3
    assert np.median(ordinary) < -3


def test_a_hidden_group_is_found_and_its_purity_is_an_upper_bound():
    group, others = drawn(300, 1, centre=2.0, spread=0.3), drawn(20_000, 2)
    examples = group.take(np.arange(50))
    stars = Features.concatenate([group, others])
    ranked = rank_features(examples, Population.of(others.take(np.arange(5000))), [stars], number=400)
    assert not np.isin(ranked.stars.source_id, examples.source_id).any()
    assert ranked.n_compared == 20_250
    true = np.isin(ranked.stars.source_id, group.source_id).cumsum() / np.arange(1, 401)
    assert true[199] > 0.8
    assert (np.diff(ranked.purity) <= 0).all()
    assert ranked.purity[199] > true[199] - 0.15
    assert abs(ranked.purity[399] - true[399]) < 0.25
    assert np.isnan(
        rank_features(examples.take(np.arange(4)), Population.of(others), [stars], number=9).purity
    ).all()


def test_an_uncertain_star_is_less_like_a_narrow_group():
    population = Population.of(drawn(5000, 0))
    group = Group.of(drawn(50, 1, centre=1.0, spread=0.1), population)
    known = drawn(50, 2, centre=1.0, spread=0.01)
    vague = replace(known, covariance=known.covariance * 100)
    assert (group.likeness(vague).latents < group.likeness(known).latents).all()


def test_chunks_do_not_matter_and_one_line_of_python_does_it(model):
    like = SKY.spectra.source_id[:7].tolist()
    table = sv.similar(model, SKY.spectra, like, number=40)
    features = Features.concatenate(list(Features.of(model, [SKY.spectra])))
    examples = features.take(np.argsort(features.source_id[:7]))
    cut = [features.take(np.arange(0, 700)), features.take(np.arange(700, 1500))]
    ranked = rank_features(examples, Population.of(features), cut, number=40)
    assert table["source_id"].to_pylist() == ranked.stars.source_id.tolist()
    assert set(table["nearest_example"].to_pylist()) <= set(like)
    for field in table.schema:
        assert field.metadata[b"description"]
    by_spectra = sv.similar(model, SKY.spectra, SKY.spectra.take(slice(0, 7)), number=40)
    pd.testing.assert_frame_equal(by_spectra.to_pandas(), table.to_pandas(), check_exact=True)


@pytest.mark.parametrize(
    ("like", "error"),
    [
        ([], "0 examples; expected 1 to 1,000"),
        (range(1, 1002), r"1,?001 examples; expected 1 to 1,000"),
        ([12], "example 12 is not among the stars; leave it out, or give its spectrum in a file"),
    ],
)
def test_examples_that_are_none_too_many_or_unknown(model, like, error):
    with pytest.raises(DataError, match=f"^{error}"):
        similar(model, SKY.spectra, like)


def test_too_few_stars_to_rank(model):
    with pytest.raises(DataError, match=r"^99 encodable stars to rank; at least 100"):
        similar(model, SKY.spectra.take(slice(0, 99)), [1])


@pytest.mark.slow
def test_memory_is_flat_on_two_million_stars():
    """The peak over 2 million stars is that over 200,000, a chunk at a time."""
    examples, population = drawn(20, 1, centre=2.0), Population.of(drawn(500, 0))
    peaks = []
    for n_chunks in (10, 100):
        tracemalloc.start()
        chunks = (drawn(20_000, 10 + chunk) for chunk in range(n_chunks))
        ranked = rank_features(examples, population, chunks, number=1000)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert ranked.n_compared == 20_000 * n_chunks
    assert peaks[1] < 1.1 * peaks[0]
