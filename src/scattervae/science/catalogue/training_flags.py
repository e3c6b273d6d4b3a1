"""How a star stands to those that a model was trained on: one of them, or unlike them, as bits of a column."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int16, Int32

from scattervae.arrays import SourceIds
from scattervae.gaia.basis import g_mag_of
from scattervae.model.checkpoint import Checkpoint
from scattervae.model.recipe import in_training_fold
from scattervae.seeds import folds
from scattervae.settings import DataFacts
from scattervae.spectra.columns import StoredSpectra, xp_colour
from scattervae.spectra.spectra import Basis, Flag, GFluxSource, MeaningfulFlag, Spectra
from scattervae.spectra.star_tables import DataRelease, rows_of

FOLD, TRAINING_FLAGS = "fold", "training_flags"
RARE_BELOW = 0.05
"""A kind of stars that fewer of the training stars are of is unlike them."""

MARGIN = 0.1
"""So far beyond the training stars' G and colour is outside [mag]."""

TrainingFlags = Int32[np.ndarray, " star"]


_USUAL = f"over {100 - 100 * RARE_BELOW:.0f} % of the training stars"


class TrainingFlag(MeaningfulFlag):
    """What is known of a star beside the training stars, as bits of its column `TRAINING_FLAGS`."""

    TRAINED_ON = 1, "the model was trained on this star"
    MAY_HAVE_TRAINED = 2, "of a fold that the model, which keeps no list of its stars, was trained on"
    OTHER_COEFFICIENTS = 4, f"published where {_USUAL} have inferred coefficients, or the other way round"
    OTHER_G_FLUX = 8, f"G flux from the coefficients where {_USUAL} have a table's, or the other way round"
    UNNAMED_BASIS = 16, "the file names no basis; it is taken for the model's"
    OTHER_RELEASE = 32, "of another data release, or moved from another basis"
    OUTSIDE_G = 64, f"brighter or fainter than every training star by {MARGIN} mag"
    OUTSIDE_COLOUR = 128, f"bluer or redder than every training star by {MARGIN} mag"


UNLIKE = ~(TrainingFlag.TRAINED_ON | TrainingFlag.MAY_HAVE_TRAINED)


def _facts_of(checkpoint: Checkpoint) -> DataFacts:
    """What a model keeps of the stars that it was trained on; what it does not say is None, and flags no star."""
    return DataFacts.model_validate(checkpoint.provenance.get("data", {}))


def _rare_kinds(facts: DataFacts) -> Mapping[TrainingFlag, tuple[bool, bool]]:
    """Of kinds of coefficients and of G flux: whether published and inferred, and table's and made, are rare."""
    n_made, n_table = facts.n_g_flux_from_coefficients, facts.n_g_flux_from_table
    n_all = None if n_made is None or n_table is None else n_made + n_table
    shares = {
        TrainingFlag.OTHER_COEFFICIENTS: _share(facts.n_inferred_coefficients, facts.n_trained_on),
        TrainingFlag.OTHER_G_FLUX: _share(n_made, n_all),
    }
    return {
        flag: (1 - share < RARE_BELOW, share < RARE_BELOW)
        for flag, share in shares.items()
        if share is not None
    }


def _share(part: int | None, whole: int | None) -> float | None:
    return part / whole if part is not None and whole else None


def file_flags(checkpoint: Checkpoint, basis: Basis, release: DataRelease | None = None) -> TrainingFlag:
    """The bits that all stars of a file or store share."""
    own = _facts_of(checkpoint).release
    found = TrainingFlag(0)
    if checkpoint.normalization.basis.is_named and not basis.is_named:
        found |= TrainingFlag.UNNAMED_BASIS
    if own is not None and release is not None and release.name != own:
        found |= TrainingFlag.OTHER_RELEASE
    return found


def training_flags(checkpoint: Checkpoint, stars: StoredSpectra, shared: int = 0) -> TrainingFlags:
    """The bits of each star, with those that the stars share.

    The test fold never trains. A star that is not among the model's own is not known to it, whatever its fold.
    """
    facts, having = _facts_of(checkpoint), dict[TrainingFlag, Any]()
    if len(checkpoint.source_id):
        having[TrainingFlag.TRAINED_ON] = rows_of(stars.source_id, among=checkpoint.source_id)[1]
    else:  # whatever flags a star has, of which some are known only later
        having[TrainingFlag.MAY_HAVE_TRAINED] = in_training_fold(stars.source_id, checkpoint.recipe)
    kinds = {
        TrainingFlag.OTHER_COEFFICIENTS: (stars.flags & np.uint16(Flag.INFERRED)) > 0,
        TrainingFlag.OTHER_G_FLUX: stars.g_flux_source == GFluxSource.COEFFICIENTS,
    }
    for flag, (usual_rare, other_rare) in _rare_kinds(facts).items():
        having[flag] = np.where(kinds[flag], other_rare, usual_rare)
    having[TrainingFlag.OUTSIDE_G] = _outside(np.asarray(g_mag_of(stars.g_flux)), facts.g_mag_range)
    n_bp = checkpoint.normalization.basis.n_bp
    having[TrainingFlag.OUTSIDE_COLOUR] = _outside(xp_colour(stars.coeffs, n_bp), facts.colour_range)
    flags = np.full(len(stars), shared, dtype=np.int32)
    for flag, rows in having.items():
        flags |= np.where(rows, np.int32(flag), np.int32(0))
    return flags


def unlike_training_stars(star: Spectra, bits: int) -> tuple[str, ...]:
    """In what one star is unlike the training stars, in words.

    Args:
        star: The star alone.
        bits: Its `TRAINING_FLAGS`.
    """
    inferred = bool(star.flags[0] & np.uint16(Flag.INFERRED))
    made = bool(star.g_flux_source[0] == GFluxSource.COEFFICIENTS)
    own = {
        TrainingFlag.OTHER_COEFFICIENTS: f"its coefficients are {_KINDS[inferred]}, those of {_USUAL} "
        + _KINDS[not inferred],
        TrainingFlag.OTHER_G_FLUX: f"its G flux is from {_SOURCES[made]}, that of {_USUAL} from {_SOURCES[not made]}",
    }
    return tuple(own.get(flag, flag.meaning) for flag in TrainingFlag if flag & UNLIKE & bits)


_KINDS, _SOURCES = ("published", "inferred"), ("a table", "the coefficients")


def _outside(values: np.ndarray, limits: tuple[float, float] | None) -> np.ndarray:
    """Which values are beyond the limits by more than `MARGIN`; one that is no number is not."""
    if limits is None:
        return np.zeros(len(values), dtype=bool)
    return (values < limits[0] - MARGIN) | (values > limits[1] + MARGIN)


def fold_numbers(source_id: SourceIds) -> Int16[np.ndarray, " star"]:
    """The fold of each star: 0 test, 1 validation, 2 train."""
    fold = folds(source_id)
    return np.where(fold.test, 0, np.where(fold.validation, 1, 2)).astype(np.int16)
