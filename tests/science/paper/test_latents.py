"""Claims about latent coverage on boxes of known volume, and what cannot be tested."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from scattervae.model.network import Posterior
from scattervae.science.latent_volume.comparison import VolumeSettings, compare_volumes
from scattervae.science.paper.comparison import DOES_NOT_HOLD, HOLDS, NOT_TESTABLE
from scattervae.science.paper.latents import aggregate_posterior, seeds_agree, volume_claims, volumes
from scattervae.seeds import folds
from scattervae.spectra.star_tables import StellarLabels
from science.toys import KnownLatents, known_latents, labels_of, stars_at

IDS = ["coverage_delta_v", "coverage_new", "coverage_extrapolation"]
LABELLED = (2.5, 2.5)  # 10 by 10 cells of a quarter
WIDER = (2.5, 3.25)  # three columns of cells more: 30 %
LONE = np.stack([np.arange(10, 16), np.full(6, 9)], axis=1) + 0.1  # stars of both sets, alone in their cells


def box(n, sides, *, seed, first_id=1, lone=False):
    rng = np.random.default_rng([4, seed])
    inside = rng.uniform(0.0, sides, (n - len(LONE) * lone, 2))
    return stars_at(np.concatenate([inside, LONE[: len(LONE) * lone]]), first_id=first_id, seed=seed)


def claims_of_boxes(n, sides, *, n_unlabelled=None, lone=False):
    labelled = box(n, LABELLED, seed=0, lone=lone)
    others = box(n_unlabelled or n, sides, seed=1, first_id=10**6, lone=lone)
    claims, found = volume_claims(known_latents(labelled), labelled, labels_of(n), others)
    assert [claim.id for claim in claims] == IDS
    _, new, extrapolation = claims
    return new, extrapolation, found[0]


def test_a_box_30_percent_wider_holds():
    delta, _, coverage = claims_of_boxes(400, WIDER)
    assert [p.latents for p in coverage.pairs] == [(0, 1)]
    assert delta.measured == pytest.approx(0.30, abs=0.05)
    assert delta.interval[0] <= delta.measured <= delta.interval[1]
    assert delta.verdict == HOLDS
    assert "400 labelled and 400 unlabelled" in delta.note


@pytest.mark.parametrize(("sides", "truth"), [((2.5, 2.5), 0.0), ((2.5, 10.0), 300 / 106)])
def test_other_volumes_do_not_hold(sides, truth):
    delta, _, _ = claims_of_boxes(3000, sides, lone=True)
    assert delta.measured == pytest.approx(truth, abs=0.01)
    assert delta.verdict == DOES_NOT_HOLD


def test_cells_that_are_new_for_want_of_stars_are_no_coverage():
    """120 stars leave 30 % of a hundred cells empty, so as many more of the same fill 30 % anew."""
    delta, _, coverage = claims_of_boxes(120, LABELLED)
    pair = coverage.pairs[0].equal_n
    assert pair.new.low < 0.30 < pair.new.high
    assert pair.new_by_size_alone == pytest.approx(0.30, abs=0.08)
    assert delta.verdict.startswith("depends on ")
    assert "Further labelled stars would open as much" in delta.note


def test_the_papers_line_is_checked_against_the_number_of_stars():
    _, extrapolation, coverage = claims_of_boxes(400, WIDER, n_unlabelled=800)
    cells = {(int(a // 0.25), int(b // 0.25)) for a, b in box(400, LABELLED, seed=0).coeffs[:, :2]}
    others = {(int(a // 0.25), int(b // 0.25)) for a, b in box(800, WIDER, seed=1).coeffs[:, :2]}
    linear = len(others - cells) / len(cells) * 220e6 / 800
    assert coverage.pairs[0].extrapolation.linear == pytest.approx(linear, rel=1e-6)
    assert extrapolation.interval[0] <= extrapolation.measured <= extrapolation.interval[1]
    assert extrapolation.measured >= len(others - cells) / len(cells) - 1e-9  # what is seen is there


def test_a_lower_bound_far_beyond_the_sample_refutes_nothing():
    _, extrapolation, _ = claims_of_boxes(400, WIDER)
    assert extrapolation.interval[1] < 65
    assert extrapolation.verdict == "depends on the extrapolation"
    assert "not to be trusted 550000 times beyond the sample" in extrapolation.note


def test_near_the_sample_and_where_the_papers_line_stays_below_65_the_claim_is_refuted(monkeypatch):
    """800 stars are twice the sample, where the corrected number can be trusted; 40,000 are not."""
    for n_target, verdict in (
        (800, DOES_NOT_HOLD),
        (40_000, DOES_NOT_HOLD),
        (400_000, "depends on the extrapolation"),
    ):
        near = partial(compare_volumes, settings=VolumeSettings(n_target=n_target))
        monkeypatch.setattr("scattervae.science.paper.latents.compare_volumes", near)
        _, extrapolation, coverage = claims_of_boxes(400, WIDER)
        assert coverage.pairs[0].extrapolation.reliable == (n_target == 800)
        assert extrapolation.verdict == verdict
        assert ("not to be trusted" in extrapolation.note) == (n_target > 800)


def test_labelled_stars_are_those_with_every_label_and_never_count_twice():
    labelled = box(300, LABELLED, seed=0)
    labels = labels_of(300)
    values = labels.values.copy()
    values[:40, 1] = np.nan
    labels = StellarLabels(labels.source_id, values, labels.errors)
    others = box(200, WIDER, seed=1, first_id=201)  # 201 to 300 are labelled
    (found,) = volumes(known_latents(labelled), labelled, labels, others)
    assert (found.n_labelled, found.n_unlabelled) == (260, 100)
    bad = others.with_flags(np.where(np.arange(200) >= 150, 1, 0).astype(np.uint16))
    (found,) = volumes(known_latents(labelled), labelled, labels, bad)
    assert found.n_unlabelled == 50


def test_without_a_second_set_selections_are_shown_and_nothing_is_claimed():
    stars = box(400, LABELLED, seed=0)
    labels = labels_of(400)
    values = labels.values.copy()
    values[:150, 2] = np.nan
    claims, found = volume_claims(
        known_latents(stars), stars, StellarLabels(labels.source_id, values, labels.errors), None
    )
    assert [claim.id for claim in claims] == IDS
    assert [coverage.selection is not None for coverage in found] == [True, True]
    for claim in claims:
        assert (claim.verdict, claim.measured, claim.interval) == (NOT_TESTABLE, None, None)
        assert "--unlabelled" in claim.note
        assert any("[Fe/H]" in table.title for table in claim.details)


@pytest.mark.parametrize("second", [True, False])
@pytest.mark.parametrize("n_active", [0, 1])
def test_a_collapsed_model_has_no_coverage_to_test(n_active, second):
    stars = box(300, LABELLED, seed=0)
    others = box(300, WIDER, seed=1, first_id=1000) if second else None
    claims, found = volume_claims(known_latents(stars, n_active=n_active), stars, labels_of(300), others)
    assert found == ()
    assert [(c.id, c.verdict, c.measured) for c in claims] == [(i, NOT_TESTABLE, None) for i in IDS]
    assert f"{n_active} active latents" in claims[0].note


def test_sets_without_a_star_are_not_testable():
    stars = box(300, LABELLED, seed=0)
    model, labels = known_latents(stars), labels_of(300)
    none = replace(labels, values=np.full((300, 5), np.nan))
    for given, others in ((none, box(50, WIDER, seed=1, first_id=1000)), (labels, stars)):
        claims, found = volume_claims(model, stars, given, others)
        assert {claim.verdict for claim in claims} == {NOT_TESTABLE}
        assert found == ()
        assert all("could be encoded" in claim.note for claim in claims)


def test_the_papers_difference_is_not_what_is_new():
    """A box of the same size, shifted by half of itself: no larger, and half of it new."""
    labelled = box(3000, LABELLED, seed=0)
    others = box(3000, LABELLED, seed=1, first_id=10**6)
    shifted = others.coeffs + np.r_[1.25, np.zeros(10)]
    claims, _ = volume_claims(
        known_latents(labelled), labelled, labels_of(3000), replace(others, coeffs=shifted)
    )
    found = {claim.id: claim.measured for claim in claims}
    assert found["coverage_delta_v"] == pytest.approx(0.0, abs=0.01)
    assert found["coverage_new"] == pytest.approx(0.5, abs=0.01)


def test_normal_latents_are_as_far_from_the_prior_as_scipy_says():
    stars = stars_at(np.random.default_rng(0).normal(size=(2000, 2)))
    model = known_latents(stars)
    claim = aggregate_posterior(model, stars)
    test = stars.take(folds(stars.source_id).test)
    z = model.encode(test).mean.double().numpy()[:, :2]
    assert claim.measured == pytest.approx(max(kstest(column, "norm").statistic for column in z.T), abs=1e-6)
    assert claim.verdict == HOLDS
    wide = stars_at(np.random.default_rng(0).normal(size=(2000, 2)) * 1.5)
    assert aggregate_posterior(known_latents(wide), wide).verdict == DOES_NOT_HOLD
    assert aggregate_posterior(known_latents(stars, n_active=0), stars).verdict == NOT_TESTABLE


def test_seeds_agree_but_for_a_rotation_and_not_where_a_latent_is_lost():
    stars = stars_at(np.random.default_rng(1).normal(size=(2000, 3)))
    model = known_latents(stars, n_active=3)
    turned = KnownLatents(**vars(model))
    half = np.sqrt(0.5)
    turn = torch.tensor([[half, half, 0.0], [half, -half, 0.0], [0.0, 0.0, 1.0]])
    object.__setattr__(turned, "encode", lambda s: _turned(model.encode(s), turn))
    same = seeds_agree(model, turned, stars)
    assert same.verdict == HOLDS
    assert same.measured == pytest.approx(1.0, abs=1e-5)
    lost = seeds_agree(model, known_latents(stars, n_active=2), stars)
    assert lost.measured < 0.1
    assert lost.verdict.startswith("depends on the latent")
    assert seeds_agree(model, known_latents(stars, n_active=0), stars).verdict == NOT_TESTABLE


def _turned(posterior, turn):
    mean = posterior.mean.clone()
    mean[:, :3] = mean[:, :3] @ turn.to(mean)
    return Posterior(mean, posterior.log_variance)
