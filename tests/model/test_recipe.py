import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from scattervae.errors import RecipeError
from scattervae.model.recipe import RECIPES, Recipe, TrainingSettings, load_recipe, parse_recipe


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
