"""The joint chi^2 of predicted labels, and what their correlations gain."""

import numpy as np
from scipy.stats import multivariate_normal
from studies.label_covariances import log_copula, matrices, of_matrix

CORRELATIONS = np.array([[0.5, -0.2, 0.3], [0.0, 0.0, 0.0]])


def drawn(n: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.multivariate_normal(np.zeros(3), matrices(CORRELATIONS[:1], 3)[0], n)


def test_pairs_fill_a_symmetric_matrix_in_the_order_of_the_columns():
    found = matrices(CORRELATIONS, 3)
    np.testing.assert_array_equal(found[0], [[1.0, 0.5, -0.2], [0.5, 1.0, 0.3], [-0.2, 0.3, 1.0]])
    np.testing.assert_array_equal(found[1], np.eye(3))


def test_the_copula_is_the_density_of_all_over_that_of_each():
    stars = drawn(40)
    matrix = np.repeat(matrices(CORRELATIONS[:1], 3), 40, axis=0)
    joint = multivariate_normal(np.zeros(3), matrix[0]).logpdf(stars)
    alone = multivariate_normal(np.zeros(3), np.eye(3)).logpdf(stars)
    np.testing.assert_allclose(log_copula(matrix, stars), joint - alone)
    np.testing.assert_allclose(log_copula(np.repeat(np.eye(3)[None], 40, axis=0), stars), 0.0, atol=1e-12)


def test_the_joint_chi2_of_gaussians_has_the_mean_of_its_degrees_of_freedom():
    stars = drawn(20_000)
    squares = of_matrix(np.repeat(matrices(CORRELATIONS[:1], 3), len(stars), axis=0), stars)
    np.testing.assert_allclose(squares.mean(), 3.0, atol=5 * np.sqrt(6 / 20_000))
