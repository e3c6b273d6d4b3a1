"""Cells of the latent space: a fixed grid anchored at zero, and how many stars lie in each cell.

The occupied volume of Laroche & Speagle (2023), sect. 3, third point, is a number of cells times the volume
of one.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

LatentArray = Float64[np.ndarray, "star latent"]
CellCounts = Int64[np.ndarray, " cell"]
_LARGEST = np.iinfo(np.int64).max


@dataclass(frozen=True)
class JointCounts:
    """Stars of two sets in each cell that holds a star of either, cell by cell.

    Attributes:
        labelled: Stars of the first set; 0 where only the second is.
        unlabelled: Stars of the second set; 0 where only the first is.
        volume: Volume of one cell, in prior standard deviations to the power of the dimensions.
    """

    labelled: CellCounts
    unlabelled: CellCounts
    volume: float


def occupied_volume(z: LatentArray, cell: float, *, threshold: int = 1) -> float:
    """Volume of the cells that hold enough stars.

    The answer grows with the number of stars until every cell that can be reached is; it is not a property of
    the population alone. Cells on an edge count whole, so that in the limit of many stars it exceeds the
    volume of the region by about half its surface times `cell`.

    Args:
        z: Latents, in standard deviations of the prior; finite.
        cell: Side of a cell, same unit.
        threshold: Fewest stars in an occupied cell.

    Source:
        Laroche & Speagle (2023), sect. 3, third point: "by numerical integration"; the paper gives neither
        cell nor threshold.
    """
    n_occupied = int((count_cells(z, cell) >= threshold).sum())
    return float(n_occupied * cell ** z.shape[1])


def count_cells(z: LatentArray, cell: float) -> CellCounts:
    """Stars in each cell that holds any; the order of the cells has no meaning."""
    return np.unique(_cell_keys(z, cell), return_counts=True)[1].astype(np.int64)


def count_cells_of_both(
    labelled: Float64[np.ndarray, "labelled latent"],
    unlabelled: Float64[np.ndarray, "unlabelled latent"],
    cell: float,
) -> JointCounts:
    """Stars of two sets in the cells of one grid."""
    keys = _cell_keys(np.concatenate([labelled, unlabelled]), cell)
    n_cells, inverse = np.unique(keys, return_inverse=True)
    n = len(labelled)
    return JointCounts(
        labelled=np.bincount(inverse[:n], minlength=len(n_cells)).astype(np.int64),
        unlabelled=np.bincount(inverse[n:], minlength=len(n_cells)).astype(np.int64),
        volume=cell ** labelled.shape[1],
    )


def _cell_keys(z: LatentArray, cell: float) -> Int64[np.ndarray, " star"]:
    """One integer a star, equal for two stars where they share a cell."""
    if not np.isfinite(z).all():
        raise ValueError("latents must be finite; leave out stars that could not be encoded")
    if not cell > 0:
        raise ValueError(f"a cell's side must be above 0, not {cell}")
    keys = np.zeros(len(z), dtype=np.int64)
    if len(z) == 0:
        return keys
    index = np.floor(z / cell).astype(np.int64)
    index -= index.min(axis=0)
    for column in index.T:
        width = int(column.max()) + 1
        if int(keys.max()) >= _LARGEST // width - 1:  # no room left: number the keys in use from zero
            keys = np.unique(keys, return_inverse=True)[1].astype(np.int64)
        keys = keys * width + column
    return keys
