"""Stars on disk: a HATS catalogue of spectra, read chunk by chunk or row group by row group.

`scattervae.spectra.store_writer` writes one; one that somebody else made is read where its columns are known.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import pyarrow as pa

from scattervae.arrays import StarArray
from scattervae.errors import StoreError
from scattervae.files import damaged_files, file_digest
from scattervae.spectra.columns import (
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
    HatsFolder,
    Partition,
    Positions,
    open_parquet,
    read_footer,
    read_groups,
    require_in_pixel,
)
from scattervae.spectra.journal import Journal
from scattervae.spectra.manifest import MANIFEST, FileEntry, Manifest
from scattervae.spectra.row_groups import RowGroup, StoredSpectra
from scattervae.spectra.spectra import Basis, Spectra, flag_counts, rechunk
from scattervae.spectra.star_tables import G_FLUX_ERROR_COLUMN, DataRelease, StellarLabels

DEFAULT_CHUNK = 65536


class SpectrumStore:
    """Stars in a folder, opened to be read, in the order of ``_healpix_29``.

    Args:
        path: The folder that ``scattervae ingest`` wrote, or a HATS catalogue of XP spectra from elsewhere.

    Raises:
        StoreError: There is no such catalogue, or it is not complete, or it holds no star.
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
        self.basis: Basis = manifest.basis or self._found_basis()

    def __len__(self) -> int:
        return sum(partition.n_rows for partition in self.partitions)

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
                    f"{own[0].path if own else self.path}: {n_rows} rows; the catalogue's metadata say "
                    f"{partition.n_rows}: it was replaced or changed; ingest again"
                )
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
        """All stars in the store's order, `rows` at a time; with correlations only where the store has them."""
        return rechunk(self._spectra(correlations=correlations), rows)

    def read(self, *, correlations: bool = True) -> Spectra:
        """All stars in memory."""
        return Spectra.concatenate(list(self._spectra(correlations=correlations)))

    def labels(self) -> StellarLabels:
        """The labels of all stars in the store's order, NaN where a star has none."""
        foreign = self._foreign
        columns = ["source_id", *label_columns()] if foreign is None else foreign.label_columns
        table = pa.concat_tables(_table(row_group, columns) for row_group in self.row_groups)
        return labels_from(table) if foreign is None else foreign.labels(table)

    def g_flux_error(self) -> StarArray | None:
        """One standard deviation of each star's G flux [electron/s], NaN where null; None where not stored."""
        if G_FLUX_ERROR_COLUMN not in self._hats.schema.names:
            return None
        table = pa.concat_tables(_table(row_group, [G_FLUX_ERROR_COLUMN]) for row_group in self.row_groups)
        errors: StarArray = table[G_FLUX_ERROR_COLUMN].cast(pa.float64()).fill_null(float("nan")).to_numpy()
        return errors

    def _spectra(self, *, correlations: bool) -> Iterator[Spectra]:
        names = set(self._hats.schema.names)
        columns = [name for name in spectra_columns(correlations=correlations) if name in names]
        for row_group in self.row_groups:
            if self._foreign is None:
                yield spectra_from(_table(row_group, columns), self.basis)
            else:
                yield self._foreign.spectra(_table(row_group, self._foreign.columns), self.basis)

    def _found_basis(self) -> Basis:
        """The basis of a catalogue without a manifest, as its first stars show it."""
        columns = ForeignColumns.of(self._hats.schema, self.path)
        basis = columns.basis(_table(row_group, columns.columns) for row_group in self.row_groups)
        if basis is None:
            raise StoreError(f"{self.path}: a HATS catalogue in which no star has coefficients of both bands")
        return basis


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
            return read_groups(file, columns, groups=[row_group.group])
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"{row_group.path}: row group {row_group.group} cannot be read: {error}") from error
