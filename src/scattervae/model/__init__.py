"""The scatter variational auto-encoder: definition, objective, training, and the trained folder.

This room turns `Inputs` into latents, reconstructions and scatter. It must not know of Gaia's files, of
figures, or of what anybody asks of the stars.
"""

__all__ = [
    "checkpoint",
    "distributed",
    "flow",
    "loss",
    "network",
    "optimizers",
    "recipe",
    "run",
    "training_stars",
]
