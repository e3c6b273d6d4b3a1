"""An archive of stars that a model made, in the files that Gaia's own archive serves."""
