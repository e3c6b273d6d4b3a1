"""The G flux of coefficients, corrected to the catalogue's."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from scattervae import load
from scattervae.gaia.basis import bp_rp_from_coeffs, g_flux_from_coeffs, g_mag_of
from scattervae.gaia.g_flux import catalogue_g_flux
from scattervae.spectra.spectra import Flag


def test_a_colour_is_of_no_brightness(formats):
    stars = load(formats / "XP_CONTINUOUS_RAW.csv").spectra
    assert np.isfinite(bp_rp_from_coeffs(stars)).all()
    twice = replace(stars, coeffs=2.0 * stars.coeffs)
    np.testing.assert_allclose(bp_rp_from_coeffs(twice), bp_rp_from_coeffs(stars), atol=1e-12)


def test_the_correction_is_small_and_has_no_jumps(shared_data):
    stars = load(shared_data / "field_stars.parquet").spectra
    off = np.asarray(g_mag_of(catalogue_g_flux(stars))) - np.asarray(g_mag_of(g_flux_from_coeffs(stars)))
    assert ((off > -0.001) & (off < 0.02)).all()
    brighter = replace(stars, coeffs=1.001 * stars.coeffs)
    np.testing.assert_allclose(catalogue_g_flux(brighter), 1.001 * catalogue_g_flux(stars), rtol=1e-5)


@pytest.mark.slow
def test_it_takes_the_offset_away_at_any_brightness_and_colour(yardstick):
    """Against the catalogue's own G of 39,851 real stars, the folds that the correction was not fitted to."""
    stars = load(yardstick).spectra
    stars = stars.take((stars.flags & np.uint16(Flag.BLENDED)) == 0)
    g, colour = np.asarray(g_mag_of(stars.g_flux)), bp_rp_from_coeffs(stars)
    off = np.asarray(g_mag_of(catalogue_g_flux(stars))) - g
    for values, edges in ((g, (5, 9, 10, 12, 13, 14, 15)), (colour, (0.0, 0.5, 0.8, 1.3, 2.0, 6.0))):
        for low, high in pairwise(edges):
            assert abs(np.median(off[(values >= low) & (values < high)])) < 0.001
