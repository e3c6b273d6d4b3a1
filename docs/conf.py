"""How the documentation is built: Markdown pages, and docstrings of every module."""

import inspect
import logging
import pkgutil
import shutil
import sys
from pathlib import Path

from docutils.nodes import SkipNode
from latex2mathml.converter import convert

import scattervae

sys.path.insert(0, str(Path(__file__).parent))  # where scrapers.py is
project = "scattervae"
copyright = "2026, the scattervae developers"
version = release = scattervae.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "tutorials/scripts"]
html_theme = "furo"
html_title = "scattervae"
html_static_path = ["_static"]
html_css_files = ["page.css"]
html_math_renderer = "mathml"
sphinx_gallery_conf = {
    "examples_dirs": "tutorials/scripts",
    "gallery_dirs": "tutorials/pages",
    "abort_on_example_error": True,
    "image_scrapers": ("matplotlib", "scrapers.named_figure"),
    "copyfile_regex": r"nothing",
    "download_all_examples": False,
    "reset_modules": (),  # nothing is seen of a page in the next but the settings of matplotlib
    "show_signature": False,
    "write_computation_times": False,
}
copybutton_exclude = ".linenos, .gp, .go"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = [("Source", "returns_style")]
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
suppress_warnings = ["ref.python"]  # a public name and its module are both targets of the same name


RETURNED = (
    "science.catalogue.encoding.EncodedStars",
    "science.evaluation.Evaluation",
    "science.generation.GeneratedSpectra",
    "seeds.Folds",
    "spectra.star_tables.StellarLabels",
    "spectra.tables.StarTable",
)
"""Classes of what public functions return, with pages as well."""
ROOMS = ("spectra", "gaia", "model", "science", "show", "cli")
REFERENCE = Path(__file__).parent / "reference"
logging.getLogger("scattervae").setLevel(logging.ERROR)  # tutorials print what they show


def write_pages_of_code():
    """Write a page for each public name, and for each room a page with all of its modules."""
    pages = {}
    members = "\n   :members:\n   :undoc-members:\n   :inherited-members: BaseModel, tuple\n"
    members += "   :exclude-members: model_config\n"
    for name in sorted(set(scattervae.__all__) - {"__version__"}):
        kind = "class" if inspect.isclass(getattr(scattervae, name)) else "function"
        listed = members if kind == "class" else ""
        pages[f"names/{name}"] = f"{name}\n{'=' * len(name)}\n\n.. auto{kind}:: scattervae.{name}{listed}\n"
    for path in RETURNED:
        title = f"{path.rsplit('.', 1)[1]} (returned)"
        text = f"{title}\n{'=' * len(title)}\n\n.. autoclass:: scattervae.{path}\n   :no-index:{members}"
        pages[f"names/returned_{path.rsplit('.', 1)[1]}"] = text
    modules = {room: f"{room}\n{'=' * len(room)}\n" for room in ("top level", *ROOMS)}
    for module in pkgutil.walk_packages(scattervae.__path__, "scattervae."):
        room = module.name.split(".")[1]
        text = f"\n.. automodule:: {module.name}\n   :members:\n"
        modules[room if room in ROOMS else "top level"] += text
    for number, (room, text) in enumerate(modules.items()):
        pages[f"modules/{number}_{room.replace(' ', '_')}"] = text
    for folder in ("names", "modules"):
        shutil.rmtree(REFERENCE / folder, ignore_errors=True)
        (REFERENCE / folder).mkdir()
    for path, text in pages.items():
        (REFERENCE / f"{path}.rst").write_text(text, encoding="utf-8")


def write_formula(writer, node):
    """Write a formula as MathML, which browsers draw without a script, a font or a network."""
    block = node.tagname == "math_block"
    formula = convert(node.astext(), display="block" if block else "inline")
    writer.body.append(f'<div class="formula">{formula}</div>' if block else formula)
    raise SkipNode


def keep_first_lines(app, what, name, obj, options, lines):
    """Leave the first line of a property whole, of which napoleon takes what comes before a colon for its type."""
    if what == "property" and lines:
        lines[0] = lines[0].replace(": ", "; ")


def setup(app):
    """Enter the renderer of formulas, and write the pages that are made of the code."""
    app.connect("autodoc-process-docstring", keep_first_lines, priority=400)  # napoleon's is 500
    write_pages_of_code()
    app.add_html_math_renderer("mathml", (write_formula, None), (write_formula, None))
