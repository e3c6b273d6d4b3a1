"""From the stars of one file, staged in parallel, to the partitions of a store; and which stars came before.

Rows of a partition are in the order of ``_healpix_29`` and source_id, so the same stars give the same files, however
they came.
"""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64

from scattervae.arrays import SourceIds, StarMask
from scattervae.errors import DataError, StoreError
from scattervae.files import written_file
from scattervae.spectra.columns import conformed, in_sky_order, table_of
from scattervae.spectra.hats import (
    ROWS_A_GROUP,
    SPATIAL_INDEX,
    SPATIAL_ORDER,
    Partition,
    Positions,
    open_parquet,
    parquet_writer,
    partition_name,
    ranges_in,
    read_footer,
    read_groups,
    read_table,
    write_sorted,
)
from scattervae.spectra.spectra import FLAGS, Basis, Flag, Spectra, flag_counts
from scattervae.spectra.star_tables import DataRelease, SourceColumns, StellarLabels

_ROWS_SORTED = 2**15  # stars sorted together: 30 MB, or 420 MB with correlations
_GROUPS_IN_MEMORY = 4096  # of 64 kB


class SeenIds:
    """Source_ids in memory and in files; a file is read only where its range of them meets that of the ids in question.

    Gaia's bulk files share no range of source_ids, so of the whole archive only ranges are kept in memory.
    """

    def __init__(self) -> None:
        self._ranges: list[tuple[int, int]] = []
        self._sources: list[Callable[[], SourceIds]] = []
        self._group = lru_cache(_GROUPS_IN_MEMORY)(_read_group)

    def add(self, source_id: SourceIds) -> None:
        if len(source_id):
            self._ranges.append((int(source_id.min()), int(source_id.max())))
            self._sources.append(lambda: source_id)

    def add_file(self, path: Path) -> None:
        """Add those of a parquet file, by the statistics of its column source_id."""
        for group, low, high in ranges_in(read_footer(path), "source_id"):
            self._ranges.append((low, high))
            self._sources.append(partial(self._group, path, group))

    def holds(self, source_id: SourceIds) -> StarMask:
        seen = np.zeros(len(source_id), dtype=bool)
        if len(source_id) and self._ranges:
            low, high = np.array(self._ranges).T
            for index in np.flatnonzero((low <= source_id.max()) & (high >= source_id.min())):
                seen |= np.isin(source_id, self._sources[index]())
        return seen


def _read_group(path: Path, group: int) -> SourceIds:
    with open_parquet(path) as file:
        ids: SourceIds = read_groups(file, ["source_id"], groups=[group])["source_id"].to_numpy()
    return ids


@dataclass(frozen=True)
class StagedStars:
    """One file's stars as a parquet file of the staging folder, in the sky's order within each row group."""

    path: Path  # the parquet file; there is none where no star was kept
    # basis of its coefficients; like `positions` and `release` None where it holds no star
    basis: Basis | None = None
    n_duplicates: int = 0  # stars dropped since they were flagged ``DUPLICATE`` or came a second time
    n_kept: int = 0  # stars written
    flags: dict[str, int] = field(default_factory=dict)  # stars written with each flag, by the flag's name
    positions: Positions | None = None  # where its positions come from
    release: DataRelease | None = None  # the data release of its stars; None where that is not known

    def joined_by(self, given: Spectra, kept: Spectra, positions: Positions, *, name: str) -> "StagedStars":
        """The same with more stars."""
        counted = replace(self, n_duplicates=self.n_duplicates + len(given) - len(kept))
        if not len(kept):
            return counted
        basis = kept.basis
        if self.basis is not None and not self.basis.joins(basis):
            raise DataError(f"{name}: stars of {basis} after stars of {self.basis}; a file holds one basis")
        return replace(
            counted,
            basis=basis if self.basis is None else self.basis.completed_by(basis),
            n_kept=self.n_kept + len(kept),
            flags=dict(Counter(self.flags) + Counter(flag_counts(kept.flags))),
            positions=positions,
        )


def stage(
    path: Path,
    chunks: Iterable[tuple[Spectra, StellarLabels, SourceColumns]],
    *,
    correlations: bool,
    name: str | None = None,
    release: DataRelease | None = None,
) -> StagedStars:
    """Write one file's stars, chunk by chunk, to the staging folder; whole or not at all.

    Args:
        path: `StoreWriter.staged_path` of the file's number.
        chunks: The file's stars in order, each with labels and source columns of any stars (joined by
            source_id). Where the source columns are empty, pixel centres are written as positions.
        correlations: Also write the correlations of the coefficients, where the spectra have them.
        name: What messages call the file; `path` where None.
        release: The data release of the stars; where its source_ids hold no pixel, no position is made from them.

    Raises:
        StoreError: A star has no position in source columns that are not empty, or a source_id, or those of the
            release, hold no pixel.
        DataError: The chunks differ in basis.
        OSError: The disk is full, or the folder cannot be written to.
    """
    name = name or str(path)
    staged, seen = StagedStars(path), SeenIds()
    with _written_by_tables(path) as write:
        for spectra, labels, sources in _shortened(chunks):
            repeated = seen.holds(spectra.source_id) | ((spectra.flags & np.uint16(Flag.DUPLICATE)) > 0)
            kept = spectra.take(~repeated) if repeated.any() else spectra
            seen.add(kept.source_id)
            positions = Positions.MEASURED if sources.values else _pixel_centres(release, name)
            staged = staged.joined_by(spectra, kept, positions, name=name)
            if len(kept):
                kept = kept if correlations else replace(kept, correlations=None)
                aligned = _positioned(sources, kept.source_id, name=name)
                write(in_sky_order(table_of(kept, labels.aligned_to(kept.source_id), aligned)))
    return replace(staged, release=release) if staged.n_kept else staged


def _pixel_centres(release: DataRelease | None, name: str) -> Positions:
    if release is not None and not release.ids_hold_pixels:
        raise StoreError(
            f"{name}: has no ra and dec, and source_ids of {release.name} are not documented to hold a pixel of the "
            "sky; give the gaia_source files that hold the stars (--sources), or a table with ra and dec"
        )
    return Positions.PIXEL_CENTRES


def _shortened(
    chunks: Iterable[tuple[Spectra, StellarLabels, SourceColumns]],
) -> Iterator[tuple[Spectra, StellarLabels, SourceColumns]]:
    for spectra, labels, sources in chunks:
        for start in range(0, len(spectra), _ROWS_SORTED):
            yield spectra.take(slice(start, start + _ROWS_SORTED)), labels, sources


def _positioned(sources: SourceColumns, source_id: SourceIds, *, name: str) -> SourceColumns:
    if not sources.values:
        return sources
    aligned = sources.aligned_to(source_id)
    lost = source_id[~aligned.located]
    if len(lost):
        raise StoreError(
            f"{name}: {len(lost)} of {len(source_id)} stars, {lost[0]} first, have no ra and dec in the tables of "
            "gaia_source that were given; give the tables that hold them too, or ingest without any"
        )
    return aligned


@contextmanager
def _written_by_tables(path: Path) -> Iterator[Callable[[pa.Table], None]]:
    """What appends tables to a parquet file, renamed to `path` when the block ends well and a table came."""
    with ExitStack() as opened:
        writer: pq.ParquetWriter | None = None

        def write(table: pa.Table) -> None:
            nonlocal writer
            if writer is None:
                partial = opened.enter_context(written_file(path))
                writer = opened.enter_context(parquet_writer(partial, table.schema))
            if not writer.schema.equals(table.schema, check_metadata=True):
                raise ValueError(f"{path}: the chunks of a file differ in what is known of their stars")
            writer.write_table(table, row_group_size=ROWS_A_GROUP)

        yield write


def without_seen(staged: StagedStars, seen: SeenIds) -> StagedStars:
    """The same without stars that came before, the file rewritten where there are any."""
    flags: Counter[str] = Counter()
    with open_parquet(staged.path) as file:
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        new = ~seen.holds(read_groups(file, ["source_id"])["source_id"].to_numpy())
        n_kept = int(new.sum())
        if n_kept == staged.n_kept:
            return staged
        with _written_by_tables(staged.path) as write:
            for group, of_group in enumerate(np.split(new, np.cumsum(sizes)[:-1])):
                if of_group.any():
                    table = read_groups(file, groups=[group]).filter(pa.array(of_group))
                    write(table)
                    flags.update(flag_counts(table[FLAGS].to_numpy()))
    if n_kept == 0:
        staged.path.unlink()
    n_duplicates = staged.n_duplicates + staged.n_kept - n_kept
    return replace(staged, n_kept=n_kept, n_duplicates=n_duplicates, flags=dict(flags))


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
        found = [
            (number, *covered)
            for number, path in enumerate(files)
            for covered in ranges_in(read_footer(path), SPATIAL_INDEX)
        ]
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
