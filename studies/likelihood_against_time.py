"""How far each recipe gets in how much training: -ELBO of held-out stars against seconds, each run a whole schedule.

    python -m studies.likelihood_against_time STARS OUT.png

STARS is a store or a file of labelled or unlabelled stars. Every point is a model of its own, trained without the test
and the validation fold and scored on the latter, all in one run.
"""

import time
from pathlib import Path

from matplotlib.figure import Figure

from scattervae.gaia import reading
from scattervae.model.recipe import RECIPES
from scattervae.model.run import train
from scattervae.science.evaluation import evaluate
from scattervae.seeds import folds
from scattervae.show.style import MODEL_MARKERS, PAGE_WIDTH, house_style, model_colour
from studies import arguments
from studies.sensitivity import variant_of

BUDGETS = {"best": (5, 10, 20, 40, 100), "elbo": (10, 30, 100, 300)}
LABELS = {"best": "best", "elbo": "elbo (the paper's network)"}


def main() -> None:
    stars, picture = map(Path, arguments(__doc__, 2))
    spectra = reading.load(stars).spectra
    held_out = spectra.take(folds(spectra.source_id).validation & spectra.usable)
    curves: dict[str, list[tuple[float, float]]] = {name: [] for name in BUDGETS}
    for name, budgets in BUDGETS.items():
        for epochs in budgets:
            changes = {"epochs": epochs, "hold_out_validation": True}
            recipe = variant_of(RECIPES[name], name, training=changes).recipe
            started = time.perf_counter()
            model = train(spectra, recipe)
            seconds = time.perf_counter() - started
            score = evaluate(model, held_out, fold="all").negative_elbo
            curves[name].append((seconds, score))
            print(f"{name:6s} {epochs:4d} epochs {seconds:7.1f} s  -ELBO {score:8.2f}", flush=True)
    _draw(curves, picture)


def _draw(curves: dict[str, list[tuple[float, float]]], picture: Path) -> None:
    with house_style():
        figure = Figure(figsize=(0.6 * PAGE_WIDTH, 2.8), layout="constrained")
        axes = figure.subplots()
        for place, (name, points) in enumerate(curves.items()):
            look = {"color": model_colour(place), "marker": MODEL_MARKERS[place], "markersize": 4}
            axes.plot(*zip(*points, strict=True), label=LABELS[name], **look)
        axes.set_xscale("log")
        axes.set_xlabel("training time [s]")
        axes.set_ylabel("negative ELBO [nat per held-out star]")
        axes.legend()
        figure.savefig(picture)


if __name__ == "__main__":
    main()
