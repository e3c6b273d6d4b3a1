"""
2. Your own sample, from files to labels
========================================

Files become a store, a store becomes a model, and the model gives every star latents and labels. On the command line:
``ingest``, ``train``, ``evaluate``, ``label``, ``encode``.
"""

# %%
# Two files of spectra
# --------------------
# We write some of the demo's stars to two files, as if they had been downloaded.

import tempfile
from pathlib import Path

from astropy.table import Table

import scattervae as sv
from scattervae.gaia.reading import demo_file

folder = Path(tempfile.mkdtemp())
table = Table.read(demo_file())[::40]
table[:500].write(folder / "first.fits")
table[500:].write(folder / "second.fits")

# %%
# A store
# -------
# A store is read once and then fast. Files that cannot be read, and stars that cannot be used, are counted and named.

store = sv.ingest([folder / "first.fits", folder / "second.fits"], folder / "store")
stars = store.read()
print(len(store), "stars,", int(stars.usable.sum()), "of them usable")

# %%
# A model
# -------
# A thousand stars are few, and 20 passes are short: this takes seconds. Leave the settings as they are for real work.

recipe = sv.load_recipe("elbo")
recipe = recipe.model_copy(update={"training": recipe.training.model_copy(update={"batch_size": 64})})
small = sv.train(store, recipe, epochs=20, progress=False)
scores = sv.evaluate(small, store)
print(f"{scores.n_stars} held-out stars: negative ELBO {scores.negative_elbo:.1f} nats per star")

# %%
# Labels
# ------
# The model that comes with the package saw 30,000 stars, and has labels. ``scattervae label`` fits labels to a model of
# your own. A catalogue has each label with its intervals and its reliability.

import pyarrow.parquet as pq

best = sv.load_model("best")
sv.write_catalogue(best, store, folder / "catalogue.parquet")
COLUMNS = ["source_id", "teff", "teff_low_68", "teff_high_68", "logg", "fe_h", "label_flags"]
catalogue = pq.read_table(folder / "catalogue.parquet").to_pandas()
print(catalogue[COLUMNS].head().to_string())

# %%
# Predicted against measured, for stars of the test fold alone: the model learnt from the labels of none of them.

import matplotlib.pyplot as plt

truth = store.labels().aligned_to(catalogue["source_id"].to_numpy())
test = sv.folds(truth.source_id).test
figure, panels = plt.subplots(1, 3, figsize=(9, 3.2), layout="constrained")
titles = {"teff": "$T_\\mathrm{eff}$ [K]", "logg": "$\\log\\,g$ [dex]", "fe_h": "[Fe/H] [dex]"}
for axes, (name, title) in zip(panels, titles.items(), strict=True):
    value = catalogue[name]
    below, above = value - catalogue[f"{name}_low_68"], catalogue[f"{name}_high_68"] - value
    axes.errorbar(
        truth[name][test], value[test], yerr=[below[test], above[test]], fmt=".", markersize=3, elinewidth=0.5
    )
    axes.axline((truth[name][test][0],) * 2, slope=1, color="0.6", linewidth=0.8)
    axes.set_xlabel(f"APOGEE: {title}")
panels[0].set_ylabel("predicted")
