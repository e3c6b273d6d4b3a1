"""The basis functions on the sampling grid at full precision, as the archive's own sampled spectra have them.

GaiaXPy ships its design matrix with six digits. The archive's sampled spectra were made without that
rounding, which is fifty times larger than the rounding of their float32 flux, and which would wreck the
inverse. So the matrix is computed again from the instrument tables that GaiaXPy ships beside it (dispersion,
response, inverse bases).
"""

import csv
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float64

from scattervae.arrays import Wavelengths
from scattervae.errors import DataError
from scattervae.gaia.basis import Design, FluxMatrix, as_if_not_imported, design

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

    folder = _tables_folder()
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


def _tables_folder() -> Path:
    with as_if_not_imported():
        from gaiaxpy.config.paths import config_path

    return Path(config_path)
