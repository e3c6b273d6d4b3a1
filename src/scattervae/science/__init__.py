"""One file a question asked of stars and models: where they lie, how well models predict them, what else could be.

This room takes `Spectra` and a `Checkpoint` and gives tables and numbers. It must not know how they are drawn
or which command asked.
"""

__all__ = [
    "binaries",
    "calibration",
    "cannon",
    "catalogue",
    "crossmatch",
    "evaluation",
    "export",
    "generation",
    "labels",
    "latent_volume",
    "lists",
    "machine",
    "outliers",
    "paper",
    "relative",
    "scatter",
    "shipped",
    "similar",
    "star",
    "star_parts",
    "trained",
]
