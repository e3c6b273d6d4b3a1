"""Training curves are the records."""

from dataclasses import replace

import numpy as np

from scattervae.show.training import training_figure

from .toys import RECORDS, data_of, draw, texts


def test_training_curves_are_the_records_and_the_held_out_value_is_on_axes_of_its_own():
    data = data_of(active=(3, 3), held_out={"model 1": -41.5})
    figure = training_figure(data)
    main = figure.axes[0]
    first, second = main.lines
    (held_out,) = figure.axes[1].lines
    for line in (first, second):
        np.testing.assert_array_equal(line.get_xdata(), np.arange(1, 21))
        np.testing.assert_array_equal(line.get_ydata(), [r.negative_elbo for r in RECORDS])
    assert held_out.get_xydata().tolist() == [[1.0, -41.5]]
    assert main.get_ylabel() != figure.axes[1].get_ylabel()  # stars made worse, and stars as they are
    for axes, quantity in zip(figure.axes[2:], ("chi2", "penalty", "kl", "learning_rate"), strict=True):
        np.testing.assert_array_equal(axes.lines[0].get_ydata(), [getattr(r, quantity) for r in RECORDS])


def test_a_fall_from_thousands_leaves_the_end_visible():
    data = data_of()
    steep = tuple(replace(r, negative_elbo=r.negative_elbo + 9000 / r.epoch**3) for r in RECORDS)
    figure = training_figure(replace(data, models={"m": replace(data.models["model 0"], records=steep)}))
    draw(figure)
    main = figure.axes[0]
    to_axes = (main.transData + main.transAxes.inverted()).transform
    heights = [to_axes((1.0, y))[1] for y in (-44.0, 0.0, 8900.0)]
    assert 0.0 < heights[0] < heights[1] - 0.1
    assert heights[1] < heights[2] - 0.1
    assert heights[2] < 1.0


def test_a_model_without_records_is_named():
    data = data_of()
    bare = {"bare": replace(data.models["model 0"], records=())}
    figure = training_figure(replace(data, models=bare, held_out={"bare": 3.0}))
    draw(figure)
    assert "no training records: bare" in texts(figure)
