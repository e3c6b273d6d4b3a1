from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

from scattervae.show.latents_figure import (
    Limits,
    axis_limits,
    colour_limits,
    informative_pairs,
    latents_figure,
    plot_pair,
)
from toy import toy_sky

from .toys import data_of, draw, model_of, texts


@pytest.mark.parametrize(
    ("active", "pairs"),
    [
        ([2, 4, 1, 5], [(2, 4), (1, 5)]),
        ([0, 3, 2], [(0, 3), (0, 2)]),
        ([0, 2], [(0, 2)]),
        ([0], []),
        ([], []),
    ],
)
def test_pairs_show_four_active_latents_once_each(active, pairs):
    assert informative_pairs(active) == pairs


def test_limits_are_not_moved_by_outliers_or_missing_values():
    values = np.concatenate([np.linspace(0.0, 1.0, 1001), [1e6, np.nan]])
    limits = colour_limits(values)
    assert (limits.low, limits.high) == pytest.approx((0.05, 0.95), abs=0.01)
    assert axis_limits(values).high < 1.2
    assert colour_limits(np.array([np.nan])) == Limits(0.0, 1.0)
    assert colour_limits(np.array([3.0, 3.0])) == Limits(2.5, 3.5)


def test_a_hexagon_has_the_mean_label_of_its_stars():
    rng = np.random.default_rng(0)
    spread = rng.normal(size=(2, 500))
    here = np.zeros(50)
    first, second = np.concatenate([spread[0], here + 9.0]), np.concatenate([spread[1], here + 9.0])
    label = np.concatenate([np.zeros(500), np.linspace(2.0, 4.0, 50)])
    axes = Figure().add_subplot()
    hexagons = plot_pair(axes, first, second, label, colours=Limits(0.0, 3.0), colour_map="viridis")
    values = np.asarray(hexagons.get_array())
    assert values.max() == pytest.approx(3.0)
    assert (values > 0).sum() == 1
    assert hexagons.get_clim() == (0.0, 3.0)


def test_missing_labels_are_grey_and_counted():
    data = data_of()
    values = data.labels.values.copy()
    values[:40, 2] = np.nan
    figure = latents_figure(replace(data, labels=replace(data.labels, values=values)))
    draw(figure)
    assert "40 without [Fe/H]" in texts(figure)
    assert "0 without $T" in texts(figure)


def test_labels_that_nobody_has_leave_every_hexagon_grey():
    data = data_of()
    nothing = replace(data.labels, values=np.full_like(data.labels.values, np.nan))
    for active in (3, 1):
        model = {"m": model_of(toy_sky(300), active=active)}
        figure = latents_figure(replace(data, models=model, labels=nothing))
        draw(figure)
        assert "300 without $T" in texts(figure)


@pytest.mark.parametrize(
    ("active", "panels", "remark"),
    [
        (3, 6, "3 of 3 latents active"),
        (2, 3, "2 of 3 latents active"),
        (1, 3, "1 of 3 latents active, no pair to show"),
        (0, 0, "0 of 3 latents active, no pair to show"),
    ],
)
def test_the_latent_figure_says_how_many_latents_are_active_and_shows_what_there_is(active, panels, remark):
    figure = latents_figure(data_of(active=(active,)))
    draw(figure)
    assert sum(bool(a.get_xlabel().startswith("latent")) for a in figure.axes) == panels
    assert remark in texts(figure)
