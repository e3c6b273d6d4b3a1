"""How two populations differ: matched or not, in the latent space, in coefficients and in flux.

Findings hold a chosen false-discovery rate. It must not know what the populations are.
"""

from scattervae.science.relative.contrast import Contrast, Significance
from scattervae.science.relative.differences import (
    Comparison,
    coefficient_difference,
    compare_sets,
    decoded_shapes,
    flux_difference,
    latent_difference,
    observed_shapes,
)
from scattervae.science.relative.matching import Matched, covariates_of, groups_of, match

__all__ = [
    "Comparison",
    "Contrast",
    "Matched",
    "Significance",
    "coefficient_difference",
    "compare_sets",
    "covariates_of",
    "decoded_shapes",
    "flux_difference",
    "groups_of",
    "latent_difference",
    "match",
    "observed_shapes",
]
