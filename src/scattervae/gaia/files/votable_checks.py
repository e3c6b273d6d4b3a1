"""A VOTable's elements watched as they are parsed: nothing outside the file is opened, nothing grows unseen."""

import re
from collections.abc import Iterator
from io import SEEK_END, BufferedIOBase
from xml.parsers import expat

from astropy.io.votable import tree
from astropy.utils.xml.iterparser import get_xml_iterator

from scattervae.errors import DataError
from scattervae.opening import Budget, budget_of

Event = tuple[bool, str, dict[str, str] | str, tuple[int, int]]

_ELEMENT_BYTES, _ROW_BYTES, _CELL_BYTES = 1000, 200, 100  # what astropy makes of each, measured
_NUMBER_BYTES = 16
_LENGTH_BYTES = 4
_FIRST_ROWS = 512  # for which astropy makes room before it has seen one
_BLOCK = 2**16
_GROWTH = 5  # of the text of one element


def parse_votable(stream: BufferedIOBase) -> tree.VOTableFile:
    """The file as astropy parses it, within its budget.

    Raises:
        DataError: It points to data elsewhere, defines entities, or grows out of proportion to its size.
    """
    size = stream.seek(0, SEEK_END)
    stream.seek(0)
    budget_of(stream).spend(_GROWTH * size)
    _refuse_entities(stream)
    config: dict[str, object] = {
        "invalid": "exception",
        "verify": "ignore",
        "filename": None,
        "datatype_mapping": {},
    }
    config |= dict.fromkeys(("columns", "chunk_size", "table_number", "table_id", "unit_format"))
    config["chunk_size"] = tree.DEFAULT_CHUNK_SIZE
    with get_xml_iterator(stream) as events:
        watched = _Watch(budget_of(stream)).all(events)
        return tree.VOTableFile(config=config, pos=(1, 1)).parse(watched, config)


def _refuse_entities(stream: BufferedIOBase) -> None:
    """Entities may name files, and stand for each other; no VOTable needs them.

    Source:
        XML 1.0, section 4.2: they are declared before the root element.
    """
    parser, at_root = expat.ParserCreate(), False

    def refuse(*_: object) -> None:
        raise DataError("is XML that defines entities, which is not done here; write it without <!ENTITY")

    def stop(*_: object) -> None:
        nonlocal at_root
        at_root = True

    parser.EntityDeclHandler, parser.StartElementHandler = refuse, stop
    while not at_root and (block := stream.read(_BLOCK)):
        parser.Parse(block)
    stream.seek(0)


class _Watch:
    """Counts what astropy is about to make of each element."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._new_table(0)

    def all(self, events: Iterator[Event]) -> Iterator[Event]:
        """The same events, each looked at before it is handed on."""
        for event in events:
            start, tag, data, _ = event
            if isinstance(data, dict):
                self._begin(tag, data)
            elif tag in ("TD", "STREAM"):
                self._budget.spend(self._content_bytes(tag, len(data)))
            assert start == isinstance(data, dict), "as astropy's parser has it"
            yield event

    def _begin(self, tag: str, attributes: dict[str, str]) -> None:
        if "href" in attributes and tag != "LINK":
            raise DataError(
                f"has its data elsewhere ({tag} href={attributes['href'][:80]!r}), which is not opened; "
                "write the table with its data inside, as BINARY2"
            )
        if tag == "TABLE":
            self._new_table(int(attributes.get("nrows", "0")))
        elif tag == "FIELD":
            self._add_field(attributes.get("arraysize", "1"))
        elif tag == "DATA":
            self._budget.spend(max(self._n_rows, _FIRST_ROWS) * self._width)
        sizes = {"TR": _ROW_BYTES + 2 * self._width, "TD": _CELL_BYTES}
        self._budget.spend(sizes.get(tag, _ELEMENT_BYTES))

    def _new_table(self, n_rows: int) -> None:
        self._n_rows = n_rows
        self._width = 0  # of a row in memory
        self._least = 0  # bytes that a row takes in a binary stream
        self._n_lists = 0

    def _add_field(self, arraysize: str) -> None:
        """Count a column, of which a row takes no less than one byte.

        Source:
            VOTable 1.4, section 2.2: ``arraysize="64x10*"``; the last dimension may vary.
        """
        n_values = 1
        for size in re.findall(r"\d+(?!\d*\*)", arraysize):
            n_values *= int(size)
        if n_values == 0:
            raise DataError(f"has a FIELD with arraysize {arraysize[:20]!r}; expected a size above 0")
        varies = "*" in arraysize
        self._budget.spend(n_values * _NUMBER_BYTES)
        self._n_lists += varies
        self._width += _NUMBER_BYTES if varies else n_values * _NUMBER_BYTES
        self._least += _LENGTH_BYTES if varies else n_values

    def _content_bytes(self, tag: str, n_characters: int) -> int:
        if tag == "TD":
            return n_characters
        row = _ROW_BYTES + _CELL_BYTES * self._n_lists
        return 3 * n_characters + n_characters * row // max(self._least, 1)
