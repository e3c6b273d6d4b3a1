import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scattervae.errors import RecipeError
from scattervae.model.batches import Batch
from scattervae.model.recipe import RECIPES, Degradation, DegradationSettings, draw_degradation, parse_recipe
from scattervae.seeds import stream

N, BANDS = 20_000, (6, 5)
SETTINGS = DegradationSettings(share=0.5)


def fates(settings: DegradationSettings = SETTINGS) -> Degradation:
    return draw_degradation(settings, N, BANDS, stream(0, "degradation"))


def a_batch(n: int = 50) -> Batch:
    x = torch.randn(n, 11, generator=stream(0, "x"))
    return Batch(x, 0.1 + torch.rand(n, 11, generator=stream(0, "errors")), torch.arange(n), n, 6)


def test_as_many_stars_are_degraded_as_the_settings_ask():
    factor, _, missing = fates()
    assert (factor != 1.0).double().mean().item() == pytest.approx(0.5, abs=0.015)  # four standard errors
    gone = missing[factor[:, 0] != 1.0]
    no_bp, no_rp = gone[:, :6].all(dim=1), gone[:, 6:].all(dim=1)
    assert no_bp.double().mean().item() == pytest.approx(0.15, abs=0.015)
    assert no_rp.double().mean().item() == pytest.approx(0.15, abs=0.015)
    assert not (no_bp & no_rp).any()
    assert not missing[factor[:, 0] == 1.0].any()


def test_factors_are_even_in_their_logarithm_up_to_the_largest():
    factor = fates(DegradationSettings(share=1.0, noise_factor=20.0)).factor.log() / math.log(20.0)
    assert factor.min() >= 0.0
    assert factor.max() <= 1.0
    assert factor.mean().item() == pytest.approx(0.5, abs=0.01)
    assert factor.var().item() == pytest.approx(1.0 / 12.0, abs=0.003)


def test_truncated_stars_keep_the_first_three_orders_at_least_and_every_number_above_is_as_likely():
    settings = DegradationSettings(share=1.0, without_band=0.0, without_orders=1.0, without_coeffs=0.0)
    missing = fates(settings).missing
    for band in (missing[:, :6], missing[:, 6:]):
        kept = (~band).sum(dim=1)
        assert torch.equal(band, torch.arange(band.shape[1]) >= kept[:, None])  # high orders, no others
        shares = torch.bincount(kept)[3:] / N
        assert shares.tolist() == pytest.approx([1.0 / len(shares)] * len(shares), abs=0.02)


def test_added_noise_and_the_stars_own_make_the_new_errors():
    errors = torch.full((N, 1), 0.3)
    drawn = Degradation(
        torch.full((N, 1), 5.0), torch.randn(N, 1, generator=stream(1, "")), torch.zeros(N, 1) > 0
    )
    noisy, larger = drawn.apply(0.3 * torch.randn(N, 1, generator=stream(0, "x")), errors)
    assert torch.equal(larger, 5.0 * errors)
    assert noisy.std().item() == pytest.approx(1.5, rel=0.02)


def test_missing_coefficients_are_zero_with_an_infinite_error_and_the_rest_is_left():
    x, errors = torch.ones(1, 3), torch.ones(1, 3)
    lost = torch.tensor([[True, False, False]])
    x, errors = Degradation(torch.ones(1, 1), torch.ones(1, 3), lost).apply(x, errors)
    assert x.tolist() == [[0.0, 1.0, 1.0]]
    assert errors.tolist() == [[math.inf, 1.0, 1.0]]


def test_what_is_missing_stays_missing_and_a_star_that_lacks_a_band_keeps_the_other():
    x, errors = torch.tensor([[0.0, 1.0, 1.0]] * 3), torch.tensor([[math.inf, 1.0, 1.0]] * 3)
    lost = torch.tensor([[False, True, True], [False, False, True], [False, False, False]])
    drawn = Degradation(torch.tensor([[1.0], [2.0], [1.0]]), torch.zeros(3, 3), lost)
    noisy, larger = drawn.apply(x, errors)
    assert noisy.tolist() == [[0.0, 1.0, 1.0], [0.0, 1.0, 0.0], [0.0, 1.0, 1.0]]
    assert larger.tolist() == [[math.inf, 1.0, 1.0], [math.inf, 2.0, math.inf], [math.inf, 1.0, 1.0]]


def test_without_a_share_a_batch_is_left_alone_and_nothing_is_drawn():
    generator = stream(0, "degradation")
    before, batch = generator.get_state(), a_batch()
    assert batch.degraded(DegradationSettings(), generator) is batch
    assert torch.equal(generator.get_state(), before)


@given(st.sets(st.integers(0, 49)).map(sorted))
def test_a_star_meets_the_same_degradation_whichever_process_has_it(places):
    whole = a_batch()
    rows = torch.tensor(places, dtype=torch.int64)
    part = whole._replace(x=whole.x[rows], errors=whole.errors[rows], rows=rows)
    together, alone = (one.degraded(SETTINGS, stream(0, "degradation")) for one in (whole, part))
    assert torch.equal(together.x[rows], alone.x)
    assert torch.equal(together.errors[rows], alone.errors)


def test_stars_are_degraded_only_for_an_encoder_that_sees_errors():
    settings = RECIPES["elbo"].model_dump() | {"degradation": {"share": 0.5}}
    with pytest.raises(RecipeError, match="encoder_sees") as caught:
        parse_recipe(settings, where="x.toml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrong", [{"share": 1.5}, {"noise_factor": 0.5}, {"without_band": 0.9}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=r"greater|less|exceed"):
        DegradationSettings(**wrong)
