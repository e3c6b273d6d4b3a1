"""Unsupervised, generative models of Gaia's BP/RP spectra.

The rooms, in the order a star passes through them: `spectra`, `gaia`, `model`, `science`, `show`, `cli`.
"""

__version__ = "0.1.0"
