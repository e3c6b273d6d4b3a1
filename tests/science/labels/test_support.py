"""Stars of a kind that was never labelled are flagged, and hardly any of the labelled kinds."""

from dataclasses import replace
from functools import cache

import numpy as np
import torch
from studies.label_scores import coverage
from torch.nn.functional import binary_cross_entropy_with_logits

from scattervae.science.labels.model import fit_labels, label_stars, load_label_model, save_label_model
from scattervae.science.labels.prediction import LabelFlag
from scattervae.science.labels.support import WIDENED_BY, LabelSupport, balanced_loss, hidden_share
from scattervae.science.labels.training import LabelSettings
from scattervae.seeds import folds
from scattervae.spectra.spectra import Flag
from science.labels.label_toys import known_of, with_labels
from science.toys import trained
from toy import toy_sky

SETTINGS = LabelSettings(networks=2, steps=600, blocks=1, folds=2)
HIDDEN = 0.6  # the first latent of stars whose labels are hidden lies above


@cache
def with_hidden_kind():
    """Labels predicted without one side of the sky, whose spectra the model knows; and those of new stars of it."""
    sky, model = trained()
    labels = fit_labels(model, sky.spectra, known_of(sky).take(sky.latents[:, 0] < HIDDEN), SETTINGS)
    new = toy_sky(800, n_latent=3, seed=5)
    return labels, new, label_stars(model, labels, new.spectra)


def test_a_kind_without_labels_is_flagged_and_others_hardly_ever():
    labels, new, predicted = with_hidden_kind()
    hidden = new.latents[:, 0] > HIDDEN + 0.2
    assert predicted.outside[hidden].mean() > 0.8
    assert predicted.outside[new.latents[:, 0] < HIDDEN].mean() < 0.03
    by_distance = labels.volume.reliability(trained()[1].encode(new.spectra)) < 0.01
    assert by_distance[hidden].mean() < 0.5  # what could be seen without the survey


def test_a_kind_without_labels_is_flagged_or_held_by_wider_intervals_and_others_are_as_wide_as_before():
    _, model = trained()
    labels, new, predicted = with_hidden_kind()
    truth, beyond = known_of(new).values, new.latents[:, 0] > HIDDEN
    plain = replace(labels, support=labels.support._replace(networks=()))
    narrow = label_stars(model, plain, new.spectra)
    np.testing.assert_array_equal(narrow.values, predicted.values)
    held = [(p.low_95 <= truth) & (truth <= p.high_95) for p in (narrow, predicted)]
    seen = [(predicted.outside | h)[beyond].mean() for h in held]
    assert seen[1] > max(seen[0], 0.9)
    wider = predicted.sd / narrow.sd
    assert (wider > 1.0 - 1e-9).all()
    assert (wider < 1.0 + WIDENED_BY + 1e-9).all()
    assert np.median(wider[new.latents[:, 0] < HIDDEN - 1.0]) < 1.05


def test_the_hidden_share_is_that_of_counted_stars():
    """Of a kind that lacks the label, on a background that lacks it at random: by counting."""
    with_label, by_chance, of_kind = 300.0, 600.0, np.array([0.0, 90.0, 9000.0])
    log_odds = np.log(with_label / (by_chance + of_kind))
    share = hidden_share(log_odds, usual=np.log(with_label / by_chance))
    np.testing.assert_allclose(share, of_kind / (with_label + by_chance + of_kind), atol=1e-12)
    assert (hidden_share(np.array([5.0, np.nan]), usual=1.0)[:1] == 0.0).all()


def test_where_no_star_lacks_a_label_the_survey_teaches_nothing():
    _, model, labels = with_labels()
    assert labels.support.networks == ()
    inputs = model.normalization.apply(toy_sky(5, n_latent=3, seed=5).spectra)
    supported = labels.support.judge(inputs)
    np.testing.assert_array_equal(supported.rank, 1.0)
    np.testing.assert_array_equal(supported.widening, 1.0)


def test_what_is_read_flags_what_was_written(tmp_path):
    labels, new, predicted = with_hidden_kind()
    save_label_model(labels, tmp_path / "labels")
    again = load_label_model(tmp_path / "labels", trained()[1])
    assert again.digest == labels.digest
    labelled = label_stars(trained()[1], again, new.spectra)
    np.testing.assert_array_equal(labelled.reliability, predicted.reliability)
    np.testing.assert_array_equal(labelled.flags, predicted.flags)


def test_a_spectrum_that_the_model_does_not_reproduce_is_flagged():
    _, model, labels = with_labels()
    survey = np.repeat(labels.support.chi2, 2)  # so many stars as it takes for a rank below 0.0012
    labels = replace(labels, support=labels.support._replace(chi2=survey))
    stars = toy_sky(400, n_latent=3, seed=5).spectra
    strange = (np.arange(400) < 10)[:, None] & (np.arange(stars.coeffs.shape[1]) % 3 == 0)
    stars = replace(stars, coeffs=np.where(strange, stars.coeffs + 1000 * stars.errors, stars.coeffs))
    labelled = label_stars(model, labels, stars)
    assert labelled.not_reproduced[:10].all()
    assert labelled.not_reproduced[10:].mean() < 0.02
    assert (labelled.flags[:10] & LabelFlag.NOT_REPRODUCED).all()
    assert not labelled.reliable[:10].any()


def test_stars_that_the_model_was_not_trained_on_say_how_well_it_reproduces(monkeypatch):
    """Their labels matter for nothing: they are of the test fold."""
    sky, model = trained()
    monkeypatch.setattr("scattervae.science.labels.support.FEWEST_UNSEEN", 10)
    known, test = known_of(sky), folds(sky.spectra.source_id).test
    settings = LabelSettings(networks=1, steps=1, blocks=1)
    labels = fit_labels(model, sky.spectra, known.take(~test), settings)
    assert len(labels.support.chi2) == test.sum()
    assert labels.n_stars == (~test).sum()


def test_labels_of_blended_stars_are_not_reliable():
    _, model, labels = with_labels()
    stars = toy_sky(20, n_latent=3, seed=5).spectra
    stars = stars.with_flags(np.where(np.arange(20) < 3, Flag.BLENDED, 0).astype(np.uint16))
    labelled = label_stars(model, labels, stars)
    assert ((labelled.flags & LabelFlag.BLENDED) > 0).tolist() == [True] * 3 + [False] * 17
    assert not labelled.reliable[:3].any()


def test_the_rank_of_chi2_is_the_share_of_stars_that_fit_no_better():
    support = LabelSupport((), np.empty((0, 1)), np.array([0.5, 1.0, 2.0]))
    np.testing.assert_allclose(support.chi2_rank(np.array([0.1, 1.0, 1.5, 9.0])), [1.0, 0.75, 0.5, 0.25])
    assert np.isnan(support.chi2_rank(np.array([np.nan]))).all()


def test_the_loss_weighs_both_sorts_alike_at_each_level_of_noise():
    """Against torch's own weights, where all stars are as noisy; and the best constant is then even odds."""
    known = torch.arange(800)[:, None] % 4 == 0
    log_odds = torch.linspace(-2, 2, 800)[:, None].double()
    level = torch.arange(800) / 100  # each quarter of the stars has one in four labelled
    expected = 0.5 * binary_cross_entropy_with_logits(
        log_odds, known.double(), pos_weight=torch.tensor([3.0])
    )
    torch.testing.assert_close(balanced_loss(log_odds, known, level), expected / 0.75, check_dtype=False)


def test_being_faint_alone_is_not_being_unlabelled():
    """Labelled stars are bright: even odds at every level of noise are then the best that can be said."""
    level = torch.arange(4000.0)
    known = (torch.rand(4000, 1, generator=torch.Generator().manual_seed(0)) * 4000) > level[:, None]
    known[-1], known[0] = True, False
    odds = torch.zeros(4000, 1, requires_grad=True)
    balanced_loss(odds, known, level).backward()
    gradient = odds.grad[:, 0].reshape(4, -1).sum(dim=1)
    torch.testing.assert_close(gradient, torch.zeros(4), atol=1e-4, rtol=0)


def test_a_label_that_some_stars_happen_to_lack_has_intervals_that_hold():
    """Where there is nothing to know log odds scatter, and widths too: intervals are calibrated as wide as they are."""
    (_, model), sky, new = trained(), toy_sky(4000, n_latent=3, seed=7), toy_sky(3000, n_latent=3, seed=5)
    known, asked = (replace(k, errors=np.zeros_like(k.errors)) for k in (known_of(sky), known_of(new)))
    lacking = np.random.default_rng(0).random(known.values.shape) < 0.2
    some = replace(known, values=np.where(lacking, np.nan, known.values))
    # one network: the mean of two errs less than either
    labels = fit_labels(model, sky.spectra, some, SETTINGS.model_copy(update={"networks": 1, "steps": 300}))
    predicted = label_stars(model, labels, new.spectra)
    widening = labels.support.judge(model.normalization.apply(new.spectra)).widening
    assert widening.mean() > 1.05, "else nothing is tested"
    share = coverage(predicted, asked)
    np.testing.assert_allclose(share.inside_68, 0.68, atol=0.04)
    np.testing.assert_allclose(share.inside_95, 0.95, atol=0.02)
