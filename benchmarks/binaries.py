"""How well a second star in a spectrum is found: real stars as they are, and mixed with one another.

    python -m benchmarks.binaries MODEL STARS [--json]

Stars of STARS that the model did not train on are taken for single; each is mixed with another, drawn at random, so
that the second has a tenth, a quarter or half of the flux: luminosity ratios in G of 9, 3 and 1. AUC by evidence and by
probability, share found at 5 % false alarms, for all and for thirds of the pairs by how much they differ in colour, the
median of the fitted share, and how often single stars are called double. Five minutes on two cores for 250 stars.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

import scattervae as sv
from scattervae.science.binaries import BinaryColumns, find_binaries
from scattervae.seeds import numpy_stream

SHARES = (0.1, 0.25, 0.5)
_FALSE_ALARMS = 0.05
_LEVELS = (0.1, 0.2, 0.3, 0.5)


def main() -> None:
    """Mix, fit, and print a table or JSON."""
    model = sv.load_model(sys.argv[1])
    stars = sv.load(Path(sys.argv[2]), basis=model.normalization.basis).spectra
    stars = stars.take(stars.usable & ~sv.folds(stars.source_id).train)
    draw = numpy_stream(0, "binaries benchmark")
    other = draw.permutation(len(stars))
    bp, rp = (stars.coeffs[:, band.start] for band in (stars.basis.bp, stars.basis.rp))
    colour = -2.5 * np.log10(bp / rp)
    apart = np.abs(colour - colour[other])
    mixed = []
    for share in SHARES:
        ratio = (stars.g_flux / stars.g_flux[other])[:, None]
        coeffs = (1 - share) * stars.coeffs + share * stars.coeffs[other] * ratio
        noise = np.sqrt(1 - (1 - share) ** 2 - share**2)  # both had their own
        coeffs += noise * stars.errors * draw.normal(size=coeffs.shape)
        mixed.append(replace(stars, coeffs=coeffs))
    found = find_binaries(
        model, [stars, *mixed]
    )  # together: a probability belongs to the stars it is calibrated on
    single, *pairs = (
        BinaryColumns(*(values[i * len(stars) : (i + 1) * len(stars)] for values in found))
        for i in range(len(SHARES) + 1)
    )
    edges = np.quantile(apart, (1 / 3, 2 / 3))
    third = np.searchsorted(edges, apart)
    by_colour = {"all": np.ones(len(apart), dtype=bool)}
    for index, name in enumerate(("< {0:.2f}", "{0:.2f} to {1:.2f}", "> {1:.2f}")):
        by_colour[name.format(*edges)] = third == index
    rows = [
        {"share": share, "pairs": name, **scores(single, of_share, chosen)}
        for share, of_share in zip(SHARES, pairs, strict=True)
        for name, chosen in by_colour.items()
    ]
    alarms = {f"{level:g}": float((single.probability > level).mean()) for level in _LEVELS}
    if "--json" in sys.argv:
        print(json.dumps({"n_stars": len(stars), "false_alarms": alarms, "rows": rows}, indent=2))
        return
    print(f"{len(stars)} stars; share of single ones with a probability above: {alarms}")
    print(
        "| share | colours differ [mag] | AUC by evidence | by probability | found at 5 % | likely | fitted share |"
    )
    for r in rows:
        print(
            f"| {r['share']} | {r['pairs']} | {r['auc_evidence']:.2f} | {r['auc_probability']:.2f} "
            f"| {r['found']:.2f} | {r['likely']:.2f} | {r['fitted_share']:.2f} |"
        )


def scores(single: BinaryColumns, pairs: BinaryColumns, chosen: np.ndarray) -> dict[str, float]:
    """How well these pairs are set apart from all single stars."""
    truth = np.repeat([0, 1], [len(single.evidence), chosen.sum()])

    def auc(name: str) -> float:
        values = np.r_[getattr(single, name), getattr(pairs, name)[chosen]]
        return float(roc_auc_score(truth, values))

    threshold = np.quantile(single.evidence, 1 - _FALSE_ALARMS)
    return {
        "auc_evidence": auc("evidence"),
        "auc_probability": auc("probability"),
        "found": float((pairs.evidence[chosen] > threshold).mean()),
        "likely": float((pairs.probability[chosen] > 0.5).mean()),
        "fitted_share": float(np.median(pairs.share[chosen])),
    }


if __name__ == "__main__":
    main()
