"""Stars in memory and on disk, and the way from archive units to what a model sees.

This room offers `Spectra` and its companions, the `SpectrumStore` and the `Normalization`. It must not know
where spectra come from: nothing here names a file format, a catalogue column of Gaia's, or the network.
"""
