import math
import tomllib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from scattervae.errors import RecipeError
from scattervae.model.batches import Batch
from scattervae.model.recipe import (
    RECIPES,
    Degradation,
    DegradationSettings,
    Recipe,
    TrainingSettings,
    draw_degradation,
    load_recipe,
    parse_recipe,
)
from scattervae.seeds import stream


def file_with(tmp_path, text: str):
    path = tmp_path / "wide.toml"
    path.write_text(text, encoding="utf-8")
    return path


def check_refused(path, *words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    for word in words:
        assert word in message


@pytest.mark.parametrize("name", ["paper2023", "elbo_sgd", "elbo"])
def test_a_recipe_is_found_by_its_name(name):
    assert load_recipe(name) == RECIPES[name]
    assert load_recipe(name).name == name


def test_the_papers_recipe_is_the_papers():
    """Laroche & Speagle (2023), sect. 2.3: SGD, batches of 1024, learning rate 0.1, 100 epochs, 6 latents."""
    recipe = load_recipe("paper2023")
    training, network = recipe.training, recipe.network
    assert recipe.objective == "printed"
    assert (training.optimizer, training.batch_size, training.learning_rate) == ("sgd", 1024, 0.1)
    assert training.epochs == 100
    assert (network.n_latent, network.hidden) == (6, (80, 50, 30))


def test_paper2023_and_elbo_sgd_differ_in_the_objective_alone():
    paper, elbo = load_recipe("paper2023").model_dump(), load_recipe("elbo_sgd").model_dump()
    assert {key for key in paper if paper[key] != elbo[key]} == {"name", "objective"}
    assert (paper["objective"], elbo["objective"]) == ("printed", "elbo")


def test_a_file_gives_what_differs_from_its_base(tmp_path):
    path = file_with(
        tmp_path,
        'base = "elbo_sgd"\n[network]\nhidden = [256, 128]\n'
        "[training]\nepochs = 7\n[normalization]\nn_bp = 20\n",
    )
    recipe, base = load_recipe(path), RECIPES["elbo_sgd"]
    assert recipe.name == "wide"
    assert recipe.network == base.network.model_copy(update={"hidden": (256, 128)})
    assert recipe.training == base.training.model_copy(update={"epochs": 7})
    assert recipe.normalization.n_bp == 20
    assert recipe.objective == base.objective
    assert load_recipe(str(path)) == recipe


def test_a_file_without_a_base_starts_from_the_default(tmp_path):
    recipe = load_recipe(file_with(tmp_path, 'name = "mine"\n'))
    assert recipe == RECIPES["best"].model_copy(update={"name": "mine"})


def test_reading_a_file_leaves_the_named_recipes_alone(tmp_path):
    before = {name: recipe.model_dump() for name, recipe in RECIPES.items()}
    load_recipe(file_with(tmp_path, "[network]\nhidden = [3]\n[training]\nseed = 5\n"))
    assert {name: recipe.model_dump() for name, recipe in RECIPES.items()} == before


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[training]\nepoch = 3\n", ("training.epoch", "3")),
        ("colour = 1\n", ("colour",)),
        ("[training]\nepochs = 0\n", ("training.epochs", "greater than 0")),
        ("[training]\nlearning_rate = inf\n", ("training.learning_rate", "finite")),
        ("[training]\nlearning_rate = nan\n", ("training.learning_rate",)),
        ('[training]\noptimizer = "adam"\n', ("training.optimizer", "'sgd', 'adamw' or 'muon'")),
        ("[network]\nhidden = []\n", ("network.hidden",)),
        ("[network]\nlog_variance_limits = [6.0, -12.0]\n", ("network.log_variance_limits", "below")),
        ("network = 6\n", ("network", "6")),
        ('objective = "beta"\n', ("objective", "beta")),
        ("[normalization]\nclip_sigma = -1.0\n[network]\nn_latent = 0\n", ("clip_sigma", "n_latent")),
        ('base = "paper2024"\n', ("paper2024", "paper2023")),
        ('base = ["elbo"]\n', ("base", "paper2023")),
        ("base = 3\n", ("base", "paper2023")),
        ("[training\n", ("TOML",)),
        ("epochs = \n\n\n=", ("TOML",)),
        ('name = """\ntwo\nlines"""\ncolour = """\n\n"""\n', ("colour",)),
    ],
)
def test_a_bad_file_is_refused_in_one_line_that_names_the_setting(tmp_path, text, words):
    check_refused(file_with(tmp_path, text), *words)


def test_a_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "weights.toml"
    path.write_bytes(b"\xff\xfe\x00")
    check_refused(path, "TOML")


def test_a_name_that_is_unknown_is_refused_with_those_that_are_known(tmp_path):
    check_refused("paper2024", "paper2023", "elbo_sgd", "elbo")
    check_refused(tmp_path)
    check_refused(tmp_path / "nowhere.toml")


def test_a_recipe_cannot_change():
    recipe = load_recipe("elbo")
    with pytest.raises(ValidationError, match="frozen"):
        recipe.name = "other"
    with pytest.raises(ValidationError, match="frozen"):
        recipe.training.epochs = 3


@given(
    st.sampled_from(sorted(RECIPES)),
    st.builds(
        TrainingSettings,
        epochs=st.integers(1, 1000),
        learning_rate=st.floats(1e-6, 1.0),
        optimizer=st.sampled_from(["sgd", "adamw", "muon"]),
        momentum=st.floats(0.0, 0.99),
        seed=st.integers(0, 2**63),
    ),
)
def test_a_recipe_comes_back_from_json_as_it_was(name, training):
    recipe = RECIPES[name].model_copy(update={"training": training})
    assert parse_recipe(recipe.model_dump(mode="json"), where="config.json") == recipe
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_what_is_no_recipe_at_all_is_refused_in_one_line():
    for settings in (None, [], {}, "elbo"):
        with pytest.raises(RecipeError, match=r"^config\.json: ") as caught:
            parse_recipe(settings, where="config.json")
        assert "\n" not in str(caught.value)


def test_the_example_of_the_docstring_works(tmp_path):
    lines = (load_recipe.__doc__ or "").split("::\n")[1].split("Raises:")[0]
    text = "\n".join(line.strip() for line in lines.splitlines())
    assert tomllib.loads(text)["base"] == "elbo"
    recipe = load_recipe(file_with(tmp_path, text))
    assert (recipe.name, recipe.network.hidden) == ("wide", (256, 256, 128))


N, BANDS = 20_000, (6, 5)
DEGRADED = DegradationSettings(share=0.5)


def drawn(settings: DegradationSettings = DEGRADED) -> Degradation:
    return draw_degradation(settings, N, BANDS, stream(0, "degradation"))


def a_batch(n: int = 50) -> Batch:
    x = torch.randn(n, 11, generator=stream(0, "x"))
    return Batch(x, 0.1 + torch.rand(n, 11, generator=stream(0, "errors")), torch.arange(n), n, 6)


def test_as_many_stars_are_degraded_as_the_settings_ask():
    factor, _, missing = drawn()
    assert (factor != 1.0).double().mean().item() == pytest.approx(0.5, abs=0.015)  # four standard errors
    gone = missing[factor[:, 0] != 1.0]
    no_bp, no_rp = gone[:, :6].all(dim=1), gone[:, 6:].all(dim=1)
    assert no_bp.double().mean().item() == pytest.approx(0.15, abs=0.015)
    assert no_rp.double().mean().item() == pytest.approx(0.15, abs=0.015)
    assert not (no_bp & no_rp).any()
    assert not missing[factor[:, 0] == 1.0].any()


def test_factors_are_even_in_their_logarithm_up_to_the_largest():
    factor = drawn(DegradationSettings(share=1.0, noise_factor=20.0)).factor.log() / math.log(20.0)
    assert factor.min() >= 0.0
    assert factor.max() <= 1.0
    assert factor.mean().item() == pytest.approx(0.5, abs=0.01)
    assert factor.var().item() == pytest.approx(1.0 / 12.0, abs=0.003)


def test_truncated_stars_keep_the_first_three_orders_at_least_and_every_number_above_is_as_likely():
    settings = DegradationSettings(share=1.0, without_band=0.0, without_orders=1.0, without_coeffs=0.0)
    missing = drawn(settings).missing
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
    together, alone = (one.degraded(DEGRADED, stream(0, "degradation")) for one in (whole, part))
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
