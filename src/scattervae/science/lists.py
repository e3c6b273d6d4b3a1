"""A list that a user brings: any table with positions or identifiers, one row an object, units kept."""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from io import BufferedIOBase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from scattervae.errors import DataError, counted, located
from scattervae.gaia.facts import SOURCE_ID_NAMES
from scattervae.gaia.files.fits_and_votable import first_table
from scattervae.gaia.files.reading import opened
from scattervae.gaia.files.text import Kind, as_plain_csv
from scattervae.opening import budget_of
from scattervae.spectra.columns import described, unit_and_description
from scattervae.spectra.hats import SPATIAL_INDEX, HatsFolder, read_table

if TYPE_CHECKING:
    from astropy.table import Table

RA_NAMES = (
    "ra",
    "raj2000",
    "ra_icrs",
    "_ra",
    "ra_deg",
    "radeg",
    "_raj2000",
    "alpha_j2000",
    "right_ascension",
)
DEC_NAMES = ("dec", "dej2000", "de_icrs", "_de", "dec_deg", "dedeg", "_dej2000", "delta_j2000", "declination")
"""Names of columns of right ascension and declination, in lower case, the best first.

Source:
    Gaia, SDSS and 2MASS data models (ra, dec); VizieR's standard and computed columns (RAJ2000, RA_ICRS, _RA);
    SExtractor's output (ALPHA_J2000).
"""
ROW, SEPARATION = "list_row", "separation"  # what a crossmatch adds; an earlier one's stay behind
LARGEST_LIST = 10_000_000
_NAMES = frozenset((*RA_NAMES, *DEC_NAMES, *SOURCE_ID_NAMES))
_DEGREES = ("", "deg", "degree", "degrees")


@dataclass(frozen=True)
class SkyList:
    """The rows of a list."""

    path: Path  # the file
    # its columns of one number, truth value or text a row, and last ``list_row``, the number of the row in
    # the file counted from 0; unit and description in the metadata
    table: pa.Table
    dropped_columns: tuple[str, ...] = ()  # names of its other columns, such as arrays

    def __len__(self) -> int:
        return len(self.table)

    def column(self, name: str, *, option: str) -> str:
        """A column's name as the list writes it, whatever the case of `name`, which `option` gave.

        Raises:
            DataError: There is no such column.
        """
        return self._named(name, (), what="this name", option=option)

    def positions(self, ra: str | None = None, dec: str | None = None) -> tuple[str, str]:
        """The names of the columns of right ascension and declination; guessed where not given.

        Raises:
            DataError: There is no such column, or it holds something other than degrees.
        """
        names = (
            self._named(ra, RA_NAMES, what="right ascension", option="--ra"),
            self._named(dec, DEC_NAMES, what="declination", option="--dec"),
        )
        for name, least, most in ((names[0], -360.0, 360.0), (names[1], -90.0, 90.0)):
            field, column = self.table.schema.field(name), self.table[name]
            unit = unit_and_description(field)["unit"]
            if unit.lower() not in _DEGREES or not _is_number(field.type):
                found = unit if _is_number(field.type) else "text"
                raise DataError(f"{self.path}: column {name} is in {found}; expected numbers in degrees")
            finite = column.filter(pc.is_finite(column)) if pa.types.is_floating(field.type) else column
            extremes = pc.min_max(finite).as_py()
            if extremes["min"] is not None and not least <= extremes["min"] <= extremes["max"] <= most:
                raise DataError(
                    f"{self.path}: column {name} runs from {extremes['min']} to {extremes['max']}; "
                    f"expected degrees from {least:g} to {most:g}"
                )
        return names

    def with_ids(self, name: str) -> "SkyList":
        """The rows that have an identifier, a whole number above 0, in a column, which becomes int64.

        Raises:
            DataError: The column cannot hold identifiers without loss.
        """
        kind = self.table[name].type
        if pa.types.is_floating(kind):
            raise DataError(
                f"{self.path}: column {name} is {kind}, which cannot hold source_ids; expected whole numbers or text"
            )
        try:
            table = self._cast(name, pa.int64())
        except pa.ArrowInvalid as error:
            raise DataError(
                f"{self.path}: column {name} holds something else than source_ids ({error})"
            ) from error
        return replace(self, table=table.filter(pc.greater(table[name], 0)))

    def with_positions(self, ra: str, dec: str) -> "SkyList":
        """The rows that have a position in these columns, which become float64."""
        table = self._cast(ra, pa.float64())
        table = replace(self, table=table)._cast(dec, pa.float64())
        finite = pc.and_(pc.is_finite(table[ra]), pc.is_finite(table[dec]))
        return replace(self, table=table.filter(finite))

    def _cast(self, name: str, kind: pa.DataType) -> pa.Table:
        """The table with this column of another type; unit and description stay."""
        index, field = self.table.column_names.index(name), self.table.schema.field(name).with_type(kind)
        return self.table.set_column(index, field, self.table[name].cast(kind))

    def _named(self, name: str | None, guesses: tuple[str, ...], *, what: str, option: str) -> str:
        names: list[str] = [own for own in self.table.column_names if own != ROW]
        own_names = {own.lower(): own for own in reversed(names)}
        wanted = guesses if name is None else (name.lower(),)
        for candidate in wanted:
            if candidate in own_names:
                return own_names[candidate]
        shown = ", ".join(names[:12]) + (" ..." if len(names) > 12 else "")
        lacking = f"no column of {what}" if name is None else f"no column {name}"
        raise DataError(f"{self.path}: {lacking} among {shown}; name one with {option}")


def read_list(path: Path) -> SkyList:
    """The rows of a csv, ECSV, FITS, VOTable or parquet file, recognised by their content, or of a HATS folder.

    Raises:
        DataError: It is of another kind, cannot be read, or has more than `LARGEST_LIST` rows.
        StoreError: A folder is no HATS catalogue.
    """
    if path.is_dir():
        return _from_hats(HatsFolder.read(path))
    with located(path), opened(path) as (kind, stream):
        if kind is Kind.TEXT and (text := as_plain_csv(stream, _NAMES)) is not None:
            return _scalars(path, pa.csv.read_csv(text, pa.csv.ReadOptions(use_threads=False)))
        if kind is Kind.PARQUET:
            return _scalars(path, read_table(pa.BufferReader(stream.read()), budget=budget_of(stream)))
        if kind not in (Kind.TEXT, Kind.FITS, Kind.VOTABLE):
            raise DataError(f"is {kind.value}; expected csv, ECSV, FITS, VOTable or parquet")
        return _from_astropy(path, stream, kind)


def _from_hats(folder: HatsFolder) -> SkyList:
    n_rows = sum(partition.n_rows for partition in folder.partitions)
    if n_rows > LARGEST_LIST:
        raise DataError(
            f"{folder.path}: {counted(n_rows, 'row')}, more than the {LARGEST_LIST} of a list; "
            "match two catalogues with LSDB itself, which opens stores as they are"
        )
    flat = [f.name for f in folder.schema if not pa.types.is_nested(f.type)]
    files = [file for partition in folder.partitions for file in folder.files_of(partition)]
    table = pa.concat_tables([read_table(file, flat) for file in files])
    fields = [folder.schema.field(name) for name in table.column_names]
    arrays = [f.name for f in folder.schema if f.name not in flat]
    return _scalars(folder.path, table.cast(pa.schema(fields)), arrays)


def _scalars(path: Path, table: pa.Table, dropped_columns: Iterable[str] = ()) -> SkyList:
    if len(table) > LARGEST_LIST:
        raise DataError(f"{len(table)} rows, more than the {LARGEST_LIST} of a list; split it")
    added = (ROW, SEPARATION, SPATIAL_INDEX)
    stay = (f.name for f in table.schema if pa.types.is_nested(f.type) or f.name in added)
    dropped_columns = (*dropped_columns, *stay)
    own = [
        f for f in table.schema if f.name not in dropped_columns and not f.name.startswith("__index_level_")
    ]
    fields = [described(f.name, f.type, **unit_and_description(f)) for f in own]
    fields.append(described(ROW, pa.int64(), "", "row of the list, counted from 0"))
    columns = [table[f.name].combine_chunks() for f in own]
    return SkyList(
        path, pa.table([*columns, np.arange(len(table))], schema=pa.schema(fields)), dropped_columns
    )


def _from_astropy(path: Path, stream: BufferedIOBase, kind: Kind) -> SkyList:
    from astropy.table import Table
    from astropy.utils.exceptions import AstropyWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyWarning)  # units and standards that a file bends
        table = (
            Table.read(stream, format="ascii.ecsv") if kind is Kind.TEXT else first_table(stream, kind.value)
        )
    dropped_columns = [name for name in table.colnames if table[name].ndim > 1 or _holds_objects(table, name)]
    columns, fields = [], []
    for name in table.colnames:
        if name not in dropped_columns:
            column = table[name]
            values = _arrow_of(column)
            columns.append(values)
            fields.append(
                described(name, values.type, str(column.unit or ""), str(column.description or "")),
            )
    return _scalars(path, pa.table(columns, schema=pa.schema(fields)), dropped_columns)


def _holds_objects(table: "Table", name: str) -> bool:
    """True of a column of arrays; text with gaps is an object column too, and stays."""
    column = table[name]
    if column.dtype.kind != "O":
        return column.dtype.kind not in "biufSU"
    filled = np.ma.compressed(column) if isinstance(column, np.ma.MaskedArray) else np.asarray(column)
    return any(not isinstance(cell, str | bytes) for cell in filled)


def _arrow_of(column: Any) -> pa.Array:
    mask = np.ma.getmaskarray(column) if isinstance(column, np.ma.MaskedArray) else None
    values = np.asarray(column)
    if values.dtype.kind in "SO":
        values = np.array([v.decode(errors="replace") if isinstance(v, bytes) else str(v) for v in values])
    if values.dtype.kind in "US":
        values = np.array([v.strip() for v in values], dtype=object)
        return pa.array(values, pa.string(), mask=mask)
    return pa.array(values.astype(values.dtype.newbyteorder("=")), mask=mask)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))
