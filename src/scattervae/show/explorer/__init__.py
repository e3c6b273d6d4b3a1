"""One HTML file that shows stars in the latent space, decodes spectra and encodes a star, without a network.

`page` makes it from a catalogue and a model; `assets` holds what is ours of the page: layout, state, plots, and the
networks in JavaScript. BokehJS, which draws axes and takes gestures, comes from the Python package.
"""

__all__ = ["page"]
