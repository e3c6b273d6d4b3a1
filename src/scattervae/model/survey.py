"""What a store holds for a recipe, found by reading it once: which stars train, and their statistics."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from scattervae.arrays import StarMask
from scattervae.errors import CheckpointError, TrainingError, counted
from scattervae.files import read_tensors, write_tensors
from scattervae.model.recipe import Recipe
from scattervae.parallel import in_threads, reading_threads
from scattervae.seeds import folds
from scattervae.spectra.normalization import Normalization
from scattervae.spectra.row_groups import StoredSpectra
from scattervae.spectra.spectra import ONE_BAND, Basis, Flag, Spectra
from scattervae.spectra.store import SpectrumStore


def trained_on(
    stars: Spectra | StoredSpectra, recipe: Recipe, *, left_out: Int64[np.ndarray, " outlier"] | None = None
) -> StarMask:
    """The usable stars that a recipe trains on: all but the test fold, or all but test and validation.

    Args:
        stars: The stars; those with one band train where the recipe's encoder sees what is missing.
        recipe: Says whether the validation fold is held out.
        left_out: Stars that no model is to train on (`scattervae.spectra.normalization.Normalization.left_out`).
    """
    fold = folds(stars.source_id)
    usable = stars.usable_with_one_band if recipe.trains_on_one_band else stars.usable
    chosen: StarMask = (fold.train if recipe.training.hold_out_validation else ~fold.test) & usable
    if left_out is not None and len(left_out):
        chosen &= ~np.isin(stars.source_id, left_out)
    return chosen


@dataclass(frozen=True)
class Survey:
    """What one pass over a store finds: how many stars of each row group can be trained on, and their statistics.

    Attributes:
        normalization: Of the stars to train on.
        n_usable: Of each row_group.
        n_trained_on: Of each row_group.
        n_one_band: Of each row_group, among those trained on.
        n_inferred: Of each row_group, among those trained on.
    """

    normalization: Normalization
    n_usable: Int64[np.ndarray, " row_group"]
    n_trained_on: Int64[np.ndarray, " row_group"]
    n_one_band: Int64[np.ndarray, " row_group"]
    n_inferred: Int64[np.ndarray, " row_group"]

    @classmethod
    def of(cls, store: SpectrumStore, recipe: Recipe) -> "Survey":
        """Read the whole store as often as `Normalization.fit` does, and again where stars are left out.

        Raises:
            TrainingError: No star of it can be trained on.
        """
        counts = np.zeros((4, len(store.row_groups)), dtype=np.int64)

        def chosen(index: int, left_out: Int64[np.ndarray, " outlier"] | None = None) -> StoredSpectra:
            block = store.read_row_group(store.row_groups[index])
            kept = block.take(np.flatnonzero(trained_on(block, recipe, left_out=left_out)))
            counts[:, index] = block.usable.sum(), *counts_of(kept).values()
            return kept

        def blocks() -> Iterator[StoredSpectra]:
            row_groups = range(len(store.row_groups))
            yield from (block for _, block in in_threads(chosen, row_groups, threads=reading_threads()))
            require_stars(int(counts[1].sum()), len(store), int(counts[0].sum()))

        normalization = Normalization.fit(blocks, recipe.normalization, basis=store.basis)
        if len(normalization.left_out):  # rare, and only then is it known which row groups have them
            for index in range(len(store.row_groups)):
                chosen(index, normalization.left_out)
        return cls(normalization, *counts)

    def totals(self, n_stars: int) -> dict[str, int]:
        """The counts of all row groups together."""
        return {
            "n_stars": n_stars,
            "n_usable": int(self.n_usable.sum()),
            "n_trained_on": int(self.n_trained_on.sum()),
            "n_one_band": int(self.n_one_band.sum()),
            "n_inferred_coefficients": int(self.n_inferred.sum()),
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
        arrays |= {name: getattr(normalization, name) for name in ("columns", "mean", "std", "left_out")}
        write_tensors(path, arrays, notes)

    @classmethod
    def saved(cls, path: Path, store: SpectrumStore, recipe: Recipe) -> "Survey | None":
        """The survey of this store for this recipe that is in a file; None where it is not."""
        try:
            _, arrays, notes = read_tensors(path)
        except CheckpointError:
            return None
        counted = [name for name in cls.__dataclass_fields__ if name != "normalization"]
        if notes.get("of") != _subject(store, recipe) or not {"left_out", *counted} <= arrays.keys():
            return None
        normalization = Normalization.of(
            Basis(**json.loads(notes["basis"])),
            arrays,
            n_stars=int(notes["n_stars"]),
            n_g_flux_from_table=int(notes["n_g_flux_from_table"]),
        )
        normalization = replace(normalization, left_out=arrays["left_out"])
        return cls(normalization, **{name: arrays[name] for name in counted})


def _subject(store: SpectrumStore, recipe: Recipe) -> str:
    chosen = f"{recipe.training.hold_out_validation} {recipe.trains_on_one_band}"
    return f"{store.digest} {recipe.normalization.model_dump_json()} {chosen}"


def require_stars(n_trained_on: int, n_stars: int, n_usable: int) -> None:
    """Refuse to train on nothing.

    Raises:
        TrainingError: No star can be trained on.
    """
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
