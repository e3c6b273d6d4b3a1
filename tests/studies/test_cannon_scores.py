"""Scores against torch.distributions, and against what was measured elsewhere on real stars."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from studies.cannon_label_errors import with_label_errors
from studies.cannon_scores import score
from torch.distributions import Normal

import scattervae
from scattervae.errors import DataError
from scattervae.science.cannon.model import Cannon
from scattervae.seeds import folds
from scattervae.spectra.normalization import Normalization
from science.cannon_toys import BASIS, cannon_sky
from toy import spoiled

SKY = cannon_sky(400, label_noise=0.05)
CANNON = SKY.fit()


def test_scores_match_torch_distributions():
    scores = score(CANNON, SKY.spectra, SKY.labels)
    inputs = SKY.normalization.apply(SKY.spectra)
    x, errors = inputs.x.double(), inputs.errors.double()
    predicted = CANNON.predict(SKY.labels.values[:, :3])
    sigma = (errors**2 + CANNON.scatter**2).sqrt()
    constant = 0.5 * BASIS.n_coeffs * math.log(2 * math.pi)
    nll = -Normal(predicted.mean, sigma).log_prob(x).sum(-1) - constant
    z = ((x - predicted.mean) / sigma).numpy()
    torch.testing.assert_close(scores.nll, nll)
    assert scores.mean_nll == pytest.approx(nll.mean().item())
    assert scores.median_nll == pytest.approx(np.median(nll.numpy()))
    assert scores.mean_abs_normalised_error["bp10"] == pytest.approx(np.abs(z[:, :7]).mean())
    assert scores.mean_abs_normalised_error["rp10"] == pytest.approx(np.abs(z[:, 7:]).mean())
    assert scores.share_beyond_5_sigma == pytest.approx((np.abs(z) > 5).mean())
    assert not scores.extrapolated.any()


def test_label_errors_count_where_the_fit_counted_them():
    wide = with_label_errors(CANNON, SKY.spectra, SKY.labels)
    scores = score(wide, SKY.spectra, SKY.labels, count_label_errors=True)
    far = replace(SKY.labels, errors=100.0 * SKY.labels.errors)
    assert score(wide, SKY.spectra, far, count_label_errors=True).mean_nll > scores.mean_nll
    assert score(CANNON, SKY.spectra, far).mean_nll == score(CANNON, SKY.spectra, SKY.labels).mean_nll


def test_stars_that_cannot_be_scored_are_left_out():
    values = SKY.labels.values.copy()
    values[10:13, 1] = np.nan
    values[13, 3] = np.nan  # a label that is not asked for
    scores = score(CANNON, spoiled(SKY.spectra), replace(SKY.labels, values=values))
    assert np.flatnonzero(~scores.scored).tolist() == [0, 1, 2, 3, 4, 6, 10, 11, 12]
    assert len(scores.nll) == len(scores.normalised_errors) == 391


def test_no_star_to_score_is_an_error_of_one_line():
    with pytest.raises(DataError, match="none of 3 stars is usable and has all of teff") as error:
        score(CANNON, SKY.spectra.take([0, 1, 2]), replace(SKY.labels, source_id=SKY.labels.source_id + 9999))
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_real_stars_score_as_measured(yardstick):
    stars = scattervae.load(yardstick)
    test = folds(stars.spectra.source_id).test
    train = stars.spectra.take(~test)
    normalization = Normalization.fit(lambda: [train])
    cannon = Cannon.fit(train, stars.labels, normalization)
    scores = score(cannon, stars.spectra.take(test), stars.labels)
    assert cannon.counts.trained_on + cannon.counts.unlabelled == 33_883
    assert len(scores.nll) == 5254
    assert scores.mean_nll == pytest.approx(-5.9, abs=0.1)
    assert scores.median_nll == pytest.approx(-45.2, abs=0.2)
    assert scores.mean_abs_normalised_error["bp10"] == pytest.approx(0.647, abs=0.006)
    assert scores.mean_abs_normalised_error["rp10"] == pytest.approx(0.569, abs=0.002)
    assert scores.share_beyond_5_sigma == pytest.approx(0.0046, abs=0.0001)
