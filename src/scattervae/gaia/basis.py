"""Bases that GaiaXPy knows, and which G flux a star has: a table's, or that of its coefficients; and neighbours' light.

Everything is linear in the coefficients. Ids, sizes and functions are those of the installed GaiaXPy, read from the
tables that it ships: a newer one brings newer bases, and one that it does not know cannot be turned into flux.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
from jaxtyping import Float

from scattervae.arrays import CoeffVector, StarArray, StarMask
from scattervae.errors import DataError
from scattervae.gaia.facts import DR3_BASIS, G_LIMITS, G_ZERO_POINT
from scattervae.spectra.spectra import Basis, Flag, GFluxSource, Spectra
from scattervae.spectra.star_tables import BasisIds, SourceColumns

# The model that GaiaXPy takes by default, of two that it ships for these ids.
# Source: GaiaXPy 2.1.5, calibrator._calibrate (bp_model, rp_model).
_DR3_MODEL = "v375wiv142r"


@cache
def known_bases() -> dict[Basis, str]:
    """All bases that the installed GaiaXPy ships functions for, with its name of the instrument model of these.

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
    known: dict[Basis, str] = {}
    for file in sorted(Path(config_path).glob("*.xml")):
        for basis in _defined_bases(file):
            fitting = models.get((basis.n_bp, basis.n_rp), [])
            model = _DR3_MODEL if basis == DR3_BASIS else fitting[0] if len(fitting) == 1 else None
            if model in fitting:
                known[basis] = str(model)
    return known


def require_known(basis: Basis) -> Basis:
    """The basis as GaiaXPy knows it; one without ids is taken for the only one of its sizes.

    Raises:
        DataError: GaiaXPy ships no functions of these ids and sizes, or of several bases of these sizes.
    """
    fitting = _fitting(basis)
    if len(fitting) == 1:
        return fitting[0]
    every = " and ".join(map(str, fitting or known_bases())) or "none"
    if fitting:
        raise DataError(f"no flux or G flux from {basis} without basis ids: GaiaXPy knows {every}")
    raise DataError(
        f"no flux or G flux from {basis}: GaiaXPy knows only {every}; a newer version may know it"
    )


def known_basis(ids: BasisIds) -> Basis | BasisIds:
    """The basis of these ids with its sizes, where they are DR3's or GaiaXPy knows them; else the ids."""
    if ids == (DR3_BASIS.bp_id, DR3_BASIS.rp_id):
        return DR3_BASIS
    return next((one for one in known_bases() if (one.bp_id, one.rp_id) == ids), ids)


def is_known(basis: Basis) -> bool:
    """True where `require_known` finds the basis."""
    return len(_fitting(basis)) == 1


def _fitting(basis: Basis) -> list[Basis]:
    return [known for known in known_bases() if basis.agrees_with(known)]


def g_flux_from_coeffs(spectra: Spectra) -> StarArray:
    """Mean G flux computed from the coefficients [electron/s], NaN where a coefficient is missing.

    On real stars G agrees with the catalogue to 0.02 mag. A faint star's value may be negative.

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
    """What each coefficient adds to the flux in G, BP or RP, all with the zero point of G [electron/s]."""
    return _band_weights(known_bases()[require_known(basis)], band)


def g_flux_error_from_coeffs(spectra: Spectra) -> StarArray:
    """One sigma of `g_flux_from_coeffs` [electron/s], as if the coefficients' errors were independent."""
    weights = band_weights(spectra.basis, "G")
    return np.asarray(np.sqrt(np.square(spectra.errors * weights).sum(axis=1)))


@cache
def _band_weights(model: str, name: str) -> CoeffVector:
    system = _g_system(model)
    _, weights, functions = tables_of_gaiaxpy(model, system)
    with as_if_not_imported():
        from gaiaxpy.core.config import get_file
        from gaiaxpy.core.xml_utils import get_file_root

        root: ElementTree.Element = get_file_root(get_file("filter", "filter", system, model, ""))
    band = [item.text for item in root.iterfind("bands/item")].index(name)
    energy = np.concatenate([f[band] * w[band] for f, w in zip(functions, weights, strict=True)])
    zero_point = float(root.findall("zeropoints/value")[band].text or "nan")
    return np.asarray(energy * 10 ** (0.4 * (G_ZERO_POINT - zero_point)))


@contextmanager
def as_if_not_imported() -> Iterator[None]:
    """Importing GaiaXPy changes warning filters and matplotlib's text for the whole process: undo it."""
    with warnings.catch_warnings(action="ignore"), matplotlib.rc_context():
        yield


def tables_of_gaiaxpy(
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


logger = logging.getLogger(__name__)
TOO_BRIGHT, TOO_FAINT = 1.5, 3.0
"""A table's G that is brighter or fainter by so many magnitudes than that of the coefficients is taken for wrong. In
39,851 real stars it is brighter by 0.78 mag at most, by more than 0.2 in four; and fainter by 1.42 mag at most, since
light of a neighbour adds to the coefficients: that is a fact about the star, and stays."""
BLENDED_BY = 0.1
"""A spectrum that is brighter by so many magnitudes than its star in G holds light of a neighbour: 2.4 % of 39,851 real
stars, 97 % of them with an excess factor off by more than five standard deviations."""
N_SIGMA = 5.0
"""So far may the G flux of the coefficients be off by their own errors, before the magnitudes count."""
BY_G = (
    (7.5, 9.0, 10.0, 11.0, 12.0, 13.0, 15.0),
    (-0.0136, -0.0091, -0.0038, -0.0044, -0.0037, -0.0030, -0.0028),
)
BY_COLOUR = (0.0, 0.4, 0.8, 1.1, 1.5, 2.0, 3.0), (-0.0048, -0.0020, 0.0001, 0.0, 0.0010, 0.0009, 0.0036)
"""G of the coefficients minus G of the catalogue [mag]: the sum of what these say at its G and at its BP - RP, in
straight lines between knots and constant outside.

Source:
    Least squares on the training fold of the demo's stars, blends and outliers left out, by ``studies.g_correction``.
"""


def is_corrected(basis: Basis) -> bool:
    """True for DR3's basis, which the correction was fitted in."""
    return require_known(basis) == DR3_BASIS


def catalogue_g_flux(spectra: Spectra) -> StarArray:
    """Mean G flux [electron/s] as the catalogue would have it, from the coefficients; NaN where one is missing.

    `g_flux_from_coeffs`, corrected by `BY_G` and `BY_COLOUR` where the basis is DR3's: then right to 0.001 mag in the
    median at any G from 5 to 15 and any colour, with a spread of 0.0036 mag.
    """
    flux = g_flux_from_coeffs(spectra)
    if not is_corrected(spectra.basis):
        return flux
    by_colour = np.interp(bp_rp_from_coeffs(spectra), *BY_COLOUR)
    too_bright = np.nan_to_num(np.interp(g_mag_of(flux), *BY_G)) + np.nan_to_num(by_colour)
    return np.asarray(flux * 10 ** (0.4 * too_bright))


@dataclass
class GFluxes:
    """Decides on the G flux of all chunks of a file, and counts what was refused."""

    where: str  # name of the file, for messages
    n_stars: int = 0  # stars so far
    n_refused: int = 0  # how many of them had a G flux in a table that was not believed
    n_unknown: int = 0  # how many of those have none now, since their coefficients give none

    def of(self, spectra: Spectra, sources: SourceColumns | None = None) -> Spectra:
        """The same stars, with the G flux of their coefficients where the table has none or a wrong one.

        A star is flagged as blended where either G says so or the excess factor that `sources` has of it.

        Raises:
            DataError: No star has a G flux, and no flux can be computed from coefficients of this basis.
        """
        in_table = spectra.g_flux_source == GFluxSource.TABLE
        try:
            require_known(spectra.basis)
        except DataError as error:
            wrong = in_table & ~_plausible(spectra.g_flux)
            stars = spectra.without_g_flux(wrong)
            self._require_some(stars, error)
        else:
            computed = catalogue_g_flux(spectra)
            reach = N_SIGMA * g_flux_error_from_coeffs(spectra)
            wrong = in_table & (~_plausible(spectra.g_flux) | _contradicted(spectra, computed, reach))
            blended = in_table & ~wrong & (computed - reach > spectra.g_flux * 10 ** (0.4 * BLENDED_BY))
            stars = (
                _with_blends(spectra, blended)
                .without_g_flux(wrong)
                .with_g_flux(computed, GFluxSource.COEFFICIENTS)
            )
        if sources is not None and set(_EXCESS_COLUMNS) <= set(sources.values):
            stars = _with_blends(stars, has_excess(sources.aligned_to(spectra.source_id)))
        self.n_stars += len(spectra)
        self.n_refused += int(wrong.sum())
        self.n_unknown += int((wrong & (stars.g_flux_source == GFluxSource.NONE)).sum())
        return stars

    def warn(self) -> None:
        """Say once, after the last chunk, how many stars had a G flux that cannot be."""
        if self.n_refused:
            logger.warning(
                "%s: %d of %d stars have a G flux or magnitude that their coefficients or Gaia's range (G %g to %g) "
                "contradict; %d take that of their coefficients, %d are flagged NO_G_FLUX",
                self.where,
                self.n_refused,
                self.n_stars,
                *G_LIMITS,
                self.n_refused - self.n_unknown,
                self.n_unknown,
            )

    def _require_some(self, spectra: Spectra, error: DataError) -> None:
        """Refuse stars that all lack a G flux, and say how many do."""
        unknown = spectra.g_flux_source == GFluxSource.NONE
        if unknown.all() and len(spectra):
            raise DataError(f"{self.where}: {error}; give phot_g_mean_flux in the table") from None
        if unknown.any():
            logger.warning(
                "%s: %d of %d stars are flagged: they have no G flux in the table, and %s",
                self.where,
                int(unknown.sum()),
                len(spectra),
                error,
            )


def _plausible(g_flux: StarArray) -> StarMask:
    """True where a star of Gaia's can have this G flux; for the bases that give none, this is all that is known."""
    faintest, brightest = g_flux_of(G_LIMITS[1]), g_flux_of(G_LIMITS[0])
    plausible: StarMask = (g_flux >= faintest) & (g_flux <= brightest)
    return plausible


def _contradicted(spectra: Spectra, computed: StarArray, reach: StarArray) -> StarMask:
    """True where the table's G flux lies beyond `TOO_BRIGHT` or `TOO_FAINT` of the computed one and its errors."""
    low, high = (computed - reach) * 10 ** (-0.4 * TOO_FAINT), (computed + reach) * 10 ** (0.4 * TOO_BRIGHT)
    with np.errstate(invalid="ignore"):
        contradicted: StarMask = (spectra.g_flux < low) | (spectra.g_flux > high)
    return contradicted


def _with_blends(spectra: Spectra, blended: StarMask) -> Spectra:
    return spectra.with_flags(np.where(blended, Flag.BLENDED, 0).astype(np.uint16))


_EXCESS_COLUMNS = ("phot_bp_rp_excess_factor", "bp_rp", "phot_g_mean_mag")


def has_excess(sources: SourceColumns) -> StarMask:
    """True where BP and RP have more flux than G allows: light of a neighbour within their wider windows.

    The excess factor over that of single stars of the same colour is above 0.1 mag and five standard deviations.

    Source:
        Riello et al. (2021), arXiv:2012.01916, table 2 and eqs. 6 and 18.
    """
    factor, x, g_mag = (sources.values[name] for name in _EXCESS_COLUMNS)
    usual = np.select(
        [x < 0.5, x < 4.0],
        [
            np.polyval((0.032277, 0.033772, 1.154360), x),
            np.polyval((-0.005879, 0.049255, 0.011464, 1.162004), x),
        ],
        np.polyval((0.140537, 1.057572), x),
    )
    sigma = 0.0059898 + 8.817481e-12 * g_mag**7.618399
    with np.errstate(invalid="ignore"):
        excess: StarMask = (factor > usual * 10 ** (0.4 * BLENDED_BY)) & (factor - usual > N_SIGMA * sigma)
    return excess
