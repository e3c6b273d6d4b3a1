"""Factors stand in the panel of their band, with their intervals."""

import numpy as np

from scattervae.science.scatter.parts import ScatterSettings, separate_scatter
from scattervae.show.scatter_parts import FACTOR_LABEL, scatter_parts_figure
from science.toys import trained


def test_each_group_is_a_line_with_its_intervals():
    sky, model = trained()
    parts = separate_scatter(model, sky.spectra, settings=ScatterSettings(n_types=1))
    axes = scatter_parts_figure(parts).axes
    k = parts.separation.calibration
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
