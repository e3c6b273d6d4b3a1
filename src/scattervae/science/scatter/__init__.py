"""Scatter told apart: what the published errors should be multiplied by, and what scatter is the stars' own.

`separate_scatter` does it for a trained model and some stars; `separate` for residuals of any model.
"""
