"""Injected factors recovered from stars of a known model."""

import numpy as np
import pytest

from scattervae.errors import DataError
from scattervae.gaia.facts import G_ZERO_POINT
from scattervae.science.scatter.parts import OrderGroup, ScatterSettings, order_groups, separate_scatter
from scattervae.spectra.normalization import Normalization
from scattervae.spectra.spectra import Basis, Spectra
from science.scatter.models import N, linear_model, stars_of

G_EDGES = (10.0, 11.5, 13.0, 15.0)
SETTINGS = ScatterSettings(g_edges=G_EDGES, order_edges=(4,), n_types=1, rounds=2)


def g_of(spectra: Spectra) -> np.ndarray:
    return G_ZERO_POINT - 2.5 * np.log10(spectra.g_flux)


def spoilt(model, n, k_of_g, a):
    """Stars whose errors are too small by a factor that depends on G, more so in the first four orders."""
    clean = stars_of(model, n)
    of_star = np.asarray(k_of_g)[np.digitize(g_of(clean), G_EDGES[1:-1])]
    low = np.isin(np.arange(N), (0, 1, 2, 3, 8, 9, 10, 11))
    return stars_of(
        model, n, k=np.where(low[None], of_star[:, None], 1.0 + 0.5 * (of_star[:, None] - 1.0)), a=a
    )


@pytest.mark.parametrize("swell", [0.0, 0.3])
def test_injected_factors_are_recovered_within_their_stated_errors(swell):
    model = linear_model(swell=swell)
    k, a = np.array([2.5, 1.8, 1.2]), 0.7
    found = separate_scatter(model, spoilt(model, 2000, k, a), settings=SETTINGS)
    truth = np.stack([k, 1.0 + 0.5 * (k - 1.0)] * 2)
    away = (found.separation.error.squared - truth**2) / found.separation.error.sd
    assert np.abs(away).max() < 4.0
    assert np.sqrt((away**2).mean()) < 2.0
    own = found.separation.own
    assert (np.abs(own.squared - a**2) < 4 * own.sd).all()
    np.testing.assert_allclose(own.value, a, rtol=0.15)
    assert [str(group) for group in found.groups] == ["BP 1-4", "BP 5-8", "RP 1-4", "RP 5-7"]


def test_where_the_errors_are_right_nothing_is_found():
    model = linear_model()
    found = separate_scatter(model, stars_of(model, 1500), settings=SETTINGS)
    error, own = found.separation.error, found.separation.own
    assert (np.abs(error.squared - 1.0) < 4 * error.sd).all()
    assert (np.abs(own.squared - 1.0) < 4 * own.sd).all()
    np.testing.assert_allclose(found.spread, 1.0, atol=0.06)
    assert ((found.error_share > 0) & (found.error_share < 1)).all()
    assert found.n_stars.sum() == found.n_usable == 1500


def test_types_have_their_own_factors():
    model = linear_model()
    found = separate_scatter(
        model, stars_of(model, 600), settings=SETTINGS.model_copy(update={"n_types": 3, "rounds": 1})
    )
    assert found.separation.own.squared.shape == (4, 3)
    again = separate_scatter(
        model, stars_of(model, 600), settings=SETTINGS.model_copy(update={"n_types": 3, "rounds": 1})
    )
    np.testing.assert_array_equal(found.separation.own.squared, again.separation.own.squared)


def test_bins_of_too_few_stars_are_left_out_and_none_at_all_is_refused():
    model = linear_model()
    stars = stars_of(model, 400)
    few = stars.take(g_of(stars) > 11.4)
    found = separate_scatter(model, few, settings=SETTINGS)
    assert np.isnan(found.separation.error.squared[:, 0]).all()
    assert np.isfinite(found.separation.error.squared[:, 1:]).all()
    assert np.isnan(found.median_g[0])
    assert np.isfinite(found.separation.own.squared).all()
    with pytest.raises(DataError, match="20 stars: fewer than 50 in every bin of G"):
        separate_scatter(model, stars.take(slice(0, 20)), settings=SETTINGS)


def test_groups_follow_the_bands_and_the_coefficients_that_a_model_uses():
    columns = np.r_[0:12, 20:27]
    normalization = Normalization(Basis(20, 20), columns, np.zeros(19), np.ones(19), 1, 1)
    groups, of_coeff = order_groups(normalization, (5, 10, 20))
    assert groups == (
        OrderGroup("bp", 1, 5),
        OrderGroup("bp", 6, 10),
        OrderGroup("bp", 11, 12),
        OrderGroup("rp", 1, 5),
        OrderGroup("rp", 6, 7),
    )
    assert of_coeff.tolist() == [0] * 5 + [1] * 5 + [2] * 2 + [3] * 5 + [4] * 2
