"""Enclosed volumes of normal populations and of balls, whose volumes have closed forms."""

import math

import numpy as np
import pytest
from scipy.stats import chi2
from studies.enclosed_volume import compare_enclosed, enclosed_volume

from scattervae.science.latent_volume.richness import count_cells


def ball(d: int) -> float:
    return math.pi ** (d / 2) / math.gamma(d / 2 + 1)


@pytest.mark.parametrize(("d", "tolerance"), [(2, 0.05), (4, 0.2), (6, 0.2)])
def test_a_normal_population_has_its_volume_within_the_bias_that_is_stated(d, tolerance):
    z = np.random.default_rng(0).normal(size=(3000, d))
    assert enclosed_volume(z, share=0.9) == pytest.approx(
        ball(d) * chi2.ppf(0.9, d) ** (d / 2), rel=tolerance
    )


def test_it_settles_where_occupied_cells_keep_growing():
    rng = np.random.default_rng(1)
    few, many = rng.normal(size=(500, 5)), rng.normal(size=(5000, 5))
    assert enclosed_volume(many) / enclosed_volume(few) < 1.25
    cells = count_cells(many, few, 0.5)
    assert (cells.labelled > 0).sum() / (cells.unlabelled > 0).sum() > 5


@pytest.mark.parametrize(("d", "scale"), [(2, 1.3), (6, 1.06)])
def test_ratios_are_the_truth_and_intervals_hold_it(d, scale):
    rng = np.random.default_rng(2)
    results = [
        compare_enclosed(rng.normal(size=(1000, d)), scale * rng.normal(size=(1500, d))).difference
        for _ in range(20)
    ]
    truth = scale**d - 1
    assert np.mean([e.value for e in results]) == pytest.approx(truth, abs=0.06)
    assert np.mean([e.low <= truth <= e.high for e in results]) >= 0.8


def test_the_order_of_the_stars_changes_nothing_and_few_stars_give_nothing():
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(400, 3)), rng.normal(size=(300, 3))
    assert compare_enclosed(a[::-1].copy(), b) == compare_enclosed(a, b)
    assert compare_enclosed(a, b[:199]) is None
