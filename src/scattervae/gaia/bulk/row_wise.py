"""Lines that are not regular, read one by one as any other text file is."""

from dataclasses import replace
from io import BytesIO

import numpy as np

from scattervae.gaia.files.assemble import ReadRows, assemble_rows
from scattervae.gaia.files.text import read_text
from scattervae.spectra.bases import BasisIds
from scattervae.spectra.spectra import Basis

_COMMENTS = b"# %ECSV 1.0\n# delimiter: ','\n"
_LINES_AHEAD = _COMMENTS.count(b"\n") + 1


def read_rows(
    header: bytes,
    lines: list[bytes],
    numbers: list[int],
    *,
    wanted: frozenset[str],
    basis: Basis | BasisIds | None,
) -> ReadRows:
    """The stars of some lines of a file, and why the others cannot be used.

    Args:
        header: The line that names the columns.
        lines: The lines, without their line ends.
        numbers: The number of each in the file.
        wanted: Columns to read, by their names in lower case.
        basis: The basis to take; None where that is yet to be found, which these lines then vote on.
    """
    text = BytesIO(_COMMENTS + b"\n".join((header, *lines)))
    read = assemble_rows(read_text(text, wanted), basis)
    line_of = np.concatenate([np.zeros(_LINES_AHEAD + 1, dtype=np.int64), np.array(numbers, dtype=np.int64)])
    return ReadRows(
        spectra=read.spectra,
        row_numbers=line_of[read.row_numbers],
        skipped=tuple(replace(skipped, row=int(line_of[skipped.row])) for skipped in read.skipped),
        told=read.told,
        is_named=read.is_named,
    )
