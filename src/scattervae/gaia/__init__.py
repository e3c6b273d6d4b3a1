"""What Gaia and its companions publish: files, basis functions, photometry, labels.

This room turns published files and tables into `Spectra`, and coefficients into flux and back. It must not
know that a model exists.
"""

__all__ = ["archive", "basis", "facts", "files", "flux", "ingest", "reading", "transport"]
