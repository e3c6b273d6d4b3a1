"""Claims about labels: bad ones, missing ones, and what flux loses, against scikit-learn and NumPy."""

import math
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from scattervae.gaia.flux import design
from scattervae.gaia.transport import archive_design
from scattervae.science.paper.comparison import (
    CANNON,
    DOES_NOT_HOLD,
    HOLDS,
    NETWORK,
    NOT_TESTABLE,
    compare_models,
    fit_cannons,
)
from scattervae.science.paper.labels import bad_labels, gain_by_label_error, incomplete_labels, lossless_flux
from scattervae.seeds import folds
from scattervae.spectra.star_tables import StellarLabels
from science.toys import FIRST_TEN, N, comparison_of, labels_of, scores_of, trained

BOTH = np.concatenate(list(FIRST_TEN.values()))
N_STARS = 600


def normal(seed, n=N_STARS):
    return np.random.default_rng([11, seed]).normal(size=(n, N))


def failing(rows, errors=None, **given):
    """A comparison whose Cannon fails on these stars."""
    z = normal(0)
    z[rows] *= 30.0
    labels = labels_of(N_STARS, **({} if errors is None else {"errors": errors}))
    return comparison_of({CANNON: scores_of(z)}, labels=labels, **given)


def test_the_chance_of_bad_labels_is_the_area_under_the_curve():
    comparison = failing(slice(0, 30))
    claim = bad_labels(comparison)
    errors = comparison.labels.errors[:, :3]
    uncertainty = (errors / np.median(errors, axis=0)).mean(axis=1)
    assert claim.measured == pytest.approx(roc_auc_score(np.arange(N_STARS) < 30, uncertainty), rel=1e-12)
    assert claim.interval[0] <= claim.measured <= claim.interval[1]
    worst, others = claim.details[0].rows
    assert (worst[1], others[1]) == ("30", "570")
    assert float(worst[2]) == pytest.approx(np.median(uncertainty[:30]), abs=5e-3)
    assert float(worst[4]) == pytest.approx(np.median(comparison.labels["teff"][:30]), abs=0.5)


@pytest.mark.parametrize(("rows", "verdict"), [(slice(0, 30), HOLDS), (slice(570, 600), DOES_NOT_HOLD)])
def test_bad_labels_hold_where_the_worst_stars_have_the_largest_errors(rows, verdict):
    errors = np.geomspace(1.0, 0.01, N_STARS)[:, None] * np.ones(4)
    assert bad_labels(failing(rows, errors)).verdict == verdict


def test_errors_that_say_nothing_settle_nothing():
    errors = np.random.default_rng(0).lognormal(size=(N_STARS, 4))
    claim = bad_labels(failing(slice(100, 130), errors))
    assert claim.interval[0] < 0.5 < claim.interval[1]
    assert claim.verdict == "depends on the sample"


def test_extrapolation_is_named_where_it_is_what_fails():
    outside = np.arange(N_STARS) < 20
    assert "66.7 % lie outside" in (note := bad_labels(failing(slice(0, 30), extrapolated=outside)).note)
    assert "extrapolation is part of it" in note
    assert "extrapolation is not what fails" in bad_labels(failing(slice(0, 30))).note


def test_stars_and_labels_without_errors_are_left_out_of_the_chance():
    errors = np.geomspace(1.0, 0.01, N_STARS)[:, None] * np.ones(4)
    whole = bad_labels(failing(slice(0, 30), errors)).measured
    errors[:, 1] = np.nan  # no star has an error of log g
    errors[:, 2] = 0.0  # and those of [Fe/H] are not given
    assert bad_labels(failing(slice(0, 30), errors)).measured == whole
    errors[10:20] = errors[50:300] = np.nan
    comparison = failing(slice(0, 30), errors)
    known = np.isfinite(errors[:, 0])
    expected = roc_auc_score((np.arange(N_STARS) < 30)[known], errors[known, 0])
    assert bad_labels(comparison).measured == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("value", [math.nan, 0.0, 0.1])
def test_without_errors_that_differ_bad_labels_cannot_be_tested(value):
    claim = bad_labels(failing(slice(0, 30), np.full((N_STARS, 4), value)))
    assert (claim.verdict, claim.measured, claim.interval) == (NOT_TESTABLE, None, None)


def test_corrupt_labels_of_a_real_fit_are_what_the_cannon_fails_on():
    """A tenth of the labels are wrong and their catalogue says so: the Cannon fails there and nowhere else."""
    sky, model = trained()
    rng = np.random.default_rng(1)
    bad = np.flatnonzero(folds(sky.spectra.source_id).test)[::10]
    values, errors = (
        sky.labels.values.copy(),
        sky.labels.errors * rng.lognormal(0, 0.1, (len(sky.latents), 1)),
    )
    values[bad] += rng.choice([-4.0, 4.0], (len(bad), 5)) * values.std(axis=0)
    errors[bad] *= 20.0
    labels = StellarLabels(sky.labels.source_id, values, errors)
    comparison = compare_models(model, fit_cannons(model, sky.spectra, labels), sky.spectra, labels)
    claim = bad_labels(comparison)
    assert claim.verdict == HOLDS
    assert claim.measured > 0.9
    worst, others = (float(row[-1]) for row in claim.details[0].rows)
    assert abs(worst - others) < 10.0  # the network, which sees no labels, does as well on both
    assert float(claim.details[0].rows[0][-2]) > 100.0


@pytest.mark.parametrize(
    ("factor", "scatter", "verdict"),
    [
        (1.0, 0.1, HOLDS),
        (1.5, 0.1, DOES_NOT_HOLD),
        (0.8, 0.1, HOLDS),
        (0.8, 0.3, DOES_NOT_HOLD),  # smaller normalised errors that scatter has bought
        (1.0, 0.08, HOLDS),
        (1.5, 0.07, "depends on the score: holds by CRPS"),
    ],
)
def test_stars_without_labels_are_compared_with_the_others_by_proper_scores(factor, scatter, verdict):
    lacking = scores_of(factor * normal(1, 200), scatter)
    comparison = comparison_of(incomplete=lacking)
    claim = incomplete_labels(comparison)
    others = comparison.scores[NETWORK]
    assert claim.measured == pytest.approx(lacking.crps.mean() / others.crps.mean(), rel=1e-12)
    assert claim.interval[0] < claim.measured < claim.interval[1]
    assert claim.verdict == verdict
    size = [np.abs(scores.z[:, BOTH]).mean() for scores in (lacking, others)]
    assert f"are {size[0] / size[1]:.2f} times as large" in claim.note
    assert claim.details[0].rows[0][1:3] == ("200", f"{np.median(lacking.nll):.1f}")
    assert "200 test stars lack a label" in claim.note


@pytest.mark.parametrize(
    ("gain", "verdict"), [(0.0, "depends on the sample"), (3.0, HOLDS), (-3.0, DOES_NOT_HOLD)]
)
def test_the_gain_by_label_error_is_that_between_quarters(gain, verdict):
    """The Cannon's likelihood falls, or rises, with the rank of the label error."""
    errors = np.linspace(1.0, 2.0, N_STARS)[:, None] * np.ones(4)
    scores = {name: scores_of(normal(4)) for name in (NETWORK, CANNON)}
    noise = np.random.default_rng(3).normal(size=N_STARS)
    nll = scores[NETWORK].nll + 20.0 + noise + gain * np.linspace(-1.0, 1.0, N_STARS)
    comparison = comparison_of(
        scores | {CANNON: replace(scores[CANNON], nll=nll)}, labels=labels_of(N_STARS, errors=errors)
    )
    claim = gain_by_label_error(comparison)
    gain = nll - scores[NETWORK].nll
    assert claim.measured == pytest.approx(np.median(gain[450:]) - np.median(gain[:150]), abs=1e-9)
    assert claim.verdict == verdict
    assert [row[1] for row in claim.details[0].rows] == ["150"] * 4
    assert (
        gain_by_label_error(comparison_of(labels=labels_of(600, errors=np.zeros((600, 4))))).verdict
        == NOT_TESTABLE
    )


def test_too_few_stars_without_labels_are_not_tested():
    few, enough = (comparison_of(incomplete=scores_of(normal(2, n))) for n in (29, 30))
    assert incomplete_labels(few).verdict == NOT_TESTABLE
    assert incomplete_labels(few).measured is None
    assert incomplete_labels(enough).measured is not None


def test_what_flux_loses_is_what_the_singular_values_say():
    claim = lossless_flux()
    assert claim.id == "lossless_flux"
    expected = {}
    for name, grid in (("GaiaXPy's (six digits)", design()), ("full precision", archive_design())):
        s = np.linalg.svd(grid.matrix)[1]
        expected[name] = [int((s / s[0] > limit).sum()) for limit in (1e-4, 2.0**-24, 2.0**-52)]
    table = {row[0]: [int(cell) for cell in row[1:]] for row in claim.details[0].rows}
    assert table == expected
    assert claim.measured == expected["full precision"][1] < 110
    assert np.linalg.matrix_rank(archive_design().matrix, rtol=2.0**-24) == claim.measured
    assert (claim.verdict, claim.interval) == (DOES_NOT_HOLD, None)
