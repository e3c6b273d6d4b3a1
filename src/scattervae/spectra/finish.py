"""Sorted row groups of many files, made into the partitions of a HATS catalogue.

Rows are in the order of ``_healpix_29`` and source_id, so the same stars give the same files, however they came.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Int64

from scattervae.files import written_file
from scattervae.spectra.columns import conformed, in_sky_order
from scattervae.spectra.hats import (
    SPATIAL_INDEX,
    SPATIAL_ORDER,
    Partition,
    open_parquet,
    partition_name,
    read_footer,
    read_groups,
    read_table,
    write_sorted,
)

_FINEST_ORDER = 10  # pixels of 3.4 arcmin; the densest of the sky hold some thousand stars
_CELLS_TO_MERGE = 2**22  # counts of pixels in memory, before those of one pixel are added up


def choose_partitions(files: Sequence[Path], *, rows_a_partition: int) -> tuple[Partition, ...]:
    """The partitions of all rows in these files: as few as hold at most `rows_a_partition` each."""
    shift = 2 * (SPATIAL_ORDER - _FINEST_ORDER)
    cells = [np.empty((0, 2), dtype=np.int64)]
    for path in files:
        index = read_table(path, [SPATIAL_INDEX])[SPATIAL_INDEX].to_numpy()
        cells.append(np.stack(np.unique(index >> shift, return_counts=True), axis=1))
        if sum(map(len, cells[1:])) > _CELLS_TO_MERGE:
            cells = [_merged(cells)]
    pixels, counts = _merged(cells).T
    return partitions_of(pixels, counts, order=_FINEST_ORDER, rows_a_partition=rows_a_partition)


def _merged(cells: Sequence[np.ndarray]) -> np.ndarray:
    """Pairs of a pixel and its rows, each pixel once."""
    pixels, rows = np.concatenate(cells).T
    found, cell = np.unique(pixels, return_inverse=True)
    counts = np.zeros(len(found), dtype=np.int64)
    np.add.at(counts, cell, rows)
    return np.stack([found, counts], axis=1)


def partitions_of(
    pixels: Int64[np.ndarray, " cell"],
    counts: Int64[np.ndarray, " cell"],
    *,
    order: int,
    rows_a_partition: int,
) -> tuple[Partition, ...]:
    """The largest pixels that hold at most `rows_a_partition` rows, in the order of ``_healpix_29``.

    The same as ``hats.pixel_math.generate_alignment``, but from the cells that hold rows alone (that one walks over
    all of the sky, in four seconds at order 10, for a store of any size), and a cell too full for a partition stays
    whole.

    Args:
        pixels: Cells of the sky that hold rows, each once.
        counts: Rows in each.
        order: HEALPix order of the cells.
        rows_a_partition: Most rows of a partition.
    """
    found: list[Partition] = []
    for k in range(order + 1):
        parents, cell = np.unique(pixels >> 2 * (order - k), return_inverse=True)
        sums = np.zeros(len(parents), dtype=np.int64)
        np.add.at(sums, cell, counts)
        whole = (sums <= rows_a_partition) | (k == order)
        found += [
            Partition(k, int(pixel), int(n)) for pixel, n in zip(parents[whole], sums[whole], strict=True)
        ]
        pixels, counts = pixels[~whole[cell]], counts[~whole[cell]]
    return tuple(sorted(found, key=lambda partition: partition.index_range))


def write_partitions(
    folder: Path,
    files: Sequence[Path],
    partitions: Sequence[Partition],
    *,
    schema: pa.Schema,
    unchanged: Mapping[Partition, Path],
) -> None:
    """Write each partition below `folder`, one in memory at a time; those that are there already are left.

    Args:
        folder: Where ``Norder=K`` folders go.
        files: Parquet files in which each row group is sorted by ``_healpix_29``.
        partitions: The partitions of all rows in the files.
        schema: The columns of every partition, null where a file lacks one.
        unchanged: Files that hold a partition as it is to be; they are linked.
    """
    groups = _RowGroups(files)
    for partition in partitions:
        target = folder / partition_name(partition.order, partition.pixel)
        if target.is_file():
            continue
        with written_file(target) as partial:
            partial.unlink(missing_ok=True)
            if partition in unchanged:
                _link(unchanged[partition], partial)
            else:
                tables = [conformed(table, schema) for table in groups.within(*partition.index_range)]
                write_sorted(partial, in_sky_order(pa.concat_tables(tables)))


def _link(path: Path, to: Path) -> None:
    try:
        os.link(path, to)
    except OSError:  # a file system without links
        shutil.copyfile(path, to)


class _RowGroups:
    """The row groups of many files, found by the range of ``_healpix_29`` that each covers."""

    def __init__(self, files: Sequence[Path]) -> None:
        found: list[tuple[int, int, int, int]] = []
        for number, path in enumerate(files):
            footer = read_footer(path)
            column = footer.schema.names.index(SPATIAL_INDEX)
            for group in range(footer.num_row_groups):
                covered = footer.row_group(group).column(column).statistics
                found.append((number, group, covered.min, covered.max))
        self._files = files
        self._file, self._group, self._low, self._high = np.array(found, dtype=np.int64).reshape(-1, 4).T

    def within(self, first: int, beyond: int) -> list[pa.Table]:
        """The rows with ``first <= _healpix_29 < beyond``, a table for each row group that has some."""
        tables: list[pa.Table] = []
        hits = np.flatnonzero((self._low < beyond) & (self._high >= first))
        for number in np.unique(self._file[hits]):
            with open_parquet(self._files[number]) as file:
                for group in self._group[hits[self._file[hits] == number]]:
                    table = read_groups(file, groups=[int(group)])
                    start, stop = np.searchsorted(table[SPATIAL_INDEX].to_numpy(), (first, beyond))
                    tables.append(table.slice(start, stop - start))
        return tables
