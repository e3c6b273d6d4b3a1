"""Bases that GaiaXPy knows, and the G flux of coefficients, corrected to the catalogue's."""

import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from scattervae import load
from scattervae.errors import DataError
from scattervae.gaia.basis import (
    bp_rp_from_coeffs,
    catalogue_g_flux,
    g_flux_from_coeffs,
    g_mag_of,
    known_bases,
    require_known,
)
from scattervae.gaia.facts import DR3_BASIS
from scattervae.gaia.flux import flux_from_coeffs, sample_flux
from scattervae.spectra.spectra import Basis, Flag, Spectra


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


@pytest.mark.parametrize("basis", [Basis(51, 55), Basis(55, 55, 1, 57), Basis(55, 55, 56, 2)])
def test_an_unknown_basis_is_one_line(basis):
    zeros = np.ones((1, basis.n_coeffs))
    spectra = Spectra.of(np.array([1]), zeros, zeros, basis=basis)
    for function in (sample_flux, g_flux_from_coeffs):
        with pytest.raises(DataError, match="GaiaXPy knows only 55 BP") as caught:
            function(spectra)
        assert "\n" not in str(caught.value)
    assert require_known(Basis(55, 55)) == DR3_BASIS
    with pytest.raises(DataError, match="3 coefficients per star; expected 55 BP"):
        flux_from_coeffs(np.ones((1, 3)), np.ones((1, 3)))


def test_two_bases_of_one_size_are_separated_by_their_ids_only(other_basis, monkeypatch):
    from scattervae.gaia import basis

    twin = Basis(55, 55, 66, 67)
    monkeypatch.setattr(basis, "known_bases", lambda: {**known_bases(), twin: "v375wiv142r"})
    assert require_known(twin) is twin
    assert require_known(Basis(51, 55)) == other_basis
    with pytest.raises(DataError, match=r"without basis ids: GaiaXPy knows .*56.* and .*66"):
        require_known(Basis(55, 55))


def test_importing_gaiaxpy_leaves_the_process_as_it_was():
    """Its import sets LaTeX text in matplotlib and ignores RuntimeWarning; users rely on neither."""
    script = (
        "import warnings, matplotlib; before = dict(matplotlib.rcParams)\n"
        "from scattervae.gaia.transport import archive_design; archive_design()\n"
        "assert before == dict(matplotlib.rcParams)\n"
        "assert not any(f[0] == 'ignore' and f[2] is RuntimeWarning for f in warnings.filters)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
