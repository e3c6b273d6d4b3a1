"""Coefficients in one basis to another, through the flux that both make, so that a model can read stars of either.

Another basis is one thing, another release a second: its calibration differs too, and no change of basis knows that.

The archive's sampled spectra were made with the basis functions at full precision, not with the six digits that GaiaXPy
ships, whose rounding is fifty times that of their float32 flux and would wreck the inverse. So the matrix is computed
again here, from the instrument tables that GaiaXPy ships beside it (dispersion, response, inverse bases).
"""

import csv
import logging
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float64

from scattervae.arrays import CoeffArray, CoeffVector, StarArray, Wavelengths
from scattervae.errors import DataError
from scattervae.gaia.basis import as_if_not_imported, known_basis
from scattervae.gaia.facts import DR3_BASIS
from scattervae.gaia.flux import Design, FluxMatrix, design
from scattervae.spectra.spectra import Basis, Correlations, Spectra
from scattervae.spectra.star_tables import BasisIds

_HC = 1e9 * 2.99792458e8 * 6.62607004e-34
"""A photon's energy times its wavelength [J nm], from the constants of ``gaiaxpy.core.nature``."""
_PUPIL_AREA = 0.7278
"""Area of Gaia's telescope pupil [m^2] (``gaiaxpy.core.satellite``)."""
_LIMITS = (635.0, 643.0)
"""Where RP begins and BP ends [nm]; between them their shares change linearly."""


Ends = Literal["natural", "not-a-knot"]
SHORTEST, LONGEST = 330.0, 1050.0
"""Wavelengths [nm] beyond which no spectrum of Gaia's has flux; the tables of the response run from 310 to 1100 nm."""


@cache
def archive_design() -> Design:
    """The merged design matrix that the archive's sampled spectra agree with to float32 rounding.

    Source:
        `design_at`. Its end condition was found from 39,851 archive spectra: their part outside this
        matrix is 3.1e-8 of the spectrum, outside GaiaXPy's shipped matrix it is 1.4e-6. Two stars whose
        coefficients and sampled spectra are both published agree to 3e-8 (docs/explanation/inferred_coefficients.md).
    """
    return design_at(design().grid_nm)


def design_at(grid_nm: Wavelengths, *, ends: Ends = "natural") -> Design:
    r"""The merged design matrix on any wavelengths.

    .. math:: A_{wj} = \frac{h c}{P R(\lambda_w) \lambda_w} \sum_k T_{jk} \varphi_k(a u(\lambda_w) + b)

    with Hermite functions :math:`\varphi_k`, the response R and the dispersion u, each between its tabulated
    points by a cubic spline.

    Args:
        grid_nm: Wavelengths [nm], between `SHORTEST` and `LONGEST`.
        ends: End condition of the splines: "natural" is the archive's; "not-a-knot" is GaiaXPy's own, which shifts u
            by up to 6e-4 below 440 nm: there its ``calibrate(sampling=...)`` departs from the archive by up to
            0.5 %; its default sampling does not.

    Raises:
        DataError: A wavelength outside the instrument tables.

    Source:
        GaiaXPy, ``SampledBasisFunctions.from_external_instrument_model`` and ``calibrator.__create_merge``;
        Montegriffo et al. (2023), arXiv:2206.06205.
    """
    if grid_nm.min() < SHORTEST or grid_nm.max() > LONGEST:
        raise DataError(
            f"sampled spectra at {grid_nm.min():g} to {grid_nm.max():g} nm; Gaia's lie between {SHORTEST:g} and "
            f"{LONGEST:g} nm: give the sampling in nm"
        )
    rp_share = np.clip((grid_nm - _LIMITS[0]) / (_LIMITS[1] - _LIMITS[0]), 0.0, 1.0)
    bands = [("bp", "v375wi", 1 - rp_share), ("rp", "v142r", rp_share)]
    functions = [_functions(band, model, grid_nm, share > 0, ends=ends) for band, model, share in bands]
    return Design(
        grid_nm=grid_nm,
        matrix=np.hstack(
            [np.nan_to_num(f) * share[:, None] for f, (*_, share) in zip(functions, bands, strict=True)]
        ),
        alone=np.hstack(functions),
    )


def band_functions(band: Literal["bp", "rp"], grid_nm: Wavelengths) -> FluxMatrix:
    """The functions of one band of DR3 wherever its instrument has a response, NaN elsewhere.

    BP's reach to 720 nm and RP's to 600 nm: on a fine grid that wide, all 55 combinations of either can be separated
    in float64 (smallest singular value 6e-11 and 5e-10 of the largest), which those of `design_at` cannot.
    """
    model, inside = ("v375wi", grid_nm <= 720.0) if band == "bp" else ("v142r", grid_nm >= 600.0)
    return _functions(band, model, grid_nm, inside, ends="natural")


def _functions(band: str, model: str, grid_nm: Wavelengths, inside: np.ndarray, *, ends: Ends) -> FluxMatrix:
    """The functions of a band in flux units, NaN outside it."""
    from scipy.interpolate import CubicSpline

    with as_if_not_imported():
        from gaiaxpy.config.paths import config_path
    folder = Path(config_path)
    tables = [
        np.genfromtxt(folder / f"{band}C03_{model}_{name}.csv", delimiter=",")
        for name in ("dispersion", "response")
    ]
    position, response = (CubicSpline(*table, bc_type=ends)(grid_nm[inside]) for table in tables)
    with (folder / f"{band}C03_{model}_bases.csv").open(newline="") as file:
        row = next(csv.DictReader(file))
    low, high, norm_low, norm_high = (
        float(row[name]) for name in ("pwlRangeMin", "pwlRangeMax", "normRangeMin", "normRangeMax")
    )
    to_flux = _matrix(row["transformationMatrix"], int(row["nBases"])) @ _matrix(
        row["inverseBasesCoefficients"], int(row["nBases"])
    )
    x = (position - low) * (norm_high - norm_low) / (high - low) + norm_low
    functions = np.full((len(grid_nm), len(to_flux)), np.nan)
    functions[inside] = _hermite(x, to_flux.shape[1]) @ to_flux.T
    functions[inside] *= (_HC / (_PUPIL_AREA * response * grid_nm[inside]))[:, None]
    return functions


def _hermite(x: Float64[np.ndarray, " point"], n: int) -> Float64[np.ndarray, "point order"]:
    """The first n Hermite functions by their recurrence, orthonormal on the line."""
    values = np.zeros((n, len(x)))
    values[0] = np.pi**-0.25 * np.exp(-(x**2) / 2)
    values[1] = np.sqrt(2) * x * values[0]
    for k in range(2, n):
        values[k] = np.sqrt(2 / k) * x * values[k - 1] - np.sqrt((k - 1) / k) * values[k - 2]
    return values.T


def _matrix(text: str, n_rows: int) -> Float64[np.ndarray, "row column"]:
    return np.array([float(value) for value in text.strip("()").split(",")]).reshape(n_rows, -1)


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
    # relative size of their rounding; combinations that make less flux count as unknown
    precision: float = 1e-14


@dataclass(frozen=True)
class Transported:
    """Stars in another basis, and what was lost on the way."""

    spectra: Spectra  #: the stars; their errors hold what the source does not know
    #: combinations of BP and of RP coefficients that the source does not determine
    n_unknown: tuple[int, int]
    #: of each star the share of its flux, root mean square, that the target's functions cannot make
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

    Example:
        >>> import numpy as np
        >>> import scattervae as sv
        >>> spectra = sv.read("stars.csv.gz").spectra
        >>> moved = sv.transport(spectra, sv.Basis(55, 55, bp_id=56, rp_id=57))
        >>> np.array_equal(moved.spectra.coeffs, spectra.coeffs)  # they were in this basis
        True
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
    # what no source coefficient moves; it has the band's errors too
    beyond: Float64[np.ndarray, "target beyond"]
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


def falling_sigma(n: int) -> CoeffVector:
    """Size of the coefficients of a band over that of the first: falling fast at first and slowly after."""
    order = np.arange(n)
    return np.asarray(np.exp(-order) + 3e-3 * np.exp(-order / 30))
