"""What every claim keeps to: plain text, strict JSON, the promised names; the order of stars changes nothing."""

import json
import math
from dataclasses import astuple, fields, replace
from functools import cache

import numpy as np
import pytest

from scattervae.science.paper.comparison import (
    CANNON,
    DOES_NOT_HOLD,
    HOLDS,
    NETWORK,
    NOT_TESTABLE,
    Claim,
    Table,
    as_json,
)
from scattervae.science.paper.reproduce import claims_of
from science.toys import FIRST_TEN, N, comparison_of, labels_of, permuted, scores_of

IDS = [
    "likelihood_gain",
    "tails",
    "normalised_error_ratio_bp10",
    "normalised_error_ratio_rp10",
    "scatter_ratio",
    "raw_accuracy",
    "cool_stars",
    "low_gravity",
    "bad_labels",
    "gain_by_label_error",
    "incomplete_labels",
]


def rich_comparison(n=600):
    """Cool giants among the stars, a Cannon with tails: every claim has a number."""
    rng = np.random.default_rng(5)
    labels = labels_of(n, teff=rng.uniform(3500, 6500, n), logg=rng.uniform(0.2, 5.0, n))
    z = rng.standard_t(3, size=(n, N))
    return comparison_of({CANNON: scores_of(z)}, n=n, labels=labels)


def degenerate_comparisons():
    """Comparisons that divide by nothing, or have nothing to say of a claim."""
    n = 600
    rng = np.random.default_rng(6)
    tame = scores_of(rng.uniform(-4.0, 4.0, (n, N)))
    no_errors, few_errors, equal_errors = (np.full((n, 4), value) for value in (np.nan, np.nan, 0.1))
    few_errors[:3] = 1.0
    return {
        "no errors of labels": comparison_of(labels=labels_of(n, errors=no_errors)),
        "errors of three stars": comparison_of(labels=labels_of(n, errors=few_errors)),
        "equal errors": comparison_of(labels=labels_of(n, errors=equal_errors)),
        "errors of nothing": comparison_of(labels=labels_of(n, errors=np.zeros((n, 4)))),
        "no scatter in the Cannon": comparison_of(cannon_scatter=0.0),
        "no tails at all": comparison_of({NETWORK: tame, CANNON: tame}),
        "all stars are cool": comparison_of(labels=labels_of(n, teff=rng.uniform(3000, 3500, n))),
        "no star lacks a label": comparison_of(incomplete=scores_of(np.zeros((0, N)))),
    }


COMPARISONS = {"rich": rich_comparison(), "plain": comparison_of(), **degenerate_comparisons()}


@cache
def claims_about(name):
    return claims_of(COMPARISONS[name])


@pytest.mark.parametrize("name", COMPARISONS)
def test_every_claim_keeps_to_its_form(name):
    claims = claims_about(name)
    assert [claim.id for claim in claims] == IDS
    for claim in claims:
        text = [claim.title, claim.paper, claim.verdict, claim.note]
        text += [cell for table in claim.details for row in table.rows for cell in row]
        assert all(isinstance(part, str) and part for part in text)
        assert not any(word in part.lower() for part in text for word in ("nan", "inf ", "none"))
        assert claim.verdict in (HOLDS, DOES_NOT_HOLD, NOT_TESTABLE) or claim.verdict.startswith(
            "depends on "
        )
        assert (claim.measured is None) == (claim.interval is None)
        if claim.measured is None:
            assert claim.verdict in (NOT_TESTABLE, DOES_NOT_HOLD)
        else:
            low, high = claim.interval
            assert low <= claim.measured <= high
            assert math.isfinite(claim.measured)
        for table in claim.details:
            assert {len(row) for row in table.rows} == {len(table.header)}


@pytest.mark.parametrize("name", COMPARISONS)
def test_claims_are_strict_json(name):
    claims = claims_about(name)
    as_read = json.loads(json.dumps(as_json(claims), allow_nan=False))
    for claim, values in zip(claims, as_read, strict=True):
        assert {"id", "paper", "measured", "interval", "verdict", "note"} <= set(values)
        assert set(values) == {field.name for field in fields(Claim)}
        assert (values["id"], values["verdict"]) == (claim.id, claim.verdict)
        assert values["measured"] == claim.measured
        if claim.interval is not None:
            assert values["interval"] == [b if math.isfinite(b) else None for b in claim.interval]


def test_a_number_that_is_not_finite_is_null_at_any_depth():
    claim = Claim("a", "b", "c", math.nan, (1.0, math.inf), HOLDS, "d", (Table("t", ("h",), (("1",),)),))
    (as_read,) = as_json([claim])
    assert as_read["measured"] is None
    assert as_read["interval"] == [1.0, None]
    assert as_read["details"] == [{"title": "t", "header": ["h"], "rows": [["1"]]}]


def test_the_rich_comparison_has_a_number_for_every_claim():
    assert all(claim.measured is not None for claim in claims_about("rich"))


def test_the_order_of_the_stars_changes_no_number():
    after = permuted(COMPARISONS["rich"], np.random.default_rng(7).permutation(600))
    for old, new in zip(claims_about("rich"), claims_of(after), strict=True):
        assert new.measured == pytest.approx(old.measured, rel=1e-9)
        assert [astuple(t)[:2] for t in new.details] == [astuple(t)[:2] for t in old.details]


def test_the_first_ten_of_each_band_are_what_counts():
    assert len(FIRST_TEN["bp"]) == len(FIRST_TEN["rp"]) == 10
    comparison = COMPARISONS["rich"]
    z = comparison.scores[NETWORK].z.copy()
    z[:, [10, 11, 12, 23, 24]] *= 50.0
    spoilt = replace(comparison, scores={**comparison.scores, NETWORK: scores_of(z)})
    also = {"gain_by_label_error", "incomplete_labels"}  # by likelihood and CRPS of all coefficients
    changed = {
        old.id
        for old, new in zip(claims_about("rich"), claims_of(spoilt), strict=True)
        if old.measured != new.measured
    }
    assert changed == {"tails", "raw_accuracy", "cool_stars", "low_gravity"} | also
