"""What a run trains on: the usable stars outside the test fold, scaled, in memory or streamed from a store."""

import hashlib
import logging
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from scattervae.arrays import StarArray
from scattervae.errors import TrainingError
from scattervae.model.batches import StarsInMemory, StarsOnDisk, TrainingStars
from scattervae.model.correlated_noise import CorrelatedNoise
from scattervae.model.distributed import ALONE, World
from scattervae.model.recipe import Recipe
from scattervae.model.survey import Survey, counts_of, require_stars, trained_on
from scattervae.parallel import reading_threads
from scattervae.spectra.normalization import Normalization
from scattervae.spectra.spectra import Spectra
from scattervae.spectra.store import SpectrumStore
from scattervae.spectra.windows import ChosenStars

logger = logging.getLogger(__name__)

_CPU = torch.device("cpu")
_BYTES_A_NUMBER = 4


@dataclass(frozen=True)
class Machine:
    """What a run is done on; none of it changes what a model becomes, but for rounding and the order of stars.

    Attributes:
        device: Where the arithmetic is done.
        memory: How many bytes training stars may take, in all processes of the machine together; a store with
            more is streamed, with any number where None.
        world: The processes that train together.
    """

    device: torch.device = _CPU
    memory: int | None = None
    world: World = ALONE

    def holds(self, n_stars: int, n_coeffs: int) -> bool:
        """True where each process may have coefficients and errors of so many stars in memory."""
        needed = 2 * _BYTES_A_NUMBER * n_stars * n_coeffs * self.world.local_size
        return self.memory is None or needed <= self.memory


@dataclass(frozen=True)
class Prepared:
    """Stars ready to be trained on.

    Attributes:
        stars: Where batches come from.
        normalization: How they were scaled.
        data: What provenance says of them; JSON values.
    """

    stars: TrainingStars
    normalization: Normalization
    data: dict[str, Any]

    @property
    def streamed(self) -> bool:
        return isinstance(self.stars, StarsOnDisk)


def training_stars(spectra: Spectra, recipe: Recipe) -> Spectra:
    """The stars that a recipe trains on, with their correlations where its likelihood knows them."""
    known = spectra if recipe.likelihood == "full" else replace(spectra, correlations=None)
    return known.take(trained_on(spectra, recipe))


def data_digest(spectra: Spectra) -> str:
    """SHA-256 of ids, coefficients, errors, G flux and correlations, in hexadecimal."""
    digest = hashlib.sha256()
    known = spectra.correlations
    more = () if known is None else (known.bp, known.rp)
    for array in (spectra.source_id, spectra.coeffs, spectra.errors, spectra.g_flux, *more):
        digest.update(array.tobytes())
    return digest.hexdigest()


def prepare_spectra(
    spectra: Spectra, recipe: Recipe, machine: Machine, *, g_flux_error: StarArray | None = None
) -> Prepared:
    """Stars in memory, as they are given.

    Args:
        spectra: All stars.
        recipe: All settings.
        machine: Where to train.
        g_flux_error: One standard deviation of each star's G flux [electron/s], for the full likelihood.

    Raises:
        TrainingError: None of them can be trained on.
    """
    stars = training_stars(spectra, recipe)
    require_stars(len(stars), len(spectra), int(spectra.usable.sum()))
    if g_flux_error is not None:
        g_flux_error = g_flux_error[trained_on(spectra, recipe)]
    normalization = Normalization.fit(lambda: [stars], recipe.normalization)
    if len(normalization.left_out):
        inside = ~np.isin(stars.source_id, normalization.left_out)
        stars, g_flux_error = stars.take(inside), None if g_flux_error is None else g_flux_error[inside]
    counts = {
        "n_stars": len(spectra),
        "n_usable": int(spectra.usable.sum()),
        **counts_of(stars),
    }
    correlated = None
    if recipe.likelihood == "full":
        correlated = CorrelatedNoise.of(stars, normalization, g_flux_error=g_flux_error).to(machine.device)
        counts |= _counts_of_noise(correlated)
    inputs = normalization.apply(stars, gaps=recipe.trains_on_one_band).to(machine.device)
    return Prepared(
        stars=StarsInMemory(inputs, normalization.bp.stop, correlated),
        normalization=normalization,
        data=_data(data_digest(stars), counts, normalization),
    )


def prepare_store(
    store: SpectrumStore, recipe: Recipe, machine: Machine, *, survey: Survey, streamed: bool
) -> Prepared:
    """Stars of a store, read to memory or left on disk.

    Args:
        store: The store.
        recipe: All settings.
        machine: Where to train.
        survey: What `Survey.of` found in the store.
        streamed: Leave them on disk.

    Raises:
        TrainingError: The likelihood needs correlations, and they do not fit into memory.
    """
    if recipe.likelihood == "full":
        return _prepare_with_correlations(store, recipe, machine, survey=survey, streamed=streamed)
    chosen = ChosenStars(
        source=store,
        keep=lambda block: trained_on(block, recipe, left_out=survey.normalization.left_out),
        n_kept=survey.n_trained_on,
        normalization=survey.normalization,
        gaps=recipe.trains_on_one_band,
        threads=reading_threads(),
    )
    stars: TrainingStars
    if streamed:
        stars = StarsOnDisk(chosen, store.digest, machine.device)
    else:
        stars = StarsInMemory(chosen.read().to(machine.device), survey.normalization.bp.stop)
    return Prepared(
        stars=stars,
        normalization=survey.normalization,
        data=_data(store.digest, survey.totals(len(store)), survey.normalization),
    )


def _prepare_with_correlations(
    store: SpectrumStore, recipe: Recipe, machine: Machine, *, survey: Survey, streamed: bool
) -> Prepared:
    n_stars, normalization = int(survey.n_trained_on.sum()), survey.normalization
    sizes = normalization.bp.stop, normalization.n_coeffs - normalization.bp.stop
    n_pairs = sum(size * (size - 1) // 2 for size in sizes)
    if streamed or not machine.holds(n_stars, normalization.n_coeffs + n_pairs // 2):
        needed = _BYTES_A_NUMBER * n_stars * (2 * normalization.n_coeffs + n_pairs) / 1e9
        raise TrainingError(
            f"{store.path}: {n_stars} stars with correlations need {needed:.1f} GB in each process, more than "
            'memory may hold, and are not streamed; give more --memory, or a recipe with likelihood = "diagonal"'
        )
    prepared = prepare_spectra(store.read(), recipe, machine, g_flux_error=store.g_flux_error())
    return replace(prepared, data=prepared.data | {"digest": store.digest})


def _counts_of_noise(correlated: CorrelatedNoise) -> dict[str, int]:
    counts = {
        "n_with_correlations": int(correlated.given.sum()),
        "n_correlations_refused": int(correlated.refused.sum()),
        "n_with_g_flux_error": int((correlated.g_error > 0).sum()),
    }
    if not any(counts.values()):
        logger.warning(
            "the likelihood is full, but no star has correlations or an error of its G flux: read them with "
            "--correlations and --sources, where they are published"
        )
    return counts


def _data(digest: str, counts: dict[str, int], normalization: Normalization) -> dict[str, Any]:
    n_table = normalization.n_g_flux_from_table
    return {
        "digest": digest,
        **counts,
        "n_g_flux_from_table": n_table,
        "n_g_flux_from_coefficients": counts["n_trained_on"] - n_table,
    }
