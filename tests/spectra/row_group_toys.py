"""Toy stores: one in memory, cut into row_groups of any size, and a real one."""

import hashlib
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from scattervae.spectra.columns import RowGroup, StoredSpectra, stored_of
from scattervae.spectra.manifest import FileEntry
from scattervae.spectra.spectra import Basis, Spectra
from scattervae.spectra.staging import stage
from scattervae.spectra.star_tables import LABEL_NAMES, SourceColumns, StellarLabels
from scattervae.spectra.store import SpectrumStore
from scattervae.spectra.store_writer import StoreWriter
from toy import SMALL


def in_float32(spectra: Spectra) -> Spectra:
    """The same stars as a store would give them back."""
    coeffs, errors = (v.astype(np.float32).astype(np.float64) for v in (spectra.coeffs, spectra.errors))
    return replace(spectra, coeffs=coeffs, errors=errors)


@dataclass
class ToyRowGroups:
    """A store in memory, cut into row_groups of these sizes; notes which row_groups were read, and by which thread."""

    spectra: Spectra
    sizes: list[int]
    basis: Basis = SMALL
    read: list[int] = field(default_factory=list)
    threads: set[str] = field(default_factory=set)

    @property
    def row_groups(self) -> tuple[RowGroup, ...]:
        return tuple(RowGroup(Path("toy"), index, size) for index, size in enumerate(self.sizes))

    def read_row_group(self, row_group: RowGroup) -> StoredSpectra:
        self.read.append(row_group.group)
        self.threads.add(threading.current_thread().name)
        start = sum(self.sizes[: row_group.group])
        return stored_of(self.spectra.take(slice(start, start + row_group.n_rows)))


def rows_of(x: torch.Tensor, among: torch.Tensor) -> list[int]:
    """Which row of `among` each row of x is, but for the rounding of float32."""
    distances = torch.cdist(x.double(), among.double())
    if distances.numel() == 0:
        return []
    nearest = distances.min(dim=1)
    assert nearest.values.max() < 1e-4
    return nearest.indices.tolist()


def toy_store(folder: Path, spectra: Spectra, *, rows_a_partition: int = 100) -> SpectrumStore:
    """A store of these stars, sorted by where they are in the sky, in partitions of at most so many."""
    digest = hashlib.sha256(spectra.coeffs.tobytes()).hexdigest()
    writer = StoreWriter(folder, rows_a_partition=rows_a_partition)
    no_labels = StellarLabels(np.empty(0, dtype=np.int64), *np.empty((2, 0, len(LABEL_NAMES))))
    part = stage(writer.staged_path(0), [(spectra, no_labels, SourceColumns.empty())], correlations=False)
    writer.add(FileEntry(name="toy", digest=digest, n_rows=len(spectra)), part)
    writer.finish()
    return SpectrumStore(folder)
