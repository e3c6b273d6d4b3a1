"""Cutting a line into its cells at its quotes, by what the file's other lines look like."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, NamedTuple

_QUOTED = (
    b"\r"  # stands for a quoted cell among those that are not: a line that holds it there is not regular
)


class Cells(NamedTuple):
    """The cells of a line.

    Attributes:
        plain: All cells in order, a mark in the place of those that are quoted.
        quoted: Those of the quoted cells that are wanted, without their quotes.
    """

    plain: list[bytes]
    quoted: list[bytes]


@dataclass(frozen=True)
class Layout:
    """Which columns of a file are quoted in its regular lines, and which of them are wanted.

    Attributes:
        n_columns: Number of columns.
        quoted: Indices of the quoted columns.
        wanted: Indices of those of them that are wanted.
    """

    n_columns: int
    quoted: tuple[int, ...]
    wanted: tuple[int, ...]

    @classmethod
    def learn(
        cls, n_columns: int, arrays: Iterable[int], wanted: Iterable[int], lines: Iterable[bytes]
    ) -> "Layout":
        """The layout of the first of these lines in which all arrays are quoted.

        Args:
            n_columns: Number of columns.
            arrays: Columns of arrays; where no line tells, these are taken to be all that are quoted.
            wanted: Those of them that are wanted.
            lines: Some lines of the file, without their line ends.
        """
        quoted = tuple(sorted(arrays))
        needed = set(quoted)
        for line in lines:
            pieces = line.split(b'"')
            plain = _QUOTED.join(pieces[::2]).split(b",")
            found = tuple(column for column, cell in enumerate(plain) if cell == _QUOTED)
            if len(plain) == n_columns and needed <= set(found) and len(found) == len(pieces) // 2:
                quoted = found
                break
        return cls(n_columns, quoted, tuple(sorted(wanted)))

    def cutter(self) -> "Callable[[bytes, int, int], Cells | None]":
        """A function that cuts the line between two places of a text, None where it is not of this layout.

        A regular line has two quotes for each quoted cell (twelve in Gaia's files), each quoted cell in its
        place between two commas, and as many cells as the file has columns. A line with a missing band, or
        with a quote too many or too few, has not.
        """
        n_columns, n_quoted = self.n_columns, len(self.quoted)
        is_wanted = [column in self.wanted for column in self.quoted]
        quoted_of = getter(self.quoted)
        marks = quoted_of([_QUOTED] * n_columns)

        def cut(text: bytes, start: int, end: int) -> Cells | None:
            find = text.find
            between: list[bytes] = []
            quoted: list[bytes] = []
            for keep in is_wanted:
                opening = find(b'"', start, end)
                closing = find(b'"', opening + 1, end)
                if opening < 0 or closing < 0:
                    return None
                between.append(text[start:opening])
                if keep:
                    quoted.append(text[opening + 1 : closing])
                start = closing + 1
            if find(b'"', start, end) >= 0:
                return None
            between.append(text[start:end])
            whole = _QUOTED.join(between)
            plain = whole.split(b",")
            if len(plain) != n_columns or quoted_of(plain) != marks or whole.count(_QUOTED) != n_quoted:
                return None
            return Cells(plain, quoted)

        return cut


def getter(indices: Sequence[int]) -> Callable[[Sequence[Any]], Any]:
    """A function that takes these items of a sequence; a tuple of them where there are several."""
    return itemgetter(*indices) if indices else lambda _: ()
