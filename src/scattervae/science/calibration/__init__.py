"""Calibration: whether what a model says of coefficients and latents holds the truth as often as it claims.

`coefficients` and `coverage` ask it of coefficients, `latents` of latents; `fit` makes a trained model say so more
truly, and `score` says how well a star is told, on one scale for bright stars and faint ones.
"""
