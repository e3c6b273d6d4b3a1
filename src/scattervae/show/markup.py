"""HTML that is right by construction: a tree of elements whose text is escaped when it is written.

The standard library's ElementTree does the writing; no text ever becomes markup.
"""

import xml.etree.ElementTree as ET
from typing import TypeAlias

Child: TypeAlias = ET.Element | str


def element(tag: str, *children: Child, **attributes: str) -> ET.Element:
    """An element with these children, text or elements, in order.

    Args:
        tag: Its name.
        children: Text, which is escaped, and elements.
        attributes: By name; a trailing underscore is dropped and others become hyphens (``class_``,
            ``aria_label``).
    """
    made = ET.Element(
        tag, {name.rstrip("_").replace("_", "-"): _printable(value) for name, value in attributes.items()}
    )
    for child in children:
        if isinstance(child, ET.Element):
            made.append(child)
        elif len(made):
            made[-1].tail = (made[-1].tail or "") + _printable(child)
        else:
            made.text = (made.text or "") + _printable(child)
    return made


def document(root: ET.Element) -> str:
    """The page as text, doctype included."""
    ET.indent(root)
    return "<!DOCTYPE html>\n" + ET.tostring(root, encoding="unicode", method="html") + "\n"


def _printable(text: str) -> str:
    """Text without control characters, which HTML cannot hold."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)
