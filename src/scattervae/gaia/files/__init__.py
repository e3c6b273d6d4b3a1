"""Files and tables of Gaia spectra, one reader a kind, all ending in the same stars.

`read_file` tells the kind of a file from its content and `read_table` takes what is already in memory; both
give the stars, their labels where there are any, and every row that could not be used with the reason.
Nothing here may know what becomes of the stars: no store, no normalization, no model.
"""

from scattervae.gaia.files.assemble import FileContents, bases_of
from scattervae.gaia.files.columns import SkippedRow
from scattervae.gaia.files.reading import (
    read_file,
    read_ids_file,
    read_labels_file,
    read_sources_file,
    read_table,
)

__all__ = [
    "FileContents",
    "SkippedRow",
    "bases_of",
    "read_file",
    "read_ids_file",
    "read_labels_file",
    "read_sources_file",
    "read_table",
]
