"""Columns by name: parquet, feather, npz, JSON, HDF5, and the tables that other programs hold in memory.

HDF5 comes in four layouts: archive mirrors, MyGaiaDB, MultimodalUniverse, and the catalogue of xp_vae.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from io import BufferedIOBase
from typing import Any, Protocol, TypeAlias, runtime_checkable

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
from astropy.table import Table

from scattervae.errors import DataError
from scattervae.gaia.facts import INDEX_NAMES, JOINED_COLUMNS, SOURCE_ID_NAMES
from scattervae.gaia.files.columns import Columns, SkippedRow, join, object_array, pick, with_spectra
from scattervae.gaia.files.fits_and_votable import columns_of_table
from scattervae.gaia.files.sampled import WAVELENGTH, with_id_of_name
from scattervae.gaia.files.text import text_lines
from scattervae.opening import Budget, budget_of
from scattervae.spectra.columns import flattened, is_approximate, leaves, unit_and_description
from scattervae.spectra.hats import open_parquet, read_groups, spend_on
from scattervae.spectra.star_tables import POSITION_COLUMNS


def read_parquet(stream: BufferedIOBase, wanted: frozenset[str]) -> Columns:
    """The wanted columns; a field of a nested column goes by its own name.

    Positions that a store wrote as the centres of pixels are left out: they are not those of the stars.
    """
    file = open_parquet(pa.BufferReader(stream.read()))  # Arrow would need the GIL for a file of Python's
    flat: dict[str, str] = {}
    for name in leaves(file.schema_arrow):
        flat.setdefault(name.rsplit(".", 1)[-1], name)
    schema = file.schema_arrow
    approximate = "ra" in schema.names and is_approximate(schema)
    picked = pick(list(flat), wanted - set(POSITION_COLUMNS) if approximate else wanted)
    columns = [flat[own] for own in picked.values()]
    spend_on(file, budget_of(stream), columns)
    table = flattened(read_groups(file, columns))
    cells = {name: _cells(table.column(flat[own])) for name, own in picked.items()}
    return Columns.of("parquet", cells, tuple(flat)).with_stated(_units(schema), picked)


def _units(schema: pa.Schema) -> dict[str, object]:
    """Units in the metadata of fields at the top, as stores have them."""
    return {field.name: unit_and_description(field)["unit"] for field in schema}


def read_feather(stream: BufferedIOBase, wanted: frozenset[str]) -> Columns:
    """The wanted columns of a feather file; see `read_groups` why by one thread."""
    with pa.ipc.open_file(
        pa.BufferReader(stream.read()), options=pa.ipc.IpcReadOptions(use_threads=False)
    ) as file:
        batches = []
        for number in range(file.num_record_batches):
            batches.append(file.get_batch(number))
            budget_of(stream).spend(batches[-1].nbytes)
        return columns_of_arrow(pa.Table.from_batches(batches, file.schema), wanted, form="feather")


def columns_of_arrow(table: pa.Table, wanted: frozenset[str], *, form: str = "arrow table") -> Columns:
    """The wanted columns of a table in memory."""
    picked = pick(table.column_names, wanted)
    cells = {name: _cells(table.column(own)) for name, own in picked.items()}
    return Columns.of(form, cells, table.column_names).with_stated(_units(table.schema), picked)


def _cells(column: pa.ChunkedArray) -> np.ndarray:
    """NumPy's form of a column; integers with nulls stay integers."""
    if pa.types.is_integer(column.type) and column.null_count:
        mask = np.asarray(column.is_null().to_numpy())
        return np.ma.MaskedArray(column.fill_null(0).to_numpy(), mask=mask)
    return np.asarray(column.to_numpy())


_CELL_BYTES = 8
_GROWTH = 12  # of JSON in memory


def read_numpy(stream: BufferedIOBase, wanted: frozenset[str]) -> Columns:
    """The arrays of an npz file by their names, or the fields of one structured array."""
    try:
        return _numpy_columns(stream, wanted)
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        raise DataError("holds Python objects, which are never read: write numbers and text alone") from error


def _numpy_columns(stream: BufferedIOBase, wanted: frozenset[str]) -> Columns:
    content = np.load(stream, allow_pickle=False)
    names = content.dtype.names if isinstance(content, np.ndarray) else content.files
    if not names:
        raise DataError("is one array of numpy's without names; write columns by name, as np.savez does")
    picked = pick(names, wanted)
    if not isinstance(content, np.ndarray):
        sizes = {info.filename.removesuffix(".npy"): info.file_size for info in content.zip.infolist()}
        budget_of(stream).spend(2 * sum(sizes[own] for own in picked.values()))
    cells = {name: np.asarray(content[own]) for name, own in picked.items()}
    budget_of(stream).spend(_CELL_BYTES * sum(column.size for column in cells.values()))
    lengths = {name: np.shape(column)[:1] for name, column in cells.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} {length[0] if length else 'one'}" for name, length in lengths.items())
        raise DataError(f"holds arrays of different lengths: {found}; expected a row a star in each")
    return Columns.of("numpy arrays", cells, names)


def read_json(stream: BufferedIOBase, wanted: frozenset[str]) -> Columns:
    """A record a line, a list of records, or columns by name as pandas writes them; lines that are none are named."""
    budget, lines = budget_of(stream), []
    for number, line in text_lines(stream):
        budget.spend(_GROWTH * len(line))
        lines.append((number, _value(line), line))
    records = {number: value for number, value, _ in lines if isinstance(value, dict)}
    skipped = [SkippedRow(number, "is no JSON record") for number, *_ in lines if number not in records]
    if not records or not isinstance(lines[0][1], dict):
        whole = json.loads("\n".join(line for *_, line in lines))
        found = whole if isinstance(whole, list) else [whole]
        records = {row: value for row, value in enumerate(found, start=1) if isinstance(value, dict)}
        skipped = [
            SkippedRow(row, "is no JSON record") for row in range(1, len(found) + 1) if row not in records
        ]
    only = next(iter(records.values()), {})
    if len(records) == 1 and only and all(isinstance(value, dict | list) for value in only.values()):
        columns = {
            name: [*value.values()] if isinstance(value, dict) else value for name, value in only.items()
        }
        rows = zip(*columns.values(), strict=True)
        records = {row: dict(zip(columns, values, strict=True)) for row, values in enumerate(rows, start=1)}
    names = [*dict.fromkeys(name for record in records.values() for name in record)]
    cells = {
        name: object_array([record.get(own) for record in records.values()])
        for name, own in pick(names, wanted).items()
    }
    numbers = np.array([*records], dtype=np.int64)
    return Columns.of("JSON", cells, names, row_numbers=numbers, skipped=skipped)


def _value(line: str) -> Any:
    """What a line holds, None where it is no JSON."""
    try:
        return json.loads(line)
    except ValueError:
        return None


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
    budget = budget_of(stream)
    with h5py.File(stream, "r") as file:
        groups: dict[str, dict[str, h5py.Dataset]] = {}

        def note(path: str, item: h5py.Group | h5py.Dataset) -> None:
            budget.spend(_LINK_BYTES)
            group, _, name = path.rpartition("/")
            if isinstance(item, h5py.Dataset):
                groups.setdefault(f"/{group}", {})[name] = item

        file.visititems(note)  # which meets each object once, and follows no soft links
        found = [
            table for group, items in groups.items() for table in _tables_of(group, items, wanted, budget)
        ]
        tables = with_spectra([table for table in found if table.source_id_name])
        if not tables:
            names = ", ".join(list(file)[:8]) or "nothing"
            raise DataError(
                f"is HDF5 that holds {names}; expected a dataset source_id with the spectra, in this very file: "
                "links to other places and files are not followed"
            )
    return join(tables[0].form, tables)


def _tables_of(
    group: str, datasets: dict[str, h5py.Dataset], wanted: frozenset[str], budget: Budget
) -> Iterator[Columns]:
    """The tables of a group: each of its datasets with named fields, and all others together."""
    for name, dataset in datasets.items():
        if names := dataset.dtype.names:
            form = "xp_vae HDF5" if name == _ASTROPY_TABLE else "HDF5 table"
            cells = {column: _values(dataset, budget, own) for column, own in pick(names, wanted).items()}
            yield Columns.of(form, cells, names)
    flat = {name: item for name, item in datasets.items() if not item.dtype.names and item.ndim in (1, 2)}
    picked = pick(list(flat), wanted)
    sizes = {own: len(flat[own]) for own in picked.values()}
    if len(set(sizes.values())) > 1:
        found = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise DataError(f"group {group}: datasets of different lengths: {found}")
    form = "MyGaiaDB HDF5"
    if group == "/":
        joined = any(name in picked for name in JOINED_COLUMNS)
        form = "MultimodalUniverse HDF5" if joined else "HDF5 mirror"
    cells = {name: _values(flat[own], budget) for name, own in picked.items()}
    units = {own: _unit(flat[own]) for own in picked.values()}
    yield Columns.of(form, cells, tuple(flat)).with_stated(units, picked)


def _values(dataset: h5py.Dataset, budget: Budget, field: str | None = None) -> np.ndarray:
    """All values of a dataset whose numbers lie in this file, or of one of its fields."""
    if dataset.is_virtual or dataset.external:
        raise DataError(
            f"dataset {dataset.name} has its values in other files, which are not opened; copy them into one"
        )
    kind = dataset.dtype if field is None else dataset.dtype[field]
    if not kind.hasobject:
        chunk = math.prod(dataset.chunks) if dataset.chunks else 0
        budget.spend(dataset.dtype.itemsize * chunk + kind.itemsize * dataset.size)
        return np.asarray(dataset[()] if field is None else dataset[field])
    budget.spend(_OBJECT_BYTES * dataset.size)
    chunks = [np.empty(0, dtype=object)]
    for start in range(
        0, len(dataset), _OBJECTS
    ):  # text or lists of any length, of which many may share a place
        rows = slice(start, start + _OBJECTS)
        chunks.append(dataset[rows] if field is None else dataset[rows][field])
        budget.spend(sum(getattr(cell, "nbytes", 0) or len(cell or b"") for cell in chunks[-1].flat))
    return np.concatenate(chunks) if dataset.ndim == 1 else np.concatenate(chunks[1:] or [dataset[()]])


def _unit(dataset: h5py.Dataset) -> str:
    """The unit in a dataset's attributes, empty where there is none."""
    unit = next((dataset.attrs[name] for name in ("unit", "units") if name in dataset.attrs), "")
    return unit.decode(errors="replace") if isinstance(unit, bytes) else str(unit)


@runtime_checkable
class ArrowTable(Protocol):
    """A table of arrow, polars, duckdb or another library that hands its columns over as arrow's."""

    def __arrow_c_stream__(self, requested_schema: object = None) -> object: ...


TableLike: TypeAlias = (
    Table
    | pd.DataFrame
    | ArrowTable
    | np.ndarray
    | Mapping[str, Any]
    | Sequence[Any]
    | tuple[pd.DataFrame, np.ndarray]
)
"""A table, or several: astropy's, pandas', arrow's or polars', columns by name, a structured array; a list of tables;
astroquery's dictionary of lists of tables; the frame and the wavelengths [nm] that GaiaXPy's ``calibrate`` returns."""


def columns_in_memory(table: TableLike, wanted: frozenset[str]) -> Columns:
    """The wanted columns of a table in memory."""
    if isinstance(table, Table):
        return columns_of_table(table, wanted)
    if isinstance(table, pd.DataFrame):
        return _columns_of_frame(table, wanted)
    if isinstance(table, ArrowTable):
        return columns_of_arrow(pa.table(table), wanted)
    if isinstance(table, np.ndarray) and table.dtype.names:
        return columns_of_table(Table(table), wanted, form="numpy array")
    if isinstance(table, Mapping | Sequence) and not isinstance(table, str | bytes):
        return _columns_of_several(table, wanted)
    raise DataError(f"a {type(table).__name__} is no table; expected one of astropy, pandas, polars or arrow")


def _columns_of_several(tables: Mapping[str, Any] | Sequence[Any], wanted: frozenset[str]) -> Columns:
    if isinstance(tables, tuple) and len(tables) == 2 and isinstance(tables[0], pd.DataFrame):
        frame, wavelengths = tables
        if isinstance(wavelengths, np.ndarray):
            frame = frame.assign(**{WAVELENGTH: [wavelengths] * len(frame)})
            return _columns_of_frame(frame, wanted)
    if isinstance(tables, Mapping) and not any(_is_tables(value) for value in tables.values()):
        cells = {name: _column(tables[own]) for name, own in pick([*tables], wanted).items()}
        return Columns.of("columns by name", cells, [*tables])
    named = tables.items() if isinstance(tables, Mapping) else (("", table) for table in tables)
    parts = [
        with_id_of_name(columns_in_memory(table, wanted), str(name))
        for name, value in named
        for table in (value if isinstance(value, list | tuple) else [value])
    ]
    if not parts:
        raise DataError("no table is given; expected one at least")
    useful = with_spectra(parts)
    return join(useful[0].form, useful)


def _column(cells: Any) -> np.ndarray:
    """The cells as numpy has them; lists of different lengths, or beside numbers, stay what they are."""
    try:
        return np.asarray(cells)
    except ValueError:
        return object_array(cells)


def _is_tables(value: object) -> bool:
    """True of a table, or a list of them."""
    first = value[0] if isinstance(value, list) and value else value
    return isinstance(first, Table | pd.DataFrame | pa.Table)


def _columns_of_frame(frame: pd.DataFrame, wanted: frozenset[str]) -> Columns:
    if str(frame.index.name).lower() in SOURCE_ID_NAMES:
        frame = frame.reset_index()
    own_names = {str(name): name for name in reversed(frame.columns)}
    cells = {}
    for name, own in pick([str(column) for column in frame.columns], wanted).items():
        series = frame[own_names[own]]
        extension = pd.api.types.is_extension_array_dtype(series.dtype)
        if extension:  # its missing values are no numbers that numpy knows
            series = series.astype(object).where(series.notna(), None)
        cells[name] = series.to_numpy()
    index = [] if isinstance(frame.index, pd.RangeIndex) or frame.index.name else [INDEX_NAMES[0]]
    return Columns.of("pandas frame", cells, [*map(str, frame.columns), *index])
