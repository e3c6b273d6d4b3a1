"""Residuals of coefficients that had no say in their own prediction, with all that their variance is made of."""

from dataclasses import dataclass, fields

import numpy as np

from scattervae.arrays import CoeffArray


@dataclass(frozen=True)
class Residuals:
    """Coefficients less what a model expected, in training standard deviations; NaN where it was not asked.

    Attributes:
        residuals: Observed less expected at the mean of the latents given the other coefficients.
        errors: Published errors of the coefficients.
        scatter: The model's scatter, root mean square over the latents' posterior.
        latent_variance: What the latents' posterior adds to the squared residual.
    """

    residuals: CoeffArray
    errors: CoeffArray
    scatter: CoeffArray
    latent_variance: CoeffArray

    @property
    def variance(self) -> CoeffArray:
        """Of the residuals, as the model has it: errors as published, its own scatter, and the latents."""
        variance: CoeffArray = self.errors**2 + self.scatter**2 + self.latent_variance
        return variance

    @property
    def normalised(self) -> CoeffArray:
        """Residuals over their expected standard deviation; standard normal where model and errors are right."""
        values: CoeffArray = self.residuals / np.sqrt(self.variance)
        return values

    def take(self, stars: np.ndarray | slice) -> "Residuals":
        """The same of these stars: a mask, indices or a slice."""
        return Residuals(*(getattr(self, field.name)[stars] for field in fields(self)))
