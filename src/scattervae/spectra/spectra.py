"""Stars in memory: coefficients and errors in archive units, with what is known against each star."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from enum import IntEnum, IntFlag
from itertools import chain
from typing import Any

import numpy as np
from jaxtyping import Float32, Int16
from pydantic import ConfigDict, PositiveInt

from scattervae.arrays import CoeffArray, SourceIds, StarArray, StarFlags, StarMask
from scattervae.display import Shown
from scattervae.errors import DataError, counted

FLAGS = "quality_flags"
"""Column of flags in stores and catalogues."""


class MeaningfulFlag(IntFlag):
    """Bits of a column, each with its meaning: one sentence for tables, logs and documentation."""

    meaning: str

    def __new__(cls, value: int, meaning: str = "") -> "MeaningfulFlag":
        flag = int.__new__(cls, value)
        flag._value_, flag.meaning = value, meaning
        return flag


class Flag(MeaningfulFlag):
    """What is known against a star, as bits of its column `FLAGS`; 0 means nothing."""

    MISSING_BP = 1, "the star has no BP coefficients"
    MISSING_RP = 2, "the star has no RP coefficients"
    BAD_COEFFS = (
        4,
        "a coefficient is not finite, a band has the wrong number of them or contradicts its fit, "
        "or a sampled spectrum is not one of Gaia's",
    )
    BAD_ERRORS = 8, "a coefficient error is not finite, zero or negative"
    NO_G_FLUX = 16, "no positive and plausible G flux in the table, nor a positive one from the coefficients"
    DUPLICATE = 32, "another row of the same source_id is used instead"
    INFERRED = 64, "coefficients inferred from a sampled spectrum, not published (the star is used)"
    BLENDED = (
        128,
        "a neighbour adds over 0.1 mag to the spectrum, by G or the excess factor (the star is used)",
    )


ONE_BAND = Flag.MISSING_BP | Flag.MISSING_RP
UNUSABLE = ONE_BAND | Flag.BAD_COEFFS | Flag.BAD_ERRORS | Flag.NO_G_FLUX | Flag.DUPLICATE


def usable_stars(flags: StarFlags, *, one_band: bool = False) -> StarMask:
    """Stars with both bands (or one, with `one_band`), finite coefficients, good errors, a G flux, no better twin."""
    bands = flags & np.uint16(ONE_BAND)
    if not one_band:
        return np.asarray((flags & np.uint16(UNUSABLE)) == 0)
    return np.asarray(((flags & np.uint16(UNUSABLE)) == bands) & (bands != np.uint16(ONE_BAND)))


class GFluxSource(IntEnum):
    """Where a star's G flux comes from."""

    NONE = 0
    TABLE = 1
    COEFFICIENTS = 2


def flag_counts(flags: np.ndarray, kind: type[IntFlag] = Flag) -> dict[str, int]:
    """How many stars carry each flag, by the flag's name; flags that no star carries are left out."""
    counts = {str(flag.name): int(((flags & np.uint16(flag)) > 0).sum()) for flag in kind}
    return {name: n for name, n in counts.items() if n}


@dataclass(frozen=True)
class Basis:
    """How many coefficients each band has, and which set of basis functions they belong to.

    An id is None where the file does not name one, or where no star of it has the band.

    Source:
        ``bp_basis_function_id``, ``bp_n_parameters`` of the Gaia archive's ``xp_continuous_mean_spectrum``.

    Example:
        >>> import scattervae as sv
        >>> basis = sv.SpectrumStore("store").basis
        >>> print(basis)
        55 BP (basis 56) + 55 RP (basis 57) coefficients
        >>> basis.n_coeffs, basis.rp
        (110, slice(55, 110, None))
    """

    __pydantic_config__ = ConfigDict(extra="forbid")  # where a file of settings states one

    n_bp: PositiveInt
    n_rp: PositiveInt
    bp_id: int | None = None
    rp_id: int | None = None

    @property
    def n_coeffs(self) -> int:
        return self.n_bp + self.n_rp

    @property
    def bp(self) -> slice:
        """The BP columns of a coefficient array."""
        return slice(0, self.n_bp)

    @property
    def rp(self) -> slice:
        """The RP columns of a coefficient array."""
        return slice(self.n_bp, self.n_coeffs)

    @property
    def ids(self) -> str:
        """The ids as ``--basis`` takes them."""
        return "+".join("?" if one is None else str(one) for one in (self.bp_id, self.rp_id))

    @property
    def is_named(self) -> bool:
        """True where an id is known: then the other is too, or no star has that band."""
        return self.bp_id is not None or self.rp_id is not None

    def joins(self, other: "Basis") -> bool:
        """True where stars of both are known to be of one basis, or are of the same sizes and both unnamed."""
        return self.agrees_with(other) and self.is_named == other.is_named

    def agrees_with(self, other: "Basis") -> bool:
        """True where both may be one: the same sizes, and no two given ids differ."""
        ids = (self.bp_id, other.bp_id), (self.rp_id, other.rp_id)
        same = all(None in pair or pair[0] == pair[1] for pair in ids)
        return same and (self.n_bp, self.n_rp) == (other.n_bp, other.n_rp)

    def completed_by(self, other: "Basis") -> "Basis":
        """The same basis, with ids that only `other` names."""
        return replace(
            self,
            bp_id=other.bp_id if self.bp_id is None else self.bp_id,
            rp_id=other.rp_id if self.rp_id is None else self.rp_id,
        )

    def __str__(self) -> str:
        bp_id, rp_id = ("" if i is None else f" (basis {i})" for i in (self.bp_id, self.rp_id))
        return f"{self.n_bp} BP{bp_id} + {self.n_rp} RP{rp_id} coefficients"


@dataclass(frozen=True)
class Correlations:
    """Correlations between the coefficients of a band, NaN where a star has none.

    Each row is the strict lower triangle row by row, ``np.tril_indices(n, -1)``; BP and RP are independent.

    Source:
        ``bp_coefficient_correlations`` of the Gaia archive's ``xp_continuous_mean_spectrum``.
    """

    bp: Float32[np.ndarray, "star bp_pair"]
    rp: Float32[np.ndarray, "star rp_pair"]

    def fit(self, basis: Basis) -> bool:
        """True where each band has one correlation for each pair of its coefficients."""
        pairs = [n * (n - 1) // 2 for n in (basis.n_bp, basis.n_rp)]
        return [self.bp.shape[1], self.rp.shape[1]] == pairs


@dataclass(frozen=True, repr=False)
class Spectra(Shown):
    """Stars in archive units, one a row; coefficients run BP then RP.

    Source:
        Gaia archive, table ``gaiadr3.xp_continuous_mean_spectrum``.

    Example:
        >>> import scattervae as sv
        >>> spectra = sv.read("stars.csv.gz").spectra
        >>> spectra.coeffs.shape, spectra.errors.shape, len(spectra.g_flux)
        ((220, 110), (220, 110), 220)
        >>> spectra.take(spectra.usable)
        <220 stars of 55 BP (basis 56) + 55 RP (basis 57) coefficients, 220 usable>
    """

    source_id: SourceIds  #: Gaia's identifier
    coeffs: CoeffArray  #: coefficients as published, NaN where missing [electron/s in the basis of `basis`]
    errors: CoeffArray  #: one standard deviation of each, standard-deviation factor included; same units
    basis: Basis  #: sizes and ids of the coefficients
    flags: StarFlags  #: bits of `Flag`
    g_flux: StarArray  #: mean flux in the G band [electron/s], NaN where unknown
    g_flux_source: StarFlags  #: `GFluxSource` of each star
    #: recommended truncation of BP and RP, -1 where not given
    n_relevant_bases: Int16[np.ndarray, "star band"]
    #: of the coefficients, where the file has them and they were asked for
    correlations: Correlations | None = None

    @classmethod
    def of(
        cls,
        source_id: SourceIds,
        coeffs: CoeffArray,
        errors: CoeffArray,
        *,
        basis: Basis,
        g_flux: StarArray | None = None,
        n_relevant_bases: Int16[np.ndarray, "star band"] | None = None,
        correlations: Correlations | None = None,
    ) -> "Spectra":
        """Stars from plain arrays, each row checked and flagged.

        Args:
            source_id: As in `Spectra`; so are the arguments that are not named here.
            coeffs: Coefficients as published, BP then RP; a band that is all NaN, or all zero, is missing.
            g_flux: Mean G flux from a table [electron/s]; where absent or not positive it stays unknown.

        Raises:
            DataError: The arrays do not fit each other or the basis.

        Example:
            >>> import numpy as np
            >>> import scattervae as sv
            >>> coeffs, errors = np.ones((2, 5)), np.full((2, 5), 0.1)
            >>> basis = sv.Basis(n_bp=3, n_rp=2)
            >>> sv.Spectra.of(np.array([11, 12]), coeffs, errors, basis=basis, g_flux=np.array([1e4, 2e4]))
            <2 stars of 3 BP + 2 RP coefficients, 2 usable>
        """
        n = len(source_id)
        if coeffs.shape != (n, basis.n_coeffs) or errors.shape != coeffs.shape:
            raise DataError(
                f"{n} source_ids with coefficients {coeffs.shape} and errors {errors.shape}; "
                f"expected ({n}, {basis.n_coeffs}) for {basis}"
            )
        if correlations is not None and not correlations.fit(basis):
            raise DataError(
                f"{correlations.bp.shape[1]} BP and {correlations.rp.shape[1]} RP correlations "
                f"do not fit {basis}"
            )
        coeffs, errors = _without_empty_bands(coeffs, errors, basis)
        stars = cls(
            source_id=source_id,
            coeffs=coeffs,
            errors=errors,
            basis=basis,
            flags=_flags_of(source_id, coeffs, errors, basis) | np.uint16(Flag.NO_G_FLUX),
            g_flux=np.full(n, np.nan),
            g_flux_source=np.full(n, GFluxSource.NONE, dtype=np.uint16),
            n_relevant_bases=(
                np.full((n, 2), -1, dtype=np.int16) if n_relevant_bases is None else n_relevant_bases
            ),
            correlations=correlations,
        )
        return stars if g_flux is None else stars.with_g_flux(g_flux, GFluxSource.TABLE)

    def __len__(self) -> int:
        return len(self.source_id)

    def __repr__(self) -> str:
        return f"<{counted(len(self), 'star')} of {self.basis}, {int(self.usable.sum()):,} usable>"

    @property
    def usable(self) -> StarMask:
        return usable_stars(self.flags)

    @property
    def usable_with_one_band(self) -> StarMask:
        return usable_stars(self.flags, one_band=True)

    def take(self, rows: np.ndarray | slice | list[int]) -> "Spectra":
        """The stars of these rows: a mask, indices or a slice."""
        pairs = self.correlations
        correlations = pairs and Correlations(bp=pairs.bp[rows], rp=pairs.rp[rows])
        columns: dict[str, Any] = {name: getattr(self, name)[rows] for name in _PER_STAR}
        return replace(self, **columns, correlations=correlations)

    def with_flags(self, bits: StarFlags) -> "Spectra":
        """The same stars with these bits of `Flag` added to their own."""
        return replace(self, flags=self.flags | bits)

    def without_g_flux(self, rows: StarMask) -> "Spectra":
        """The same stars, those of these rows without a G flux, as if their table had none."""
        return replace(
            self,
            g_flux=np.where(rows, np.nan, self.g_flux),
            g_flux_source=np.where(rows, GFluxSource.NONE, self.g_flux_source).astype(np.uint16),
            flags=np.where(rows, self.flags | np.uint16(Flag.NO_G_FLUX), self.flags).astype(np.uint16),
        )

    def with_g_flux(self, g_flux: StarArray, source: GFluxSource) -> "Spectra":
        """The same stars with a G flux where they had none and `g_flux` is positive; the rest unchanged."""
        fill = np.isnan(self.g_flux) & np.isfinite(g_flux) & (g_flux > 0)
        return replace(
            self,
            g_flux=np.where(fill, g_flux, self.g_flux),
            g_flux_source=np.where(fill, source, self.g_flux_source).astype(np.uint16),
            flags=np.where(fill, self.flags & ~np.uint16(Flag.NO_G_FLUX), self.flags).astype(np.uint16),
        )

    @staticmethod
    def concatenate(chunks: "Iterable[Spectra]", n_stars: int | None = None) -> "Spectra":
        """All stars of the chunks, one at least, in order; correlations only where every chunk has them.

        Args:
            n_stars: How many they hold together: where given, no chunk stays in memory beside the whole.

        Raises:
            DataError: The chunks have different bases.
        """
        if n_stars is None:
            chunks = list(chunks)
            if len(chunks) == 1:
                return chunks[0]
            n_stars = sum(map(len, chunks))
        chunks = iter(chunks)
        first = next(chunks)
        basis, start = first.basis, 0
        whole = {name: np.empty((n_stars, *v.shape[1:]), v.dtype) for name, v in first._arrays()}
        for chunk in chain((first,), chunks):
            if not chunk.basis.joins(basis):
                raise DataError(f"cannot join spectra of {basis} with spectra of {chunk.basis}")
            basis = basis.completed_by(chunk.basis)
            arrays = dict(chunk._arrays())
            whole = {name: values for name, values in whole.items() if name in arrays}
            for name, values in whole.items():
                values[start : start + len(chunk)] = arrays[name]
            start += len(chunk)
        pairs = [whole.pop(band) for band in ("bp", "rp") if band in whole]
        return replace(first, **whole, basis=basis, correlations=Correlations(*pairs) if pairs else None)

    def _arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        """Every array with a row a star, by name; those of the correlations by band, where there are any."""
        yield from ((name, getattr(self, name)) for name in _PER_STAR)
        yield from vars(self.correlations).items() if self.correlations is not None else ()


_PER_STAR = tuple(f.name for f in fields(Spectra) if f.name not in ("basis", "correlations"))


def _without_empty_bands(
    coeffs: CoeffArray, errors: CoeffArray, basis: Basis
) -> tuple[CoeffArray, CoeffArray]:
    """The same arrays with NaN in bands of zeros, as columns of fixed width have them where a band is missing."""
    for band in (basis.bp, basis.rp):
        if band.stop == band.start:
            continue
        rows = np.flatnonzero(coeffs[:, band.start] == 0)
        rows = rows[~coeffs[rows, band].any(axis=1)]
        if len(rows):
            coeffs, errors = coeffs.copy(), errors.copy()
            coeffs[rows, band] = errors[rows, band] = np.nan
    return coeffs, errors


def _flags_of(source_id: SourceIds, coeffs: CoeffArray, errors: CoeffArray, basis: Basis) -> StarFlags:
    flags = np.zeros(len(source_id), dtype=np.uint16)
    for band, missing in ((basis.bp, Flag.MISSING_BP), (basis.rp, Flag.MISSING_RP)):
        finite = np.isfinite(coeffs[:, band])
        absent = ~finite.any(axis=1)
        good_errors = np.isfinite(errors[:, band]) & (errors[:, band] > 0)
        flags[absent] |= np.uint16(missing)
        flags[~absent & ~finite.all(axis=1)] |= np.uint16(Flag.BAD_COEFFS)
        flags[~absent & ~good_errors.all(axis=1)] |= np.uint16(Flag.BAD_ERRORS)
    flags[repeats(source_id)] |= np.uint16(Flag.DUPLICATE)
    return flags


def repeats(source_id: SourceIds, worth: StarArray | None = None) -> StarMask:
    """True for rows of a star that has a better one: of higher worth, among equals the first."""
    best_first = np.lexsort((np.zeros(len(source_id)) if worth is None else -worth, source_id))
    again = np.zeros(len(source_id), dtype=bool)
    again[best_first[1:]] = source_id[best_first[1:]] == source_id[best_first[:-1]]
    return again


def rechunk(chunks: Iterable[Spectra], rows: int) -> Iterator[Spectra]:
    """The same stars in the same order, `rows` at a time, the last chunk with what is left.

    Sums and matrix products over these chunks do not depend on how the stars arrived.
    """
    if rows < 1:
        raise ValueError(f"rows = {rows}; a chunk holds at least one star")
    waiting: list[Spectra] = []
    n_waiting = 0
    for chunk in chunks:
        waiting.append(chunk)
        n_waiting += len(chunk)
        if n_waiting >= rows:
            joined = Spectra.concatenate(waiting)
            for start in range(0, n_waiting - rows + 1, rows):
                yield joined.take(slice(start, start + rows))
            n_left = n_waiting % rows
            waiting = [joined.take(slice(n_waiting - n_left, n_waiting))] if n_left else []
            n_waiting = n_left
    if n_waiting:
        yield Spectra.concatenate(waiting)
