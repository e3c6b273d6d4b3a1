"""How the documentation is built: Markdown pages, and docstrings of every module."""

from docutils.nodes import SkipNode
from latex2mathml.converter import convert

import scattervae

project = "scattervae"
copyright = "2026, the scattervae developers"
version = release = scattervae.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "scattervae"
html_static_path = ["_static"]
html_css_files = ["page.css"]
html_math_renderer = "mathml"
copybutton_exclude = ".linenos, .gp, .go"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = [("Source", "returns_style")]
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the array types are long; each docstring says what its arguments are


def write_formula(writer, node):
    """Write a formula as MathML, which browsers draw without a script, a font or a network."""
    block = node.tagname == "math_block"
    formula = convert(node.astext(), display="block" if block else "inline")
    writer.body.append(f'<div class="formula">{formula}</div>' if block else formula)
    raise SkipNode


def setup(app):
    """Enter the renderer of formulas."""
    app.add_html_math_renderer("mathml", (write_formula, None), (write_formula, None))
