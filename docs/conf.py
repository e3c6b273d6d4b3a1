"""How the documentation is built: Markdown pages, and docstrings of every module."""

from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.errors import ExtensionError

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


def visit_formula(writer, node):
    """Write a formula as MathML, which browsers draw without a script, a font or a network."""
    try:
        formula = tex2mathml(node.astext(), as_block=node.tagname == "math_block")
    except MathError as error:
        raise ExtensionError(f"{node.astext()}: {error}") from None
    writer.body.append(f'<div class="formula">{formula}</div>' if node.tagname == "math_block" else formula)


def depart_formula(writer, node):
    """Nothing is left to close."""


def setup(app):
    """Enter the renderer of formulas."""
    app.add_html_math_renderer("mathml", (visit_formula, depart_formula), (visit_formula, depart_formula))
