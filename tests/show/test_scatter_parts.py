import numpy as np
from matplotlib.figure import Figure

from scattervae.show.scatter_parts import FACTOR_LABEL, FactorLine, plot_factors
from scattervae.show.style import house_style


def test_each_group_is_a_line_with_its_intervals_and_references_are_marks(tmp_path):
    g_mag = np.array([10.0, 12.0, 14.0])
    value = np.array([2.0, np.nan, 1.1])
    lines = {
        name: FactorLine(value * f, 0.9 * value * f, 1.2 * value * f) for name, f in (("a", 1.0), ("b", 0.5))
    }
    with house_style():
        figure = Figure()
        axes = figure.add_subplot()
        plot_factors(axes, g_mag, lines, references={"theirs": {10.0: 3.0, 16.0: 1.5}})
        axes.legend()
        figure.savefig(tmp_path / "factors.png")
    drawn = {container.get_label(): container for container in axes.containers}
    assert set(drawn) == {"a", "b"}
    (bars,) = drawn["b"].lines[2]
    ends = np.array(
        [segment[:, 1] for segment in bars.get_segments() if len(segment) and np.isfinite(segment).all()]
    )
    np.testing.assert_allclose(ends, [[0.9, 1.2], [0.495, 0.66]])
    (marks,) = [line for line in axes.lines if line.get_label() == "theirs"]
    np.testing.assert_array_equal(marks.get_xydata(), [[10.0, 3.0], [16.0, 1.5]])
    assert axes.get_yscale() == "log"
    assert axes.get_ylabel() == FACTOR_LABEL
