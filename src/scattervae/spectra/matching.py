"""Rows of one table found in another by source_id."""

import numpy as np
from jaxtyping import Int64

from scattervae.arrays import SourceIds, StarMask


def rows_of(
    source_id: SourceIds, *, among: Int64[np.ndarray, " row"]
) -> tuple[Int64[np.ndarray, " star"], StarMask]:
    """Where each star stands among the rows, the first of several, and whether it stands there at all.

    There is at least one row. Rows in the order of their source_ids, as the archive's files are, are not sorted again.
    """
    if (among[1:] >= among[:-1]).all():
        row = np.searchsorted(among, source_id).clip(max=len(among) - 1)
    else:
        order = np.argsort(among, kind="stable")
        row = order[np.searchsorted(among[order], source_id).clip(max=len(among) - 1)]
    return row, among[row] == source_id
