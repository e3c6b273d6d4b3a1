"""The G flux of stars: that of the table where the coefficients allow it, else that of the coefficients."""

import logging
from dataclasses import dataclass

import numpy as np

from scattervae.arrays import StarArray, StarMask
from scattervae.errors import DataError
from scattervae.gaia.basis import g_flux_error_from_coeffs, g_flux_from_coeffs, require_known
from scattervae.gaia.facts import G_LIMITS, g_flux_of
from scattervae.spectra.flags import GFluxSource
from scattervae.spectra.spectra import Spectra

logger = logging.getLogger(__name__)

TOO_BRIGHT, TOO_FAINT = 1.5, 3.0
"""A table's G that is brighter or fainter by so many magnitudes than that of the coefficients is taken for wrong. In
39,851 real stars it is brighter by 0.78 mag at most, by more than 0.2 in four; and fainter by 1.42 mag at most, since
light of a neighbour adds to the coefficients: that is a fact about the star, and stays."""
N_SIGMA = 5.0
"""So far may the G flux of the coefficients be off by their own errors, before the magnitudes count."""


@dataclass
class GFluxes:
    """Settles the G flux of all chunks of a file, and counts what was refused.

    Attributes:
        where: Name of the file, for messages.
        n_stars: Stars so far.
        n_refused: How many of them had a G flux in a table that was not believed.
        n_unknown: How many of those have none now, since their coefficients give none.
    """

    where: str
    n_stars: int = 0
    n_refused: int = 0
    n_unknown: int = 0

    def of(self, spectra: Spectra) -> Spectra:
        """The same stars, with the G flux of their coefficients where the table has none or a wrong one.

        Raises:
            DataError: No star has a G flux, and no flux can be computed from coefficients of this basis.
        """
        in_table = spectra.g_flux_source == GFluxSource.TABLE
        try:
            require_known(spectra.basis)
        except DataError as error:
            wrong = in_table & ~_plausible(spectra.g_flux)
            settled = spectra.without_g_flux(wrong)
            self._require_some(settled, error)
        else:
            computed = g_flux_from_coeffs(spectra)
            wrong = in_table & (~_plausible(spectra.g_flux) | _contradicted(spectra, computed))
            settled = spectra.without_g_flux(wrong).with_g_flux(computed, GFluxSource.COEFFICIENTS)
        self.n_stars += len(spectra)
        self.n_refused += int(wrong.sum())
        self.n_unknown += int((wrong & (settled.g_flux_source == GFluxSource.NONE)).sum())
        return settled

    def warn(self) -> None:
        """Say once, after the last chunk, how many stars had a G flux that cannot be."""
        if self.n_refused:
            logger.warning(
                "%s: %d of %d stars have a G flux or magnitude that their coefficients or Gaia's range (G %g to %g) "
                "contradict; %d take that of their coefficients, %d are flagged NO_G_FLUX",
                self.where,
                self.n_refused,
                self.n_stars,
                *G_LIMITS,
                self.n_refused - self.n_unknown,
                self.n_unknown,
            )

    def _require_some(self, spectra: Spectra, error: DataError) -> None:
        """Refuse stars that all lack a G flux, and say how many do."""
        unknown = spectra.g_flux_source == GFluxSource.NONE
        if unknown.all() and len(spectra):
            raise DataError(f"{self.where}: {error}; give phot_g_mean_flux in the table") from None
        if unknown.any():
            logger.warning(
                "%s: %d of %d stars are flagged: they have no G flux in the table, and %s",
                self.where,
                int(unknown.sum()),
                len(spectra),
                error,
            )


def _plausible(g_flux: StarArray) -> StarMask:
    """True where a star of Gaia's can have this G flux; for the bases that give none, this is all that is known."""
    faintest, brightest = g_flux_of(G_LIMITS[1]), g_flux_of(G_LIMITS[0])
    plausible: StarMask = (g_flux >= faintest) & (g_flux <= brightest)
    return plausible


def _contradicted(spectra: Spectra, computed: StarArray) -> StarMask:
    """True where the table's G flux lies beyond `TOO_BRIGHT` or `TOO_FAINT` of the computed one and its errors."""
    reach = N_SIGMA * g_flux_error_from_coeffs(spectra)
    low, high = (computed - reach) * 10 ** (-0.4 * TOO_FAINT), (computed + reach) * 10 ** (0.4 * TOO_BRIGHT)
    with np.errstate(invalid="ignore"):
        contradicted: StarMask = (spectra.g_flux < low) | (spectra.g_flux > high)
    return contradicted
