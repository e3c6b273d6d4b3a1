"""
5. The whole archive
====================

220 million stars go the same way as 400. Here is that way in small: files as the archive has them, a store, a folder
of latents. On the command line: ``fetch bulk``, ``ingest``, ``encode --out FOLDER``, ``crossmatch``.
"""

# %%
# Bulk files
# ----------
# The archive has 3,386 files of spectra, each of a piece of the sky. We write two small ones in the same form.

import gzip
import tempfile
from pathlib import Path

import numpy as np
from astropy.table import Table

import scattervae as sv
from scattervae.gaia.reading import demo_file

folder = Path(tempfile.mkdtemp())
spectra = sv.read(Table.read(demo_file())[::100]).spectra
spectra = spectra.take(np.argsort(spectra.source_id))


def lines(some):
    """The stars as lines of a bulk file."""
    yield "source_id,phot_g_mean_flux,bp_coefficients,bp_coefficient_errors,rp_coefficients,rp_coefficient_errors"
    for i in range(len(some)):
        arrays = (
            values[i, band]
            for band in (some.basis.bp, some.basis.rp)
            for values in (some.coeffs, some.errors)
        )
        cells = ('"(' + ",".join(f"{x:.9g}" for x in array) + ')"' for array in arrays)
        yield f"{some.source_id[i]},{some.g_flux[i]:.9g},{','.join(cells)}"


half = len(spectra) // 2
files = []
for number, part in enumerate((np.arange(half), np.arange(half, len(spectra)))):
    files.append(folder / f"XpContinuousMeanSpectrum_{number}.csv.gz")
    files[-1].write_bytes(gzip.compress("\n".join(lines(spectra.take(part))).encode()))

# %%
# Ingest
# ------
# Each file is read once. A run that is stopped resumes where it was; a file that comes later is added.

store = sv.ingest(files[:1], folder / "store", basis=(56, 57))
print(len(store), "stars after the first file")
store = sv.ingest(files, folder / "store", basis=(56, 57))
print(len(store), "stars after both")

# %%
# A catalogue as a folder
# -----------------------
# A name without a suffix is written as a HATS catalogue: one file for each piece of the sky. LSDB, polars, duckdb and
# pandas open it.

model = sv.load_model("best")
summary = sv.encode_store(model, store, folder / "latents")
for path in sorted((folder / "latents").rglob("*.parquet"))[:4]:
    print(path.relative_to(folder))

# %%
import pandas as pd

latents = pd.read_parquet(folder / "latents" / "dataset")
print(latents[["source_id", "ra", "dec", "latent_1_mean", "latent_2_mean", "teff"]].head().to_string())

# %%
# Where the stars lie, coloured by the predicted temperature.

import matplotlib.pyplot as plt

figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
points = axes.scatter(
    latents["ra"], latents["dec"], c=latents["teff"], s=8, cmap="cividis_r", vmin=3500, vmax=7000
)
axes.set_xlabel("right ascension [deg]")
axes.set_ylabel("declination [deg]")
figure.colorbar(points, label="predicted $T_\\mathrm{eff}$ [K]")

# %%
# :doc:`The page on scale </measurements/scale>` says how long all 220 million take, and :doc:`the page on clusters
# </howto/cluster>` how several machines share the work.
