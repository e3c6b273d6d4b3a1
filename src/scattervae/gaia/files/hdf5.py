"""HDF5 in four layouts: archive mirrors, MyGaiaDB, MultimodalUniverse, and the catalogue of xp_vae."""

import math
from io import BufferedIOBase

import h5py
import numpy as np

from scattervae.errors import DataError
from scattervae.gaia.facts import JOINED_COLUMNS
from scattervae.gaia.files.columns import Columns, join, pick, with_spectra
from scattervae.opening import Budget, budget_of

_ASTROPY_TABLE = "__astropy_table__"
_LINK_BYTES, _OBJECT_BYTES = 1000, 150
_OBJECTS = 64  # read together


def read_hdf5(stream: BufferedIOBase, wanted: frozenset[str]) -> Columns:
    """The stars of every group or table of a file that holds an identifier.

    A table is a group of datasets of one length, or one dataset with named fields as astropy writes it.

    Source:
        Flat datasets: github.com/Astrozxy/gaia_XP_forward_model, compile_training_data.py (Flatiron mirror).
        A group for each range of sky: github.com/henrysky/MyGaiaDB, data/compile.py. ``coeff``:
        github.com/MultimodalUniverse/MultimodalUniverse, scripts/gaia. ``__astropy_table__``:
        github.com/AlexLaroche7/xp_vae, scripts/train_apogee.py.
    """
    with h5py.File(stream, "r") as file:
        tables = with_spectra(
            [t for t in _Reading(wanted, budget_of(stream)).tables(file) if t.source_id_name]
        )
        if not tables:
            found = ", ".join(list(file)[:8]) or "nothing"
            raise DataError(
                f"is HDF5 that holds {found}; expected a dataset source_id with the spectra, in this very file: "
                "links to other places and files are not followed"
            )
    return join(tables[0].form, tables)


class _Reading:
    """A walk through a file's groups, each of which is read once, however many links lead to it."""

    def __init__(self, wanted: frozenset[str], budget: Budget) -> None:
        self._wanted = wanted
        self._budget = budget
        self._seen: set[int] = set()

    def tables(self, group: h5py.Group) -> list[Columns]:
        """The tables in a group and in all groups below it."""
        items = self._items(group)
        datasets = {name: item for name, item in items.items() if isinstance(item, h5py.Dataset)}
        compound = {name: item for name, item in datasets.items() if item.dtype.names}
        flat = {name: item for name, item in datasets.items() if name not in compound and item.ndim in (1, 2)}
        tables = [self._compound(name, item) for name, item in compound.items()]
        if flat:
            tables.append(self._flat(group, flat))
        for item in items.values():
            if isinstance(item, h5py.Group):
                tables += self.tables(item)
        return tables

    def _items(self, group: h5py.Group) -> dict[str, h5py.Group | h5py.Dataset]:
        """What lies in a group itself and was not met before."""
        items = {}
        for name in group:
            self._budget.spend(_LINK_BYTES)
            if isinstance(group.get(name, getlink=True), h5py.HardLink):
                address = h5py.h5o.get_info(group.id, name.encode(errors="surrogateescape")).addr
                if address not in self._seen:
                    self._seen.add(address)
                    items[name] = group[name]
        return items

    def _compound(self, name: str, dataset: h5py.Dataset) -> Columns:
        form = "xp_vae HDF5" if name == _ASTROPY_TABLE else "HDF5 table"
        picked = pick(dataset.dtype.names, self._wanted)
        cells = {column: self._values(dataset, own) for column, own in picked.items()}
        return Columns.of(form, cells, dataset.dtype.names)

    def _flat(self, group: h5py.Group, datasets: dict[str, h5py.Dataset]) -> Columns:
        picked = pick(list(datasets), self._wanted)
        sizes = {own: len(datasets[own]) for own in picked.values()}
        if len(set(sizes.values())) > 1:
            found = ", ".join(f"{name} {size}" for name, size in sizes.items())
            raise DataError(f"group {group.name}: datasets of different lengths: {found}")
        form = "MyGaiaDB HDF5"
        if group.name == "/":
            joined = any(name in picked for name in JOINED_COLUMNS)
            form = "MultimodalUniverse HDF5" if joined else "HDF5 mirror"
        cells = {name: self._values(datasets[own]) for name, own in picked.items()}
        units = {own: _unit(datasets[own]) for own in picked.values()}
        return Columns.of(form, cells, tuple(datasets)).with_stated(units, picked)

    def _values(self, dataset: h5py.Dataset, field: str | None = None) -> np.ndarray:
        """All values of a dataset whose numbers lie in this file, or of one of its fields."""
        if dataset.is_virtual or dataset.external:
            raise DataError(
                f"dataset {dataset.name} has its values in other files, which are not opened; copy them into one"
            )
        kind = dataset.dtype if field is None else dataset.dtype[field]
        if kind.hasobject:
            return self._objects(dataset, field)
        chunk = math.prod(dataset.chunks) if dataset.chunks else 0
        self._budget.spend(dataset.dtype.itemsize * chunk + kind.itemsize * dataset.size)
        return np.asarray(dataset[()] if field is None else dataset[field])

    def _objects(self, dataset: h5py.Dataset, field: str | None) -> np.ndarray:
        """Text or lists of any length, of which many may share a place in the file: a few at a time."""
        self._budget.spend(_OBJECT_BYTES * dataset.size)
        chunks = [np.empty(0, dtype=object)]
        for start in range(0, len(dataset), _OBJECTS):
            rows = slice(start, start + _OBJECTS)
            chunks.append(dataset[rows] if field is None else dataset[rows][field])
            self._budget.spend(
                sum(getattr(cell, "nbytes", 0) or len(cell or b"") for cell in chunks[-1].flat)
            )
        return np.concatenate(chunks) if dataset.ndim == 1 else np.concatenate(chunks[1:] or [dataset[()]])


def _unit(dataset: h5py.Dataset) -> str:
    """The unit in a dataset's attributes, empty where there is none."""
    stated = next((dataset.attrs[name] for name in ("unit", "units") if name in dataset.attrs), "")
    return stated.decode(errors="replace") if isinstance(stated, bytes) else str(stated)
