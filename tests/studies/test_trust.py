"""The stars that the tables of trust are made of."""

import numpy as np
from studies.trust import FEWEST, bins_of_g, made_fainter

from toy import DR3, toy_sky, with_own_g


def test_fainter_stars_are_as_noisy_as_their_errors_say():
    stars = toy_sky(400, n_latent=3).spectra
    fainter = made_fainter(stars, 5.0)
    np.testing.assert_allclose(fainter.errors, 5.0 * stars.errors, rtol=1e-6)
    added = (fainter.coeffs - stars.coeffs) / stars.errors
    np.testing.assert_allclose(added.std(), np.sqrt(24.0), rtol=0.02)
    np.testing.assert_array_equal(made_fainter(stars, 1.0).coeffs, stars.coeffs)


def test_bins_of_g_have_stars_enough_and_the_last_has_all():
    stars = with_own_g(toy_sky(400, basis=DR3, n_latent=3).spectra)
    *bins, (name, every) = bins_of_g(stars)
    assert name == "all"
    assert every.all()
    assert all(here.sum() >= FEWEST for _, here in bins)
