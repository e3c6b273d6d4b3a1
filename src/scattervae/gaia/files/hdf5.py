"""HDF5 in four layouts: archive mirrors, MyGaiaDB, MultimodalUniverse, and the catalogue of xp_vae."""

from io import BufferedIOBase

import h5py
import numpy as np

from scattervae.errors import DataError
from scattervae.gaia.facts import JOINED_COLUMNS
from scattervae.gaia.files.columns import Columns, join, pick, with_spectra

_ASTROPY_TABLE = "__astropy_table__"


def read_hdf5(stream: BufferedIOBase, wanted: frozenset[str]) -> Columns:
    """The stars of every group or table of a file that holds an identifier.

    A table is a group of datasets of one length, or one dataset with named fields as astropy writes it.

    Source:
        Flat datasets: github.com/Astrozxy/gaia_XP_forward_model, compile_training_data.py (Flatiron mirror).
        A group for each range of sky: github.com/henrysky/MyGaiaDB, data/compile.py. ``coeff``:
        github.com/MultimodalUniverse/MultimodalUniverse, scripts/gaia. ``__astropy_table__``:
        github.com/AlexLaroche7/xp_vae, scripts/train_apogee.py.

    Raises:
        DataError: No group holds an identifier, or the datasets of a group differ in length.
    """
    with h5py.File(stream, "r") as file:
        tables = with_spectra([table for table in _tables(file, wanted) if table.source_id_name])
        if not tables:
            found = ", ".join(list(file)[:8]) or "nothing"
            raise DataError(f"is HDF5 that holds {found}; expected a dataset source_id with the spectra")
    return join(tables[0].form, tables)


def _tables(group: h5py.Group, wanted: frozenset[str]) -> list[Columns]:
    """The tables in a group and in all groups below it."""
    datasets = {name: item for name, item in group.items() if isinstance(item, h5py.Dataset)}
    compound = {name: item for name, item in datasets.items() if item.dtype.names}
    flat = {name: item for name, item in datasets.items() if name not in compound and item.ndim in (1, 2)}
    tables = [_compound(name, item, wanted) for name, item in compound.items()]
    if flat:
        tables.append(_flat(group, flat, wanted))
    for item in group.values():
        if isinstance(item, h5py.Group):
            tables += _tables(item, wanted)
    return tables


def _compound(name: str, dataset: h5py.Dataset, wanted: frozenset[str]) -> Columns:
    form = "xp_vae HDF5" if name == _ASTROPY_TABLE else "HDF5 table"
    cells = {column: np.asarray(dataset[own]) for column, own in pick(dataset.dtype.names, wanted).items()}
    return Columns.of(form, cells, dataset.dtype.names)


def _flat(group: h5py.Group, datasets: dict[str, h5py.Dataset], wanted: frozenset[str]) -> Columns:
    picked = pick(list(datasets), wanted)
    sizes = {own: len(datasets[own]) for own in picked.values()}
    if len(set(sizes.values())) > 1:
        found = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise DataError(f"group {group.name}: datasets of different lengths: {found}")
    form = "MyGaiaDB HDF5"
    if group.name == "/":
        joined = any(name in picked for name in JOINED_COLUMNS)
        form = "MultimodalUniverse HDF5" if joined else "HDF5 mirror"
    cells = {name: datasets[own][()] for name, own in picked.items()}
    units = {own: _unit(datasets[own]) for own in picked.values()}
    return Columns.of(form, cells, tuple(datasets)).with_stated(units, picked)


def _unit(dataset: h5py.Dataset) -> str:
    """The unit in a dataset's attributes, empty where there is none."""
    stated = next((dataset.attrs[name] for name in ("unit", "units") if name in dataset.attrs), "")
    return stated.decode(errors="replace") if isinstance(stated, bytes) else str(stated)
