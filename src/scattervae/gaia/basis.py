"""Basis functions by their ids: coefficients to flux on a wavelength grid, and to the G flux.

Everything here is linear in the coefficients. Ids, sizes and matrices are those of the installed GaiaXPy, read from
the tables that it ships: a newer one brings newer bases, and one that it does not know cannot be turned into flux.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
from jaxtyping import Float, Float32, Float64

from scattervae.arrays import CoeffArray, CoeffArray32, CoeffVector, FluxArray, StarArray, Wavelengths
from scattervae.errors import DataError, counted
from scattervae.gaia.facts import DR3_BASIS, G_ZERO_POINT
from scattervae.spectra.bases import BasisIds
from scattervae.spectra.spectra import Basis, Correlations, Spectra

FluxMatrix = Float64[np.ndarray, "wavelength coeff"]

_CHUNK = 2048  # stars whose 2 x 1485 correlations are in float64 at once: 49 MB


@dataclass(frozen=True)
class Design:
    """What turns coefficients into flux, ``flux = matrix @ coeffs`` [W m^-2 nm^-1].

    Attributes:
        grid_nm: Wavelengths, 336 to 1020 nm in steps of 2 nm.
        matrix: Both bands' functions, each weighted by its share where BP and RP overlap (636 to 642 nm).
        alone: The functions unweighted, NaN outside the band: for a star that has only one band.
    """

    grid_nm: Wavelengths
    matrix: FluxMatrix
    alone: FluxMatrix


@dataclass(frozen=True)
class SampledFlux:
    """Stars as flux on a wavelength grid [W m^-2 nm^-1], NaN where a star has no spectrum.

    Attributes:
        grid_nm: Wavelengths.
        flux: Externally calibrated flux.
        errors: One standard deviation of each, always positive or NaN; neighbours are strongly correlated.
    """

    grid_nm: Wavelengths
    flux: FluxArray
    errors: FluxArray


@dataclass(frozen=True)
class KnownBasis:
    """A basis whose functions the installed GaiaXPy ships."""

    basis: Basis  # sizes and ids
    model: str  # GaiaXPy's name of the instrument model that its sampled functions were made with


# The model that GaiaXPy takes by default, of two that it ships for these ids.
# Source: GaiaXPy 2.1.5, calibrator._calibrate (bp_model, rp_model).
_DR3_MODEL = "v375wiv142r"


@cache
def known_bases() -> tuple[KnownBasis, ...]:
    """All bases that the installed GaiaXPy ships functions for; none twice.

    Its definitions of bases give ids and sizes, its sampled functions only sizes. The two are matched by size; where
    several models have the size of one basis, it is known only if it is DR3's.

    Source:
        GaiaXPy's configuration: ``uniqueId`` in the files of basis functions, ``XpFilter_<model>.xml``.
    """
    with as_if_not_imported():
        from gaiaxpy.config.paths import config_path, filters_path

    models: dict[tuple[int, int], list[str]] = {}
    for file in sorted(Path(filters_path).glob("XpFilter_*.xml")):
        name = file.stem.removeprefix("XpFilter_")
        if "_" not in name:  # with one it is a photometric system's
            models.setdefault(_sampled_sizes(file), []).append(name)
    known: dict[Basis, KnownBasis] = {}
    for file in sorted(Path(config_path).glob("*.xml")):
        for basis in _defined_bases(file):
            fitting = models.get((basis.n_bp, basis.n_rp), [])
            model = _DR3_MODEL if basis == DR3_BASIS else fitting[0] if len(fitting) == 1 else None
            if model in fitting:
                known[basis] = KnownBasis(basis, str(model))
    return tuple(known.values())


def require_known(basis: Basis) -> KnownBasis:
    """The basis as GaiaXPy knows it; one without ids is taken for the only one of its sizes.

    Raises:
        DataError: GaiaXPy ships no functions of these ids and sizes, or of several bases of these sizes.
    """
    fitting = _fitting(basis)
    if len(fitting) == 1:
        return fitting[0]
    every = " and ".join(str(known.basis) for known in (fitting or known_bases())) or "none"
    if fitting:
        raise DataError(f"no flux or G flux from {basis} without basis ids: GaiaXPy knows {every}")
    raise DataError(
        f"no flux or G flux from {basis}: GaiaXPy knows only {every}; a newer version may know it"
    )


def known_basis(ids: BasisIds) -> Basis | BasisIds:
    """The basis of these ids with its sizes, where they are DR3's or GaiaXPy knows them; else the ids."""
    if ids == (DR3_BASIS.bp_id, DR3_BASIS.rp_id):
        return DR3_BASIS
    return next((one.basis for one in known_bases() if (one.basis.bp_id, one.basis.rp_id) == ids), ids)


def is_known(basis: Basis) -> bool:
    """True where `require_known` finds the basis."""
    return len(_fitting(basis)) == 1


def _fitting(basis: Basis) -> list[KnownBasis]:
    return [known for known in known_bases() if basis.agrees_with(known.basis)]


def design(basis: Basis = DR3_BASIS) -> Design:
    """The merged design matrix of GaiaXPy's ``calibrate`` at its default sampling.

    Source:
        GaiaXPy, ``calibrator.calibrate``, and ``CalibrationAbsoluteSampledSpectrum`` for the limits of a band
        whose partner is missing (643 nm of BP, 635 nm of RP); for DR3, file ``XpFilter_v375wiv142r.xml``.
    """
    return _design(require_known(basis).model)


@cache
def _design(model: str) -> Design:
    grid_nm, weights, functions = _tables(model, None)
    limits = (grid_nm < 643)[:, None], (grid_nm > 635)[:, None]
    pairs = list(zip(functions, weights, limits, strict=True))
    return Design(
        grid_nm=grid_nm,
        matrix=np.hstack([f * w[:, None] for f, w, _ in pairs]),
        alone=np.hstack([np.where(inside, f, np.nan) for f, _, inside in pairs]),
    )


def sample_flux(spectra: Spectra) -> SampledFlux:
    r"""Flux of stars with errors propagated from their covariance.

    .. math:: f = A c, \qquad \sigma_f^2 = \mathrm{diag}(A\, D R D\, A^T), \quad D = \mathrm{diag}(e)

    A star with one band has flux in that band's range only. Where a star has no correlations, R is the
    identity: its flux errors are then **without correlations** and can be wrong by a factor of a few.

    Raises:
        DataError: The basis is not one that GaiaXPy knows.

    Source:
        GaiaXPy, ``AbsoluteSampledSpectrum._sample_error`` (it divides the errors by the standard deviation of
        the solution and multiplies the result by it again).
    """
    return _flux(spectra.coeffs, spectra.errors, spectra.correlations, spectra.basis)


def flux_from_coeffs(coeffs: CoeffArray, errors: CoeffArray, basis: Basis = DR3_BASIS) -> SampledFlux:
    r"""Flux of plain coefficients, with independent errors (or scatter) propagated.

    .. math:: \sigma_f^2 = \sum_j A_{wj}^2 \sigma_j^2

    Args:
        coeffs: BP then RP, in archive units; a band that is all NaN is missing.
        errors: One sigma of each, measurement or intrinsic scatter; their signs do not matter.
    """
    if coeffs.shape[1] != basis.n_coeffs:
        raise DataError(f"{counted(coeffs.shape[1], 'coefficient')} per star; expected {basis}")
    return _flux(coeffs, errors, None, basis)


def g_flux_from_coeffs(spectra: Spectra) -> StarArray:
    """Mean G flux computed from the coefficients [electron/s], NaN where a coefficient is missing.

    On real stars G agrees with the catalogue to 0.02 mag. A faint star's value may be negative.

    Raises:
        DataError: The basis is not one that GaiaXPy knows.

    Source:
        GaiaXPy's system ``Gaia_DR3_Vega``; Gaia Collaboration, Montegriffo et al. (2023), arXiv:2206.06215.
    """
    return _band_flux(spectra, "G")


def bp_rp_from_coeffs(spectra: Spectra) -> StarArray:
    """BP - RP computed from the coefficients [mag]; NaN where one is missing or a flux is not above 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(-2.5 * np.log10(_band_flux(spectra, "BP") / _band_flux(spectra, "RP")))


def _band_flux(spectra: Spectra, band: str) -> StarArray:
    # a sum for each star: BLAS adds in an order that depends on where among others the star stands
    return np.asarray((spectra.coeffs * band_weights(spectra.basis, band)).sum(axis=1))


def band_weights(basis: Basis, band: str) -> CoeffVector:
    """What each coefficient adds to the flux in G, BP or RP, all with the zero point of G [electron/s].

    Raises:
        DataError: The basis is not one that GaiaXPy knows.
    """
    return _band_weights(require_known(basis).model, band)


def g_flux_error_from_coeffs(spectra: Spectra) -> StarArray:
    """One sigma of `g_flux_from_coeffs` [electron/s], as if the coefficients' errors were independent."""
    weights = band_weights(spectra.basis, "G")
    return np.asarray(np.sqrt(np.square(spectra.errors * weights).sum(axis=1)))


@cache
def _band_weights(model: str, name: str) -> CoeffVector:
    system = _g_system(model)
    _, weights, functions = _tables(model, system)
    root = _filter_file(model, system)
    band = [item.text for item in root.iterfind("bands/item")].index(name)
    energy = np.concatenate([f[band] * w[band] for f, w in zip(functions, weights, strict=True)])
    zero_point = float(root.findall("zeropoints/value")[band].text or "nan")
    return np.asarray(energy * 10 ** (0.4 * (G_ZERO_POINT - zero_point)))


def _flux(
    coeffs: CoeffArray, errors: CoeffArray, correlations: Correlations | None, basis: Basis
) -> SampledFlux:
    grid = design(basis)
    pairs = (None, None) if correlations is None else (correlations.bp, correlations.rp)
    bp, rp = zip((basis.bp, basis.rp), pairs, strict=True)
    missing_bp, missing_rp = (np.isnan(coeffs[:, band]).all(axis=1) for band in (basis.bp, basis.rp))
    flux = np.full((len(coeffs), len(grid.grid_nm)), np.nan)
    variance = flux.copy()
    for stars, matrix, bands in (
        (~missing_bp & ~missing_rp, grid.matrix, (bp, rp)),
        (~missing_bp & missing_rp, grid.alone, (bp,)),
        (missing_bp & ~missing_rp, grid.alone, (rp,)),
    ):
        own = np.flatnonzero(stars)
        for rows in (own[start : start + _CHUNK] for start in range(0, len(own), _CHUNK)):
            flux[rows] = sum(coeffs[rows, band] @ matrix[:, band].T for band, _ in bands)
            variance[rows] = sum(
                _variance(errors[rows, band], matrix[:, band], _known_pairs(correlated, rows))
                for band, correlated in bands
            )
    return SampledFlux(grid_nm=grid.grid_nm, flux=flux, errors=np.sqrt(variance))


def _known_pairs(
    correlations: Float32[np.ndarray, "star pair"] | None, rows: np.ndarray
) -> Float64[np.ndarray, "row pair"] | None:
    if correlations is None:
        return None
    pairs = correlations[rows].astype(np.float64)
    return np.where(np.isnan(pairs).any(axis=1, keepdims=True), 0.0, pairs)


def _variance(
    errors: Float64[np.ndarray, "star n"],
    matrix: Float64[np.ndarray, "wavelength n"],
    pairs: Float64[np.ndarray, "star pair"] | None,
) -> FluxArray:
    """The diagonal of A D R D A^T: one product with the squares of A and one with its columns' products."""
    variance: FluxArray = errors**2 @ (matrix**2).T
    if pairs is not None:
        i, j = np.tril_indices(errors.shape[1], -1)
        variance += (pairs * errors[:, i] * errors[:, j]) @ (2 * matrix[:, i] * matrix[:, j]).T
    return variance


@contextmanager
def as_if_not_imported() -> Iterator[None]:
    """Importing GaiaXPy changes warning filters and matplotlib's text for the whole process: undo it."""
    with warnings.catch_warnings(action="ignore"), matplotlib.rc_context():
        yield


def _tables(
    model: str, system: str | None
) -> tuple[np.ndarray, list[np.ndarray], list[Float[np.ndarray, "row coeff"]]]:
    """GaiaXPy's grid, and the weights and functions of BP and RP, of the sampling grid or of a system."""
    with as_if_not_imported():
        from gaiaxpy.core.config import load_xpmerge_from_xml, load_xpsampling_from_xml

        # it joins the models of BP and RP to one name
        grid, weights = load_xpmerge_from_xml(system=system, bp_model=model, rp_model="")
        functions = load_xpsampling_from_xml(system=system, bp_model=model, rp_model="")
    return grid, [weights["bp"], weights["rp"]], [functions["bp"].T, functions["rp"].T]


def _g_system(model: str) -> str:
    """GaiaXPy's newest system of Gaia's own bands in VEGAMAG for a model."""
    with as_if_not_imported():
        from gaiaxpy.config.paths import filters_path

    files = sorted(Path(filters_path).glob(f"XpFilter_GaiaDr*Vega_{model}.xml"))
    if not files:
        raise DataError(
            f"no G flux from coefficients: GaiaXPy ships no Gaia_DR*_Vega system of model {model}"
        )
    return files[-1].stem.split("_")[1]


def _filter_file(model: str, system: str) -> ElementTree.Element:
    with as_if_not_imported():
        from gaiaxpy.core.config import get_file
        from gaiaxpy.core.xml_utils import get_file_root

        root: ElementTree.Element = get_file_root(get_file("filter", "filter", system, model, ""))
    return root


def _sampled_sizes(file: Path) -> tuple[int, int]:
    """How many functions of BP and RP a file of sampled ones has, of which only the beginning is read."""
    sizes: dict[str, int] = {}
    for _, element in ElementTree.iterparse(file, events=("start",)):
        if element.tag.endswith("SampledBases"):
            sizes[element.tag[:2]] = int(element.attrib["dimension"])
            if len(sizes) == 2:
                break
    return sizes.get("bp", 0), sizes.get("rp", 0)


def _defined_bases(file: Path) -> Iterator[Basis]:
    """The bases that a file of GaiaXPy's configuration defines: Hermite functions or splines."""
    root = ElementTree.parse(file).getroot()
    for bp, rp in zip(root.iter("bpConfig"), root.iter("rpConfig"), strict=False):
        ids = [band.findtext("uniqueId") for band in (bp, rp)]
        if all(ids):
            yield Basis(_n_functions(bp), _n_functions(rp), *(int(str(one)) for one in ids))


def _n_functions(band: ElementTree.Element) -> int:
    size = band.findtext("transformedSetDimension") or band.findtext("dimension")
    if size is None:  # splines: one for each knot but as many as their order
        return len(band.findall("knots/value")) - int(band.findtext("order") or 0)
    return int(size)


def g_mag_of(g_flux: Float[np.ndarray, "..."] | float) -> Float[np.ndarray, "..."] | float:
    """G of a mean flux in the G band [electron/s], with DR3's zero point; not finite where the flux is not above 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return G_ZERO_POINT - 2.5 * np.log10(g_flux)


def xp_colour(coeffs: CoeffArray | CoeffArray32, n_bp: int) -> StarArray:
    """Minus 2.5 times the decimal logarithm of the first BP over the first RP coefficient; NaN where not defined.

    These two hold most of each band's flux. Coefficients are rounded to float32, as stores have them.
    """
    first_bp, first_rp = (coeffs[:, column].astype(np.float32).astype(np.float64) for column in (0, n_bp))
    ratio = np.divide(first_bp, first_rp, out=np.full(len(coeffs), np.nan), where=first_rp != 0)
    return np.asarray(-2.5 * np.log10(np.where(ratio > 0, ratio, np.nan)))


def g_flux_of(
    g_mag: Float[np.ndarray, "..."] | float, *, zero_point: float = G_ZERO_POINT
) -> Float[np.ndarray, "..."] | float:
    """Mean flux in the G band [electron/s] of a G magnitude.

    .. math:: F = 10^{0.4 (25.6873668671 - G)}

    Source:
        `G_ZERO_POINT`.

    Example:
        >>> import scattervae as sv
        >>> round(sv.g_flux_of(15.0))
        18834
    """
    with np.errstate(over="ignore"):
        return 10 ** (0.4 * (zero_point - g_mag))
