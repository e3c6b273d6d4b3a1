"""A row of the table of models says what the claims say of that model."""

import pytest

from scattervae.science.claims.values import HOLDS
from scattervae.science.contest import fit_cannons, hold_contest
from scattervae.science.evaluation import evaluate
from scattervae.science.trial import HEADER, trial
from scattervae.seeds import folds
from science.toys import claims_of, trained


def test_a_row_has_the_numbers_of_its_model():
    sky, model = trained()
    cells = trial(model, sky.spectra, sky.labels)
    assert len(cells) == len(HEADER) - 1
    test = sky.spectra.take(folds(sky.spectra.source_id).test)
    score = evaluate(model, test)
    assert cells[:2] == [f"{score.negative_elbo:.1f}", f"{score.active_latents} of 3"]
    contest = hold_contest(model, fit_cannons(model, sky.spectra, sky.labels), sky.spectra, sky.labels)
    claims = {claim.id: claim for claim in claims_of(contest)}
    order = ("normalised_error_ratio_bp10", "normalised_error_ratio_rp10", "tails", "scatter_ratio")
    for cell, name in zip(cells[2:6], order, strict=True):
        claim = claims[name]
        if claim.measured is None:
            assert cell == "-"
        else:
            assert float(cell.removesuffix(" h")) == pytest.approx(claim.measured, abs=6e-4)
            assert cell.endswith(" h") == (claim.verdict == HOLDS)
    assert any(cell.endswith(" h") for cell in cells[2:6])
    assert cells[6:] == ["-", "-"]  # the toy sky has no cool giants
