"""Made-up nebulae: lines where they belong, in stars of the two colours, brighter by the lines' light."""

import numpy as np

from benchmarks.outliers import made_nebulae
from benchmarks.test_hidden_groups import made
from scattervae.gaia.flux import design


def test_nebulae_have_lines_and_their_light():
    stars = made(800)
    found = made_nebulae(stars)
    rows = np.searchsorted(stars.source_id[(order := np.argsort(stars.source_id))], found.source_id)
    hosts = stars.take(order[rows])
    np.testing.assert_array_equal(hosts.source_id, found.source_id)
    grid = design(stars.basis)
    added = (found.coeffs - hosts.coeffs) @ grid.matrix.T
    blue, red = np.arange(616) < 308, np.arange(616) >= 308
    line = np.abs(grid.grid_nm - 656.3) < 4
    beside = np.abs(grid.grid_nm - 620.0) < 4
    assert (added[:, line].mean(axis=1) > added[:, beside].mean(axis=1)).mean() > 0.9
    oxygen = added[:, np.abs(grid.grid_nm - 500.7) < 4].mean(axis=1) / added[:, line].mean(axis=1)
    assert np.median(oxygen[blue]) > 4 * np.median(oxygen[red])
    colour = hosts.coeffs[:, 0] / hosts.coeffs[:, stars.basis.n_bp]
    assert colour[blue].min() > colour[red].max()
    assert (found.g_flux > hosts.g_flux).mean() > 0.99
