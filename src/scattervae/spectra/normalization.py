"""From archive units to what the model sees, and back.

Coefficients and errors are divided by the star's mean G flux; then each coefficient is brought to zero mean
and unit variance over the training stars, errors scaled alike (Laroche & Speagle 2023, sect. 2.1).
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt, ValidationError
from torch import Tensor

from scattervae.arrays import CoeffArray, Coeffs, CoeffVector, SourceIds, StarArray
from scattervae.errors import CheckpointError, DataError
from scattervae.files import problems, read_tensors, write_tensors
from scattervae.settings import Settings
from scattervae.spectra.columns import StoredSpectra
from scattervae.spectra.moments import FluxRatios, Moments, moments_and_outliers
from scattervae.spectra.spectra import Basis, Flag, Spectra

logger = logging.getLogger(__name__)

LARGEST_INPUT = 1e4
"""Coefficients and errors are held inside so many training standard deviations; in real data a coefficient reaches 139.
Their squares then stay inside float32's range, whatever a file holds."""
NOT_ENCODABLE = Flag.MISSING_BP | Flag.MISSING_RP | Flag.BAD_COEFFS | Flag.BAD_ERRORS | Flag.NO_G_FLUX
_ROWS_IN_CACHE = 512  # of 110 coefficients in float64: 450 kB
_CLIP_PASSES, _OUTLIER_PASSES = 5, 10
_NO_SPREAD = 1e-12  # of the mean: what rounding leaves of the standard deviation of equal numbers


class NormalizationSettings(Settings):
    """How coefficients are chosen and scaled; the defaults are the paper's."""

    n_bp: PositiveInt | None = None  # use only the first so many BP coefficients; all where None
    n_rp: PositiveInt | None = None  # the same for RP
    # leave values further than so many standard deviations from the mean out of the statistics (the stars
    # stay); off where None. In real data a coefficient reaches 139 of them
    clip_sigma: PositiveFloat | None = None

    def columns(self, basis: Basis) -> Int64[np.ndarray, " coeff"]:
        """Which of the basis's coefficients are used."""
        n_bp, n_rp = self.n_bp or basis.n_bp, self.n_rp or basis.n_rp
        if n_bp > basis.n_bp or n_rp > basis.n_rp:
            raise DataError(f"{n_bp} BP and {n_rp} RP coefficients asked for, but the spectra have {basis}")
        return np.concatenate([np.arange(n_bp), basis.n_bp + np.arange(n_rp)])


class _Counts(Settings):
    """What a file of the normalization notes beside its arrays."""

    n_stars: NonNegativeInt
    n_g_flux_from_table: NonNegativeInt


@dataclass(frozen=True)
class Inputs:
    """What the model sees: coefficients in training standard deviations, and their errors in the same.

    A star that cannot be encoded (a missing band, no G flux, a bad error) is a row of NaN in both. Where gaps are
    allowed, a missing coefficient is 0 with an infinite error, and only a star with nothing left is a row of NaN.
    """

    x: Coeffs
    errors: Coeffs

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: slice) -> "Inputs":
        return Inputs(x=self.x[rows], errors=self.errors[rows])

    @staticmethod
    def empty(n_stars: int, n_coeffs: int, *, dtype: torch.dtype = torch.float32) -> "Inputs":
        """Space for so many stars, their values left to be written; NumPy asks for it in large pages."""
        kind = np.float64 if dtype == torch.float64 else np.float32
        return Inputs(*(torch.from_numpy(np.empty((n_stars, n_coeffs), kind)) for _ in range(2)))

    def take(self, rows: Int64[Tensor, " row"]) -> "Inputs":
        """The stars of these rows, in memory of their own.

        On a CPU by one thread: so little work for several is not worth their waiting for each other.
        """
        if self.x.device.type != "cpu":
            return Inputs(x=self.x.index_select(0, rows), errors=self.errors.index_select(0, rows))
        x, errors = (
            torch.from_numpy(values.numpy().take(rows.numpy(), axis=0)) for values in (self.x, self.errors)
        )
        return Inputs(x=x, errors=errors)

    def with_gaps(self) -> "Inputs":
        """What is no number, or has no positive error, made a gap: 0 with an infinite error."""
        missing = ~(self.x.isfinite() & self.errors.isfinite() & (self.errors > 0.0))
        gaps = missing & ~missing.all(dim=1, keepdim=True)
        nothing = missing & ~gaps
        return Inputs(
            x=self.x.masked_fill(gaps, 0.0).masked_fill_(nothing, torch.nan),
            errors=self.errors.masked_fill(gaps, torch.inf).masked_fill_(nothing, torch.nan),
        )

    def to(self, device: torch.device) -> "Inputs":
        """The same inputs on another device."""
        return Inputs(x=self.x.to(device), errors=self.errors.to(device))


@dataclass(frozen=True)
class Normalization:
    """Mean and standard deviation of each coefficient over the training stars, in units of the G flux."""

    basis: Basis  # of the coefficients it was computed on
    columns: Int64[np.ndarray, " coeff"]  # which of the basis's coefficients the model uses
    mean: CoeffVector  # of coefficient / G flux, of the columns used
    std: CoeffVector  # of the same
    n_stars: int  # that went into the statistics
    n_g_flux_from_table: int  # stars of them that had their G flux from a table, not from the coefficients
    # stars that were dropped because alone they move the statistics by more than others do, or lie too far out;
    # no model is to train on them. Not kept with a model
    outliers: SourceIds = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    @classmethod
    def of(
        cls, basis: Basis, arrays: Mapping[str, np.ndarray], *, n_stars: int, n_g_flux_from_table: int
    ) -> "Normalization":
        """The normalization of these ``columns``, ``mean`` and ``std``, as a file has them.

        Raises:
            LookupError: One of them is missing.
            ValueError: They cannot be a normalization of this basis.
        """
        columns, mean, std = (arrays[name] for name in ("columns", "mean", "std"))
        kinds = [str(values.dtype) for values in (columns, mean, std)]
        if kinds != ["int64", "float64", "float64"] or columns.ndim != 1 or len(columns) == 0:
            raise ValueError(f"columns, mean and std are int64, float64 and float64 of one axis, not {kinds}")
        if not (columns.shape == mean.shape == std.shape):
            raise ValueError(
                f"columns, mean and std have one shape, not {columns.shape}, {mean.shape}, {std.shape}"
            )
        if columns[0] < 0 or columns[-1] >= basis.n_coeffs or (columns[1:] <= columns[:-1]).any():
            raise ValueError(f"columns are rising numbers from 0 to below {basis.n_coeffs}")
        if not (np.isfinite(mean).all() and np.isfinite(std).all() and (std > 0).all()):
            raise ValueError("means are finite, and standard deviations above 0")
        return cls(basis, columns, mean, std, n_stars, n_g_flux_from_table)

    def write(self, path: Path) -> None:
        """Write columns, means and standard deviations, with the counts beside them."""
        counts = {name: str(getattr(self, name)) for name in _Counts.model_fields}
        write_tensors(path, {name: getattr(self, name) for name in ("columns", "mean", "std")}, counts)

    @classmethod
    def read(cls, path: Path, basis: Basis) -> "Normalization":
        """What `write` wrote, of this basis."""
        stored = read_tensors(path)
        try:
            return cls.of(basis, stored.arrays, **dict(_Counts.model_validate(stored.notes)))
        except ValidationError as error:
            raise CheckpointError(f"{path}: {problems(error)}") from error
        except (LookupError, ValueError) as error:
            raise CheckpointError(f"{path}: {error}") from error

    @classmethod
    def fit(
        cls,
        chunks: Callable[[], Iterable[Spectra | StoredSpectra]],
        settings: NormalizationSettings | None = None,
        *,
        basis: Basis | None = None,
    ) -> "Normalization":
        """Statistics of the usable stars, streamed in float64 with any chunk size giving the same bits.

        The stars are read once, again where one has to be dropped, and five more times with `clip_sigma`. A star with
        one band counts in that band.

        Args:
            chunks: Gives the training stars, chunk by chunk, each time it is called.
            settings: Which coefficients, and whether outlying values count.
            basis: That of the stars; needed where they come as `StoredSpectra`, which do not name it.

        Raises:
            DataError: No usable stars, more coefficients asked for than there are, or a constant one.
        """
        settings = settings or NormalizationSettings()
        outliers = np.empty(0, dtype=np.int64)
        for _ in range(_OUTLIER_PASSES):
            ratios = FluxRatios(basis, settings.columns, outliers)
            moments, alone = moments_and_outliers(ratios.ratios(chunks()))
            found = np.array(ratios.far, dtype=np.int64)
            if settings.clip_sigma is None:
                found = np.union1d(found, alone)
            if len(found) == 0:
                break
            outliers = np.union1d(outliers, found)
        if settings.clip_sigma is not None:
            for _ in range(_CLIP_PASSES):
                reach = settings.clip_sigma * moments.std
                low, high, moments = moments.mean - reach, moments.mean + reach, Moments()
                for chunk in FluxRatios(basis, settings.columns, outliers).ratios(chunks()):
                    moments.add(chunk.values, low=low, high=high)
        mean, std = moments.mean, moments.std
        if len(outliers):
            shown = ", ".join(map(str, outliers[:3].tolist())) + (" ..." if len(outliers) > 3 else "")
            logger.warning(
                "%d of %d stars are left out of training: with them the scale of the coefficients would be another; "
                "source_id %s",
                len(outliers),
                ratios.n_stars + len(outliers),
                shown,
            )
        columns, basis = settings.columns(ratios.known_basis), ratios.known_basis
        constant = ~(std / np.maximum(np.abs(mean), np.finfo(float).tiny) > _NO_SPREAD)
        if constant.any():
            raise DataError(_why_constant(columns[constant].tolist(), ratios.n_stars, basis))
        return cls(basis, columns, mean, std, ratios.n_stars, ratios.n_g_flux_from_table, outliers)

    @property
    def n_coeffs(self) -> int:
        return len(self.columns)

    @property
    def bp(self) -> slice:
        """The BP columns of the model's coefficients."""
        return slice(0, int((self.columns < self.basis.n_bp).sum()))

    @property
    def rp(self) -> slice:
        """The RP columns of the model's coefficients."""
        return slice(self.bp.stop, self.n_coeffs)

    def apply(
        self,
        stars: Spectra | StoredSpectra,
        *,
        dtype: torch.dtype = torch.float32,
        quick: bool = False,
        gaps: bool = False,
    ) -> Inputs:
        """The stars as the model sees them; rows of NaN where a star cannot be encoded.

        Both kinds of stars give the same bits where their coefficients are the same numbers.

        Args:
            quick: As `apply_to` has it.
            gaps: Keep stars with a missing band or bad coefficients, as an encoder that sees errors can have them.

        Raises:
            DataError: The spectra are of another basis.
        """
        if isinstance(stars, Spectra):
            self.require_basis(stars.basis)
        n = len(stars.flags)
        inputs = Inputs.empty(n, self.n_coeffs, dtype=dtype)
        self.apply_to(stars, np.arange(n), inputs, quick=quick, gaps=gaps)
        return inputs

    def require_basis(self, basis: Basis) -> None:
        """Refuse stars of another basis than the model's; warn, once a run, of those that do not name theirs."""
        if not basis.agrees_with(self.basis):
            raise DataError(
                f"spectra of {basis}, but the model was trained on {self.basis} and reads no others; "
                "train a model on spectra of this basis, or express them in the model's (encode --transport)"
            )
        if basis.is_named != self.basis.is_named:
            _warn_of_unnamed(basis, self.basis)

    def apply_to(
        self,
        stars: Spectra | StoredSpectra,
        rows: Int64[np.ndarray, " row"],
        inputs: Inputs,
        *,
        quick: bool = False,
        gaps: bool = False,
    ) -> None:
        """Write these rows of the stars, as the model sees them, over `inputs` on a CPU.

        Finite numbers are held inside `LARGEST_INPUT`.

        Args:
            inputs: As many rows as are written.
            quick: Compute in float32, which takes a third of the time and rounds to some 1e-6.
            gaps: As `apply` has it.
        """
        kind: np.dtype[Any] = np.dtype(np.float32 if quick else np.float64)
        flags = stars.flags[rows]
        encodable = (flags & np.uint16(Flag.NO_G_FLUX if gaps else NOT_ENCODABLE)) == 0
        g_flux = np.where(encodable, stars.g_flux[rows], np.nan)[:, None]
        with np.errstate(over="ignore"):  # of a flux that is almost none
            per_flux = (1.0 / g_flux).astype(kind)
        mean, std = self.mean.astype(kind), self.std.astype(kind)
        for start in range(0, len(rows), _ROWS_IN_CACHE):
            here = slice(start, start + _ROWS_IN_CACHE)
            for values, scaled in ((stars.coeffs, inputs.x), (stars.errors, inputs.errors)):
                ratio: np.ndarray = values.take(rows[here], axis=0).astype(kind, copy=False)
                if self.n_coeffs < ratio.shape[1]:
                    ratio = ratio[:, self.columns]
                target, missing = scaled.numpy()[here], ~np.isfinite(ratio) if gaps else None
                with np.errstate(over="ignore", invalid="ignore"):
                    if quick:
                        ratio *= per_flux[here]
                    else:
                        ratio /= g_flux[here]
                    if values is stars.coeffs:
                        ratio -= mean
                    np.divide(ratio, std, out=target, casting="same_kind")
                np.clip(target, -LARGEST_INPUT, LARGEST_INPUT, out=target)  # NaN stays
                if missing is not None:
                    target[missing] = np.nan
        lacking = torch.from_numpy(np.flatnonzero(flags & np.uint16(NOT_ENCODABLE)))
        if gaps and len(lacking):
            with_gaps = inputs.take(lacking).with_gaps()
            inputs.x[lacking], inputs.errors[lacking] = with_gaps.x, with_gaps.errors

    def invert(self, x: Coeffs, g_flux: StarArray) -> CoeffArray:
        """Coefficients in archive units of stars of this G flux [electron/s]; the inverse of `apply`."""
        values: CoeffArray = (x.double().numpy() * self.std + self.mean) * g_flux[:, None]
        return values

    def invert_errors(self, errors: Coeffs, g_flux: StarArray) -> CoeffArray:
        """Errors or scatter in archive units of stars of this G flux [electron/s]."""
        values: CoeffArray = errors.double().numpy() * self.std * g_flux[:, None]
        return values


@cache
def _warn_of_unnamed(basis: Basis, own: Basis) -> None:
    logger.warning(
        "spectra of %s, taken for those that the model was trained on, %s: no ids say so", basis, own
    )


def _why_constant(columns: list[int], n_stars: int, basis: Basis) -> str:
    """Why coefficients without a spread cannot be scaled, and the way out."""
    found = f"coefficient {columns[0]} is the same in all {n_stars} training stars"
    if n_stars < 3:
        return f"{found}; a coefficient needs a spread to be scaled by: train on more stars"
    band = f"BP {columns[0]}" if columns[0] < basis.n_bp else f"RP {columns[0] - basis.n_bp}"
    others = f", and so are {len(columns) - 1} others" if len(columns) > 1 else ""
    return (
        f"{found} ({band}, counted from 0){others}: it holds no measurement, as where a file is padded with one value; "
        "mend the file, or leave out the high orders (normalization.n_bp and n_rp of the recipe)"
    )
