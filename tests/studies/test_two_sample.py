"""Two-sample tests against closed forms, and uniform where the samples are alike."""

import numpy as np
from scipy.stats import kstest, norm
from studies.two_sample import classifier_test, unbiased_energy_test


def gaussians(n, *, shift=0.0, features=1, seed=0):
    rng = np.random.default_rng([7, seed])
    a, b = rng.normal(size=(n, features)), rng.normal(size=(n, features))
    b[:, 0] += shift
    return a, b


def mean_distance(shift):
    """E|a - b| of two normal variables with this difference of means: a folded normal's mean."""
    s = np.sqrt(2)
    return s * np.sqrt(2 / np.pi) * np.exp(-(shift**2) / (2 * s**2)) + shift * (1 - 2 * norm.cdf(-shift / s))


def test_energy_distance_is_that_of_two_gaussians():
    shift = 1.0
    truth = 2 * (mean_distance(shift) - mean_distance(0.0)) / np.sqrt(1 + shift**2 / 4)
    found = [
        unbiased_energy_test(*gaussians(500, shift=shift, seed=s), n_permutations=1).distance
        for s in range(8)
    ]
    assert abs(np.mean(found) - truth) < 3 * np.std(found) / np.sqrt(8) + 0.005


def test_energy_test_finds_what_differs():
    test = unbiased_energy_test(*gaussians(200, shift=0.7, features=5), n_permutations=199)
    assert test.p_value == 1 / 200
    assert test.distance > 0


def test_energy_test_is_uniform_where_nothing_differs():
    tests = [
        unbiased_energy_test(*gaussians(40, features=3, seed=s), n_permutations=99, seed=s) for s in range(80)
    ]
    assert kstest([t.p_value for t in tests], "uniform").pvalue > 0.01
    distances = np.array([t.distance for t in tests])
    assert abs(distances.mean()) < 3 * distances.std() / np.sqrt(80)


def test_energy_test_sees_a_change_of_shape():
    """Same mean and variance, another distribution."""
    rng = np.random.default_rng(0)
    a = rng.normal(size=(400, 2))
    b = np.sqrt(0.1) * rng.normal(size=(400, 2)) + np.sqrt(0.9) * rng.choice([-1, 1], (400, 2))
    assert unbiased_energy_test(a, b, n_permutations=99).p_value == 0.01


def test_classifier_is_as_right_as_can_be():
    """Two Gaussians a distance d apart cannot be separated better than Phi(d / 2)."""
    test = classifier_test(*gaussians(3000, shift=2.0, features=4))
    best = norm.cdf(1.0)
    assert test.n == 3000
    assert best - 0.04 < test.accuracy < best + 3 * np.sqrt(best * (1 - best) / test.n)
    assert test.p < 1e-10


def test_classifier_sees_what_no_line_divides():
    rng = np.random.default_rng(1)
    a = rng.normal(size=(1500, 2))
    b = rng.normal(size=(1500, 2)) * np.array([2.0, 0.5])
    assert classifier_test(a, b).accuracy > 0.65


def test_classifier_guesses_where_nothing_differs():
    tests = [classifier_test(*gaussians(300, features=3, seed=s), seed=s) for s in range(20)]
    assert abs(np.mean([t.accuracy for t in tests]) - 0.5) < 3 * 0.5 / np.sqrt(300 * 20)
    assert sum(t.p < 0.05 for t in tests) <= 4


def test_seeds_and_sizes():
    a, b = gaussians(200, features=2)
    assert classifier_test(a, b[:150], seed=3) == classifier_test(a[:150], b[:150], seed=3)
    assert unbiased_energy_test(a, b, seed=1) == unbiased_energy_test(a, b, seed=1)
