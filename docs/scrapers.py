"""Figures of tutorials that are made without pyplot, which sphinx-gallery does not find by itself."""

from typing import Any

from matplotlib.figure import Figure
from sphinx_gallery.scrapers import figure_rst

_DRAWN: set[int] = set()


def named_figure(block: object, block_vars: dict[str, Any], gallery_conf: dict[str, Any]) -> str:
    """Save the value of ``figure`` after the first block that has it, and show it."""
    figure = block_vars["example_globals"].get("figure")
    by_pyplot = hasattr(figure, "number")
    if not isinstance(figure, Figure) or by_pyplot or id(figure) in _DRAWN:
        return ""
    _DRAWN.add(id(figure))
    path = next(block_vars["image_path_iterator"])
    figure.savefig(path, dpi=150)
    return str(figure_rst([path], gallery_conf["src_dir"]))
