"""
1. Your own star
================

A trained model comes with the package. Here it reads one star: its latents, its labels, and how well it is reproduced.
On the command line the same is ``scattervae star FILE --id SOURCE_ID``.
"""

# %%
# Load a model and some stars
# ---------------------------
# ``sv.read`` reads any file of BP/RP spectra, and tables in memory. We take a hundredth of the demo's stars.

from astropy.table import Table

import scattervae as sv
from scattervae.gaia.reading import demo_file

model = sv.load_model("best")
stars = sv.read(Table.read(demo_file())[::100])
print(len(stars), "stars,", model.n_latent, "latents")

# %%
# One star
# --------
# ``model.encode`` gives the columns of the catalogue, a row for each star. The model has not seen this star: it is in
# the test fold. The survey knows its labels, to compare with.

import numpy as np

labelled = np.isfinite(stars.labels["fe_h"])
row = int(np.flatnonzero(sv.folds(stars.spectra.source_id).test & stars.spectra.usable & labelled)[0])
star = model.encode(stars[row : row + 1]).to_pandas().iloc[0]
print("Gaia source", stars.spectra.source_id[row])
for k in range(1, model.n_latent + 1):
    print(f"latent {k}: {star[f'latent_{k}_mean']:+.2f} +/- {star[f'latent_{k}_sd']:.2f}")

# %%
# Its labels, with the interval that contains the true value in 68 % of stars. The survey's own values are beside
# them. The model was trained on other stars.

for name in model.label_model.names:
    low, high = star[f"{name}_low_68"], star[f"{name}_high_68"]
    print(f"{name:8} {star[name]:9.2f}  {low:9.2f} to {high:9.2f}  APOGEE {stars.labels[name][row]:9.2f}")

# %%
# Is it reproduced?
# -----------------
# ``spectrum_score`` is the share of such stars that fit worse. A value near 0 would say: do not believe the labels.

print(f"score {star['spectrum_score']:.2f}, chi^2 per coefficient {star['reduced_chi2']:.2f}")

# %%
# The figure shows the spectrum as observed and as the model gives it. Markers in the second row are the *scatter*: what
# the model expects stars of the same latents to differ by.

figure = sv.plot_star(model, stars, row)
