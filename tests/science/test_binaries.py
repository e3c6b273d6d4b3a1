"""One star or two: the mixture against a sum of fluxes, simulated pairs found, and probabilities that hold."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from sklearn.metrics import roc_auc_score

from scattervae.science import binaries
from scattervae.science.binaries import BinaryColumns, evidence_of_two, mixed, simulated, with_binaries
from scattervae.seeds import stream
from toy import toy_model, toy_recipe, toy_sky

SKY = toy_sky(600)


@pytest.fixture(scope="module")
def model():
    return toy_model(SKY, toy_recipe(epochs=20))


@pytest.fixture(scope="module")
def gains(model):
    """What simulated spectra of one and of two stars gain by a second."""
    stars = SKY.spectra.take(slice(0, 128))
    inputs, posterior = model.normalization.apply(stars), model.encode(stars)
    one, two = simulated(model, inputs, posterior.sample(stream(1, "test")))
    return [evidence_of_two(model, some, posterior.mean[:64]) for some in (one, two)]


def test_a_mixture_is_the_sum_of_fluxes(model):
    """In archive units: coefficients over G flux of two stars of G fluxes F and f are (F a + f b) / (F + f)."""
    normalization, stars = model.normalization, SKY.spectra
    first, second = stars.take(slice(0, 9)), stars.take(slice(9, 18))
    total = first.g_flux + second.g_flux
    share = torch.from_numpy(second.g_flux / total)
    x = mixed(normalization.apply(first).x.double(), normalization.apply(second).x.double(), share)
    expected = (first.coeffs + second.coeffs)[:, normalization.columns]
    np.testing.assert_allclose(normalization.invert(x, total), expected, rtol=1e-5, atol=1e-6 * total.max())


def test_two_stars_gain_more_than_one(gains):
    one, two = (gain.evidence.numpy() for gain in gains)
    assert (one >= 0).all()
    assert roc_auc_score(np.repeat([0, 1], [len(one), len(two)]), np.r_[one, two]) > 0.55
    assert np.percentile(two, 95) > 2 * np.percentile(one, 95)
    for gain in gains:
        assert ((gain.share > 0) & (gain.share <= 0.5)).all()
        assert (gain.share_sd > 0).all()


def test_probabilities_hold_for_other_spectra_than_they_were_fitted_to(gains):
    """At equal numbers as many of the spectra with a probability have two stars as it says, within 0.15."""
    one, two = (gain.evidence.double().numpy() for gain in gains)
    half, g_mag = len(one) // 2, np.full(len(one) // 2, 15.0)
    weights = binaries._calibrated(one[:half], two[:half], g_mag)
    log_odds = binaries._features(np.r_[one[half:], two[half:]], np.r_[g_mag, g_mag]) @ weights
    probability, truth = 1 / (1 + np.exp(-log_odds)), np.repeat([0.0, 1.0], half)
    assert abs(probability.mean() - truth.mean()) < 0.1
    likely = probability > np.quantile(probability, 0.8)
    assert abs(probability[likely].mean() - truth[likely].mean()) < 0.2


def test_columns_follow_the_rows_of_a_table():
    table = pa.table({"source_id": [7, 3, 5]})
    ids = np.array([3, 5, 7])
    found = with_binaries(table, BinaryColumns(ids, *(ids * factor * 1.0 for factor in (1, 2, 3, 4))))
    assert found["binary_evidence"].to_pylist() == [7, 3, 5]
    assert found["second_share_sd"].to_pylist() == [28, 12, 20]
    assert all(found.schema.field(name).metadata[b"description"] for name in found.column_names[1:])
