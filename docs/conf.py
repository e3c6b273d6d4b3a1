"""How the documentation is built: Markdown pages, and docstrings of every module."""

import scattervae

project = "scattervae"
copyright = "2026, the scattervae developers"
version = release = scattervae.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "alabaster"
html_theme_options = {"description": "A generative model of Gaia BP/RP spectra", "page_width": "1060px"}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = [("Source", "returns_style")]
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the array types are long; each docstring says what its arguments are
mathjax_path = "https://cdn.jsdelivr.net/npm/mathjax@3/es5/tex-mml-chtml.js"
