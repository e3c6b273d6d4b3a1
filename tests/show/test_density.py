import numpy as np
from matplotlib.figure import Figure

from scattervae.show.plots.density import Highlighted, mode_line, plot_density
from scattervae.show.plots.latents import Limits


def test_the_mode_is_the_most_common_value_and_neither_mean_nor_median():
    rng = np.random.default_rng(0)
    x = rng.uniform(0.0, 1.0, 4000)
    y = rng.gamma(2.0, 1.0, 4000) + 3.0 * x  # the mode of gamma(2) is 1, its mean 2, its median 1.68
    line = mode_line(x, y, bins=4)
    np.testing.assert_allclose(line.y, 1.0 + 3.0 * line.x, atol=0.35)


def test_the_mode_does_not_move_for_outliers_and_bins_of_few_stars_are_left_out():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.uniform(0.0, 0.5, 2000), [1.0] * 10])
    y = np.concatenate([rng.normal(2.0, 0.1, 2000), [50.0] * 10])
    y[:20] = 1e4
    line = mode_line(x, y, bins=2)
    assert len(line.x) == 1
    np.testing.assert_allclose(line.y, 2.0, atol=0.05)
    constant = mode_line(np.arange(30.0), np.full(30, 7.0), bins=1)
    assert constant.y.tolist() == [7.0]


def test_every_star_falls_in_a_cell_of_the_axis_own_scale():
    rng = np.random.default_rng(0)
    x, y = rng.uniform(0.0, 1.0, 500), rng.normal(size=500) * 30.0
    for scale in ({"value": "symlog", "linthresh": 5.0}, {"value": "linear"}):
        axes = Figure().add_subplot()
        axes.set_yscale(**scale)
        mesh = plot_density(axes, x, y, x_range=Limits(0.0, 1.0), y_range=Limits(-200.0, 200.0))
        assert mesh.get_array().sum() == 500


def test_a_missing_label_is_neither_cool_nor_low_gravity():
    marked = Highlighted.of(np.array([np.nan, 3999.0, 4000.0]), np.array([0.5, np.nan, 1.0]))
    assert marked.cool.tolist() == [False, True, False]
    assert marked.low_gravity.tolist() == [True, False, False]
