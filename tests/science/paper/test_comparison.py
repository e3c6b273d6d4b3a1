"""Who is compared with whom, and on which stars; the Cannon's side against scikit-learn and SciPy."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.spatial import Delaunay
from scipy.stats import binom, norm, t
from sklearn.preprocessing import PolynomialFeatures
from torch.distributions import Normal

from scattervae.errors import DataError
from scattervae.model.network import Reconstruction
from scattervae.science.paper.comparison import (
    CANNON,
    NETWORK,
    ROBUST,
    bootstrap,
    bootstrap_mean,
    bootstrap_ratio,
    coefficient,
    compare_models,
    first_ten,
    fit_cannons,
    score,
    score_network,
)
from scattervae.seeds import folds
from scattervae.spectra.normalization import Inputs
from scattervae.spectra.star_tables import StellarLabels
from science.toys import BASIS, MODELS, comparison_of, trained
from toy import spoiled


def simulated(n=40, k=5, *, seed=0, width=1.0):
    """Inputs drawn from a reconstruction, with residuals `width` times as large as it says."""
    rng = torch.Generator().manual_seed(seed)
    mean = torch.randn(n, k, generator=rng, dtype=torch.float64)
    scatter, errors = (torch.rand(n, k, generator=rng, dtype=torch.float64) + 0.1 for _ in range(2))
    noise = torch.randn(n, k, generator=rng, dtype=torch.float64)
    x = mean + width * (scatter**2 + errors**2).sqrt() * noise
    return Inputs(x, errors), Reconstruction(mean, scatter)


def test_normalised_errors_and_likelihood_match_torch_distributions():
    inputs, predicted = simulated()
    got = score(inputs, predicted)
    truth = Normal(predicted.mean, (inputs.errors**2 + predicted.scatter**2).sqrt())
    nll = -truth.log_prob(inputs.x).sum(1) - 2.5 * math.log(2 * math.pi)
    np.testing.assert_allclose(got.nll, nll, rtol=1e-12)
    np.testing.assert_allclose(norm.cdf(got.z), truth.cdf(inputs.x), rtol=1e-9, atol=1e-14)
    np.testing.assert_array_equal(got.scatter, predicted.scatter)


def test_crps_is_the_integral_of_its_definition():
    inputs, predicted = simulated(12, 1, width=3.0)
    got = score(inputs, predicted).crps
    for i in range(12):
        x, mean = inputs.x[i, 0].item(), predicted.mean[i, 0].item()
        sd = math.hypot(inputs.errors[i, 0].item(), predicted.scatter[i, 0].item())
        below = quad(lambda y, m=mean, s=sd: norm.cdf(y, m, s) ** 2, min(x, mean) - 12 * sd, x)[0]
        above = quad(lambda y, m=mean, s=sd: norm.sf(y, m, s) ** 2, x, max(x, mean) + 12 * sd)[0]
        assert got[i] == pytest.approx(below + above, rel=1e-6)


def test_crps_is_the_mean_distance_less_half_the_mean_difference_of_two_draws():
    inputs, predicted = simulated(30, 4)
    rng = np.random.default_rng(0)
    sd = torch.hypot(inputs.errors, predicted.scatter).numpy()
    a, b = (predicted.mean.numpy() + sd * rng.normal(size=(4000, 30, 4)) for _ in range(2))
    draws = (np.abs(a - inputs.x.numpy()) - 0.5 * np.abs(a - b)).mean(axis=2)
    error = draws.std(axis=0) / math.sqrt(4000)
    assert (np.abs(score(inputs, predicted).crps - draws.mean(axis=0)) < 5 * error).all()


def test_float32_inputs_are_scored_in_float64():
    inputs, predicted = simulated()
    single = score(
        Inputs(inputs.x.float(), inputs.errors.float()), Reconstruction(*(p.float() for p in predicted))
    )
    assert single.crps.dtype == single.z.dtype == np.float64
    np.testing.assert_allclose(single.nll, score(inputs, predicted).nll, rtol=1e-4, atol=1e-4)


def test_widths_that_are_right_hold_their_shares():
    predicted = score(*simulated(20_000, 5, seed=1))
    n = 100_000
    for share, level in ((predicted.share_inside_68, norm.cdf(1) * 2 - 1), (predicted.share_inside_95, 0.95)):
        low, high = binom.interval(0.9999, n, level)
        assert low / n < share.mean() < high / n
    wide = score(*simulated(2000, 5, seed=1, width=2.0))
    assert wide.share_inside_68.mean() == pytest.approx(2 * norm.cdf(0.5) - 1, abs=0.02)


def test_a_network_is_scored_at_its_posterior_mean():
    sky, model = trained()
    stars = sky.spectra.take(slice(0, 50))
    got = score_network(model, stars)
    with torch.no_grad():
        x = torch.from_numpy(stars.coeffs / stars.g_flux[:, None] - model.normalization.mean)
        x = x / torch.from_numpy(model.normalization.std)
        latent = model.network.encoder(x.float())[:, :3]
        mean = model.network.decoder(latent).double()
        scatter = torch.nn.functional.softplus(model.network.scatter_estimator(latent)).double() + 1e-4
    errors = torch.from_numpy(stars.errors / stars.g_flux[:, None] / model.normalization.std)
    z = (x - mean) / torch.hypot(errors, scatter)
    np.testing.assert_allclose(got.z, z, rtol=1e-3, atol=1e-4)  # the network's float32
    np.testing.assert_allclose(got.scatter, scatter, rtol=1e-4)


def test_drawn_latents_are_draws_from_the_posterior():
    """The mean likelihood over draws agrees with our own draws by torch.distributions."""
    sky, model = trained()
    stars = sky.spectra.take(slice(0, 200))
    drawn = np.array([score_network(model, stars, draw_seed=s).nll.mean() for s in range(60)])
    inputs, posterior = model.normalization.apply(stars), model.encode(stars)
    mine = []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(60):
            predicted = model.reconstruct(Normal(posterior.mean, posterior.sd).sample())
            sd = (inputs.errors**2 + predicted.scatter**2).sqrt()
            mine.append(-Normal(predicted.mean, sd).log_prob(inputs.x).sum(1).mean().item())
    expected = np.array(mine) - 5.5 * math.log(2 * math.pi)
    error = math.hypot(drawn.std(), expected.std()) / math.sqrt(60)
    assert abs(drawn.mean() - expected.mean()) < 5 * error
    assert drawn.mean() > score_network(model, stars).nll.mean()
    again = score_network(model, stars, draw_seed=3)
    np.testing.assert_array_equal(again.z, score_network(model, stars, draw_seed=3).z)
    assert (again.z != score_network(model, stars, draw_seed=4).z).any()


def test_the_interval_of_a_mean_is_about_students():
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    got = bootstrap_mean(values)
    low, high = t.interval(0.95, 399, values.mean(), values.std(ddof=1) / 20)
    assert got.value == values.mean()
    assert (got.low, got.high) == (pytest.approx(low, abs=0.04), pytest.approx(high, abs=0.04))


def test_nineteen_of_twenty_intervals_hold_the_truth():
    rng = np.random.default_rng(1)
    held = 0
    for i in range(300):
        values = rng.exponential(2.0, 100)
        mean = bootstrap(lambda rows, v=values: float(v[rows].mean()), 100, seed=i, n_resamples=300)
        held += mean.low <= 2.0 <= mean.high
    assert 0.90 < held / 300 < 0.98  # about 0.94: skewness costs a percentile interval a little


def test_the_interval_of_a_ratio_resamples_both_together():
    rng = np.random.default_rng(2)
    bottom = rng.uniform(1.0, 3.0, 500)
    assert bootstrap_ratio(3 * bottom, bottom) == pytest.approx((3, 3, 3))
    got = bootstrap_ratio(bottom + rng.normal(0, 0.1, 500), bottom)
    assert got.low < 1.0 < got.high
    assert got.high - got.low < 0.03  # 0.17 if they were resampled apart


def test_a_ratio_over_nothing_is_infinite_or_undefined_and_warns_of_nothing():
    zero, one = np.zeros(50), np.ones(50)
    rare = np.where(np.arange(50) == 0, 1.0, 0.0)
    assert bootstrap_ratio(one, zero) == (math.inf, math.inf, math.inf)
    assert all(math.isnan(part) for part in bootstrap_ratio(zero, zero))
    assert bootstrap_ratio(zero, one) == (0, 0, 0)
    got = bootstrap_ratio(one, rare)  # a third of the resamples has no star to divide by
    assert (got.value, got.high) == (50, math.inf)
    assert 10 < got.low < 25
    sometimes = bootstrap_ratio(rare, rare)
    assert sometimes == (1, 1, 1)


def test_same_seed_same_interval():
    values = np.random.default_rng(3).normal(size=60)
    assert bootstrap_mean(values, seed=1) == bootstrap_mean(values, seed=1)
    assert bootstrap_mean(values, seed=1) != bootstrap_mean(values, seed=2)


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(15)))
def test_the_order_of_the_stars_changes_no_value(order):
    inputs, predicted = simulated(15, 3)
    rows = np.array(order)
    got = score(inputs, predicted)
    moved = score(Inputs(inputs.x[rows], inputs.errors[rows]), Reconstruction(*(p[rows] for p in predicted)))
    np.testing.assert_array_equal(got.crps[rows], moved.crps)
    np.testing.assert_array_equal(got.nll[rows], moved.nll)
    values = got.nll
    assert bootstrap_mean(values[rows]).value == pytest.approx(bootstrap_mean(values).value, rel=1e-12)


def test_columns_are_counted_as_the_paper_does():
    bp, rp = slice(0, 13), slice(13, 18)
    assert (first_ten(bp), first_ten(rp)) == (slice(0, 10), slice(13, 18))
    assert (coefficient(bp, 3), coefficient(rp, 3)) == (2, 15)


def missing(labels, rows, column):
    values = labels.values.copy()
    values[rows, column] = np.nan
    return StellarLabels(labels.source_id, values, labels.errors)


@pytest.fixture(scope="module")
def held():
    """Some stars are spoilt; every ninth lacks [Fe/H], every seventh [alpha/M], and labels come reversed."""
    sky, model = trained()
    spectra = spoiled(sky.spectra)
    labels = missing(missing(sky.labels, slice(0, None, 9), 2), slice(0, None, 7), 3)
    labels = labels.take(np.arange(len(labels))[::-1])
    cannons = fit_cannons(model, spectra, labels)
    return spectra, labels, model, cannons, compare_models(model, cannons, spectra, labels)


def test_all_fully_labelled_stars_of_the_test_fold_and_no_other(held):
    spectra, labels, _, _, comparison = held
    finite = {
        int(i) for i, v in zip(labels.source_id, labels.values, strict=True) if np.isfinite(v[:3]).all()
    }
    usable = [int(i) for i in spectra.source_id[folds(spectra.source_id).test & (spectra.flags == 0)]]
    expected = [i for i in usable if i in finite]
    assert comparison.labels.source_id.tolist() == expected
    assert len(comparison) == len(expected)
    assert len(comparison.incomplete.nll) == len(usable) - len(expected) > 5
    assert np.isnan(comparison.labels.values[:, 3]).any()  # a label that the Cannon does not take


def test_all_models_are_scored_on_the_same_stars(held):
    spectra, _, model, cannons, comparison = held
    assert tuple(comparison.scores) == MODELS
    stars = spectra.take(spectra.usable & np.isin(spectra.source_id, comparison.labels.source_id))
    norm = model.normalization
    x = (stars.coeffs / stars.g_flux[:, None] - norm.mean) / norm.std
    errors = stars.errors / stars.g_flux[:, None] / norm.std
    for name, cannon in ((CANNON, cannons.plain), (ROBUST, cannons.robust)):
        scaled = (comparison.labels.values[:, :3] - cannon.label_range.mean) / cannon.label_range.std
        mean = PolynomialFeatures(2).fit_transform(scaled) @ cannon.theta.numpy()
        sd = np.hypot(errors, cannon.scatter.numpy())
        np.testing.assert_allclose(
            comparison.scores[name].z, (x - mean) / sd, rtol=1e-4, atol=1e-4
        )  # float32
    for scores in comparison.scores.values():
        assert scores.z.shape == x.shape
        assert np.isfinite(scores.z).all()
    np.testing.assert_array_equal(comparison.cannon_scatter, cannons.plain.scatter)
    assert np.abs(comparison.scores[NETWORK].z).mean() < 2.0


def test_extrapolated_are_those_outside_the_simplices_of_the_training_labels(held):
    spectra, labels, _, cannons, comparison = held
    train = spectra.take(~folds(spectra.source_id).test & (spectra.flags == 0)).source_id
    known = labels.take(np.isin(labels.source_id, train)).values[:, :3]
    known = known[np.isfinite(known).all(axis=1)]
    scale = known.std(axis=0)
    outside = Delaunay(known / scale).find_simplex(comparison.labels.values[:, :3] / scale) < 0
    np.testing.assert_array_equal(comparison.extrapolated, outside)
    assert 0 < outside.sum() < len(comparison)
    assert cannons.plain.counts.trained_on == len(known)


def test_labels_of_the_test_fold_do_not_reach_the_cannons(held):
    spectra, labels, model, cannons, _ = held
    bad = labels.values.copy()
    bad[folds(labels.source_id).test] += 1e3
    again = fit_cannons(model, spectra, replace(labels, values=bad))
    for old, new in ((cannons.plain, again.plain), (cannons.robust, again.robust)):
        np.testing.assert_array_equal(old.theta, new.theta)
    assert cannons.plain.settings.clip_sigma is None
    assert cannons.robust.settings.clip_sigma == 5.0


def test_where_no_star_lacks_a_label_none_is_scored_so():
    sky, model = trained()
    comparison = compare_models(model, fit_cannons(model, sky.spectra, sky.labels), sky.spectra, sky.labels)
    assert len(comparison.incomplete.nll) == 0
    assert len(comparison) == folds(sky.spectra.source_id).test.sum()


def test_too_few_stars_is_an_error_of_one_line():
    sky, model = trained()
    cannons = fit_cannons(model, sky.spectra, sky.labels)
    test = np.flatnonzero(folds(sky.spectra.source_id).test)
    enough = compare_models(model, cannons, sky.spectra.take(test[:100]), sky.labels)
    assert len(enough) == 100
    for stars in (sky.spectra.take(test[:99]), sky.spectra.take(slice(0, 0))):
        with pytest.raises(
            DataError, match=rf"^{len(stars)} usable test stars have all of teff, logg, fe_h"
        ) as e:
            compare_models(model, cannons, stars, sky.labels)
        assert "\n" not in str(e.value)
    with pytest.raises(DataError, match="needs at least 20 stars") as caught:
        fit_cannons(model, sky.spectra, sky.labels.take(slice(0, 10)))
    assert "\n" not in str(caught.value)


def test_first_ten_are_the_papers():
    comparison = comparison_of(n=10)
    assert [first_ten(band) for band in comparison.bands] == [slice(0, 10), slice(13, 23)]
    every = comparison.scores[NETWORK]
    np.testing.assert_array_equal(comparison.low_orders(every), np.abs(every.z[:, np.r_[0:10, 13:23]]))
    assert BASIS.n_coeffs == 25
