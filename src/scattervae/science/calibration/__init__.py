"""Calibration: whether what a model says of coefficients and latents holds the truth as often as it claims.

`coverage` measures it on coefficients; `fit` makes the claims of a trained model true, with `widths` of its latents;
`score` is how well a star is reproduced, on one scale for bright stars and faint ones.
"""

__all__ = ["calibrated", "coverage", "fit", "widths"]
