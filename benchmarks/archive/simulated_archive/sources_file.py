"""``GaiaSource_*.csv.gz`` as the archive writes it: an ECSV header and 152 columns, of which we read a few."""

from dataclasses import dataclass
from io import BufferedIOBase

import numpy as np
from isal import igzip

from scattervae.gaia.basis import g_flux_of
from simulated_archive.sky import Placed
from simulated_archive.text import column

POOL = 2048
_LEVEL = 3
_ROWS = 8192

# Columns in the archive's order: d double, f float, g float that few have, ? one that hardly any has, i integer,
# b truth value, = written for each star.
# Source: Gaia DR3 data model, gaia_source.
_LAYOUT = """
solution_id= designation= source_id= random_index= ref_epoch= ra= ra_error:f dec= dec_error:f parallax= parallax_error=
parallax_over_error:f pm:f pmra:d pmra_error:f pmdec:d pmdec_error:f ra_dec_corr:f ra_parallax_corr:f ra_pmra_corr:f
ra_pmdec_corr:f dec_parallax_corr:f dec_pmra_corr:f dec_pmdec_corr:f parallax_pmra_corr:f parallax_pmdec_corr:f
pmra_pmdec_corr:f astrometric_n_obs_al:i astrometric_n_obs_ac:i astrometric_n_good_obs_al:i astrometric_n_bad_obs_al:i
astrometric_gof_al:f astrometric_chi2_al:f astrometric_excess_noise:f astrometric_excess_noise_sig:f
astrometric_params_solved:i astrometric_primary_flag:b nu_eff_used_in_astrometry:f pseudocolour:? pseudocolour_error:?
ra_pseudocolour_corr:? dec_pseudocolour_corr:? parallax_pseudocolour_corr:? pmra_pseudocolour_corr:?
pmdec_pseudocolour_corr:? astrometric_matched_transits:i visibility_periods_used:i astrometric_sigma5d_max:f
matched_transits:i new_matched_transits:i matched_transits_removed:i ipd_gof_harmonic_amplitude:f
ipd_gof_harmonic_phase:f ipd_frac_multi_peak:i ipd_frac_odd_win:i ruwe= scan_direction_strength_k1:f
scan_direction_strength_k2:f scan_direction_strength_k3:f scan_direction_strength_k4:f scan_direction_mean_k1:f
scan_direction_mean_k2:f scan_direction_mean_k3:f scan_direction_mean_k4:f duplicated_source:b phot_g_n_obs:i
phot_g_mean_flux= phot_g_mean_flux_error= phot_g_mean_flux_over_error:f phot_g_mean_mag= phot_bp_n_obs:i
phot_bp_mean_flux:d phot_bp_mean_flux_error:f phot_bp_mean_flux_over_error:f phot_bp_mean_mag:f phot_rp_n_obs:i
phot_rp_mean_flux:d phot_rp_mean_flux_error:f phot_rp_mean_flux_over_error:f phot_rp_mean_mag:f
phot_bp_rp_excess_factor= phot_bp_n_contaminated_transits:i phot_bp_n_blended_transits:i
phot_rp_n_contaminated_transits:i phot_rp_n_blended_transits:i phot_proc_mode:i bp_rp= bp_g:f g_rp:f radial_velocity:?
radial_velocity_error:? rv_method_used:? rv_nb_transits:? rv_nb_deblended_transits:? rv_visibility_periods_used:?
rv_expected_sig_to_noise:? rv_renormalised_gof:? rv_chisq_pvalue:? rv_time_duration:? rv_amplitude_robust:?
rv_template_teff:? rv_template_logg:? rv_template_fe_h:? rv_atm_param_origin:? vbroad:? vbroad_error:?
vbroad_nb_transits:? grvs_mag:? grvs_mag_error:? grvs_mag_nb_transits:? rvs_spec_sig_to_noise:? phot_variable_flag:b
l:d b:d ecl_lon:d ecl_lat:d in_qso_candidates:b in_galaxy_candidates:b non_single_star:i has_xp_continuous=
has_xp_sampled:b has_rvs:b has_epoch_photometry:b has_epoch_rv:b has_mcmc_gspphot:b has_mcmc_msc:b
in_andromeda_survey:b classprob_dsc_combmod_quasar:f classprob_dsc_combmod_galaxy:f classprob_dsc_combmod_star:f
teff_gspphot:g teff_gspphot_lower:g teff_gspphot_upper:g logg_gspphot:g logg_gspphot_lower:g logg_gspphot_upper:g
mh_gspphot:g mh_gspphot_lower:g mh_gspphot_upper:g distance_gspphot:g distance_gspphot_lower:g
distance_gspphot_upper:g azero_gspphot:g azero_gspphot_lower:g azero_gspphot_upper:g ag_gspphot:g ag_gspphot_lower:g
ag_gspphot_upper:g ebpminrp_gspphot:g ebpminrp_gspphot_lower:g ebpminrp_gspphot_upper:g libname_gspphot:b
"""
_COLUMNS = tuple(_LAYOUT.split())
COLUMNS = tuple(name.rstrip("=").partition(":")[0] for name in _COLUMNS)
_TYPES = {"i": "int16", "b": "bool", "f": "float32", "g": "float32", "?": "float32"}
_KNOWN = {"f": 0.95, "g": 0.26, "?": 0.02}  # the share of sources that has a value


@dataclass(frozen=True)
class Filler:
    """Cells of the columns that nobody reads, as pieces between those that are: rows share them.

    Attributes:
        pieces: One a gap between written columns: texts that begin and end with a comma.
    """

    fillers: tuple[tuple[bytes, ...], ...]

    @classmethod
    def make(cls, rng: np.random.Generator, n: int = POOL) -> "Filler":
        fillers: list[tuple[bytes, ...]] = []
        gap: list[list[str]] = []
        for name in _COLUMNS:
            if name.endswith("="):
                fillers.append(
                    tuple(f",{''.join(f'{c},' for c in cells)}".encode() for cells in _rows(gap, n))
                )
                gap = []
            else:
                gap.append(_cells(name[-1], n, rng))
        fillers.append(tuple(f",{','.join(cells)}".encode() for cells in _rows(gap, n)))
        return cls(tuple(fillers[1:]))


@dataclass(frozen=True)
class Sources:
    """All sources of a file, of which only some have a spectrum, and so a row in the spectra's file."""

    placed: Placed
    g_mag: np.ndarray
    with_spectrum: np.ndarray

    def take(self, rows: slice) -> "Sources":
        return Sources(self.placed.take(rows), self.g_mag[rows], self.with_spectrum[rows])


def write_sources(file: BufferedIOBase, sources: Sources, filler: Filler, rng: np.random.Generator) -> None:
    """Write the file; `filler` has the cells of columns that nobody reads."""
    with igzip.IGzipFile(fileobj=file, mode="wb", compresslevel=_LEVEL, mtime=0, filename="") as out:
        out.write(header())
        for start in range(0, len(sources.placed), _ROWS):
            out.write(_lines(sources.take(slice(start, start + _ROWS)), filler, rng))


def header() -> bytes:
    """The comments before the table, and its line of column names."""
    lines = ["%ECSV 1.0", "---", "delimiter: ','", "meta: !!omap", "- TABLE: gaia_source", "datatype:"]
    for name, spec in zip(COLUMNS, _COLUMNS, strict=True):
        lines += ["- ", f"  name: {name}", f"  datatype: {_TYPES.get(spec[-1], 'float64')}"]
    return "".join(f"# {line}\n" for line in lines).encode() + ",".join(COLUMNS).encode() + b"\n"


def _lines(sources: Sources, filler: Filler, rng: np.random.Generator) -> bytes:
    placed, g_mag = sources.placed, sources.g_mag
    n = len(placed)
    ids = column(placed.source_id)
    g_flux = np.asarray(g_flux_of(g_mag))
    parallax_error = (0.02 * 10 ** (0.2 * np.maximum(g_mag - 15, 0))).astype(np.float32)
    written = [
        [b"1636148068921376768"] * n,
        [b'"Gaia DR3 %b"' % i for i in ids],
        ids,
        column(rng.integers(0, 1_811_709_771, n)),
        [b"2016.0"] * n,
        column(placed.ra),
        column(placed.dec),
        column(parallax_error * rng.standard_normal(n) + rng.exponential(0.6, n)),
        column(parallax_error),
        column((1 + 0.05 * rng.standard_normal(n)).astype(np.float32)),
        column(g_flux),
        column((1e-3 * g_flux + 0.4).astype(np.float32)),
        column(g_mag.astype(np.float32)),
        column((1.2 + 0.03 * rng.standard_normal(n)).astype(np.float32)),
        column((0.9 + 0.5 * rng.standard_normal(n)).astype(np.float32)),
        [b"True" if known else b"False" for known in sources.with_spectrum.tolist()],
    ]
    gaps = [[fillers[i] for i in rng.integers(len(fillers), size=n).tolist()] for fillers in filler.fillers]
    both = [texts for pair in zip(written, gaps, strict=True) for texts in pair]
    return b"\n".join(map(b"".join, zip(*both, strict=True))) + b"\n"


def _rows(columns: list[list[str]], n: int) -> list[tuple[str, ...]]:
    return list(zip(*columns, strict=True)) if columns else [()] * n


def _cells(kind: str, n: int, rng: np.random.Generator) -> list[str]:
    if kind == "d":
        return [repr(x) for x in (100 * rng.standard_normal(n)).tolist()]
    if kind == "i":
        return [str(x) for x in rng.integers(0, 400, n).tolist()]
    if kind == "b":
        return ["True" if x else "False" for x in (rng.random(n) < 0.1).tolist()]
    values = rng.standard_normal(n).astype(np.float32)
    known = rng.random(n) < _KNOWN[kind]
    return [str(x) if k else "null" for x, k in zip(values, known, strict=True)]
