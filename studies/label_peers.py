"""Labels beside other methods on the same stars: spread, RMSE and coverage of each label, with bootstrap intervals.

    python -m studies.label_peers MODEL STARS [FOLD [OTHER]]

MODEL predicts labels and was trained without the fold: validation, or test for the last word. Beside it are
scikit-learn's boosted trees and the mean of the 20 nearest labelled stars, both on normalised coefficients, and OTHER,
a model whose labels it is to be compared with. Ratios are of MODEL over each, from a paired bootstrap over stars.
"""

import numpy as np
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.neighbors import KNeighborsRegressor

import scattervae as sv
from scattervae.science.labels.model import label_stars
from scattervae.science.labels.targets import TargetLabels
from scattervae.science.trained import labels_of
from studies import arguments
from studies.label_bins import N_NEAREST, asked_and_seen
from studies.label_scores import Comparison, compare, coverage, interval_of
from studies.trust import print_header, print_row

OWN = "the model"


def main() -> None:
    path, source, *more = arguments(__doc__, 2)
    model, stars = sv.load_model(path), sv.load(source)
    labels = labels_of(model)
    (asked, known), (seen, labelled) = asked_and_seen(stars, labels.names, *more[:1])
    answers = {OWN: label_stars(model, labels, asked)}
    if more[1:]:
        other = sv.load_model(more[1])
        answers[f"the labels of {more[1]}"] = label_stars(other, labels_of(other), asked)
    x, asked_x = (model.normalization.apply(some).x.numpy() for some in (seen, asked))
    print_header(
        f"{len(asked):,} stars: spread and RMSE with 95 % intervals; inside 68, 95 %; ratios of the model to others",
        ("label", "stars", "method", "spread", "RMSE", "inside [%]", "ratio of spread", "ratio of RMSE"),
    )
    for index, name in enumerate(labels.names):
        truth, has = known.values[:, index], np.isfinite(labelled.values[:, index])
        methods = {"boosted trees": HistGradientBoostingRegressor(random_state=0)}
        methods |= {f"{N_NEAREST} nearest stars": KNeighborsRegressor(N_NEAREST)}
        predicted, inside = {}, {}
        for title, answer in answers.items():
            if name in answer.names:
                predicted[title] = answer[name]
                own = TargetLabels.of(stars.labels.aligned_to(asked.source_id), answer.names)
                share, column = coverage(answer, own), answer.names.index(name)
                inside[title] = f"{100 * share.inside_68[column]:.1f}, {100 * share.inside_95[column]:.1f}"
        for title, method in methods.items():
            predicted[title] = method.fit(x[has], labelled.values[has, index]).predict(asked_x)
        for title, values in predicted.items():
            measures = ("spread", "rmse")
            numbers = [shown(interval_of(values, truth, measure=m)) for m in measures]
            ratios = ["-", "-"]
            if title != OWN:
                ratios = [shown(compare(predicted[OWN], values, truth, measure=m)) for m in measures]
            n = f"{np.isfinite(truth).sum():,}"
            print_row(name, n, title, *numbers, inside.get(title, "-"), *ratios)


def shown(found: Comparison) -> str:
    """A number with its interval."""
    return f"{found.ratio:.3g} ({found.low:.3g} to {found.high:.3g})"


if __name__ == "__main__":
    main()
