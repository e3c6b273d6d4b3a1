"""Gaia's bulk files, streamed: the reader for whole archives, where `scattervae.gaia.files` is for single files.

`read_bulk` gives the spectra of a file of any size chunk by chunk, `read_sources` what ``gaia_source`` says of
stars. Both read what the other reader reads, to the last bit; they know nothing of stores or models.
"""

from scattervae.gaia.bulk.blocks import BrokenFileError
from scattervae.gaia.bulk.gaia_source import is_bulk_sources, read_sources
from scattervae.gaia.bulk.reading import BulkChunk, is_bulk, read_bulk

__all__ = ["BrokenFileError", "BulkChunk", "is_bulk", "is_bulk_sources", "read_bulk", "read_sources"]
