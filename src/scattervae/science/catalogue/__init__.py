"""The catalogue: one row a star, as a table, as one file, or as a HATS folder made here or on a cluster."""

__all__ = ["dask", "encoding", "hats_folder", "one_file", "training_flags"]
