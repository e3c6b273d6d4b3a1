"""Fetching from the Gaia archive: bulk files by its own list of checksums, single stars by their identifiers.

Both go on where they were stopped. Nothing here looks at a spectrum's numbers, or knows what becomes of the files.
"""

__all__ = ["bulk", "doctor", "ids", "listing", "services", "transport"]
