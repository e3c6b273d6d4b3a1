"""Odd stars: how far each lies from a population that is called ordinary, in what, and how rare that is at its G.

Nine numbers say in what a star may be odd (`PARTS`). Each is compared with the reference stars nearest in G: its
excess over their median, in units of what separates the median from the 84th percentile, so that neither G nor a few
odd stars among the reference decide. Excesses of all but one are added in quadrature, deficits do not count. The result
is calibrated to the share of reference stars of that G that are odder; beyond them the tail is taken to be exponential.
Where the reference has no star of a G, the nearest in G stand for them, and the unit grows by what their trend with G
would change on the way: that it goes on is as likely as that it stops.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Float64, Int64

from scattervae.arrays import StarArray
from scattervae.errors import CheckpointError, DataError, counted
from scattervae.files import read_tensors, tensors_digest, write_tensors
from scattervae.model.checkpoint import Checkpoint
from scattervae.science.star_parts import Neighbours, Source, StarParts, counting, source_chunks
from scattervae.seeds import numpy_stream
from scattervae.spectra.tables import result_table

NOTE = "scattervae.outliers"
REFERENCE = "outliers.safetensors"
SCORE, REASONS = "outlier_score", "outlier_reasons"
FEWEST_REFERENCE = 100
MOST_REFERENCE = 200_000
PARTS = {
    "misfit": "the spectrum is far from what the model makes of it, in units of its errors",
    "misfit_with_scatter": "the spectrum is far from what the model makes of it, even for its scatter",
    "largest_residual": "one coefficient is far off",
    "scatter": "the model knows stars like it only roughly: its scatter is large",
    "likelihood": "its spectrum is unlikely",
    "components": "the spectrum is no sum of those that the model makes",
    "neighbours": "few ordinary stars lie within the widths of its latents",
    "isolation": "its latents are far from those of ordinary stars",
    "rarity": "its latents are far from those of ordinary stars, in units of their spread",
}
"""What a star may be odd in, each larger the odder, with the reason in words."""
OUTSIDE = {
    "brighter than the reference": "compared with the brightest ordinary stars, the more cautiously the further off",
    "fainter than the reference": "compared with the faintest ordinary stars, the more cautiously the further off",
}
"""What is said of stars of a G that the reference does not have, before what they are odd in."""
NOT_ADDED = "misfit"
"""The part that is no part of the sum: with it fewer odd stars are found, among others of the reference's kind."""

SCORE_FIELDS = {
    SCORE: (
        "dex",
        "minus log10 of the share of reference stars of its G that are odder; 2 is one in a hundred",
    ),
    REASONS: (
        "",
        f"{' or '.join(OUTSIDE)}; of {', '.join(PARTS)}, those that exceed the usual by 3 upper spreads, the largest "
        "first",
    ),
}
"""Unit and description of the two columns that say how odd a star is, and in what."""

ReferenceArray = Float64[np.ndarray, " reference"]
_FORMAT = "2"  # 1 had neither components nor rarity
_IN_G = 101  # reference stars nearest in G that a part is compared with
_RANKED = 501  # reference stars nearest in G that a score is compared with
_TAIL = 0.1  # share of them from which on the tail is exponential
_REASON_ABOVE = 3.0
_SMALLEST_SPREAD = 1e-3  # dex
_MOST_WINDOWS = 2000
_SMALLEST_STEP = 1e-3  # mag


@dataclass(frozen=True)
class OutlierReference:
    """Stars that are called ordinary, as a model has them.

    Attributes:
        stars: Their numbers.
        parts: All of `PARTS` of each, the star itself left out of its neighbours.
        model_digest: The model's.
    """

    stars: StarParts
    parts: Float64[np.ndarray, "star part"]
    model_digest: str

    @staticmethod
    def fit(model: Checkpoint, stars: StarParts, *, seed: int = 0) -> "OutlierReference":
        """The reference that these stars are; a random 200,000 of them where there are more.

        Raises:
            DataError: There are too few stars.
        """
        if len(stars) < FEWEST_REFERENCE:
            raise DataError(
                f"{counted(len(stars), 'encodable star')} to call ordinary; at least {FEWEST_REFERENCE} are needed to "
                "say what is rare: give more with --reference"
            )
        if len(stars) > MOST_REFERENCE:
            stars = stars.take(
                np.sort(numpy_stream(seed, "outliers").permutation(len(stars))[:MOST_REFERENCE])
            )
        parts = np.column_stack([stars.fits, Neighbours.of(stars).distances(stars)])
        return OutlierReference(stars, parts, model.latent_digest)

    def score(self, stars: StarParts) -> "OutlierScores":
        """How odd these stars are; one that is in the reference is not its own neighbour."""
        parts = np.column_stack([stars.fits, self._neighbours.distances(stars)])
        excess = self._usual.excess(parts, stars.g_mag)
        score = self._ranked.minus_log10_share(_combined(excess), stars.g_mag)
        known = self.stars.g_mag
        return OutlierScores(
            stars, score, excess, stars.g_mag - np.clip(stars.g_mag, known.min(), known.max())
        )

    @cached_property
    def digest(self) -> str:
        """What identifies these stars in catalogues."""
        return tensors_digest(self._arrays, self.model_digest)[:32]

    @property
    def _arrays(self) -> dict[str, np.ndarray]:
        return {**vars(self.stars), "parts": self.parts}

    @cached_property
    def _neighbours(self) -> Neighbours:
        return Neighbours.of(self.stars)

    @cached_property
    def _usual(self) -> "_Usual":
        return _Usual.of(self.parts, self.stars.g_mag)

    @cached_property
    def _ranked(self) -> "_Ranked":
        excess = self._usual.excess(self.parts, self.stars.g_mag)
        return _Ranked.of(_combined(excess), self.stars.g_mag)

    def save(self, folder: Path) -> None:
        """Write it beside the model's own files.

        Raises:
            OSError: The disk is full, or the folder cannot be written to.
        """
        write_tensors(folder / REFERENCE, self._arrays, {"model": self.model_digest, "format": _FORMAT})

    @staticmethod
    def load(folder: Path, model: Checkpoint) -> "OutlierReference | None":
        """The reference of a model's folder; None where none was fitted.

        Raises:
            CheckpointError: It is broken, or of another model.
        """
        path = folder / REFERENCE
        if not path.is_file():
            return None
        stored = read_tensors(path)
        if stored.notes.get("model") != model.latent_digest:
            raise CheckpointError(
                f"{path}: is of another model; fit it again with `scattervae outliers --fit`"
            )
        if stored.notes.get("format") != _FORMAT:
            raise CheckpointError(
                f"{path}: in format {stored.notes.get('format')} of another version, expected {_FORMAT}; fit it again "
                "with `scattervae outliers --fit`"
            )
        try:
            stars = StarParts(**{name: stored.arrays[name] for name in StarParts.__dataclass_fields__})
            parts = stored.arrays["parts"]
        except KeyError as error:
            raise CheckpointError(
                f"{path}: lacks {error}; fit it again with `scattervae outliers --fit`"
            ) from error
        if parts.shape != (len(stars), len(PARTS)) or len(stars) < FEWEST_REFERENCE:
            raise CheckpointError(f"{path}: its arrays do not fit each other; fit it again")
        return OutlierReference(stars, parts, model.latent_digest)


@dataclass(frozen=True)
class OutlierScores:
    """How odd some stars are.

    Attributes:
        stars: The stars.
        score: Minus log10 of the share of reference stars of their G that are odder.
        excess: Of each of `PARTS` over reference stars of the same G, in units of their upper spread.
        outside: How much fainter than the faintest reference star, or brighter than the brightest (below 0) [mag]; 0
            inside.
    """

    stars: StarParts
    score: StarArray
    excess: Float64[np.ndarray, "star part"]
    outside: StarArray

    def reasons(self) -> list[str]:
        """Whether it is outside the reference's G, and what it is odd in, the oddest first; empty where nothing is."""
        names, order = np.array(list(PARTS)), np.argsort(-self.excess, axis=1)
        brighter, fainter = ([text] for text in OUTSIDE)
        return [
            "; ".join(
                (brighter if outside < 0 else fainter if outside > 0 else [])
                + names[row[excess[row] > _REASON_ABOVE]].tolist()
            )
            for row, excess, outside in zip(order, self.excess, self.outside, strict=True)
        ]

    def table(self, model: Checkpoint) -> pa.Table:
        """One row a star, the oddest first, with units and descriptions."""
        order = np.lexsort((self.stars.source_id, -self.score))
        basis = model.normalization.basis
        coefficients = [
            f"BP {index + 1}" if index < basis.n_bp else f"RP {index + 1 - basis.n_bp}"
            for index in self.stars.worst
        ]
        text = "over reference stars of its G, in units of their upper spread (median to 84th percentile)"
        columns = {
            "source_id": ("", "Gaia source identifier", self.stars.source_id),
            "g_mag": ("mag", "G magnitude", self.stars.g_mag),
            SCORE: (*SCORE_FIELDS[SCORE], self.score),
            REASONS: (*SCORE_FIELDS[REASONS], np.array(self.reasons(), dtype=object)),
            **{
                name: ("", f"{reason}: excess {text}", excess)
                for (name, reason), excess in zip(PARTS.items(), self.excess.T, strict=True)
            },
            "worst_coefficient": (
                "",
                "coefficient with the largest residual",
                np.array(coefficients, dtype=object),
            ),
            "worst_residual": (
                "",
                "that residual, over error and scatter in quadrature",
                self.stars.worst_sigma,
            ),
            "worst_wavelength": (
                "nm",
                "where its flux differs most from the decoded flux",
                self.stars.worst_nm,
            ),
        }
        return result_table(
            {name: (unit, text, values[order]) for name, (unit, text, values) in columns.items()},
            {NOTE: json.dumps(model.about)},
        )


def find_outliers(
    model: Checkpoint,
    stars: Source,
    reference: Source | OutlierReference | None = None,
    *,
    progress: Callable[[int], None] = lambda _: None,
) -> pa.Table:
    """Stars by how odd they are, the oddest first.

    Args:
        model: A trained model.
        stars: A store, a file, spectra, or spectra in chunks.
        reference: The population called ordinary, also as the catalogue that this model made of it; where None, that of
            the model's folder, or else the stars themselves, each left out of its own neighbours.
        progress: Called after each chunk with its number of stars.

    Raises:
        DataError: Too few reference stars, or stars of another basis than the model's.

    Example:
        >>> import scattervae as sv
        >>> odd = sv.find_outliers(sv.load_model("best"), "stars.csv.gz")
        >>> odd.column_names[:4]
        ['source_id', 'g_mag', 'outlier_score', 'outlier_reasons']
    """
    parts = StarParts.of(model, counting(source_chunks(model, stars), progress))
    if reference is None:
        reference = getattr(model, "outlier_reference", None)
    if not isinstance(reference, OutlierReference):
        ordinary = parts if reference is None else StarParts.of_ordinary(model, reference)
        reference = OutlierReference.fit(model, ordinary)
    return reference.score(parts).table(model)


class _Windows(NamedTuple):
    """The reference stars nearest in G, around at most 2,000 of them: neighbouring windows are nearly the same."""

    g_mag: ReferenceArray  # of all, rising
    rows: Int64[np.ndarray, "window inside"]  # of the reference

    @staticmethod
    def of(g_mag: ReferenceArray, size: int) -> "_Windows":
        size, order = min(size, len(g_mag)), np.argsort(g_mag, kind="stable")
        first = np.arange(0, len(g_mag) - size + 1, 1 + len(g_mag) // _MOST_WINDOWS)
        return _Windows(g_mag[order], order[first[:, None] + np.arange(size)])

    def around(self, g_mag: StarArray) -> Int64[np.ndarray, " star"]:
        """The window of each star of this G."""
        n, size = len(self.g_mag), self.rows.shape[1]
        start = np.clip(np.searchsorted(self.g_mag, g_mag) - size // 2, 0, n - size)
        window: np.ndarray = start // (1 + n // _MOST_WINDOWS)
        return window


class _Usual(NamedTuple):
    """What parts are usual at each G: a line through the medians of the fainter and the brighter half of a window.

    A few odd reference stars do not move it.

    Source:
        Brown & Mood (1951), Proc. 2nd Berkeley Symp., 159.
    """

    windows: _Windows
    g_ends: Float64[np.ndarray, "window 3"]  # lowest, median of the brighter half, highest
    slope: Float64[np.ndarray, "window part"]
    middle: Float64[np.ndarray, "window part"]  # at the median of the brighter half
    spread: Float64[np.ndarray, "window part"]  # from there to the 84th percentile

    @staticmethod
    def of(parts: Float64[np.ndarray, "reference part"], g_mag: ReferenceArray) -> "_Usual":
        windows = _Windows.of(g_mag, _IN_G)
        g, values = g_mag[windows.rows], parts[windows.rows]
        half = windows.rows.shape[1] // 2
        low_g, high_g = np.median(g[:, :half], axis=1), np.median(g[:, -half:], axis=1)
        low, high = np.median(values[:, :half], axis=1), np.median(values[:, -half:], axis=1)
        slope = (high - low) / np.maximum(high_g - low_g, _SMALLEST_STEP)[:, None]
        off = values - slope[:, None] * (g - low_g[:, None])[:, :, None]
        middle, upper = (np.percentile(off, q, axis=1) for q in (50, 84))
        ends = np.column_stack([g[:, 0], low_g, g[:, -1]])
        return _Usual(windows, ends, slope, middle, np.maximum(upper - middle, _SMALLEST_SPREAD))

    def excess(
        self, parts: Float64[np.ndarray, "star part"], g_mag: StarArray
    ) -> Float64[np.ndarray, "star part"]:
        """Parts of stars of this G over the usual ones, in units of their spread, which grows outside by the trend."""
        at = self.windows.around(g_mag)
        first, low, last = self.g_ends[at].T
        nearest = np.clip(g_mag, first, last)
        usual = self.middle[at] + self.slope[at] * (nearest - low)[:, None]
        trend = np.abs(self.slope[at] * (g_mag - nearest)[:, None])
        excess: np.ndarray = (parts - usual) / (self.spread[at] + trend)
        return excess


class _Ranked(NamedTuple):
    """What the parts of reference stars add up to, window by window in G, rising."""

    windows: _Windows
    values: Float64[np.ndarray, "window inside"]

    @staticmethod
    def of(combined: ReferenceArray, g_mag: ReferenceArray) -> "_Ranked":
        windows = _Windows.of(g_mag, _RANKED)
        return _Ranked(windows, np.sort(combined[windows.rows], axis=1))

    def minus_log10_share(self, value: StarArray, g_mag: StarArray) -> StarArray:
        """Minus log10 of the share of reference stars of the same G with a larger value, exponential in the tail.

        The tail's scale is the median excess over ln 2, which a few odd stars in the reference do not move.
        """
        at, size = self.windows.around(g_mag), self.values.shape[1]
        n_tail = max(int(_TAIL * size), 5)
        result = np.empty(len(value))
        for window in np.unique(at):
            rows, ranked = np.flatnonzero(at == window), self.values[window]
            threshold = ranked[size - n_tail]
            scale = max(float(np.median(ranked[-n_tail:] - threshold)) / np.log(2), 1e-6)
            share = (size - np.searchsorted(ranked, value[rows]) + 0.5) / (size + 1)
            tail = np.log10((n_tail + 0.5) / (size + 1)) - (value[rows] - threshold) / scale / np.log(10)
            result[rows] = np.where(value[rows] > threshold, -tail, -np.log10(np.minimum(share, 1.0)))
        return result


def _combined(excess: Float64[np.ndarray, "star part"]) -> StarArray:
    added = np.array([name != NOT_ADDED for name in PARTS])
    combined: StarArray = np.sqrt(np.square(np.clip(excess[:, added], 0.0, None)).sum(axis=1))
    return combined
