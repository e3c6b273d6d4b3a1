"""Which G flux a star has: that of a table where it can be, else that of its coefficients; and light of neighbours."""

import logging
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from scattervae.arrays import CoeffArray, StarArray, StarMask
from scattervae.errors import DataError
from scattervae.gaia.basis import (
    bp_rp_from_coeffs,
    g_flux_error_from_coeffs,
    g_flux_from_coeffs,
    g_flux_of,
    g_mag_of,
    is_known,
    require_known,
)
from scattervae.gaia.facts import DR3_BASIS, G_LIMITS
from scattervae.spectra.spectra import Basis, Flag, GFluxSource, Spectra
from scattervae.spectra.star_tables import SourceColumns

logger = logging.getLogger(__name__)

TOO_BRIGHT, TOO_FAINT = 1.5, 3.0
"""A table's G that is brighter or fainter by so many magnitudes than that of the coefficients is taken for wrong. In
39,851 real stars it is brighter by 0.78 mag at most, by more than 0.2 in four; and fainter by 1.42 mag at most, since
light of a neighbour adds to the coefficients: that is a fact about the star, and stays."""
BLENDED_BY = 0.1
"""A spectrum that is brighter by so many magnitudes than its star in G holds light of a neighbour: 2.4 % of 39,851 real
stars, 97 % of them with an excess factor off by more than five standard deviations."""
N_SIGMA = 5.0
"""So far may the G flux of the coefficients be off by their own errors, before the magnitudes count."""


BY_G = (
    (7.5, 9.0, 10.0, 11.0, 12.0, 13.0, 15.0),
    (-0.0136, -0.0091, -0.0038, -0.0044, -0.0037, -0.0030, -0.0028),
)
BY_COLOUR = (0.0, 0.4, 0.8, 1.1, 1.5, 2.0, 3.0), (-0.0048, -0.0020, 0.0001, 0.0, 0.0010, 0.0009, 0.0036)
"""G of the coefficients minus G of the catalogue [mag]: the sum of what these say at its G and at its BP - RP, in
straight lines between knots and constant outside.

Source:
    Least squares on the training fold of the demo's stars, blends and outliers left out, by ``studies.g_correction``.
"""


def is_corrected(basis: Basis) -> bool:
    """True for DR3's basis, which the correction was fitted in."""
    return require_known(basis).basis == DR3_BASIS


def catalogue_g_flux(spectra: Spectra) -> StarArray:
    """Mean G flux [electron/s] as the catalogue would have it, from the coefficients; NaN where one is missing.

    `g_flux_from_coeffs`, corrected by `BY_G` and `BY_COLOUR` where the basis is DR3's: then right to 0.001 mag in the
    median at any G from 5 to 15 and any colour, with a spread of 0.0036 mag.

    Raises:
        DataError: The basis is not one that GaiaXPy knows.
    """
    flux = g_flux_from_coeffs(spectra)
    if not is_corrected(spectra.basis):
        return flux
    by_colour = np.interp(bp_rp_from_coeffs(spectra), *BY_COLOUR)
    too_bright = np.nan_to_num(np.interp(g_mag_of(flux), *BY_G)) + np.nan_to_num(by_colour)
    return np.asarray(flux * 10 ** (0.4 * too_bright))


def scale_to(g_flux: StarArray, coeffs: CoeffArray, basis: Basis) -> Float[np.ndarray, "star 1"]:
    """What makes mean spectra integrate to their G flux; 1 where that cannot be computed."""
    if not is_known(basis):
        return np.ones((len(coeffs), 1))
    ids = np.arange(1, len(coeffs) + 1)
    scale, spectra = np.ones(len(coeffs)), Spectra.of(ids, coeffs, np.ones_like(coeffs), basis=basis)
    for _ in range(2):  # the correction depends a little on G
        scaled = replace(spectra, coeffs=scale[:, None] * coeffs)
        with np.errstate(divide="ignore", invalid="ignore"):
            scale = scale * g_flux / catalogue_g_flux(scaled)
        scale = np.where(np.isfinite(scale) & (scale > 0), scale, 1.0)
    return np.asarray(scale[:, None])


@dataclass
class GFluxes:
    """Decides on the G flux of all chunks of a file, and counts what was refused."""

    where: str  # name of the file, for messages
    n_stars: int = 0  # stars so far
    n_refused: int = 0  # how many of them had a G flux in a table that was not believed
    n_unknown: int = 0  # how many of those have none now, since their coefficients give none

    def of(self, spectra: Spectra, sources: SourceColumns | None = None) -> Spectra:
        """The same stars, with the G flux of their coefficients where the table has none or a wrong one.

        A star is flagged as blended where either G says so or the excess factor that `sources` has of it.

        Raises:
            DataError: No star has a G flux, and no flux can be computed from coefficients of this basis.
        """
        in_table = spectra.g_flux_source == GFluxSource.TABLE
        try:
            require_known(spectra.basis)
        except DataError as error:
            wrong = in_table & ~_plausible(spectra.g_flux)
            stars = spectra.without_g_flux(wrong)
            self._require_some(stars, error)
        else:
            computed = catalogue_g_flux(spectra)
            reach = N_SIGMA * g_flux_error_from_coeffs(spectra)
            wrong = in_table & (~_plausible(spectra.g_flux) | _contradicted(spectra, computed, reach))
            blended = in_table & ~wrong & (computed - reach > spectra.g_flux * 10 ** (0.4 * BLENDED_BY))
            stars = (
                _with_blends(spectra, blended)
                .without_g_flux(wrong)
                .with_g_flux(computed, GFluxSource.COEFFICIENTS)
            )
        if sources is not None and set(_EXCESS_COLUMNS) <= set(sources.values):
            stars = _with_blends(stars, has_excess(sources.aligned_to(spectra.source_id)))
        self.n_stars += len(spectra)
        self.n_refused += int(wrong.sum())
        self.n_unknown += int((wrong & (stars.g_flux_source == GFluxSource.NONE)).sum())
        return stars

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


def _contradicted(spectra: Spectra, computed: StarArray, reach: StarArray) -> StarMask:
    """True where the table's G flux lies beyond `TOO_BRIGHT` or `TOO_FAINT` of the computed one and its errors."""
    low, high = (computed - reach) * 10 ** (-0.4 * TOO_FAINT), (computed + reach) * 10 ** (0.4 * TOO_BRIGHT)
    with np.errstate(invalid="ignore"):
        contradicted: StarMask = (spectra.g_flux < low) | (spectra.g_flux > high)
    return contradicted


def _with_blends(spectra: Spectra, blended: StarMask) -> Spectra:
    return spectra.with_flags(np.where(blended, Flag.BLENDED, 0).astype(np.uint16))


_EXCESS_COLUMNS = ("phot_bp_rp_excess_factor", "bp_rp", "phot_g_mean_mag")


def has_excess(sources: SourceColumns) -> StarMask:
    """True where BP and RP have more flux than G allows: light of a neighbour within their wider windows.

    The excess factor over that of single stars of the same colour is above 0.1 mag and five standard deviations.

    Source:
        Riello et al. (2021), arXiv:2012.01916, table 2 and eqs. 6 and 18.
    """
    factor, x, g_mag = (sources.values[name] for name in _EXCESS_COLUMNS)
    usual = np.select(
        [x < 0.5, x < 4.0],
        [
            np.polyval((0.032277, 0.033772, 1.154360), x),
            np.polyval((-0.005879, 0.049255, 0.011464, 1.162004), x),
        ],
        np.polyval((0.140537, 1.057572), x),
    )
    sigma = 0.0059898 + 8.817481e-12 * g_mag**7.618399
    with np.errstate(invalid="ignore"):
        excess: StarMask = (factor > usual * 10 ** (0.4 * BLENDED_BY)) & (factor - usual > N_SIGMA * sigma)
    return excess
