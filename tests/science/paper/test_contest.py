"""Who is compared with whom, and on which stars; the Cannon's side against scikit-learn and SciPy."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial import Delaunay
from sklearn.preprocessing import PolynomialFeatures

from scattervae.errors import DataError
from scattervae.science.paper.contest import CANNON, NETWORK, ROBUST, fit_cannons, hold_contest
from scattervae.seeds import folds
from scattervae.spectra.labels import StellarLabels
from science.toys import BASIS, MODELS, contest_of, trained
from toy import spoiled


def missing(labels, rows, column):
    values = labels.values.copy()
    values[rows, column] = np.nan
    return StellarLabels(labels.source_id, values, labels.errors)


@pytest.fixture(scope="module")
def held():
    """Some stars are spoilt; every ninth lacks [Fe/H], every seventh [alpha/M], and labels come reversed."""
    sky, model = trained()
    spectra = spoiled(sky.spectra)
    labels = missing(missing(sky.labels, slice(0, None, 9), 2), slice(0, None, 7), 3)
    labels = labels.take(np.arange(len(labels))[::-1])
    cannons = fit_cannons(model, spectra, labels)
    return spectra, labels, model, cannons, hold_contest(model, cannons, spectra, labels)


def test_all_fully_labelled_stars_of_the_test_fold_and_no_other(held):
    spectra, labels, _, _, contest = held
    finite = {
        int(i) for i, v in zip(labels.source_id, labels.values, strict=True) if np.isfinite(v[:3]).all()
    }
    usable = [int(i) for i in spectra.source_id[folds(spectra.source_id).test & (spectra.flags == 0)]]
    expected = [i for i in usable if i in finite]
    assert contest.spectra.source_id.tolist() == contest.labels.source_id.tolist() == expected
    assert len(contest) == len(expected)
    assert contest.n_incomplete == len(usable) - len(expected) > 5
    assert len(contest.incomplete.nll) == contest.n_incomplete
    assert np.isnan(contest.labels.values[:, 3]).any()  # a label that the Cannon does not take


def test_all_models_are_told_of_the_same_stars(held):
    _, _, model, cannons, contest = held
    assert tuple(contest.told) == MODELS
    stars = contest.spectra
    norm = model.normalization
    x = (stars.coeffs / stars.g_flux[:, None] - norm.mean) / norm.std
    errors = stars.errors / stars.g_flux[:, None] / norm.std
    for name, cannon in ((CANNON, cannons.plain), (ROBUST, cannons.robust)):
        scaled = (contest.labels.values[:, :3] - cannon.label_range.mean) / cannon.label_range.std
        mean = PolynomialFeatures(2).fit_transform(scaled) @ cannon.theta.numpy()
        sd = np.hypot(errors, cannon.scatter.numpy())
        np.testing.assert_allclose(contest.told[name].z, (x - mean) / sd, rtol=1e-4, atol=1e-4)  # float32
    for told in contest.told.values():
        assert told.z.shape == x.shape
        assert np.isfinite(told.z).all()
    np.testing.assert_array_equal(contest.cannon_scatter, cannons.plain.scatter)
    assert np.abs(contest.told[NETWORK].z).mean() < 2.0


def test_extrapolated_are_those_outside_the_simplices_of_the_training_labels(held):
    spectra, labels, _, cannons, contest = held
    train = spectra.take(~folds(spectra.source_id).test & (spectra.flags == 0)).source_id
    known = labels.take(np.isin(labels.source_id, train)).values[:, :3]
    known = known[np.isfinite(known).all(axis=1)]
    scale = known.std(axis=0)
    outside = Delaunay(known / scale).find_simplex(contest.labels.values[:, :3] / scale) < 0
    np.testing.assert_array_equal(contest.extrapolated, outside)
    assert 0 < outside.sum() < len(contest)
    assert cannons.plain.counts.trained_on == len(known)


def test_labels_of_the_test_fold_do_not_reach_the_cannons(held):
    spectra, labels, model, cannons, _ = held
    bad = labels.values.copy()
    bad[folds(labels.source_id).test] += 1e3
    again = fit_cannons(model, spectra, replace(labels, values=bad))
    for old, new in ((cannons.plain, again.plain), (cannons.robust, again.robust)):
        np.testing.assert_array_equal(old.theta, new.theta)
    assert cannons.plain.settings.clip_sigma is None
    assert cannons.robust.settings.clip_sigma == 5.0


def test_no_star_without_labels_is_no_star_told_of():
    sky, model = trained()
    contest = hold_contest(model, fit_cannons(model, sky.spectra, sky.labels), sky.spectra, sky.labels)
    assert contest.n_incomplete == len(contest.incomplete.nll) == 0
    assert len(contest) == folds(sky.spectra.source_id).test.sum()


def test_too_few_stars_is_an_error_of_one_line():
    sky, model = trained()
    cannons = fit_cannons(model, sky.spectra, sky.labels)
    test = np.flatnonzero(folds(sky.spectra.source_id).test)
    enough = hold_contest(model, cannons, sky.spectra.take(test[:100]), sky.labels)
    assert len(enough) == 100
    for stars in (sky.spectra.take(test[:99]), sky.spectra.take(slice(0, 0))):
        with pytest.raises(
            DataError, match=rf"^{len(stars)} usable test stars have all of teff, logg, fe_h"
        ) as e:
            hold_contest(model, cannons, stars, sky.labels)
        assert "\n" not in str(e.value)
    with pytest.raises(DataError, match="needs at least 20 stars") as caught:
        fit_cannons(model, sky.spectra, sky.labels.take(slice(0, 10)))
    assert "\n" not in str(caught.value)


def test_first_ten_are_the_papers():
    contest = contest_of(n=10)
    assert (contest.first_ten("bp"), contest.first_ten("rp")) == (slice(0, 10), slice(13, 23))
    assert BASIS.n_coeffs == 25
