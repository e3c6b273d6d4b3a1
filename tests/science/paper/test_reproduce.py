"""The paper from stars to claims, on a toy sky with Gaia's own basis."""

import json

import numpy as np
import pytest

from scattervae.errors import DataError
from scattervae.model import run
from scattervae.model.checkpoint import read_checkpoint
from scattervae.science.cannon.model import Cannon
from scattervae.science.paper.comparison import NOT_TESTABLE, as_json
from scattervae.science.paper.reproduce import reproduce
from scattervae.seeds import folds
from scattervae.spectra.star_tables import StellarLabels
from toy import DR3, toy_recipe, toy_sky

SKY = toy_sky(1000, basis=DR3, n_latent=3)
RECIPE = toy_recipe(epochs=15)
AS_PRINTED = toy_recipe(epochs=2).model_copy(update={"name": "printed", "objective": "printed"})
IDS = [
    "lossless_flux",
    "likelihood_gain",
    "tails",
    "normalised_error_ratio_bp10",
    "normalised_error_ratio_rp10",
    "scatter_ratio",
    "cool_stars",
    "low_gravity",
    "bad_labels",
    "incomplete_labels",
    "coverage_delta_v",
    "coverage_new",
    "coverage_extrapolation",
    "aggregate_posterior",
    "seeds_agree",
]


def labels_with_gaps():
    """Every fourth star without [Fe/H]; label errors that differ from star to star."""
    rng = np.random.default_rng(0)
    values = SKY.labels.values.copy()
    values[::4, 2] = np.nan
    errors = SKY.labels.errors * rng.lognormal(0, 0.3, values.shape)
    return StellarLabels(SKY.labels.source_id, values, errors)


LABELS = labels_with_gaps()


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp("reproduction")
    stages = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scattervae.science.paper.reproduce.PRINTED", AS_PRINTED)
        yield out, reproduce(SKY.spectra, LABELS, out, recipe=RECIPE, stage=stages.append), stages


def check_claims(claims):
    """Every promised claim, in the paper's order (others may stand among them), as strict JSON."""
    ids = [claim.id for claim in claims]
    assert [name for name in ids if name in IDS] == IDS
    assert len(set(ids)) == len(ids)
    text = json.dumps(as_json(claims), allow_nan=False)
    for claim in json.loads(text):
        assert {"id", "paper", "measured", "interval", "verdict", "note"} <= set(claim)
        assert "nan" not in (claim["note"] + claim["verdict"]).lower()
    return {claim.id: claim for claim in claims}


def test_every_claim_is_tested(done):
    _, result, stages = done
    claims = check_claims(result.claims)
    untested = {name for name in IDS if claims[name].verdict == NOT_TESTABLE}
    assert untested == {
        "cool_stars",
        "low_gravity",
        "coverage_delta_v",
        "coverage_new",
        "coverage_extrapolation",
    }
    assert claims["coverage_delta_v"].details
    for claim_id in ("tails", "normalised_error_ratio_bp10", "normalised_error_ratio_rp10", "scatter_ratio"):
        (claim,) = (claim for claim in result.claims if claim.id == claim_id)
        assert "CRPS" in claim.details[-1].header
        assert len(claim.details[-1].rows) == 5
    assert any("training" in what for what in stages)
    assert len(result.comparison.incomplete.nll) > 30
    test = folds(result.comparison.labels.source_id).test
    assert test.all()


def test_claims_say_what_was_tested_and_what_the_loss_as_printed_makes_of_them(done):
    _, result, _ = done
    first, *others = result.claims
    assert (first.id, first.tested, first.as_printed) == ("lossless_flux", "", None)
    assert {claim.tested for claim in others} == {f"recipe {RECIPE.name}, the evidence lower bound"}
    assert {claim.id for claim in others if claim.as_printed is None} == {"seeds_agree"}
    stored = {claim["id"]: claim for claim in as_json(result.claims)}["tails"]
    assert stored["as_printed"].keys() == {"measured", "interval", "verdict"}
    own = {claim.id: claim for claim in result.claims}["raw_accuracy"]
    assert own.as_printed.measured != own.measured
    assert result.printed.recipe == AS_PRINTED


def test_a_recipe_with_the_loss_as_printed_has_no_second_column(tmp_path):
    result = reproduce(SKY.spectra, LABELS, tmp_path, recipe=AS_PRINTED)
    assert result.printed is None
    assert {claim.tested for claim in result.claims[1:]} == {"recipe printed, the loss as printed"}
    assert all(claim.as_printed is None for claim in result.claims)
    assert not (tmp_path / "model_printed").exists()


def test_what_was_trained_is_on_disk(done):
    out, result, _ = done
    assert sorted(path.name for path in out.iterdir()) == [
        *("cannon", "cannon_robust", "model", "model_printed", "model_seed")
    ]
    assert read_checkpoint(out / "model").digest == result.model.digest
    np.testing.assert_array_equal(Cannon.load(out / "cannon").theta, result.cannons.plain.theta)
    np.testing.assert_array_equal(Cannon.load(out / "cannon_robust").theta, result.cannons.robust.theta)
    assert result.model.recipe == RECIPE


def test_a_second_call_takes_the_model_as_it_is_and_may_bring_other_stars(done, monkeypatch):
    out, result, _ = done
    monkeypatch.setattr(run, "fit_network", None)  # nothing is trained
    others = toy_sky(300, basis=DR3, n_latent=3, seed=1).spectra
    again = reproduce(SKY.spectra, LABELS, out, recipe=RECIPE, unlabelled=others)
    assert again.model.digest == result.model.digest
    claims = check_claims(again.claims)
    for name in ("coverage_delta_v", "coverage_extrapolation"):
        low, high = claims[name].interval
        assert low <= claims[name].measured <= high
    (coverage,) = again.volumes
    assert coverage.n_unlabelled == 300
    assert coverage.n_labelled == np.isfinite(LABELS.values[:, 2]).sum()
    old = {claim.id: claim for claim in result.claims}
    assert all(claims[name] == old[name] for name in IDS[:10])


def test_too_few_labelled_stars_are_an_error_of_one_line(tmp_path):
    few = LABELS.take(folds(SKY.spectra.source_id).train)
    with pytest.raises(DataError, match=r"^0 usable test stars have all of") as caught:
        reproduce(SKY.spectra, few, tmp_path, recipe=toy_recipe(epochs=1))
    assert "\n" not in str(caught.value)
