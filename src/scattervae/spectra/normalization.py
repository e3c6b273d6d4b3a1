"""From archive units to what the model sees, and back.

Coefficients and errors are divided by the star's mean G flux; then each coefficient is brought to zero mean
and unit variance over the training stars, errors scaled alike (Laroche & Speagle 2023, sect. 2.1).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64
from pydantic import PositiveFloat, PositiveInt

from scattervae.arrays import CoeffArray, Coeffs, CoeffVector, StarArray
from scattervae.errors import DataError
from scattervae.settings import Settings
from scattervae.spectra.chunks import rechunk
from scattervae.spectra.flags import Flag, GFluxSource
from scattervae.spectra.spectra import Basis, Spectra

_ROWS_A_SUM = 8192
_CLIP_PASSES = 5
_NO_SPREAD = 1e-12  # of the mean: what rounding leaves of the standard deviation of equal numbers
_NOT_ENCODABLE = np.uint16(
    Flag.MISSING_BP | Flag.MISSING_RP | Flag.BAD_COEFFS | Flag.BAD_ERRORS | Flag.NO_G_FLUX
)


class NormalizationSettings(Settings):
    """How coefficients are chosen and scaled; the defaults are the paper's.

    Attributes:
        n_bp: Use only the first so many BP coefficients; all where None.
        n_rp: The same for RP.
        clip_sigma: Leave values further than so many standard deviations from the mean out of the
            statistics (the stars stay); off where None. In real data a coefficient reaches 139 of them.
    """

    n_bp: PositiveInt | None = None
    n_rp: PositiveInt | None = None
    clip_sigma: PositiveFloat | None = None


@dataclass(frozen=True)
class Inputs:
    """What the model sees: coefficients in training standard deviations, and their errors in the same.

    A star that cannot be encoded (a missing band, no G flux, a bad error) is a row of NaN in both.
    """

    x: Coeffs
    errors: Coeffs

    def __len__(self) -> int:
        return len(self.x)

    def to(self, device: torch.device) -> "Inputs":
        """The same inputs on another device."""
        return Inputs(x=self.x.to(device), errors=self.errors.to(device))


@dataclass(frozen=True)
class Normalization:
    """Mean and standard deviation of each coefficient over the training stars, in units of the G flux.

    Attributes:
        basis: Sizes and ids of the coefficients it was computed on.
        columns: Which of the basis's coefficients the model uses.
        mean: Mean of coefficient / G flux, of the columns used.
        std: Standard deviation of the same.
        n_stars: How many stars went into the statistics.
        n_g_flux_from_table: How many of them had their G flux from a table, not from the coefficients.
    """

    basis: Basis
    columns: Int64[np.ndarray, "coeff"]
    mean: CoeffVector
    std: CoeffVector
    n_stars: int
    n_g_flux_from_table: int

    @classmethod
    def fit(
        cls, chunks: Callable[[], Iterable[Spectra]], settings: NormalizationSettings | None = None
    ) -> "Normalization":
        """Statistics of the usable stars, streamed in float64 with any chunk size giving the same bits.

        Args:
            chunks: Gives the training stars, chunk by chunk, each time it is called.
            settings: Which coefficients, and whether outlying values count.

        Raises:
            DataError: No usable stars, more coefficients asked for than there are, or a constant one.
        """
        settings = settings or NormalizationSettings()
        basis, n_stars, n_table = _count(chunks)
        columns = _columns(basis, settings)
        mean, std = _moments(chunks, columns)
        if settings.clip_sigma is not None:
            for _ in range(_CLIP_PASSES):
                reach = settings.clip_sigma * std
                mean, std = _moments(chunks, columns, low=mean - reach, high=mean + reach)
        spread = std / np.maximum(np.abs(mean), np.finfo(float).tiny)
        if not (spread > _NO_SPREAD).all():
            raise DataError(
                f"coefficient {int(columns[np.argmin(spread)])} is the same in all {n_stars} training stars; "
                "a coefficient needs a spread to be scaled by: train on more stars"
            )
        return cls(
            basis=basis, columns=columns, mean=mean, std=std, n_stars=n_stars, n_g_flux_from_table=n_table
        )

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

    def apply(self, spectra: Spectra, *, dtype: torch.dtype = torch.float32) -> Inputs:
        """The stars as the model sees them; rows of NaN where a star cannot be encoded.

        Raises:
            DataError: The spectra are of another basis.
        """
        if not spectra.basis.agrees_with(self.basis):
            raise DataError(
                f"spectra of {spectra.basis}, but the model was trained on {self.basis}; "
                "train a model on spectra of this basis"
            )
        g_flux = np.where(spectra.flags & _NOT_ENCODABLE, np.nan, spectra.g_flux)[:, None]
        x = (spectra.coeffs[:, self.columns] / g_flux - self.mean) / self.std
        errors = spectra.errors[:, self.columns] / g_flux / self.std
        return Inputs(x=torch.from_numpy(x).to(dtype), errors=torch.from_numpy(errors).to(dtype))

    def invert(self, x: Coeffs, g_flux: StarArray) -> CoeffArray:
        """Coefficients in archive units of stars of this G flux [electron/s]; the inverse of `apply`."""
        values: CoeffArray = (x.double().numpy() * self.std + self.mean) * g_flux[:, None]
        return values

    def invert_errors(self, errors: Coeffs, g_flux: StarArray) -> CoeffArray:
        """Errors or scatter in archive units of stars of this G flux [electron/s]."""
        values: CoeffArray = errors.double().numpy() * self.std * g_flux[:, None]
        return values


def _count(chunks: Callable[[], Iterable[Spectra]]) -> tuple[Basis, int, int]:
    basis, n_stars, n_table = None, 0, 0
    for chunk in chunks():
        basis = basis or chunk.basis
        if not basis.agrees_with(chunk.basis):
            raise DataError(f"training stars of {basis} together with stars of {chunk.basis}")
        basis = basis.completed_by(chunk.basis)
        n_stars += int(chunk.usable.sum())
        n_table += int((chunk.usable & (chunk.g_flux_source == GFluxSource.TABLE)).sum())
    if basis is None or n_stars == 0:
        raise DataError("no usable star to compute mean and variance of the coefficients on")
    return basis, n_stars, n_table


def _columns(basis: Basis, settings: NormalizationSettings) -> Int64[np.ndarray, "coeff"]:
    n_bp = basis.n_bp if settings.n_bp is None else settings.n_bp
    n_rp = basis.n_rp if settings.n_rp is None else settings.n_rp
    if n_bp > basis.n_bp or n_rp > basis.n_rp:
        raise DataError(f"{n_bp} BP and {n_rp} RP coefficients asked for, but the spectra have {basis}")
    return np.concatenate([np.arange(n_bp), basis.n_bp + np.arange(n_rp)])


def _moments(
    chunks: Callable[[], Iterable[Spectra]],
    columns: Int64[np.ndarray, "coeff"],
    *,
    low: CoeffVector | float = -np.inf,
    high: CoeffVector | float = np.inf,
) -> tuple[CoeffVector, CoeffVector]:
    """Mean and standard deviation of coefficient / G flux over values between `low` and `high`.

    Blocks are merged by the update of Chan, Golub & LeVeque (1983), eqs. 2.1, which loses no digits.
    """
    n = np.zeros(len(columns))
    mean = np.zeros(len(columns))
    squares = np.zeros(len(columns))
    usable = (chunk.take(chunk.usable) for chunk in chunks())
    for block in rechunk(usable, _ROWS_A_SUM):
        values = block.coeffs[:, columns] / block.g_flux[:, None]
        inside = (values >= low) & (values <= high)
        n_block = inside.sum(axis=0)
        mean_block = values.sum(axis=0, where=inside) / np.maximum(n_block, 1)
        squares += np.square(values - mean_block).sum(axis=0, where=inside)
        total = np.maximum(n + n_block, 1)
        squares += np.square(mean_block - mean) * n * n_block / total
        mean += (mean_block - mean) * n_block / total
        n += n_block
    return mean, np.sqrt(squares / np.maximum(n, 1))
