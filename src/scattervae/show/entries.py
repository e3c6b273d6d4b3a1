"""What can be drawn, in words: each figure's title, the paper's figure it answers, its caption, its needs.

No drawing here, so that a command can list the figures without loading what draws them.
"""

from dataclasses import dataclass
from enum import StrEnum


class Need(StrEnum):
    """A field of `FigureData` that not every figure needs."""

    CANNON = "cannon"
    UNLABELLED = "unlabelled"
    COVERAGE = "coverage"
    HELD_OUT = "held_out"


@dataclass(frozen=True)
class Entry:
    """One figure that can be asked for by name, in words.

    Attributes:
        title: What it shows, in a line.
        answers: The figure or section of Laroche & Speagle (2023) that it answers.
        caption: What each mark in it means.
        needs: It cannot be drawn without these.
        shows: It shows these too where they are there.
    """

    title: str
    answers: str
    caption: str
    needs: frozenset[Need] = frozenset()
    shows: frozenset[Need] = frozenset()


ENTRIES = {
    "architecture": Entry(
        title="The scatter VAE with an example spectrum, and The Cannon on the same star",
        answers="fig. 1",
        caption="Top: the network; the height of a bar is the logarithm of its number of units. Left, the observed "
        "coefficients that go in; right, the reconstruction and the scatter that come out, with the star's "
        "measurement errors in grey. Below: the same coefficients against both models. Amplitudes are on a "
        "symmetric-log axis; bars on the observed values are measurement errors, bars on a model's are its scatter "
        "and the measurement error in quadrature. Then errors and scatter by themselves, and what is left of "
        "each coefficient over both in quadrature, with one standard deviation shaded.",
        needs=frozenset({Need.CANNON}),
    ),
    "normalised_errors": Entry(
        title="Normalised errors of the 3rd BP and RP coefficient against Teff, log g and [Fe/H]",
        answers="fig. 2",
        caption="Usable test stars that have all three labels, the same for every model. Errors are residuals over "
        "measurement error and scatter in quadrature; the axis is linear within 5 sigma (dotted) and logarithmic "
        "beyond. Grey: density of stars, on a logarithmic scale. Green circles: cool stars; orange triangles: low "
        "gravity. Purple: the most common value at each label. Bottom: scatter of each star, the mode of its "
        "logarithm in purple, and the Cannon's one value for all stars in black.",
        needs=frozenset({Need.CANNON}),
    ),
    "coverage": Entry(
        title="Labelled and unlabelled stars in the latent space, and the volume each occupies",
        answers="fig. 3",
        caption="Pairs of the most informative active latents; contours enclose 50 and 90 % of the stars of each "
        "set. Cells, drawn for as many stars of each set (a subsample of the larger), are orange where only "
        "labelled stars fall, blue where only unlabelled ones do, grey where both do. Volumes against the number of "
        "stars, where given: (V_unsup - V_sup) / V_sup at equal numbers, with 95 % intervals. The paper "
        "has about +30 % for a million unlabelled stars, against all labelled ones.",
        needs=frozenset({Need.UNLABELLED}),
        shows=frozenset({Need.COVERAGE}),
    ),
    "star": Entry(
        title="One star's coefficients and flux with reconstruction, scatter and measurement errors",
        answers="fig. 1, without the schematic of the network",
        caption="Coefficients of one star as each model tells them, on a symmetric-log axis; errors and scatter; "
        "normalised residuals; and, where the basis functions are known, the same in flux against wavelength.",
    ),
    "training": Entry(
        title="Training curves: negative ELBO, its terms and the learning rate",
        answers="no figure; sect. 2.3 and eqs. 1-5",
        caption="Every model in the same units, whatever it minimises. Open markers: the negative evidence lower "
        "bound of stars that the model has not seen. Dotted: half the number of coefficients, where the chi^2 term "
        "ends if residuals are as large as errors and scatter say.",
        shows=frozenset({Need.HELD_OUT}),
    ),
    "latents": Entry(
        title="The latent space coloured by Teff, log g and [Fe/H]",
        answers="fig. 3, with labels in place of unlabelled stars",
        caption="Posterior means of all stars in the most informative pairs of latents. Hexagons have the mean "
        "label of their stars, which no model was given; light grey where no star has the label.",
    ),
    "calibration": Entry(
        title="Coverage of coefficients by G, order and colour, and their probability integral transforms",
        answers="no figure; sect. 3, first point",
        caption="Usable test stars, at most 2,000. Pooled are the coefficients whose median scatter exceeds their "
        "error; those in the panel of orders are all. Filled: the share inside one sigma, open: inside two, grey: "
        "nominal, within 2 %. Hidden: a random tenth of each star's coefficients, predicted from the others. At a "
        "draw: of latents that the whole star gives. At the posterior mean the star's own noise has chosen the "
        "latents, and shares are too high. With no scatter at all: where this lies above nominal, the published "
        "errors are too large.",
    ),
}
