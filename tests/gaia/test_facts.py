"""Magnitudes and fluxes of the G band are each other's inverse, with the zero point of Gaia's own tables."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from scattervae.gaia.basis import g_flux_of, g_mag_of


@given(st.floats(1.0, 24.0))
def test_a_magnitude_comes_back_from_its_flux(g_mag):
    np.testing.assert_allclose(g_mag_of(g_flux_of(g_mag)), g_mag, rtol=1e-12)


def test_a_flux_of_one_electron_a_second_has_the_zero_point_of_the_documentation():
    """Gaia DR3 documentation, cu5pho_ssec_photCal: VEGAMAG zero point of G, to its four published digits."""
    np.testing.assert_allclose(g_mag_of(1.0), 25.6874, atol=5e-5)


def test_a_flux_that_is_not_above_zero_has_no_finite_magnitude_and_warns_of_nothing():
    assert not np.isfinite(g_mag_of(np.array([0.0, -3.0, np.nan]))).any()
