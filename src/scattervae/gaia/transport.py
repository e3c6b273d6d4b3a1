"""Coefficients in one basis to another, through the flux that both make, so that a model can read stars of either.

Another basis is one thing, another release a second: its calibration differs too, and no change of basis knows that.
"""

import logging
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64

from scattervae.arrays import CoeffArray, StarArray, Wavelengths
from scattervae.errors import DataError
from scattervae.gaia.basis import design, known_basis
from scattervae.gaia.facts import DR3_BASIS
from scattervae.gaia.inference import falling_sigma
from scattervae.gaia.instrument import archive_design, band_functions
from scattervae.spectra.bases import BasisIds
from scattervae.spectra.spectra import Basis, Correlations, Spectra

logger = logging.getLogger(__name__)

_TABLE_PRECISION = 3e-6  # rounding of the functions that GaiaXPy ships, with six digits, and some
_DETERMINED = 1e-3  # how little of a combination, of the best determined one, may come across
_CHUNK = 4096  # stars whose covariances are in memory at once

_Source = Float64[np.ndarray, "wavelength source"]
_Target = Float64[np.ndarray, "wavelength target"]
_Map = Float64[np.ndarray, "target source"]
_Unknown = Float64[np.ndarray, "target combination"]


@dataclass(frozen=True)
class Functions:
    """The basis functions of each band by itself, on one grid for both bases of a transport."""

    grid_nm: Wavelengths
    bp: Float64[np.ndarray, "wavelength bp_coeff"]  # in flux units; NaN rows where the band has no flux
    rp: Float64[np.ndarray, "wavelength rp_coeff"]
    precision: float = (
        1e-14  # relative size of their rounding; combinations that make less flux count as unknown
    )


@dataclass(frozen=True)
class Transported:
    """Stars in another basis, and what was lost on the way.

    Attributes:
        spectra: The stars; their errors hold what the source does not know.
        n_unknown: Combinations of BP and of RP coefficients that the source does not determine.
        outside: Of each star the share of its flux, root mean square, that the target's functions cannot make.
    """

    spectra: Spectra
    n_unknown: tuple[int, int]
    outside: StarArray

    @property
    def loss(self) -> str:
        """What was lost, in one sentence."""
        bp, rp = self.n_unknown
        largest = f"{np.nanmax(self.outside, initial=0.0):.1e}"
        return (
            f"{bp} combinations of BP and {rp} of RP coefficients are not determined by the source and have large "
            f"errors; at most {largest} of a star's flux lies outside the target basis"
        )


def transport(
    spectra: Spectra,
    to: Basis | BasisIds,
    *,
    source: Functions | None = None,
    target: Functions | None = None,
) -> Transported:
    r"""Express stars in another basis: the coefficients there that make the same flux, band by band.

    .. math::
        c' = T c, \quad T = S A'^T (A' S A'^T + N)^{-1} A, \qquad
        C' = T C T^T + (S^{-1} + A'^T N^{-1} A')^{-1} + V

    with N the functions' rounding and S a prior of coefficients whose size falls with their order, as `infer_coeffs`
    has it: least squares where the flux determines a combination, the prior where it does not. V is the variance, the
    prior's and that of the band's errors, of the combinations orthogonal to all that the source can make, which stay
    0: both bases are near orthonormal in the data that they were fitted to, so these are what the other left out.

    Flags for a missing band stay. Correlations are carried along where the spectra have them.

    Args:
        to: The basis wanted, or the ids of one that GaiaXPy knows.
        source: Functions of the spectra's own basis, where GaiaXPy does not know it.
        target: Functions of the basis wanted, on the same grid.

    Raises:
        DataError: The functions of a basis are not known, or the two are on different grids.
    """
    to = known_basis(to) if isinstance(to, tuple) else to
    if not isinstance(to, Basis):
        raise DataError(
            f"to={to}: no basis that GaiaXPy knows has these ids; give a Basis, or its ids as (56, 57)"
        )
    if spectra.basis.agrees_with(to) and source is None and target is None:
        return Transported(spectra, (0, 0), np.zeros(len(spectra)))
    own, other = _pair(spectra.basis, to, source, target)
    precision = max(own.precision, other.precision)
    bands = [_BandMap.of(a, b, precision) for a, b in ((own.bp, other.bp), (own.rp, other.rp))]
    known = spectra.correlations
    pairs = (None, None) if known is None else (known.bp, known.rp)
    bp, rp = (
        band.apply(spectra.coeffs[:, where], spectra.errors[:, where], correlated)
        for band, where, correlated in zip(bands, (spectra.basis.bp, spectra.basis.rp), pairs, strict=True)
    )
    moved = replace(
        spectra,
        coeffs=np.hstack([bp.coeffs, rp.coeffs]),
        errors=np.hstack([bp.errors, rp.errors]),
        basis=to,
        correlations=None if known is None else Correlations(bp.pairs, rp.pairs),
    )
    outside = np.sqrt(np.nanmax(np.stack([bp.outside, rp.outside]), axis=0, initial=0.0))
    result = Transported(moved, (bands[0].n_unknown, bands[1].n_unknown), outside)
    logger.info("%s to %s: %s", spectra.basis, to, result.loss)
    return result


def functions_of(basis: Basis, grid_nm: Wavelengths | None = None) -> Functions:
    """The functions of a basis that GaiaXPy knows.

    Args:
        grid_nm: Wavelengths, for DR3's basis only; the grid of sampled spectra where None.

    Raises:
        DataError: GaiaXPy does not know the basis.
    """
    if grid_nm is not None:
        return Functions(grid_nm, band_functions("bp", grid_nm), band_functions("rp", grid_nm))
    known = archive_design() if basis.agrees_with(DR3_BASIS) else design(basis)
    precision = Functions.precision if basis.agrees_with(DR3_BASIS) else _TABLE_PRECISION
    return Functions(known.grid_nm, known.alone[:, basis.bp], known.alone[:, basis.rp], precision)


def _pair(
    own: Basis, to: Basis, source: Functions | None, target: Functions | None
) -> tuple[Functions, Functions]:
    """The functions of both bases on one grid: a given one's, else that of sampled spectra."""
    grid = next((given.grid_nm for given in (source, target) if given is not None), None)
    found = [
        given or functions_of(basis, grid if basis.agrees_with(DR3_BASIS) else None)
        for basis, given in ((own, source), (to, target))
    ]
    if not np.array_equal(found[0].grid_nm, found[1].grid_nm):
        raise DataError(f"functions of {own} and of {to} are on different wavelengths; give both on one grid")
    for basis, functions in zip((own, to), found, strict=True):
        sizes = functions.bp.shape[1], functions.rp.shape[1]
        if sizes != (basis.n_bp, basis.n_rp):
            raise DataError(f"functions of {sizes[0]} BP and {sizes[1]} RP coefficients for {basis}")
    return found[0], found[1]


@dataclass(frozen=True)
class _Band:
    """One band of some stars in the target basis; `outside` is the squared share of the flux that was lost."""

    coeffs: CoeffArray
    errors: CoeffArray
    pairs: np.ndarray
    outside: StarArray


@dataclass(frozen=True)
class _BandMap:
    """What turns one band's coefficients into those of another basis."""

    matrix: _Map  # T
    unknown: (
        _Unknown  # a root of the covariance of what the source does not determine, for a star of unit flux
    )
    beyond: Float64[
        np.ndarray, "target beyond"
    ]  # what no source coefficient moves; it has the band's errors too
    n_unknown: int  # combinations of which the prior says more than the source
    flux: Float64[np.ndarray, "row source"]  # the source's functions
    lost: Float64[np.ndarray, "row source"]  # what of them the target cannot make

    @classmethod
    def of(cls, source: _Source, target: _Target, precision: float) -> "_BandMap":
        rows = np.isfinite(source).all(axis=1) & np.isfinite(target).all(axis=1)
        a, b = source[rows], target[rows]
        sigma = falling_sigma(b.shape[1]) / np.sqrt(np.square(b[:, 0]).mean())
        rounding = precision * np.sqrt(np.square(b * sigma).sum(axis=1, keepdims=True))
        rounding += np.finfo(float).tiny ** 0.5 * (rounding == 0)
        u, size, vt = np.linalg.svd(b * sigma / rounding, full_matrices=False)
        matrix = sigma[:, None] * (vt.T * (size / (size**2 + 1))) @ (u.T @ (a / rounding))
        determined = sigma[:, None] * vt[size >= 1].T  # combinations that the target's flux determines
        undetermined = sigma[:, None] * vt.T / np.sqrt(size**2 + 1)
        beyond = _not_reached(matrix, determined)
        n_unknown = int((size < 1).sum()) + beyond.shape[1]
        unknown = np.hstack([undetermined, sigma[:, None] * beyond])
        return cls(matrix, unknown, beyond, n_unknown, a, a - b @ matrix)

    def apply(self, coeffs: CoeffArray, errors: CoeffArray, pairs: np.ndarray | None) -> _Band:
        flux, lost = coeffs @ self.flux.T, coeffs @ self.lost.T
        scale = np.sqrt(np.square(flux).mean(axis=1))
        if pairs is None:
            variance = np.square(errors) @ np.square(self.matrix).T
            variance += scale[:, None] ** 2 * np.square(self.unknown).sum(axis=1)
            variance += np.square(errors).mean(axis=1)[:, None] * np.square(self.beyond).sum(axis=1)
            correlated = np.empty((len(coeffs), 0), dtype=np.float32)
        else:
            variance, correlated = self._with_correlations(errors, pairs, scale)
        with np.errstate(invalid="ignore", divide="ignore"):
            outside = np.square(lost).mean(axis=1) / scale**2
        return _Band(coeffs @ self.matrix.T, np.sqrt(variance), correlated, outside)

    def _with_correlations(
        self, errors: CoeffArray, pairs: np.ndarray, scale: StarArray
    ) -> tuple[Float64[np.ndarray, "star target"], np.ndarray]:
        n, n_target = errors.shape[1], len(self.matrix)
        lower, lower_target = np.tril_indices(n, -1), np.tril_indices(n_target, -1)
        variance = np.empty((len(errors), n_target))
        correlated = np.empty((len(errors), len(lower_target[0])), dtype=np.float32)
        for start in range(0, len(errors), _CHUNK):
            rows = slice(start, start + _CHUNK)
            correlation = np.broadcast_to(np.eye(n), (len(errors[rows]), n, n)).copy()
            correlation[:, lower[0], lower[1]] = correlation[:, lower[1], lower[0]] = pairs[rows]
            spread = self.matrix * errors[rows, None, :]
            covariance = spread @ correlation @ spread.transpose(0, 2, 1)
            covariance += scale[rows, None, None] ** 2 * (self.unknown @ self.unknown.T)
            covariance += np.square(errors[rows]).mean(axis=1)[:, None, None] * (self.beyond @ self.beyond.T)
            variance[rows] = np.diagonal(covariance, axis1=1, axis2=2)
            sigma = np.sqrt(variance[rows])
            correlated[rows] = (covariance / (sigma[:, :, None] * sigma[:, None, :]))[:, *lower_target]
        return variance, correlated


def _not_reached(
    matrix: _Map, determined: Float64[np.ndarray, "target determined"]
) -> Float64[np.ndarray, "target beyond"]:
    """Orthonormal combinations of target coefficients that its flux determines and no source coefficient moves."""
    within = np.linalg.qr(determined)[0]
    left, sizes, _ = np.linalg.svd(within.T @ matrix)
    n_reached = int((sizes > _DETERMINED * sizes[0]).sum())
    return np.asarray(within @ left[:, n_reached:])
