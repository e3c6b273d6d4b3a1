"""How well a Cannon predicts stars it has not seen, in the scores of the scatter VAE's `evaluation`."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from scattervae.arrays import Coeffs, PerStar, StarMask
from scattervae.errors import DataError
from scattervae.model.loss import loss_terms
from scattervae.model.network import Posterior
from scattervae.science.cannon.model import Cannon, labelled
from scattervae.science.paper.comparison import first_ten
from scattervae.spectra.spectra import Spectra
from scattervae.spectra.star_tables import LABEL_NAMES, StellarLabels
from studies.cannon_label_errors import predict


@dataclass(frozen=True)
class CannonScores:
    """Scores of a Cannon, star by star; lower is better.

    Attributes:
        scored: Which of the stars given were scored: the usable ones with every label.
        extrapolated: Which of the scored have labels outside the convex hull of the training labels.
        nll: Negative log-likelihood of each scored star in nats, summed over coefficients in training
            standard deviations, without the constant with ln 2 pi.
        normalised_errors: Of each scored star's coefficients.
        n_bp: How many of the coefficients are BP's.
    """

    scored: Bool[np.ndarray, " given"]
    extrapolated: StarMask
    nll: PerStar
    normalised_errors: Coeffs
    n_bp: int

    @property
    def mean_nll(self) -> float:
        return self.nll.mean().item()

    @property
    def median_nll(self) -> float:
        return float(np.median(self.nll.numpy()))

    @property
    def mean_abs_normalised_error(self) -> dict[str, float]:
        """Over the first ten coefficients of each band."""
        z = self.normalised_errors.abs()
        bands = {"bp10": slice(0, self.n_bp), "rp10": slice(self.n_bp, z.shape[1])}
        return {name: z[:, first_ten(band)].mean().item() for name, band in bands.items()}

    @property
    def share_beyond_5_sigma(self) -> float:
        """Of all coefficients of all scored stars."""
        return (self.normalised_errors.abs() > 5.0).double().mean().item()


def score(
    cannon: Cannon, spectra: Spectra, labels: StellarLabels, *, count_label_errors: bool = False
) -> CannonScores:
    """The Cannon's likelihood of these stars at their given labels.

    Args:
        cannon: The model.
        spectra: Stars, best of the test fold (`scattervae.seeds.folds`).
        labels: Labels of any stars, joined by source_id.
        count_label_errors: What the labels' errors add to the variance counts, as in `with_label_errors`.

    Raises:
        DataError: No star has every label, or the spectra are of another basis.

    Source:
        Laroche & Speagle (2023), eqs. 2-4, summed over coefficients, and sect. 3.
    """
    settings = cannon.settings
    labels = labels.aligned_to(spectra.source_id)
    scored = labelled(spectra, labels, settings)
    if not scored.any():
        raise DataError(
            f"none of {len(spectra)} stars is usable and has all of {', '.join(settings.labels)}: "
            "nothing to score the Cannon on"
        )
    inputs = cannon.normalization.apply(spectra.take(scored))
    x, errors = inputs.x.double(), inputs.errors.double()
    columns = [LABEL_NAMES.index(name) for name in settings.labels]
    values, label_errors = labels.values[scored][:, columns], labels.errors[scored][:, columns]
    predicted = predict(cannon, values, label_errors) if count_label_errors else cannon.predict(values)
    no_latents = Posterior(x[:, :0], x[:, :0])
    return CannonScores(
        scored=scored,
        extrapolated=cannon.label_range.outside(values),
        nll=loss_terms(x, errors, no_latents, predicted).nll,
        normalised_errors=predicted.normalised_errors(x, errors),
        n_bp=cannon.normalization.bp.stop,
    )
