"""What each ingredient of the recipe ``best`` is worth: held-out likelihood with it and without, over several seeds.

    python -m studies.ablation STARS FOLDER [EPOCHS] [SEEDS]

Each variant is trained with several seeds (3 unless given) on the stars of neither test nor validation fold, and scored
on the validation fold: nats per star, lower is better. Differences are to the unchanged recipe, above 0 where the
change does harm. Each model's numbers are kept in FOLDER: a run that is stopped resumes there.
"""

import logging
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scattervae.cli.console import table_lines
from scattervae.errors import DataError, TrainingError, counted
from scattervae.files import write_json
from scattervae.gaia import reading
from scattervae.model.checkpoint import Progress
from scattervae.model.recipe import RECIPES
from scattervae.model.run import train
from scattervae.science.evaluation import evaluate
from scattervae.science.paper.comparison import Table
from scattervae.seeds import folds
from scattervae.spectra.spectra import Spectra
from studies import arguments
from studies.sensitivity import KeptRows, Variant, stars_digest, variant_of

logger = logging.getLogger(__name__)

BASE = "best"
N_SEEDS = 3
HEADER = ("one change", "-ELBO", "+-", "difference", "+-", "active latents", "parameters", "seconds")
_BLIND = {"network": {"encoder_sees": "coefficients"}, "degradation": {"share": 0.0}}

# What is changed in the recipe, by what the table calls it; everything else stays.
CHANGES: dict[str, dict[str, Any]] = {
    "none": {},
    "no errors seen, so none degraded": _BLIND,
    "no star degraded": {"degradation": {"share": 0.0}},
    "independent latents": {"network": {"posterior": "independent"}},
    "plain layers": {"network": {"layers": "plain"}},
    "AdamW in all weights": {"training": {"optimizer": "adamw", "learning_rate": 2e-3}},
    "one-cycle schedule": {"training": {"schedule": "one_cycle"}},
    "batches of 1,024": {"training": {"batch_size": 1024}},
    "two blocks": {"network": {"hidden": (128, 128)}},
    "width 192": {"network": {"hidden": (192, 192, 192)}},
    "6 latents": {"network": {"n_latent": 6}},
    "10 latents": {"network": {"n_latent": 10}},
    "exp link of the scatter": {"network": {"scatter_link": "exp"}},
}


def main() -> None:
    given = arguments(__doc__, 2)
    stars, folder = map(Path, given[:2])
    epochs, n_seeds = (*map(int, given[2:]), *(RECIPES[BASE].training.epochs, N_SEEDS)[len(given) - 2 :])
    spectra = reading.load(stars, at_most=reading.MOST_STARS).spectra
    table = ablate(
        spectra, folder, epochs=epochs, n_seeds=n_seeds, stage=lambda text: print(text, flush=True)
    )
    write_json(folder / "ablation.json", asdict(table))
    print("\n".join((table.title, *table_lines(table.header, table.rows))))


@dataclass(frozen=True)
class Scores:
    """Of one model: nats per star of the validation fold, active latents, weights and biases, seconds of training."""

    negative_elbo: float
    active_latents: int
    n_parameters: int
    seconds: float


def ablations(*, epochs: int | None = None, n_seeds: int = N_SEEDS) -> Iterator[tuple[str, list[Variant]]]:
    """Each change with a variant for each seed, all trained without the validation fold; the paper's network last."""
    common: dict[str, Any] = {"hold_out_validation": True} | ({} if epochs is None else {"epochs": epochs})
    for what, change in CHANGES.items():
        training = change.get("training", {}) | common
        yield (
            what,
            [
                variant_of(BASE, f"{what}, seed {seed}", **change | {"training": training | {"seed": seed}})
                for seed in range(n_seeds)
            ],
        )
    paper = [
        variant_of("elbo", f"the paper's network, seed {seed}", training=common | {"seed": seed})
        for seed in range(n_seeds)
    ]
    yield "the paper's network (recipe elbo)", paper


def ablate(
    spectra: Spectra,
    folder: Path,
    *,
    epochs: int | None = None,
    n_seeds: int = N_SEEDS,
    stage: Callable[[str], None] | None = None,
    progress: Progress | None = None,
) -> Table:
    """The table of ablations; models that an earlier run finished are read from `folder`.

    Differences are to the unchanged recipe, seed by seed, above 0 where the change does harm; both errors are
    standard errors over seeds. A model whose training fails is left out, and the log says so.

    Args:
        spectra: All stars; trained on those of neither test nor validation fold, scored on the latter.
        folder: Where each model's numbers are kept.
        epochs: Passes over the stars; the recipe's where None.
        n_seeds: How many seeds.
        stage: Called with what is being done.
        progress: Called with each epoch's record.

    Raises:
        DataError: No usable star is in the validation fold.
    """
    held_out = spectra.take(folds(spectra.source_id).validation & spectra.usable)
    if len(held_out) == 0:
        raise DataError(
            f"none of {counted(len(spectra), 'star')} is usable and in the validation fold; give more stars"
        )
    kept = KeptRows(folder, stars_digest(spectra))
    chosen = list(ablations(epochs=epochs, n_seeds=n_seeds))
    found: dict[str, dict[int, Scores]] = {}
    for number, (what, variants) in enumerate(chosen, start=1):
        for variant in variants:
            scores = kept.find(variant)
            if scores is None:
                if stage is not None:
                    stage(f"change {number} of {len(chosen)}: {variant.name}")
                scores = _scores(variant, spectra, held_out, progress)
                kept.keep(variant, scores)
            if scores:
                found.setdefault(what, {})[variant.recipe.training.seed] = Scores(**scores)
    epochs = epochs or RECIPES[BASE].training.epochs
    size = ((epochs, "epoch"), (n_seeds, "seed"), (len(held_out), "star"))
    title = f"Ablations of the recipe {BASE} ({', '.join(counted(n, noun) for n, noun in size)})"
    unchanged = found.get("none", {})
    return Table(title, HEADER, tuple(_row(what, of, unchanged) for what, of in found.items()))


def _scores(
    variant: Variant, spectra: Spectra, held_out: Spectra, progress: Progress | None
) -> dict[str, Any]:
    """The numbers of a variant as JSON values; empty where it cannot be trained."""
    started = time.perf_counter()
    try:
        model = train(spectra, variant.recipe, progress=progress)
    except TrainingError as error:
        logger.warning("%s: %s", variant.name, error)
        return {}
    seconds = time.perf_counter() - started
    score = evaluate(model, held_out, fold="all")
    n_parameters = sum(weights.numel() for weights in model.network.parameters())
    return asdict(Scores(score.negative_elbo, score.active_latents, n_parameters, seconds))


def _row(what: str, scores: dict[int, Scores], unchanged: dict[int, Scores]) -> tuple[str, ...]:
    elbos = [one.negative_elbo for one in scores.values()]
    differences = [
        one.negative_elbo - unchanged[seed].negative_elbo
        for seed, one in scores.items()
        if seed in unchanged and scores is not unchanged
    ]
    return (
        what,
        f"{statistics.mean(elbos):.2f}",
        _standard_error(elbos),
        f"{statistics.mean(differences):+.2f}" if differences else "-",
        _standard_error(differences),
        f"{statistics.mean(one.active_latents for one in scores.values()):.1f}",
        f"{next(iter(scores.values())).n_parameters:,}",
        f"{statistics.median(one.seconds for one in scores.values()):.0f}",
    )


def _standard_error(values: list[float]) -> str:
    return f"{statistics.stdev(values) / len(values) ** 0.5:.2f}" if len(values) > 1 else "-"


if __name__ == "__main__":
    sys.exit(main())
