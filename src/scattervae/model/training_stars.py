"""What a run trains on: the usable stars outside the test fold, scaled, in memory or streamed from a store.

A store is read once before, to count the stars that train and for their statistics.
"""

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64

from scattervae.arrays import SourceIds, StarArray
from scattervae.errors import CheckpointError, TrainingError, counted
from scattervae.files import read_tensors, write_tensors
from scattervae.gaia.basis import g_mag_of
from scattervae.model.batches import StarsInMemory, StarsOnDisk, TrainingStars
from scattervae.model.covariance import CorrelatedNoise
from scattervae.model.distributed import ALONE, World
from scattervae.model.recipe import Recipe, trained_on
from scattervae.parallel import in_threads, reading_threads
from scattervae.spectra.columns import StoredSpectra, xp_colour
from scattervae.spectra.normalization import Normalization
from scattervae.spectra.spectra import ONE_BAND, Basis, Flag, Spectra
from scattervae.spectra.store import SpectrumStore
from scattervae.spectra.windows import ChosenStars


@dataclass(frozen=True)
class StoreStatistics:
    """What one pass over a store finds: counts of stars in each row group, and the scale of those that train."""

    normalization: Normalization  # of the stars to train on
    n_usable: Int64[np.ndarray, " row_group"]  # usable stars
    n_trained_on: Int64[np.ndarray, " row_group"]  # those that train
    n_one_band: Int64[np.ndarray, " row_group"]  # those of them with one band
    n_inferred: Int64[np.ndarray, " row_group"]  # those of them whose coefficients were not published
    ranges: Float64[np.ndarray, "row_group limit"]  # of those that train, as `ranges_of` has them
    source_id: SourceIds  # of those that train, rising; none where they are more than `MOST_IDS`

    @classmethod
    def of(cls, store: SpectrumStore, recipe: Recipe) -> "StoreStatistics":
        """Read the whole store as often as `Normalization.fit` does, and again where stars are left out.

        Raises:
            TrainingError: No star of it can be trained on.
        """
        counts = np.zeros((4, len(store.row_groups)), dtype=np.int64)
        ranges = np.full((len(store.row_groups), 4), np.nan)
        ids: dict[int, SourceIds] = {}

        def chosen(index: int, outliers: Int64[np.ndarray, " outlier"] | None = None) -> StoredSpectra:
            stars = store.read_row_group(store.row_groups[index])
            kept = stars.take(np.flatnonzero(trained_on(stars, recipe, outliers=outliers)))
            counts[:, index] = stars.usable.sum(), *counts_of(kept).values()
            ranges[index] = ranges_of(kept, store.basis.n_bp)
            ids[index] = kept.source_id if counts[1].sum() <= MOST_IDS else kept.source_id[:0]
            return kept

        def chunks() -> Iterator[StoredSpectra]:
            row_groups = range(len(store.row_groups))
            yield from (stars for _, stars in in_threads(chosen, row_groups, threads=reading_threads()))
            require_stars(int(counts[1].sum()), len(store), int(counts[0].sum()))

        normalization = Normalization.fit(chunks, recipe.normalization, basis=store.basis)
        if len(normalization.outliers):  # rare, and only then is it known which row groups have them
            for index in range(len(store.row_groups)):
                chosen(index, normalization.outliers)
        source_id = np.concatenate([ids[index] for index in sorted(ids)])
        kept = kept_ids(source_id, int(counts[1].sum()))
        return cls(normalization, counts[0], counts[1], counts[2], counts[3], ranges, kept)

    def totals(self, n_stars: int) -> dict[str, Any]:
        """The counts and ranges of all row groups together."""
        return {
            "n_stars": n_stars,
            "n_usable": int(self.n_usable.sum()),
            "n_trained_on": int(self.n_trained_on.sum()),
            "n_one_band": int(self.n_one_band.sum()),
            "n_inferred_coefficients": int(self.n_inferred.sum()),
            **named_ranges(self.ranges),
        }

    def save(self, path: Path, store: SpectrumStore, recipe: Recipe) -> None:
        """Keep it for a run that is resumed."""
        normalization = self.normalization
        notes = {
            "of": _subject(store, recipe),
            "basis": json.dumps(vars(normalization.basis)),
            "n_stars": str(normalization.n_stars),
            "n_g_flux_from_table": str(normalization.n_g_flux_from_table),
        }
        arrays = {name: getattr(self, name) for name in vars(self) if name != "normalization"}
        arrays |= {name: getattr(normalization, name) for name in ("columns", "mean", "std", "outliers")}
        write_tensors(path, arrays, notes)

    @classmethod
    def saved(cls, path: Path, store: SpectrumStore, recipe: Recipe) -> "StoreStatistics | None":
        """The statistics of this store for this recipe that is in a file; None where it is not."""
        try:
            _, arrays, notes = read_tensors(path)
        except CheckpointError:
            return None
        counted = [name for name in cls.__dataclass_fields__ if name != "normalization"]
        if notes.get("of") != _subject(store, recipe) or not {"outliers", *counted} <= arrays.keys():
            return None
        normalization = Normalization.of(
            Basis(**json.loads(notes["basis"])),
            arrays,
            n_stars=int(notes["n_stars"]),
            n_g_flux_from_table=int(notes["n_g_flux_from_table"]),
        )
        normalization = replace(normalization, outliers=arrays["outliers"])
        return cls(normalization, **{name: arrays[name] for name in counted})


def _subject(store: SpectrumStore, recipe: Recipe) -> str:
    chosen = f"{recipe.training.hold_out_validation} {recipe.trains_on_one_band}"
    return f"{store.digest} {recipe.normalization.model_dump_json()} {chosen}"


def require_stars(n_trained_on: int, n_stars: int, n_usable: int) -> None:
    """Refuse to train on nothing."""
    if n_trained_on == 0:
        raise TrainingError(
            f"none of {counted(n_stars, 'star')} can be trained on: {n_usable} are usable "
            "and not one of those is outside the test fold"
        )


def counts_of(trained: Spectra | StoredSpectra) -> dict[str, int]:
    """How many stars train, how many of them have one band, and how many coefficients that were not published."""
    one_band, inferred = (
        int(((trained.flags & np.uint16(bits)) > 0).sum()) for bits in (ONE_BAND, Flag.INFERRED)
    )
    return {"n_trained_on": len(trained), "n_one_band": one_band, "n_inferred_coefficients": inferred}


MOST_IDS = 2**22
"""A model of no more stars keeps the identifiers of those that it was trained on, 8 bytes each."""


def kept_ids(source_id: SourceIds, n_stars: int) -> SourceIds:
    """The identifiers that a model keeps: rising, and none where not all are at hand or they are too many."""
    return np.sort(source_id[: len(source_id) if len(source_id) == n_stars <= MOST_IDS else 0])


def ranges_of(stars: Spectra | StoredSpectra, n_bp: int) -> Float64[np.ndarray, " limit"]:
    """Smallest and largest G [mag], then those of the colour of the coefficients; NaN where no star has one."""
    g_mag, colour = np.asarray(g_mag_of(stars.g_flux)), xp_colour(stars.coeffs, n_bp)
    known = (values[np.isfinite(values)] for values in (g_mag, colour))
    ends = [(some.min(), some.max()) if len(some) else (np.nan, np.nan) for some in known]
    return np.asarray(ends).ravel()


def named_ranges(ranges: Float64[np.ndarray, "row_group limit"]) -> dict[str, list[float]]:
    """The ranges of all row groups together, as provenance has them; without one that no star has."""
    lowest, highest = np.fmin.reduce(ranges), np.fmax.reduce(ranges)
    named = {
        "g_mag_range": [float(lowest[0]), float(highest[1])],
        "colour_range": [float(lowest[2]), float(highest[3])],
    }
    return {name: ends for name, ends in named.items() if np.isfinite(ends).all()}


logger = logging.getLogger(__name__)
_CPU = torch.device("cpu")
_BYTES_A_NUMBER = 4


@dataclass(frozen=True)
class Machine:
    """What a run is done on; none of it changes what a model becomes, but for rounding and the order of stars."""

    device: torch.device = _CPU  # where the arithmetic is done
    # how many bytes training stars may take, in all processes of the machine together; a store with more is
    # streamed, with any number where None
    memory: int | None = None
    world: World = ALONE  # the processes that train together

    def holds(self, n_stars: int, n_coeffs: int) -> bool:
        """True where each process may have coefficients and errors of so many stars in memory."""
        needed = 2 * _BYTES_A_NUMBER * n_stars * n_coeffs * self.world.local_size
        return self.memory is None or needed <= self.memory


@dataclass(frozen=True)
class Prepared:
    """Stars ready to be trained on, how they were scaled, and what provenance says of them as JSON values."""

    stars: TrainingStars
    normalization: Normalization
    data: dict[str, Any]
    source_id: SourceIds  # of the stars, as `kept_ids` has them

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
    """The stars of these spectra that train, in memory.

    Args:
        g_flux_error: One standard deviation of each star's G flux [electron/s], for the full likelihood.
    """
    stars = training_stars(spectra, recipe)
    require_stars(len(stars), len(spectra), int(spectra.usable.sum()))
    if g_flux_error is not None:
        g_flux_error = g_flux_error[trained_on(spectra, recipe)]
    normalization = Normalization.fit(lambda: [stars], recipe.normalization)
    if len(normalization.outliers):
        inside = ~np.isin(stars.source_id, normalization.outliers)
        stars, g_flux_error = stars.take(inside), None if g_flux_error is None else g_flux_error[inside]
    counts: dict[str, Any] = {"n_stars": len(spectra), "n_usable": int(spectra.usable.sum())}
    counts |= counts_of(stars)
    correlated = None
    if recipe.likelihood == "full":
        correlated = CorrelatedNoise.of(stars, normalization, g_flux_error=g_flux_error).to(machine.device)
        counts |= _counts_of_noise(correlated)
    inputs = normalization.apply(stars, gaps=recipe.trains_on_one_band).to(machine.device)
    in_memory = StarsInMemory(inputs, normalization.bp.stop, correlated)
    counts |= named_ranges(ranges_of(stars, stars.basis.n_bp)[None])
    data = _data(data_digest(stars), counts, normalization)
    return Prepared(in_memory, normalization, data, kept_ids(stars.source_id, len(stars)))


def prepare_store(
    store: SpectrumStore, recipe: Recipe, machine: Machine, *, statistics: StoreStatistics, streamed: bool
) -> Prepared:
    """Stars of a store, read to memory, or left on disk where `streamed`.

    Raises:
        TrainingError: The likelihood needs correlations, and they do not fit into memory.
    """
    if recipe.likelihood == "full":
        return _prepare_with_correlations(store, recipe, machine, statistics=statistics, streamed=streamed)
    chosen = ChosenStars(
        source=store,
        keep=lambda stars: trained_on(stars, recipe, outliers=statistics.normalization.outliers),
        n_kept=statistics.n_trained_on,
        normalization=statistics.normalization,
        gaps=recipe.trains_on_one_band,
        threads=reading_threads(),
    )
    release = {} if store.release is None else {"release": store.release.name}
    stars: TrainingStars
    if streamed:
        stars = StarsOnDisk(chosen, store.digest, machine.device)
    else:
        stars = StarsInMemory(chosen.read().to(machine.device), statistics.normalization.bp.stop)
    return Prepared(
        stars=stars,
        normalization=statistics.normalization,
        data=_data(store.digest, statistics.totals(len(store)) | release, statistics.normalization),
        source_id=statistics.source_id,
    )


def _prepare_with_correlations(
    store: SpectrumStore, recipe: Recipe, machine: Machine, *, statistics: StoreStatistics, streamed: bool
) -> Prepared:
    n_stars, normalization = int(statistics.n_trained_on.sum()), statistics.normalization
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


def _data(digest: str, counts: dict[str, Any], normalization: Normalization) -> dict[str, Any]:
    n_table = normalization.n_g_flux_from_table
    return {
        "digest": digest,
        **counts,
        "n_g_flux_from_table": n_table,
        "n_g_flux_from_coefficients": counts["n_trained_on"] - n_table,
    }
