"""arrow's tables, of parquet and feather files or in memory: HATS partitions, and what pandas or polars have."""

from io import BufferedIOBase

import numpy as np
import pyarrow as pa

from scattervae.gaia.files.columns import Columns, pick
from scattervae.opening import budget_of
from scattervae.spectra.columns import is_approximate
from scattervae.spectra.nested import flattened, leaves
from scattervae.spectra.parquet import open_parquet, read_groups, spend_on
from scattervae.spectra.sources import POSITION_COLUMNS


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
    stated = {field.name: (field.metadata or {}).get(b"unit", b"") for field in schema}
    return {name: unit.decode(errors="replace") for name, unit in stated.items()}


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
