"""Made stars over real ones."""

import matplotlib.pyplot as plt
import numpy as np
from studies.sample_plots import plot_samples


def test_the_axes_are_those_of_the_real_stars_and_the_rest_is_counted():
    rng = np.random.default_rng(0)
    real = rng.normal(size=(2, 2000))
    made = np.concatenate([rng.normal(size=(2, 6000)), np.full((2, 2000), 50.0)], axis=1)
    figure, axes = plt.subplots()
    plot_samples(axes, real, made, name="the prior")
    assert axes.get_xlim()[1] < 6
    inside = [axes.get_xlim()[0] <= x <= axes.get_xlim()[1] for x in real[0]]
    assert np.mean(inside) > 0.997
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["real", "the prior (25.0 % outside)"]
    enclosed = [path.contains_points(made[:, :6000].T).mean() for path in axes.collections[1].get_paths()]
    np.testing.assert_allclose(enclosed, [0.95, 0.80, 0.50], atol=0.06)
    plt.close(figure)
