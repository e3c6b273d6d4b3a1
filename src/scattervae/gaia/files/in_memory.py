"""Tables that other programs hold in memory: astropy, pandas, arrow and whatever speaks it, astroquery, GaiaXPy."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import pandas as pd
import pyarrow as pa
from astropy.table import Table

from scattervae.errors import DataError
from scattervae.gaia.facts import INDEX_NAMES, SOURCE_ID_NAMES
from scattervae.gaia.files.astropy_tables import columns_of_table
from scattervae.gaia.files.by_wavelength import WAVELENGTH, with_id_of_name
from scattervae.gaia.files.columns import Columns, join, pick, with_spectra
from scattervae.gaia.files.parquet import columns_of_arrow


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
    """The wanted columns of a table in memory.

    Raises:
        DataError: It is no table.
    """
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
        cells = {name: np.asarray(tables[own]) for name, own in pick([*tables], wanted).items()}
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
