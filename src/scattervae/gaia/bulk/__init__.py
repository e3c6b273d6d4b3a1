"""Gaia's bulk files, streamed: the reader for whole archives, where `scattervae.gaia.files` is for single files.

Both read the same numbers of the same files, to the last bit; they know nothing of stores or models.
"""
