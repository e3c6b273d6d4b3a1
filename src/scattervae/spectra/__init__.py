"""Stars in memory and on disk, and the way from archive units to what a model sees.

This room offers `Spectra`, tables of labels and source columns, `SpectrumStore`, `StoreWriter` and `Normalization`.
Columns go by the archive's names, but the room must not know how spectra are published: nothing here reads one of
Gaia's files or names the network.
"""

__all__ = [
    "columns",
    "foreign",
    "hats",
    "manifest",
    "normalization",
    "spectra",
    "staging",
    "star_tables",
    "store",
    "store_writer",
    "tables",
    "windows",
]
