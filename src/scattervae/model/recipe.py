"""Every setting of a training run, frozen, and the recipes that have a name."""

import tomllib
from pathlib import Path
from typing import Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from scattervae.errors import RecipeError
from scattervae.files import problems
from scattervae.model.degradation import DegradationSettings
from scattervae.model.loss import Likelihood, Objective
from scattervae.model.network import NetworkShape
from scattervae.settings import Settings
from scattervae.spectra.normalization import NormalizationSettings


class TrainingSettings(Settings):
    """How the weights are found; where the paper (sect. 2.3) leaves a choice open, the reason stands here."""

    epochs: PositiveInt = 100  # passes over the training stars (paper: 100)
    batch_size: PositiveInt = 1024  # stars a gradient step (paper: 1024)
    # ``sgd`` with momentum (paper); ``adamw``, which reaches in 100 epochs a bound that SGD needs several
    # hundred for; or ``muon``, which takes orthogonalised steps (Jordan et al. 2024) in all matrices but
    # those that read the data or the latents, and AdamW's in all else.
    optimizer: Literal["sgd", "adamw", "muon"] = "adamw"
    learning_rate: PositiveFloat = 2e-3  # at the start (``cosine``) or at the peak (the others); paper: 0.1
    matrix_learning_rate: PositiveFloat = 0.01  # of the matrices that Muon steps in
    # of SGD. The paper gives no value; 0.9 is what the method's users take unless they say.
    momentum: NonNegativeFloat = Field(default=0.9, lt=1.0)
    weight_decay: NonNegativeFloat = 0.01  # of AdamW and Muon; PyTorch's default for the first
    # ``cosine`` falls to zero over the run: the paper says "decay" and no shape, and this one has no constant
    # to choose. ``one_cycle`` warms up over 30 % of the run, then falls (Smith & Topin 2018). ``trapezoid``
    # warms up over 5 %, stays until half the run is done, and falls to zero in a straight line (Haegele et
    # al. 2024, arXiv:2405.18392).
    schedule: Literal["cosine", "one_cycle", "trapezoid"] = "one_cycle"
    # largest norm of the gradient of one step. A coefficient can lie 139 standard deviations out, and one
    # such star would else throw the weights away.
    gradient_clip: PositiveFloat = 1.0
    seed: NonNegativeInt = 0  # of every random number in the run
    # keep the validation fold out of training. Needed where something is chosen by it; where nothing is, its
    # stars train.
    hold_out_validation: bool = False


class Recipe(Settings):
    """All that decides what a model becomes, apart from its stars."""

    name: str  # what the recipe is called
    # what is minimised: the paper's loss as ``printed``, or the negative ``elbo``
    objective: Objective = "elbo"
    # ``diagonal``: independent coefficients (paper). ``full``: with the correlations of the stars that have
    # them, and the error of their G flux; such stars are held in memory.
    likelihood: Likelihood = "diagonal"
    network: NetworkShape = NetworkShape()  # its shape
    training: TrainingSettings = TrainingSettings()  # how its weights are found
    degradation: DegradationSettings = DegradationSettings()  # how training stars are degraded
    normalization: NormalizationSettings = NormalizationSettings()  # how coefficients are chosen and scaled

    @property
    def trains_on_one_band(self) -> bool:
        """True where stars with one band train too: the encoder sees which coefficients are missing."""
        return self.network.encoder_sees == "errors"

    @model_validator(mode="after")
    def _errors_are_seen(self) -> "Recipe":
        if self.degradation.share > 0.0 and self.network.encoder_sees != "errors":
            raise ValueError(
                "degradation.share: stars degraded teach an encoder that sees their errors; "
                'set network.encoder_sees = "errors", or the share to 0'
            )
        return self


DEFAULT = "best"

_PAPER_TRAINING = TrainingSettings(optimizer="sgd", learning_rate=0.1, schedule="cosine")

RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="best",
            network=NetworkShape(
                n_latent=8,
                hidden=(128, 128, 128),
                layers="residual",
                encoder_sees="errors",
                posterior="correlated",
            ),
            training=TrainingSettings(
                epochs=100, batch_size=512, optimizer="muon", learning_rate=4e-3, schedule="trapezoid"
            ),
            degradation=DegradationSettings(share=0.5),
        ),
        Recipe(name="elbo"),
        Recipe(name="elbo_sgd", training=_PAPER_TRAINING),
        Recipe(name="paper2023", objective="printed", training=_PAPER_TRAINING),
    )
}


def load_recipe(name_or_path: str | Path) -> Recipe:
    """A named recipe, or one read from a TOML file.

    A file starts from a named one, ``best`` where ``base`` does not say, and gives only what differs::

        base = "elbo"
        name = "wide"

        [network]
        hidden = [256, 256, 128]

    Raises:
        RecipeError: Neither a name nor a file, or a setting that is unknown or out of range.
    """
    if str(name_or_path) in RECIPES:
        return RECIPES[str(name_or_path)]
    path = Path(name_or_path)
    if not path.is_file():
        raise RecipeError(f"{name_or_path}: neither a recipe ({', '.join(RECIPES)}) nor a TOML file")
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not a TOML file: {error}") from error
    base = given.pop("base", DEFAULT)
    if not isinstance(base, str) or base not in RECIPES:
        raise RecipeError(f"{path}: base = {base!r} is no recipe; choose one of {', '.join(RECIPES)}")
    settings = RECIPES[base].model_dump()
    settings["name"] = path.stem
    for key, value in given.items():
        if isinstance(value, dict) and isinstance(settings.get(key), dict):
            settings[key] |= value
        else:
            settings[key] = value
    return parse_recipe(settings, where=str(path))


def parse_recipe(settings: object, *, where: str) -> Recipe:
    """A recipe from plain values, as read from TOML or JSON.

    Raises:
        RecipeError: A setting is unknown, of the wrong type or out of range; `where` leads the message.
    """
    try:
        return Recipe.model_validate(settings)
    except ValidationError as error:
        raise RecipeError(f"{where}: {problems(error)}") from error
