from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from scattervae.errors import DataError
from scattervae.show.latents_figure import Limits
from scattervae.show.normalised_errors import (
    COOL_COLOUR,
    LOW_GRAVITY_COLOUR,
    Highlighted,
    mode_line,
    normalised_errors_figure,
    plot_density,
)
from scattervae.show.registry import SHOWN_LABELS
from scattervae.spectra.star_tables import LABEL_NAMES
from toy import SMALL, toy_recipe, untrained_model

from .toys import complete, data_of, draw, texts, unusable, without_labels

THIRD = {"BP": 2, "RP": SMALL.n_bp + 2}


def counts_on(axes):
    """Stars in the cells of a density panel."""
    (mesh,) = axes.collections
    return int(np.ma.filled(mesh.get_array(), 0).sum())


def highlighted(axes):
    return [line.get_xydata() for line in axes.lines if line.get_marker() in ("o", "^")]


def test_the_stars_are_the_usable_labelled_test_stars_and_the_same_for_every_model():
    data = complete(data_of(active=(3, 2), n_stars=500))
    test = np.flatnonzero(data.test)
    data = without_labels(data, test[:4], "fe_h")
    data = replace(data, spectra=unusable(data.spectra, test[4:7]))
    figure = normalised_errors_figure(data)
    draw(figure)
    assert f"{len(test) - 7} usable test stars" in texts(figure)
    assert len(figure.axes) == 5 * 6
    assert {counts_on(axes) for axes in figure.axes} == {len(test) - 7}


def test_errors_of_the_vae_and_the_cannon_are_residuals_over_error_and_scatter():
    data = complete(data_of(n_stars=500))
    values = data.labels.values.copy()
    values[:, 0] = 3000.0 + 0.1 * values[:, 0]  # all below 4000 K: every star is marked, and can be read off
    data = complete(replace(data, labels=replace(data.labels, values=values)))
    figure = normalised_errors_figure(data)
    rows = np.flatnonzero(data.test)
    stars = data.spectra.take(rows)
    (encoded,) = data.models["model 0"].encode_batches([stars])
    x, errors = (part.double() for part in (encoded.inputs.x, encoded.inputs.errors))
    columns = [LABEL_NAMES.index(name) for name in data.cannon.settings.labels]
    of_cannon = data.cannon.predict(values[rows][:, columns])
    for row, decoded in enumerate((encoded.reconstruction, of_cannon)):
        z = ((x - decoded.mean) / (errors**2 + decoded.scatter**2).sqrt()).numpy()
        for index, axes in enumerate(figure.axes[6 * row : 6 * row + 6]):
            cool, _ = highlighted(axes)
            label = data.labels[SHOWN_LABELS[index % 3]][rows]
            expected = z[:, THIRD["BP" if index < 3 else "RP"]]
            np.testing.assert_allclose(cool[:, 0], label)
            np.testing.assert_allclose(cool[:, 1], expected, rtol=1e-4, atol=1e-5)  # float32
    for index, axes in enumerate(figure.axes[12:]):
        column = THIRD["BP" if index < 3 else "RP"]
        cool, _ = highlighted(axes)
        np.testing.assert_allclose(cool[:, 1], encoded.reconstruction.scatter[:, column], rtol=1e-6)
        (one_value,) = [line for line in axes.lines if line.get_linestyle() == "--"]
        assert set(one_value.get_ydata()) == {data.cannon.scatter[column].item()}


def test_cool_stars_and_low_gravity_are_marked_and_counted():
    data = data_of(n_stars=500)
    values = data.labels.values.copy()
    test = np.flatnonzero(data.test)
    values[test[:5], 0] = 3999.0
    values[test[3:10], 1] = 0.99
    data = complete(replace(data, labels=replace(data.labels, values=values)))
    figure = normalised_errors_figure(data)
    cool, low_gravity = highlighted(figure.axes[0])
    assert len(cool) == (data.labels["teff"][test] < 4000).sum() >= 5
    assert len(low_gravity) == (data.labels["logg"][test] < 1).sum() >= 7
    assert f"({len(low_gravity)} stars)" in texts(figure)


def test_scatter_is_compared_in_the_units_that_the_cannon_was_fitted_in():
    """The same scatter in a model's own, twice as wide, standard deviations is twice as large here."""
    data = complete(data_of())
    name, model = data.first_model
    wider = replace(model, normalization=replace(model.normalization, std=2.0 * model.normalization.std))
    before = normalised_errors_figure(data).axes[12].get_ylim()
    after = normalised_errors_figure(replace(data, models={name: wider})).axes[12].get_ylim()
    assert after[1] > before[1]


def test_no_star_to_compare_on_is_one_line():
    data = complete(data_of())
    with pytest.raises(DataError, match="none of 300 stars is usable, in the test fold and has Teff"):
        normalised_errors_figure(without_labels(data, slice(None), "fe_h"))


def test_a_model_without_a_third_coefficient_is_refused():
    data = data_of(n_stars=100)
    recipe = toy_recipe()
    normalization = recipe.normalization.model_copy(update={"n_bp": 5, "n_rp": 2})
    short = untrained_model(data.spectra, recipe.model_copy(update={"normalization": normalization}))
    with pytest.raises(DataError, match="a model has 2 RP coefficients: there is no number 3"):
        normalised_errors_figure(complete(replace(data, models={"short": short})))


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


def seen_without_green(colour):
    """CIE Lab of a colour as those see it who lack the green cones (Machado et al. 2009, deuteranopia)."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    machado = [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ]
    seen = np.clip(np.array(machado) @ linear, 0, 1)
    xyz_of = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    f = np.cbrt(np.maximum(np.array(xyz_of) @ seen / [0.9505, 1.0, 1.089], 1e-9))
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_highlighted_stars_are_of_two_colours_also_without_green_cones():
    assert (
        np.linalg.norm(seen_without_green("#009E73") - seen_without_green("#E69F00")) < 70
    )  # what was there before
    assert np.linalg.norm(seen_without_green(COOL_COLOUR) - seen_without_green(LOW_GRAVITY_COLOUR)) > 90
