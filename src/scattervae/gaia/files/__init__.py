"""Files and tables of Gaia spectra, one reader a kind, all ending in the same stars.

Every row that could not be used comes with the reason. Nothing here may know what becomes of the stars: no store, no
normalization, no model.
"""

__all__ = ["fits_and_votable", "reading", "text"]
