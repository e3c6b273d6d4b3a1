"""Every setting of a training run, frozen, the recipes that have a name, and how training stars are degraded.

A star re-noised to larger errors shows the encoder how a posterior widens; one without a band, high orders or single
coefficients shows it what can be known from the rest.
"""

import math
import tomllib
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)
from torch import Tensor

from scattervae.arrays import Coeffs, SourceIds, StarMask
from scattervae.errors import RecipeError
from scattervae.files import problems
from scattervae.model.loss import Likelihood, Objective
from scattervae.model.network import NetworkShape
from scattervae.seeds import folds
from scattervae.settings import Settings
from scattervae.spectra.columns import StoredSpectra
from scattervae.spectra.normalization import NormalizationSettings
from scattervae.spectra.spectra import Spectra

_FEWEST_ORDERS = 3
_SINGLE_IS_MISSING = 0.05


class DegradationSettings(Settings):
    """How training stars are degraded, drawn anew for each star in each epoch."""

    # of the stars of a batch; the others train as they are, and none is degraded where 0
    share: NonNegativeFloat = Field(default=0.0, le=1.0)
    # largest factor that brings all errors of such a star to those of a fainter one, noise added to match;
    # its logarithm is drawn evenly from 0. Re-noising a star of G 12 tenfold gives one of about G 16 to 17.
    noise_factor: float = Field(default=20.0, ge=1.0)
    # share of them that lose BP or RP, as often the one as the other
    without_band: NonNegativeFloat = Field(default=0.3, le=1.0)
    # share of them that lose the high orders of each band, from one drawn on
    without_orders: NonNegativeFloat = Field(default=0.2, le=1.0)
    # share of them that lose single coefficients, one in twenty
    without_coeffs: NonNegativeFloat = Field(default=0.1, le=1.0)

    @model_validator(mode="after")
    def _fits(self) -> "DegradationSettings":
        if self.without_band + self.without_orders + self.without_coeffs > 1.0:
            raise ValueError("a star loses one thing at most: the three shares may not exceed 1 together")
        return self


class Degradation(NamedTuple):
    """What happens to each star of a batch."""

    factor: Float[Tensor, "star 1"]  # by which its errors grow; 1 where nothing happens
    noise: Coeffs  # standard normal draws for its coefficients
    missing: Bool[Tensor, "star coeff"]  # its coefficients that are lost

    def to(self, device: torch.device) -> "Degradation":
        """The same on another device."""
        return Degradation(*(values.to(device) for values in self))

    def apply(self, x: Coeffs, errors: Coeffs) -> tuple[Coeffs, Coeffs]:
        r"""Coefficients and errors as the encoder gets them; missing ones are 0 with an infinite error.

        .. math:: x' = x + \sigma \sqrt{f^2 - 1}\, \epsilon, \qquad \sigma' = f \sigma

        A star that would have nothing left, since it lacks the other band, loses nothing.
        """
        gone = errors.isinf()
        missing = self.missing | gone
        missing = torch.where(missing.all(dim=1, keepdim=True), gone, missing)
        noisy = torch.addcmul(x, errors * (self.factor.square() - 1.0).sqrt(), self.noise)
        return noisy.masked_fill(missing, 0.0), (errors * self.factor).masked_fill(missing, math.inf)


def draw_degradation(
    settings: DegradationSettings, n_stars: int, bands: tuple[int, int], generator: torch.Generator
) -> Degradation:
    """What is to happen to the stars of one batch; `bands` are the numbers of coefficients of BP and of RP."""
    kind = torch.rand(n_stars, 1, generator=generator)
    degraded = torch.rand(n_stars, 1, generator=generator) < settings.share
    factor = (torch.rand(n_stars, 1, generator=generator) * math.log(settings.noise_factor)).exp()
    noise = torch.randn(n_stars, sum(bands), generator=generator)
    single = torch.rand(n_stars, sum(bands), generator=generator) < _SINGLE_IS_MISSING
    missing = torch.zeros(n_stars, sum(bands), dtype=torch.bool)
    cuts = [torch.rand(n_stars, 1, generator=generator) for _ in bands]
    start = 0
    for band, (size, cut) in enumerate(zip(bands, cuts, strict=True)):
        here = slice(start, start + size)
        lost = _between(kind, band * settings.without_band / 2, settings.without_band / 2)
        truncated = _between(kind, settings.without_band, settings.without_orders)
        kept = _FEWEST_ORDERS + (cut * (size + 1 - _FEWEST_ORDERS)).floor()
        beyond = torch.arange(size) >= kept
        missing[:, here] = lost | (truncated & beyond)
        start += size
    missing |= (
        _between(kind, settings.without_band + settings.without_orders, settings.without_coeffs) & single
    )
    return Degradation(torch.where(degraded, factor, 1.0), noise, missing & degraded)


def _between(kind: Float[Tensor, "star 1"], begin: float, width: float) -> Bool[Tensor, "star 1"]:
    return (kind >= begin) & (kind < begin + width)


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
    """All that decides what a model becomes, apart from its stars.

    Example:
        >>> import scattervae as sv
        >>> recipe = sv.load_recipe("best")
        >>> recipe.network.n_latent, recipe.training.batch_size, recipe.objective
        (8, 512, 'elbo')
        >>> training = recipe.training.model_copy(update={"batch_size": 256})
        >>> smaller = recipe.model_copy(update={"training": training})
    """

    name: str  #: what the recipe is called
    #: what is minimised: the paper's loss as ``printed``, or the negative ``elbo``
    objective: Objective = "elbo"
    #: ``diagonal``: independent coefficients (paper). ``full``: with the correlations of the stars that have
    #: them, and the error of their G flux; such stars are held in memory.
    likelihood: Likelihood = "diagonal"
    network: NetworkShape = NetworkShape()  #: its shape
    training: TrainingSettings = TrainingSettings()  #: how its weights are found
    degradation: DegradationSettings = DegradationSettings()  #: how training stars are degraded
    normalization: NormalizationSettings = NormalizationSettings()  #: how coefficients are chosen and scaled

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

    Example:
        >>> import scattervae as sv
        >>> sv.load_recipe("paper2023").objective
        'printed'
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


def in_training_fold(source_id: SourceIds, recipe: Recipe) -> StarMask:
    """Stars of the folds that a recipe trains on: all but the test fold, or all but test and validation."""
    fold = folds(source_id)
    return fold.train if recipe.training.hold_out_validation else ~fold.test


def trained_on(
    stars: Spectra | StoredSpectra, recipe: Recipe, *, outliers: Int64[np.ndarray, " outlier"] | None = None
) -> StarMask:
    """The usable stars that a recipe trains on, of the folds that it takes (`in_training_fold`).

    Args:
        stars: The stars; those with one band train where the recipe's encoder sees what is missing.
        recipe: Says whether the validation fold is held out.
        outliers: Stars that no model is to train on (`scattervae.spectra.normalization.Normalization.outliers`).
    """
    usable = stars.usable_with_one_band if recipe.trains_on_one_band else stars.usable
    chosen: StarMask = in_training_fold(stars.source_id, recipe) & usable
    if outliers is not None and len(outliers):
        chosen &= ~np.isin(stars.source_id, outliers)
    return chosen
