"""Training curves: the negative evidence lower bound and its terms against epoch, and the learning rate.

Laroche & Speagle (2023), sect. 2.3 and eqs. 1-5; every model in the same units, whatever it minimises.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullFormatter, NullLocator, ScalarFormatter

from scattervae.model.checkpoint import EpochRecord
from scattervae.show.registry import FigureData
from scattervae.show.style import PAGE_WIDTH, QUIET, house_style, model_colour, model_marks, note, signed

Records = Mapping[str, Sequence[EpochRecord]]
Quantity = Literal["negative_elbo", "chi2", "penalty", "kl", "learning_rate"]

LABELS: dict[Quantity, str] = {
    "negative_elbo": "negative ELBO in training [nats per star]",
    "chi2": "$\\chi^2$ term [nats per star]",
    "penalty": "penalty [nats per star]",
    "kl": "KL [nats per star]",
    "learning_rate": "learning rate [per step]",
}
_RATE_DECADES = 2.5  # of the smallest peak: schedules end at zero, which a logarithmic axis cannot show


def plot_curve(axes: Axes, records: Records, quantity: Quantity) -> None:
    """One quantity of each model against epoch, on axes that show both the fall and the end.

    Epochs run on a logarithmic axis. A quantity that starts far above its end is drawn on an
    axis that is linear near the end and logarithmic above.
    """
    for index, (name, epochs) in enumerate(records.items()):
        axes.plot(
            [record.epoch for record in epochs],
            [getattr(record, quantity) for record in epochs],
            color=model_colour(index),
            linestyle="-" if index % 2 == 0 else "--",
            label=name,
        )
    last = max((record.epoch for epochs in records.values() for record in epochs), default=1)
    _scale_epochs(axes, last)
    values = [[getattr(record, quantity) for record in epochs] for epochs in records.values() if epochs]
    if quantity in ("kl", "learning_rate"):
        _scale_positive(axes, values, quantity)
    elif values and max(max(v) for v in values) > 2.0 * _reach(values):
        if quantity == "chi2":
            axes.set_yscale("log")
        else:
            _scale_fall(axes, values)
    axes.set_ylabel(LABELS[quantity])


def mark_held_out(axes: Axes, records: Records, held_out: Mapping[str, float]) -> None:
    """The value of each model on held-out stars as they are, where there is one, on axes of its own.

    Training makes stars worse, so that its curve and this value are of different stars.
    """
    for index, name in enumerate(records):
        if name in held_out:
            style = model_marks(index, 6.0, edge=1.2) | {"markerfacecolor": "white"}
            label = f"{name}, held out: {signed(held_out[name], 1)}"
            axes.plot([index], [held_out[name]], label=label, **style)
    axes.set_xlim(-0.7, len(records) - 0.3)
    axes.margins(y=0.3)
    axes.set_xticks([])
    axes.yaxis.set_major_locator(MaxNLocator(5, min_n_ticks=2))
    axes.set_ylabel("negative ELBO, held out [nats per star]")


def mark_expected_chi2(axes: Axes, n_coeffs: int) -> None:
    r"""A line at N / 2: the :math:`\chi^2` term of residuals just as large as error and scatter say."""
    axes.axhline(n_coeffs / 2, color=QUIET, linewidth=0.8, linestyle=":", zorder=1)
    axes.annotate(
        f"$N$/2, $N$ = {n_coeffs}",
        (0.98, n_coeffs / 2),
        xycoords=("axes fraction", "data"),
        xytext=(0, 2),
        textcoords="offset points",
        ha="right",
        fontsize=7.0,
        color=QUIET,
    )


def _scale_epochs(axes: Axes, last: int) -> None:
    axes.set_xscale("log")
    decades = [10**k for k in range(int(np.log10(last)) + 1)]
    ticks = sorted({*decades, *(3 * d for d in decades if 3 * d <= last)})
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(0.9, max(last, 2) * 1.12)


def _reach(values: list[list[float]]) -> float:
    """Twice the largest absolute value in the second half of training."""
    late = np.concatenate([np.asarray(v)[len(v) // 2 :] for v in values])
    return 2.0 * max(float(np.abs(late).max()), 1.0)


def _scale_fall(axes: Axes, values: list[list[float]]) -> None:
    """Linear where the second half of training lies, and logarithmic above."""
    early, reach = max(max(v) for v in values), _reach(values)
    axes.set_yscale("symlog", linthresh=reach, linscale=3.0)
    low = min(min(v) for v in values)
    linear = np.asarray(MaxNLocator(5).tick_values(low, reach))
    decades = 10.0 ** np.arange(np.ceil(np.log10(reach)), np.ceil(np.log10(early)) + 1)
    axes.yaxis.set_major_locator(FixedLocator([*linear[linear <= reach], *decades[decades > 1.3 * reach]]))
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_locator(NullLocator())


def _scale_positive(axes: Axes, values: list[list[float]], quantity: Quantity) -> None:
    positive = [v for curve in values for v in curve if v > 0]
    if not positive:
        return
    axes.set_yscale("log")
    axes.yaxis.set_minor_formatter(NullFormatter())
    if quantity == "learning_rate":
        smallest_peak = min(max(curve) for curve in values)
        axes.set_ylim(bottom=smallest_peak * 10**-_RATE_DECADES)


def training_figure(data: FigureData) -> Figure:
    """Training curves of all models: negative ELBO with its held-out value, its terms, the learning rate."""
    records = {name: model.records for name, model in data.models.items()}
    small: tuple[Quantity, ...] = ("chi2", "penalty", "kl", "learning_rate")
    with house_style():
        figure = Figure(figsize=(PAGE_WIDTH, 3.6), layout="constrained")
        strip = 0.25 if data.held_out else 0.001
        grid = figure.add_gridspec(2, 4, width_ratios=[1.5, strip, 1, 1])
        main = figure.add_subplot(grid[:, 0])
        plot_curve(main, records, "negative_elbo")
        handles, names = main.get_legend_handles_labels()
        if data.held_out:
            beside = figure.add_subplot(grid[:, 1])
            mark_held_out(beside, records, data.held_out)
            marks, values = beside.get_legend_handles_labels()
            handles, names = [*handles, *marks], [*names, *values]
        figure.legend(handles, names, loc="outside upper center", ncols=4)
        main.set_xlabel("epoch")
        for index, quantity in enumerate(small):
            axes = figure.add_subplot(grid[index // 2, 2 + index % 2])
            plot_curve(axes, records, quantity)
            if quantity == "chi2":
                for n in sorted({model.normalization.n_coeffs for model in data.models.values()}):
                    mark_expected_chi2(axes, n)
            if index < 2:
                axes.tick_params(labelbottom=False)
            else:
                axes.set_xlabel("epoch")
        without = [name for name, epochs in records.items() if not epochs]
        if without:
            note(main, f"no training records: {', '.join(without)}", y=0.04)
    return figure
