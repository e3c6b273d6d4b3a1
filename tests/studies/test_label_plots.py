import numpy as np
from matplotlib.figure import Figure
from studies.label_plots import ErrorsByNumber, plot_errors_by_number, plot_predicted


def test_every_star_with_both_labels_is_drawn_once():
    rng = np.random.default_rng(0)
    known = rng.uniform(1.0, 4.0, 500)
    predicted = np.clip(known + rng.normal(0, 0.1, 500), 1.1, 3.9)
    known[:20] = np.nan
    predicted[-30:] = np.nan
    axes = Figure().add_subplot()
    plot_predicted(axes, known, predicted, label="logg", note="0.1 dex")
    drawn = axes.collections[0].get_array().sum()
    assert 446 <= drawn <= 450  # the outermost two in a thousand of either side are not shown
    assert "log" in axes.get_xlabel()


def test_no_star_is_an_empty_plot():
    axes = Figure().add_subplot()
    plot_predicted(axes, np.full(3, np.nan), np.ones(3), label="a_k")
    assert axes.collections[0].get_array().count() == 0


def test_errors_run_through_the_mean_of_choices():
    axes = Figure().add_subplot()
    errors = {
        "ours": ErrorsByNumber((100, 1000), np.array([[2.0, 1.0], [4.0, 1.0]])),
        "other": ErrorsByNumber((100, 1000), np.array([[5.0, 3.0]])),
    }
    plot_errors_by_number(axes, errors, label="teff")
    lines = {line.get_label(): line.get_ydata().tolist() for line in axes.lines}
    assert lines["ours"] == [3.0, 1.0]
    assert lines["other"] == [5.0, 3.0]
    assert len(axes.lines) == 5
