"""
3. Odd stars
============

Which stars are unlike the others, and in what? We hide two stars that do not exist among ordinary ones, and look for
them. On the command line: ``scattervae outliers MODEL STARS --out odd.parquet --gallery odd.html``.
"""

# %%
# Ordinary stars, and two made up
# -------------------------------
# The first is the sum of a hot and a cool star. The second has a bump in its tenth BP coefficient.

from dataclasses import replace

import numpy as np
from astropy.table import Table

import scattervae as sv
from scattervae.gaia.reading import demo_file
from scattervae.science.outliers import find_outliers

model = sv.load_model("best")
stars = sv.read(Table.read(demo_file())[50::60])
usable = stars.spectra.take(stars.spectra.usable)
teff = stars.labels.aligned_to(usable.source_id)["teff"]
hot, cool = int(np.nanargmax(teff)), int(np.nanargmin(teff))

coeffs = usable.coeffs.copy()
share = usable.g_flux[hot] / usable.g_flux[cool]
coeffs[hot] = 0.5 * (coeffs[hot] + share * coeffs[cool])  # as bright as before, of two colours
bumped = int(np.flatnonzero(np.arange(len(teff)) != hot)[10])
coeffs[bumped, 9] += 20 * usable.errors[bumped, 9]
changed = replace(usable, coeffs=coeffs)

# %%
# The search
# ----------
# The stars are compared with each other, each left out of its own neighbours. The oddest come first.

odd = find_outliers(model, [changed]).to_pandas()
print(
    odd[["source_id", "g_mag", "outlier_score", "outlier_reasons", "worst_coefficient"]].head(8).to_string()
)

# %%
# A score of 2 is one star in a hundred. Where did the two end up?

ranks = {int(source): rank for rank, source in enumerate(odd["source_id"], start=1)}
for name, made_up in (("two stars in one", hot), ("a bump", bumped)):
    print(f"{name}: rank {ranks[int(changed.source_id[made_up])]} of {len(odd)}")

# %%
# Look at the oddest
# ------------------
# The gallery draws observed and reconstructed flux. Some real stars are odder than ours: reddened, active, or blended.

from scattervae.show.gallery import gallery_figure

first = odd.head(4)
rows = [int(np.flatnonzero(changed.source_id == source)[0]) for source in first["source_id"]]
table = find_outliers(model, [changed]).slice(0, 4)
figure = gallery_figure(model, changed.take(np.array(rows)), table)
