"""*The Cannon*: the supervised baseline, its fit, and labels inferred with it.

It works in the scatter VAE's normalised units, so that likelihoods compare. It must not know of the network.
"""

from scattervae.science.cannon.labels import InferredLabels, infer_labels
from scattervae.science.cannon.model import Cannon, CannonSettings, labelled

__all__ = ["Cannon", "CannonSettings", "InferredLabels", "infer_labels", "labelled"]
