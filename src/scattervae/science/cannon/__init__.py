"""*The Cannon*: the supervised baseline and its fit.

It works in the scatter VAE's normalised units, so that likelihoods compare. It must not know of the network.
"""

from scattervae.science.cannon.model import Cannon, CannonSettings, labelled

__all__ = ["Cannon", "CannonSettings", "labelled"]
