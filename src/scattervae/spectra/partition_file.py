"""One file of a store by itself, as when somebody hands on a piece of the sky: nothing known of its stars is lost."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from scattervae.errors import DataError, StoreError
from scattervae.opening import Budget, require_file
from scattervae.spectra.columns import (
    QUALITY_COLUMNS,
    holds_all_columns,
    is_approximate,
    labels_from,
    spectra_columns,
    spectra_from,
)
from scattervae.spectra.foreign import ForeignColumns
from scattervae.spectra.labels import StellarLabels
from scattervae.spectra.parquet import read_table
from scattervae.spectra.sources import POSITION_COLUMNS, SourceColumns
from scattervae.spectra.spectra import Spectra

_MAGIC = b"PAR1"


@dataclass(frozen=True)
class PartitionFile:
    """The stars of a partition, in its order.

    Attributes:
        spectra: The stars, with their flags and the sources of their G fluxes.
        labels: Their labels.
        sources: Their positions and quality columns; empty where the positions are centres of pixels.
    """

    spectra: Spectra
    labels: StellarLabels
    sources: SourceColumns


def is_partition_file(path: Path) -> bool:
    """True for a parquet file with all columns of a store."""
    try:
        with path.open("rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                return False
        return holds_all_columns(pq.read_schema(path))
    except (OSError, pa.ArrowException):
        return False


def read_partition_file(path: Path, *, correlations: bool = False) -> PartitionFile:
    """The stars of a file that `is_partition_file`.

    Raises:
        StoreError: It cannot be read, or no star has coefficients of both bands.
    """
    try:
        table = read_table(path, budget=Budget(require_file(path)))
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"{path}: cannot be read: {error}") from error
    except DataError as error:
        raise StoreError(f"{path}: {error}") from None
    basis = ForeignColumns.of(table.schema, path).basis([table])
    if basis is None:
        raise StoreError(f"{path}: no star has coefficients of both bands")
    columns = [name for name in spectra_columns(correlations=correlations) if name in table.column_names]
    sources = SourceColumns.empty()
    if not is_approximate(table.schema):
        named = [name for name in (*POSITION_COLUMNS, *QUALITY_COLUMNS) if name in table.column_names]
        values = {name: table[name].cast(pa.float64()).fill_null(float("nan")).to_numpy() for name in named}
        sources = SourceColumns(table["source_id"].to_numpy(), values)
    return PartitionFile(spectra_from(table.select(columns), basis), labels_from(table), sources)
