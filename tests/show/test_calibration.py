"""Factors stand in the panel of their band, with their intervals."""

from dataclasses import replace

import numpy as np
import pytest

from scattervae.errors import DataError
from scattervae.science.calibration.coverage import DrawnStars, coverage_table
from scattervae.science.scatter.parts import ScatterSettings, separate_scatter
from scattervae.show.calibration import FACTOR_LABEL, calibration_figure, scatter_parts_figure, tables_figure
from science.toys import trained

from .toys import data_of, draw, texts, unusable


def test_what_is_drawn_is_the_coverage_of_the_test_stars():
    data = data_of(n_stars=600)
    figure = calibration_figure(data)
    draw(figure)
    model = data.models["model 0"]
    table = coverage_table(model, DrawnStars.of(model, data.spectra.take(data.test)))
    assert f"model 0: {table.n_stars:,} stars" in texts(figure)
    _, _, by_colour, by_order = figure.findobj(lambda artist: hasattr(artist, "get_xlabel"))
    one, two = by_colour.lines[2:4]  # after the two nominal ones
    np.testing.assert_allclose(one.get_ydata(), [100 * row.hidden.one for row in table.by("colour")])
    np.testing.assert_allclose(two.get_ydata(), [100 * row.hidden.two for row in table.by("colour")])
    names = [label.get_text() for label in by_order.get_xticklabels()]
    assert names == [row.name for row in table.by("order")]


def test_each_model_has_its_panels():
    data = data_of(n_stars=300, active=(3, 2))
    tables = {
        name: coverage_table(model, DrawnStars.of(model, data.spectra)) for name, model in data.models.items()
    }
    figure = tables_figure(tables)
    assert len(figure.findobj(lambda artist: hasattr(artist, "get_xlabel"))) == 8


def test_no_test_star_is_one_line():
    data = data_of()
    with pytest.raises(DataError, match="none of 300 stars is usable and in the test fold"):
        calibration_figure(replace(data, spectra=unusable(data.spectra, slice(None))))


def test_each_group_is_a_line_with_its_intervals():
    sky, model = trained()
    parts = separate_scatter(model, sky.spectra, settings=ScatterSettings(n_types=1))
    axes = scatter_parts_figure(parts).axes
    k = parts.separation.error
    low, high = k.bounds()
    for panel, band in zip(axes, ("bp", "rp"), strict=True):
        groups = [g for g, group in enumerate(parts.groups) if group.band == band]
        assert len(panel.containers) == len(groups)
        for container, g in zip(panel.containers, groups, strict=True):
            np.testing.assert_array_equal(container.lines[0].get_ydata(), k.value[g])
            (bars,) = container.lines[2]
            ends = [s[:, 1] for s in bars.get_segments() if len(s) and np.isfinite(s).all()]
            known = np.isfinite(k.value[g])
            np.testing.assert_allclose(ends, np.stack([low[g], high[g]], axis=1)[known])
        assert panel.get_yscale() == "log"
    assert axes[0].get_ylabel() == FACTOR_LABEL
