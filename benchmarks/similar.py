"""How well stars of a hidden kind are found from a few examples: against two other methods on coefficients.

    python -m benchmarks.similar MODEL STORE [--json]

Five kinds among the stars that the model did not train on, by labels that no method sees, and carbon bands injected
into 2 % of them. From 1, 5, 20 and 100 examples the others are ranked: average precision, recall at 100 (share of
the first hundred, or of all where they are fewer), each the mean of five draws of examples. The other methods get
coefficients over G flux in units of the population's spread: distance to the nearest examples, and a logistic
classifier of examples against all (positive-unlabelled; Elkan & Noto 2008). The validation fold chooses their settings,
the test fold is scored. Ten minutes on two cores.
"""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from benchmarks.outliers import carbon_bands, with_flux
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.neighbors import NearestNeighbors

import scattervae as sv
from scattervae.gaia.flux import design
from scattervae.science.similar import Population, rank_features
from scattervae.science.star_parts import Features
from scattervae.seeds import numpy_stream
from scattervae.spectra.star_tables import StellarLabels

NUMBERS = (1, 5, 20, 100)
_DRAWS = 5
_FIRST = 100
_CARBON_SHARE, _CARBON_DEPTH = 0.02, 0.2
Scorer = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Hidden:
    """Stars of one fold, and the kinds that are hidden among them."""

    features: Features
    coeffs: np.ndarray
    kinds: dict[str, np.ndarray]

    @staticmethod
    def of(model: sv.TrainedModel, stars: sv.Spectra, labels: StellarLabels) -> "Hidden":
        carbon = numpy_stream(0, "similar benchmark").permutation(len(stars)) < _CARBON_SHARE * len(stars)
        rows = np.flatnonzero(carbon)
        grid = design(stars.basis)
        some = stars.take(rows)
        flux = np.clip(some.coeffs @ grid.matrix.T, 0.0, None)
        stars.coeffs[rows] = with_flux(some, -_CARBON_DEPTH * flux * carbon_bands(grid.grid_nm)).coeffs
        features = Features.concatenate(list(Features.of(model, [stars])))
        assert np.array_equal(features.source_id, stars.source_id)
        per_flux = stars.coeffs / stars.g_flux[:, None]
        teff, fe_h, alpha = labels["teff"], labels["fe_h"], labels["alpha_m"]
        kinds = {"metal-poor": fe_h < -1.2, "alpha-rich": alpha > 0.25, "very cool": teff < 3700}
        kinds |= {"hot": teff > 6500, "carbon bands": carbon}
        return Hidden(features, (per_flux - per_flux.mean(axis=0)) / per_flux.std(axis=0), kinds)


def methods(stars: Hidden) -> dict[str, list[Scorer]]:
    """Each method with its settings to choose from: rows of examples to a value a star, larger where more alike."""
    population = Population.of(stars.features)
    everything, n = stars.coeffs, len(stars.coeffs)

    def own(rows: np.ndarray) -> np.ndarray:
        ranked = rank_features(stars.features.take(rows), population, [stars.features], number=n)
        order = np.searchsorted(stars.features.source_id, ranked.stars.source_id, sorter=by_id)
        value = np.full(n, -np.inf)
        value[by_id[order]] = ranked.likeness.total
        return value

    def nearest(rows: np.ndarray, k: int) -> np.ndarray:
        k = min(k, len(rows))
        return -NearestNeighbors(n_neighbors=k).fit(everything[rows]).kneighbors(everything)[0].mean(axis=1)

    def classified(rows: np.ndarray, c: float) -> np.ndarray:
        truth = np.zeros(n)
        truth[rows] = 1
        classifier = LogisticRegression(C=c, class_weight="balanced", max_iter=300)
        return classifier.fit(everything, truth).decision_function(everything)

    by_id = np.argsort(stars.features.source_id)
    return {
        "scattervae": [own],
        "kNN": [lambda rows, k=k: nearest(rows, k) for k in (1, 5, 20)],
        "classifier": [lambda rows, c=c: classified(rows, c) for c in (1e-3, 1e-2, 1e-1, 1.0)],
    }


def draws(stars: Hidden) -> Iterator[tuple[str, int, int, np.ndarray]]:
    """Kind, number of examples, number of the draw, and the examples' rows."""
    for (kind, members), number, draw in product(stars.kinds.items(), NUMBERS, range(_DRAWS)):
        rows = np.flatnonzero(members)
        yield (
            kind,
            number,
            draw,
            numpy_stream(draw, kind, number).choice(rows, min(number, len(rows) // 2), replace=False),
        )


def scores(stars: Hidden, kind: str, rows: np.ndarray, value: np.ndarray) -> dict[str, float]:
    """How well the other stars of the kind are found."""
    others = np.setdiff1d(np.arange(len(value)), rows)
    truth, value = stars.kinds[kind][others], value[others]
    first = np.argsort(-value, kind="stable")[:_FIRST]
    return {
        "average_precision": float(average_precision_score(truth, value)),
        "recall_at_100": float(truth[first].sum() / min(_FIRST, truth.sum())),
    }


def measured(stars: Hidden, scorer: Scorer) -> list[dict[str, object]]:
    """A row a draw."""
    return [
        {"kind": kind, "n_examples": number, "draw": draw, **scores(stars, kind, rows, scorer(rows))}
        for kind, number, draw, rows in draws(stars)
    ]


def purities(stars: Hidden) -> list[dict[str, object]]:
    """The stated purity of the first hundred beside the true one."""
    population, found = Population.of(stars.features), []
    for kind, number, draw, rows in draws(stars):
        if number < 20:
            continue
        ranked = rank_features(stars.features.take(rows), population, [stars.features], number=_FIRST)
        members = stars.features.source_id[stars.kinds[kind]]
        true = float(np.isin(ranked.stars.source_id, members).mean())
        found.append(
            {
                "kind": kind,
                "n_examples": number,
                "draw": draw,
                "stated": float(ranked.purity[-1]),
                "true": true,
            }
        )
    return found


def main() -> None:
    """Choose the others' settings on the validation fold, score all on the test fold, and print a table or JSON."""
    model = sv.load_model(sys.argv[1])
    loaded = sv.load(Path(sys.argv[2]), basis=model.normalization.basis)
    usable = loaded.spectra.usable
    fold = sv.folds(loaded.spectra.source_id)
    validation, test = (
        Hidden.of(model, loaded.spectra.take(rows), loaded.labels.take(rows))
        for rows in (np.flatnonzero(usable & part) for part in (fold.validation, fold.test))
    )
    mean = {
        name: [np.mean([r["average_precision"] for r in measured(validation, one)]) for one in versions]
        for name, versions in methods(validation).items()
        if len(versions) > 1
    }
    rows = [
        {"method": name, **row}
        for name, versions in methods(test).items()
        for row in measured(test, versions[int(np.argmax(mean.get(name, [0.0])))])
    ]
    stated = purities(test)
    if "--json" in sys.argv:
        print(json.dumps({"rows": rows, "purity": stated, "validation": mean}, indent=2))
        return
    names = list(dict.fromkeys(row["method"] for row in rows))
    print(f"{len(test.coeffs)} stars ranked; average precision / recall at 100, means of {_DRAWS} draws (sd)")
    print("| kind | stars | examples |", " | ".join(names), "| stated purity / true |")
    print("|---" * (len(names) + 4) + "|")
    for kind, number in product(test.kinds, NUMBERS):
        cells = []
        for name in names:
            mine = [r for r in rows if (r["method"], r["kind"], r["n_examples"]) == (name, kind, number)]
            ap, recall = (np.array([r[k] for r in mine]) for k in ("average_precision", "recall_at_100"))
            cells.append(f"{ap.mean():.2f} ({ap.std():.2f}) / {recall.mean():.2f}")
        both = [r for r in stated if (r["kind"], r["n_examples"]) == (kind, number)]
        purity = (
            " / ".join(f"{np.mean([r[k] for r in both]):.2f}" for k in ("stated", "true")) if both else ""
        )
        print(f"| {kind} | {test.kinds[kind].sum()} | {number} |", " | ".join(cells), f"| {purity} |")


if __name__ == "__main__":
    main()
