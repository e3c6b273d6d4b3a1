"""Measurement error and the stars' own scatter, separated from squared residuals of many stars."""

__all__ = ["parts"]
