"""Figures of what ``label_baselines.py --out FOLDER`` left: predicted against known labels, and errors.

python -m studies.label_figures FOLDER
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from scattervae.show.style import PAGE_WIDTH, house_style
from scattervae.spectra.star_tables import LABEL_NAMES
from studies import arguments
from studies.label_plots import ErrorsByNumber, plot_errors_by_number, plot_predicted
from studies.label_scores import GIANT_BELOW, LabelScores

FOLDER = Path(arguments(__doc__, 1)[0])
LABELS = LABEL_NAMES
SHOWN = {
    "ours": "ours",
    "residual network": "residual network, as many networks",
    "boosted trees": "boosted trees, coefficients",
}


class Run(NamedTuple):
    """What one run of the benchmark predicted."""

    n_stars: int
    known: np.ndarray
    predicted: dict[str, np.ndarray]

    def spread(self, name: str, column: int) -> float:
        """The spread of one label's errors, giants alone."""
        giants = self.known[:, LABELS.index("logg")] < GIANT_BELOW
        return float(LabelScores.of(self.predicted[name][giants], self.known[giants]).spread[column])


def read(path: Path) -> Run:
    with np.load(path) as file:
        predicted = {name: file[name] for name in file.files}
    return Run(int(predicted.pop("n_stars")), predicted.pop("known"), predicted)


def errors_by_number(runs: list[Run], name: str, column: int) -> ErrorsByNumber:
    """A row for each seed that all numbers of stars have."""
    numbers = sorted({run.n_stars for run in runs})
    errors = [[run.spread(name, column) for run in runs if run.n_stars == n] for n in numbers]
    return ErrorsByNumber(numbers, np.array(list(zip(*errors, strict=False))))


def save(figure: Figure, name: str) -> None:
    FigureCanvasAgg(figure).print_png(FOLDER / name)
    print(FOLDER / name)


def main() -> None:
    runs = [read(path) for path in sorted(FOLDER.glob("predicted-*.npz"))]
    compared = [run for run in runs if set(SHOWN.values()) <= set(run.predicted)]
    with house_style():
        figure = Figure(figsize=(PAGE_WIDTH, 3.6), dpi=200, layout="constrained")
        axes = figure.subplots(2, 3).ravel()
        for column, label in enumerate(LABELS):
            errors = {text: errors_by_number(compared, name, column) for text, name in SHOWN.items()}
            plot_errors_by_number(axes[column], errors, label=label)
        axes[-1].axis("off")
        axes[-1].legend(*axes[0].get_legend_handles_labels(), loc="center")
        save(figure, "errors_by_number.png")
        most = max(runs, key=lambda run: run.n_stars)
        figure = Figure(figsize=(PAGE_WIDTH, 4.6), dpi=200, layout="constrained")
        axes = figure.subplots(2, 3).ravel()
        for column, label in enumerate(LABELS):
            known, predicted = most.known[:, column], most.predicted["ours"][:, column]
            scores = LabelScores.of(predicted[:, None], known[:, None])
            note = f"spread {scores.spread[0]:.3g}\nRMSE {scores.rmse[0]:.3g}"
            plot_predicted(axes[column], known, predicted, label=label, note=note)
        axes[-1].set_visible(False)
        save(figure, "predicted.png")


if __name__ == "__main__":
    main()
