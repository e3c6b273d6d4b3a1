"""Stars on disk: a HATS catalogue of spectra, read chunk by chunk or row group by row group.

`scattervae.spectra.store_writer` writes one; one that somebody else made is read where its columns are known.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa
from jaxtyping import Int64

from scattervae.arrays import SourceIds, StarArray, StarFlags, StarMask
from scattervae.display import Shown
from scattervae.errors import StoreError, counted
from scattervae.files import damaged_files, digests_in, file_digest, require_own_sample
from scattervae.seeds import numpy_stream
from scattervae.spectra.columns import (
    RowGroup,
    StoredSpectra,
    holds_all_columns,
    label_columns,
    labels_from,
    spectra_columns,
    spectra_from,
    stored_columns,
    stored_from,
    stored_of,
)
from scattervae.spectra.foreign import ForeignColumns
from scattervae.spectra.hats import (
    DESCRIPTIONS,
    UNREADABLE,
    HatsFolder,
    Partition,
    Positions,
    open_parquet,
    read_footer,
    read_groups,
    require_in_pixel,
)
from scattervae.spectra.manifest import MANIFEST, FileEntry, Journal, Manifest
from scattervae.spectra.spectra import FLAGS, Basis, Spectra, flag_counts, rechunk
from scattervae.spectra.star_tables import G_FLUX_ERROR_COLUMN, DataRelease, StellarLabels

DEFAULT_CHUNK = 65536
Choice: TypeAlias = Callable[[SourceIds, StarFlags], StarMask]
"""Which stars to take, by their identifiers and the bits of `Flag` that they carry."""


class SpectrumStore(Shown):
    """Stars in a folder, opened to be read, in the order of ``_healpix_29``.

    Args:
        path: The folder that ``scattervae ingest`` wrote, or a HATS catalogue of XP spectra from elsewhere.

    Raises:
        StoreError: There is no such catalogue, or it is not complete, or it holds no star.

    Example:
        >>> import scattervae as sv
        >>> store = sv.SpectrumStore("store")
        >>> len(store), store.basis.n_coeffs
        (220, 110)
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        manifest = _manifest_of(self.path)
        self.entries: tuple[FileEntry, ...] = manifest.entries
        self.release: DataRelease | None = manifest.release
        self._hats = HatsFolder.read(self.path)
        self._files = tuple(file for p in self.partitions for file in self._hats.files_of(p))
        lost = next((file for file in self._files if not file.is_file()), None)
        if lost is not None or not self._files:
            raise StoreError(f"{lost or self.path}: is gone, or holds no file; ingest again")
        schema = self._hats.schema
        self._foreign = None if holds_all_columns(schema) else ForeignColumns.of(schema, self.path)
        if self.entries and self._foreign:
            raise StoreError(f"{self.path}: lacks columns that every store has; ingest again")
        self.basis: Basis = manifest.basis or self._found_basis()

    def __len__(self) -> int:
        return sum(partition.n_rows for partition in self.partitions)

    def __repr__(self) -> str:
        return f"<store of {counted(len(self), 'star')} of {self.basis}; in {self.path}>"

    @staticmethod
    def is_store(path: str | Path) -> bool:
        """True where `path` is a store's folder, finished or not, or a HATS catalogue with columns of spectra."""
        path = Path(path)
        if (path / MANIFEST).is_file() or Journal.is_in(path):
            return True
        if not HatsFolder.is_catalogue(path):
            return False
        try:
            ForeignColumns.of(HatsFolder.read(path).schema, path)
        except StoreError:
            return False
        return True

    @property
    def partitions(self) -> tuple[Partition, ...]:
        """The pixels of the sky that hold stars, in order."""
        return self._hats.partitions

    @property
    def positions(self) -> Positions:
        """Where the stars' ra and dec come from."""
        return self._hats.positions

    @property
    def digest(self) -> str:
        """What identifies the stars: of the manifest, which names the digest of every file that was read.

        A catalogue without one is known by its properties and by the sizes of its files.
        """
        if (self.path / MANIFEST).is_file():
            return file_digest(self.path / MANIFEST)
        sizes = (f"{file.relative_to(self._hats.path)} {file.stat().st_size}" for file in self._files)
        described = [f"{key}={value}" for key, value in self._hats.properties.items()]
        return hashlib.sha256("\n".join([*described, *sizes]).encode()).hexdigest()

    @cached_property
    def flags(self) -> dict[str, int]:
        """Stars with each flag, by the flag's name; a catalogue without a manifest is read for them."""
        counts: Counter[str] = Counter()
        for entry in self.entries:
            counts.update(entry.flags)
        if not self.entries:
            for row_group in self.row_groups:
                counts.update(flag_counts(self.read_row_group(row_group).flags))
        return dict(counts)

    @cached_property
    def row_groups(self) -> tuple[RowGroup, ...]:
        """Every row group of every file, in order; for reading in an order of one's own.

        Raises:
            StoreError: A file cannot be read, or holds other stars than its name and the catalogue's metadata say.
        """
        found: list[RowGroup] = []
        digests = digests_in(self._hats.path)
        for partition in self.partitions:
            own: list[RowGroup] = []
            for file in self._hats.files_of(partition):
                footer = read_footer(file)
                if self._foreign is None:
                    require_in_pixel(file, footer, partition)
                own += [RowGroup(file, g, footer.row_group(g).num_rows) for g in range(footer.num_row_groups)]
            if sum(row_group.n_rows for row_group in own) != partition.n_rows:
                n_rows = sum(row_group.n_rows for row_group in own)
                raise StoreError(
                    f"{own[0].path if own else self.path}: {counted(n_rows, 'row')}; the catalogue's metadata say "
                    f"{partition.n_rows}: it was replaced or changed; ingest again"
                )
            for file in {row_group.path for row_group in own}:
                require_own_sample(self._hats.path, file, digests)
            found += own
        return tuple(found)

    def path_of(self, partition: Partition) -> Path:
        """The file of a partition; of a catalogue with several files a partition, the first."""
        return self._hats.files_of(partition)[0]

    def read_row_group(self, row_group: RowGroup) -> StoredSpectra:
        """The stars of one row_group, in float32.

        Raises:
            StoreError: The file cannot be read.
        """
        if self._foreign is not None:
            return stored_of(self._foreign.spectra(_table(row_group, self._foreign.columns), self.basis))
        return stored_from(_table(row_group, stored_columns()), self.basis)

    def chunks(self, rows: int = DEFAULT_CHUNK, *, correlations: bool = True) -> Iterator[Spectra]:
        """All stars in the store's order, `rows` at a time; with correlations only where the store has them.

        Example:
            >>> import scattervae as sv
            >>> [len(spectra) for spectra in sv.SpectrumStore("store").chunks(rows=100)]
            [100, 100, 20]
        """
        spectra = self._spectra_columns(correlations=correlations)
        return rechunk((self._spectra(row_group, spectra) for row_group in self.row_groups), rows)

    def read(
        self, *, correlations: bool = True, where: Choice | None = None, at_most: int | None = None
    ) -> Spectra:
        """Stars in memory, in the store's order; beside them no more than a row group is in memory.

        Args:
            correlations: With correlations, where the store has them.
            where: Which stars; all where None.
            at_most: So many of them, drawn at random, the same in each run; all where None.

        Example:
            >>> import scattervae as sv
            >>> store = sv.SpectrumStore("store")
            >>> len(store.read(at_most=10)), len(store.read(where=lambda source_id, flags: flags == 0))
            (10, 220)
        """
        columns = self._spectra_columns(correlations=correlations)
        chosen = self._chosen(where, at_most)
        n_rows = [rows.stop if isinstance(rows, slice) else len(rows) for rows in chosen]
        groups = zip(self.row_groups, chosen, n_rows, strict=True)
        some = [(group, rows) for group, rows, n in groups if n] or [(self.row_groups[0], chosen[0])]
        return Spectra.concatenate((self._spectra(g, columns).take(rows) for g, rows in some), sum(n_rows))

    def labels(self, *, where: Choice | None = None, at_most: int | None = None) -> StellarLabels:
        """The labels of the stars that `read` gives with these arguments, NaN where a star has none.

        Example:
            >>> import scattervae as sv
            >>> labels = sv.SpectrumStore("store").labels()
            >>> labels["teff"].shape
            (220,)
        """
        chosen = zip(self.row_groups, self._chosen(where, at_most), strict=True)
        return StellarLabels.concatenate([self._labels(group).take(rows) for group, rows in chosen])

    def labelled(self) -> tuple[SourceIds, StarMask]:
        """Every star's source_id, and whether it has a label; the labels of a row group are in memory at a time."""
        groups = (self._labels(group) for group in self.row_groups)
        ids, labelled = zip(*((g.source_id, np.isfinite(g.values).any(axis=1)) for g in groups), strict=True)
        return np.concatenate(ids), np.concatenate(labelled)

    def _labels(self, group: RowGroup) -> StellarLabels:
        if self._foreign is not None:
            return self._foreign.labels(_table(group, self._foreign.label_columns))
        return labels_from(_table(group, ["source_id", *label_columns()]))

    def _chosen(self, where: Choice | None, at_most: int | None) -> list[np.ndarray | slice]:
        """The rows to take of each row group."""
        if where is None and (at_most is None or len(self) <= at_most):
            return [slice(0, group.n_rows) for group in self.row_groups]
        chosen = [np.ones(group.n_rows, dtype=bool) for group in self.row_groups]
        if where is not None:
            chosen = [where(*self._ids_and_flags(group)) for group in self.row_groups]
        rows = draw_rows(np.concatenate(chosen), at_most)
        starts = np.cumsum([0, *(group.n_rows for group in self.row_groups)])
        cuts = np.searchsorted(rows, starts)
        return [rows[a:b] - start for a, b, start in zip(cuts, cuts[1:], starts, strict=False)]

    def _ids_and_flags(self, group: RowGroup) -> tuple[SourceIds, StarFlags]:
        if self._foreign is not None:
            stars = self.read_row_group(group)
            return stars.source_id, stars.flags
        table = _table(group, ["source_id", FLAGS])
        return table["source_id"].to_numpy(), table[FLAGS].to_numpy()

    def g_flux_error(self) -> StarArray | None:
        """One standard deviation of each star's G flux [electron/s], NaN where null; None where not stored."""
        if G_FLUX_ERROR_COLUMN not in self._hats.schema.names:
            return None
        table = pa.concat_tables(_table(row_group, [G_FLUX_ERROR_COLUMN]) for row_group in self.row_groups)
        errors: StarArray = table[G_FLUX_ERROR_COLUMN].cast(pa.float64()).fill_null(float("nan")).to_numpy()
        return errors

    def _spectra_columns(self, *, correlations: bool) -> list[str]:
        if self._foreign is not None:
            return self._foreign.columns
        return [n for n in spectra_columns(correlations=correlations) if n in self._hats.schema.names]

    def _spectra(self, group: RowGroup, columns: Sequence[str]) -> Spectra:
        table = _table(group, columns)
        return (
            spectra_from(table, self.basis)
            if self._foreign is None
            else self._foreign.spectra(table, self.basis)
        )

    def _found_basis(self) -> Basis:
        """The basis of a catalogue without a manifest, as its first stars show it."""
        columns = ForeignColumns.of(self._hats.schema, self.path)
        basis = columns.basis(
            (_table(row_group, columns.columns) for row_group in self.row_groups), self.path
        )
        if basis is None:
            raise StoreError(f"{self.path}: a HATS catalogue in which no star has coefficients of both bands")
        return basis


def draw_rows(chosen: StarMask, at_most: int | None) -> Int64[np.ndarray, " row"]:
    """The rows that are chosen, rising; where they are more than `at_most`, so many drawn at random."""
    rows = np.flatnonzero(chosen)
    if at_most is None or len(rows) <= at_most:
        return rows
    return np.sort(numpy_stream(0, "stars").choice(rows, at_most, replace=False))


def _manifest_of(path: Path) -> Manifest:
    """The manifest of a finished store, an empty one for a catalogue from elsewhere."""
    is_finished = (path / MANIFEST).is_file()
    if Journal(path).lines or (Journal.is_in(path) and not is_finished):
        raise StoreError(f"{path}: an ingest into it was stopped; run the same `scattervae ingest` again")
    if not is_finished and not HatsFolder.is_catalogue(path):
        raise StoreError(
            f"{path}: no {MANIFEST}; not a store. `scattervae ingest FILES --out STORE` makes one"
        )
    for line in damaged_files(path, (MANIFEST, *DESCRIPTIONS)) if is_finished else ():
        raise StoreError(line)
    manifest = Manifest.read(path) if is_finished else Manifest()
    if is_finished and manifest.basis is None:
        raise StoreError(f"{path}: holds no star; its {MANIFEST} says why each file was left out")
    return manifest


def _table(row_group: RowGroup, columns: Sequence[str]) -> pa.Table:
    try:
        with open_parquet(row_group.path, memory_map=True) as file:
            table = read_groups(file, columns, groups=[row_group.group])
    except UNREADABLE as error:
        raise StoreError(f"{row_group.path}: row group {row_group.group} cannot be read: {error}") from error
    lacking = [name for name in columns if name.split(".")[0] not in table.column_names]
    if lacking:
        raise StoreError(
            f"{row_group.path}: lacks the column {lacking[0]}: it was replaced or changed; ingest again"
        )
    return table
