"""Variance explained against what was put in and against scikit-learn; latents of re-noised stars against widths."""

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.model_selection import KFold, cross_val_predict
from studies.brightness import brightness_explained, explained, shift_of_latents

from scattervae.errors import DataError
from scattervae.gaia.basis import g_flux_of
from scattervae.spectra.spectra import Spectra
from science.scatter.models import linear_model, stars_of
from science.toys import known_latents
from toy import toy_sky

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(1500, 3))
SIGNAL = np.sin(2.0 * FEATURES[:, 0]) + 0.5 * FEATURES[:, 1] * FEATURES[:, 2]


@pytest.mark.parametrize("share", [0.2, 0.8])
def test_it_finds_the_share_of_variance_that_was_put_in(share):
    noise = RNG.normal(size=len(SIGNAL)) * SIGNAL.std() * np.sqrt(1.0 / share - 1.0)
    found = explained(FEATURES, SIGNAL + noise)
    assert found.value == pytest.approx(share, abs=0.08)
    assert found.value < share + 0.04
    assert found.low < found.value < found.high
    assert found.high - found.low < 0.15


def test_it_does_no_worse_than_gradient_boosting():
    target = SIGNAL + 0.5 * RNG.normal(size=len(SIGNAL))
    parts = KFold(5, shuffle=True, random_state=0)
    predicted = cross_val_predict(HistGradientBoostingRegressor(random_state=0), FEATURES, target, cv=parts)
    theirs = 1.0 - ((target - predicted) ** 2).mean() / target.var()
    assert explained(FEATURES, target).value > theirs - 0.03


def test_features_that_know_nothing_explain_nothing():
    assert explained(FEATURES, RNG.normal(size=len(FEATURES))).value == pytest.approx(0.0, abs=0.08)


def test_units_of_a_feature_do_not_matter_and_a_constant_one_does_no_harm():
    found = explained(FEATURES, SIGNAL)
    scaled = np.column_stack([FEATURES * [1e3, 1e-3, 1.0] + 7.0, np.full(len(SIGNAL), 3.0)])
    assert explained(scaled, SIGNAL).value == pytest.approx(found.value, abs=0.01)


def test_too_few_stars_are_refused():
    with pytest.raises(DataError, match="150 stars with all features; at least 200"):
        explained(FEATURES[:150], SIGNAL[:150])


def test_latents_that_hold_brightness_are_separated_from_labels_that_do_not():
    """G follows from the first latent alone; labels and colour are another matter."""
    sky = toy_sky(500, seed=3)
    z = RNG.uniform(-1.0, 1.0, (500, 2))
    g_flux = np.asarray(g_flux_of(13.0 + 2.0 * z[:, 0]))
    coeffs = RNG.uniform(0.5, 1.5, (500, 11))
    coeffs[:, :2] = z
    coeffs[:, 0] = z[:, 0] + 2.0  # the colour takes logarithms
    spectra = Spectra.of(
        sky.spectra.source_id,
        coeffs * g_flux[:, None],
        0.1 * g_flux[:, None] * np.ones((500, 11)),
        basis=sky.spectra.basis,
        g_flux=g_flux,
    )
    found = brightness_explained(known_latents(spectra), spectra, sky.labels)
    assert set(found) == {"latents", "drawn latents", "labels and colour", "latents, labels and colour"}
    assert found["latents"].value > 0.95
    assert found["latents"].n_stars == 500
    spectra = Spectra.of(
        spectra.source_id,
        np.where(np.arange(11) == 0, RNG.uniform(1.0, 3.0, (500, 1)), coeffs) * g_flux[:, None],
        spectra.errors,
        basis=spectra.basis,
        g_flux=g_flux,
    )
    assert brightness_explained(known_latents(spectra), spectra, sky.labels)["labels and colour"].value < 0.2


def test_refined_latents_of_a_linear_model_stay_within_their_widths():
    model = linear_model()
    stars = stars_of(model, 1500)
    for factor in (1.0, 3.0):
        shift = shift_of_latents(model, stars, factor, refined=True)
        assert shift.n_stars == 1500
        assert shift.mahalanobis == pytest.approx(1.0, abs=0.1)
        assert shift.inside_68 == pytest.approx(0.683, abs=0.05)
        assert shift.inside_95 == pytest.approx(0.954, abs=0.03)
        assert all(inside == pytest.approx(0.683, abs=0.05) for inside in shift.inside_68_each)
        assert all(moved >= inside for moved, inside in zip(shift.moved, shift.inside_68_each, strict=True))
        assert all(after >= before for after, before in zip(shift.width, shift.width_before, strict=True))


def test_an_encoder_that_states_too_little_is_found_out():
    model = linear_model()  # as initialised: it does not know what it sees
    assert shift_of_latents(model, stars_of(model, 300), 1.0).moved == (1.0, 1.0)
    refined = shift_of_latents(model, stars_of(model, 300), 5.0, refined=True)
    assert refined.width[0] > 1.5 * refined.width_before[0]
