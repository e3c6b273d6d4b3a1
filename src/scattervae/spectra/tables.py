"""Tables of results as files of five forms, chosen by the suffix of a name; the parquet file is made first.

Units that a form's own standard does not know, such as ``nat`` in FITS, follow the description in brackets. Unsigned
integers, which VOTables lack, are signed in all forms but parquet.
"""

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from scattervae.display import Shown
from scattervae.errors import DataError, StoreError, counted
from scattervae.files import sole_writer, written_file
from scattervae.spectra.columns import described, list_array, unit_and_description
from scattervae.spectra.hats import (
    UNREADABLE,
    open_parquet,
    parquet_writer,
    read_groups,
    read_table,
    schema_of,
)

if TYPE_CHECKING:
    import pandas as pd
    from astropy.table import QTable, Table

CATALOGUE_NOTE = "scattervae.catalogue"
NOTES = {
    CATALOGUE_NOTE: "catalogue",
    "scattervae.generated": "generated spectra",
    "scattervae.crossmatch": "crossmatch",
    "scattervae.outliers": "outliers",
    "scattervae.similar": "list of similar stars",
}
"""Keys of what a table says of its making, as JSON, and what such a table is."""
FITS_NOTE = "SCATVAE"
_VOPARQUET = "IVOA.VOTable-Parquet."
_UCDS = {
    r"source_id": "meta.id;meta.main",
    r"_healpix_29": "pos.healpix",
    r"ra": "pos.eq.ra;meta.main",
    r"dec": "pos.eq.dec;meta.main",
    r"teff": "phys.temperature.effective",
    r"logg": "phys.gravity",
    r"fe_h": "phys.abund.Fe",
    r"alpha_m": "phys.abund",
    r"a_k": "phys.absorption;em.IR.K",
    r"\w+_reliability|spectrum_score": "stat.probability",
    r"\w+_err": "stat.error",
    r"latent_\d+_sd": "stat.stdev",
    r"latent_\w+_corr": "stat.correlation",
    r"log_likelihood": "stat.likelihood",
    r"reduced_chi2\w*": "stat.fit.chi2",
    r"quality_flags|label_flags|training_flags|flags": "meta.code.qual",
    r"phot_g_mean_flux": "phot.flux;em.opt",
    r"phot_g_mean_mag": "phot.mag;em.opt",
    r"separation_arcsec": "pos.angDistance",
}
_DATATYPES = {"int16": "short", "int32": "int", "int64": "long", "float": "float", "double": "double"}
_DATATYPES |= {"uint8": "short", "uint16": "int", "uint32": "long", "bool": "boolean"}
ROWS_A_GROUP, _FITS_COLUMNS = 65536, 999  # columns that FITS holds: its standard 4.0, sect. 7.3.1, TFIELDS
_NAMES_SHOWN, _ROWS_SHOWN = 8, 10
_HEAD = 2**18  # bytes in which FITS, VOTable and ECSV have their note


def require_form(out: Path, *, folders: bool = False) -> None:
    """Refuse, before any work, a name whose suffix says no form that tables are written in.

    Args:
        folders: A name without a suffix is that of a HATS catalogue.
    """
    if out.suffix in SUFFIXES or (folders and not out.suffix):
        return
    ends = f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
    ends += ", or without a suffix for the folder of a HATS catalogue" if folders else ""
    raise DataError(f"{out}: no form of table is called {out.suffix or 'by no suffix'}; end it in {ends}")


def ucd_of(name: str) -> str | None:
    """What kind of quantity a column holds, in the IVOA's words; None where these have none for it.

    Source:
        The UCD1+ controlled vocabulary 1.5, IVOA.
    """
    if end := re.fullmatch(r"(teff|logg|fe_h|alpha_m|a_k)_(low|high)_\d+", name):
        return f"{_UCDS[end[1]]};stat.{'min' if end[2] == 'low' else 'max'}"
    return next((ucd for pattern, ucd in _UCDS.items() if re.fullmatch(pattern, name)), None)


def result_schema(fields: Sequence[pa.Field], notes: Mapping[str, str]) -> pa.Schema:
    """The schema of a table of results: what it says of its making, and of its columns as VOParquet.

    Source:
        IVOA note "Parquet in the VO" 1.0: a VOTable without data under the key ``IVOA.VOTable-Parquet.content``.
    """
    columns = "".join(map(_votable_field, fields))
    infos = "".join(f"<INFO name={quoteattr(k)} value={quoteattr(v)}/>" for k, v in notes.items())
    votable = (
        '<?xml version="1.0" encoding="UTF-8"?><VOTABLE version="1.4" xmlns="http://www.ivoa.net/xml/VOTable/v1.3">'
        f'<RESOURCE type="results">{infos}<TABLE>{columns}</TABLE></RESOURCE></VOTABLE>'
    )
    own = {f"{_VOPARQUET}version": "1.0", f"{_VOPARQUET}content": votable}
    return pa.schema(fields, metadata={**notes, **own})


def notes_of(schema: pa.Schema) -> dict[str, Any]:
    """What a table says of its making, by the keys of `NOTES`."""
    notes = schema.metadata or {}
    return {key: json.loads(notes[key.encode()]) for key in NOTES if key.encode() in notes}


def notes_at(path: Path) -> dict[str, Any]:
    """What a parquet file, or a HATS catalogue, says of its making; nothing where it is neither, or unreadable."""
    try:
        return {key: note for key, note in notes_of(schema_of(path)).items() if isinstance(note, dict)}
    except (*UNREADABLE, StoreError, ValueError):
        return {}


def result_table(
    columns: Mapping[str, tuple[str, str, np.ndarray]],
    notes: Mapping[str, str],
    *,
    double: Collection[str] = (),
) -> pa.Table:
    """A table of results; real numbers as float32, NaN null.

    Args:
        columns: Unit, description and values of each, by name; rows of a matrix become lists.
    """
    fields, arrays = [], []
    for name, (unit, text, values) in columns.items():
        single = values.dtype.kind == "f" and name not in double
        kept = values.astype(np.float32) if single else values
        arrays.append(list_array(kept) if kept.ndim > 1 else pa.array(kept, from_pandas=True))
        fields.append(described(name, arrays[-1].type, unit, text))
    return pa.table(arrays, schema=result_schema(fields, notes))


def _votable_field(field: pa.Field) -> str:
    listed = pa.types.is_list(field.type)
    datatype = _DATATYPES.get(str(field.type.value_type if listed else field.type))
    size = "" if datatype and not listed else ' arraysize="*"'
    unit, description = _known_unit(unit_and_description(field), "vounit")
    words = {
        "name": field.name,
        "datatype": datatype or "unicodeChar",
        "unit": unit,
        "ucd": ucd_of(field.name),
    }
    attributes = " ".join(f"{key}={quoteattr(value)}" for key, value in words.items() if value)
    return f"<FIELD {attributes}{size}><DESCRIPTION>{escape(description)}</DESCRIPTION></FIELD>"


def _known_unit(about: Mapping[str, str], unit_format: str) -> tuple[str, str]:
    """Unit and description of a column; a unit that the form does not know follows the description in brackets."""
    unit, description = about.get("unit", ""), about.get("description", "")
    if unit and not _is_known(unit, unit_format):
        return "", f"{description} [{unit}]".strip()
    return unit, description


@contextmanager
def written_table(out: Path) -> Iterator[Path]:
    """Where to write parquet; when the block ends well, `out` holds the same table in the form of its suffix.

    FITS, VOTable and ECSV are made in memory, csv row group by row group.

    Raises:
        DataError: The suffix says no form, or that form cannot hold the table, such as lists that differ in length.
    """
    require_form(out)
    with written_file(out) as partial:
        if out.suffix == ".parquet":
            yield partial
            return
        parquet = partial.with_name(f"{partial.name}.parquet")
        try:
            yield parquet
            _convert(parquet, partial, out)
        finally:
            parquet.unlink(missing_ok=True)


def _convert(parquet: Path, partial: Path, out: Path) -> None:
    try:
        CONVERSIONS[out.suffix](parquet, partial)
    except (pa.ArrowException, ValueError, TypeError, LookupError) as error:
        raise DataError(f"{out}: {out.suffix} cannot hold this table: {error}; .parquet can") from error


def write_table(table: pa.Table, out: Path) -> None:
    """Write a table in the form of the suffix of `out`, whole or not at all."""
    with written_table(out) as partial, parquet_writer(partial, table.schema) as writer:
        writer.write_table(table.combine_chunks(), row_group_size=ROWS_A_GROUP)


class TableFace(Shown, ABC):
    """What a result offers that has a row a star: its columns in the forms that others use."""

    @property
    @abstractmethod
    def table(self) -> pa.Table:
        """The rows, with units and descriptions in each field's metadata."""

    def __repr__(self) -> str:
        names, more = self.table.column_names, max(len(self.table.column_names) - _NAMES_SHOWN, 0)
        shown = ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more else "")
        return f"<{counted(len(self.table), 'star')}: {shown}>"

    def _repr_html_(self) -> str:
        return str(self.table.slice(0, _ROWS_SHOWN).to_pandas()._repr_html_()) + super()._repr_html_()

    def column(self, name: str) -> np.ndarray:
        """One column as numpy has it."""
        if name not in self.table.column_names:
            raise DataError(f"no column {name}; there are {', '.join(self.table.column_names)}")
        return _values(name, self.table[name])

    def to_pandas(self) -> "pd.DataFrame":
        """The rows as a frame of pandas."""
        frame: pd.DataFrame = self.table.to_pandas()
        return frame

    def to_astropy(self) -> "QTable":
        """The rows as a table of astropy, with units and descriptions; units that astropy lacks are in the latter."""
        from astropy.table import QTable

        table, note = _in_memory(self.table, "generic")
        table.meta = note
        return QTable(table)

    def write(self, out: str | Path) -> None:
        """Write the rows in the form that the suffix says: .parquet, .fits, .vot, .ecsv or .csv.

        Raises:
            DataError: The suffix says no form.
            BusyError: Another run writes there.
        """
        with sole_writer(Path(out)):
            write_table(self.table, Path(out))


class StarTable(TableFace):
    """Answers about stars, a row each; ``answers["teff"]`` is a column."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    @property
    def table(self) -> pa.Table:
        return self._table

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.column(name)


def is_scattervae_table(path: Path) -> bool:
    """True where a FITS, VOTable or ECSV file says that this package made it; csv has no place to say so."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    return any(note.encode() in head for note in NOTES)


def _to_fits(parquet: Path, to: Path) -> None:
    from astropy.io import fits

    if (rows := read_table(parquet)).num_columns > _FITS_COLUMNS:
        raise ValueError(f"it has {rows.num_columns} columns, more than {_FITS_COLUMNS}")
    table, note = _in_memory(rows, "fits")
    hdu = fits.table_to_hdu(table)
    for number, column in enumerate(table.itercols(), start=1):
        if column.info.description:
            hdu.header[f"TCOMM{number}"] = column.info.description
        if ucd := ucd_of(column.info.name):
            hdu.header[f"TUCD{number}"] = ucd
    if note:
        hdu.header[FITS_NOTE] = json.dumps(note)
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(to, overwrite=True, checksum=True)


def _to_votable(parquet: Path, to: Path) -> None:
    from astropy.io.votable import from_table, writeto
    from astropy.io.votable.tree import Info

    table, note = _in_memory(read_table(parquet), "vounit")
    file = from_table(table)
    file.infos.extend(Info(name=key, value=json.dumps(value)) for key, value in note.items())
    writeto(file, str(to), tabledata_format="binary2")


def _to_ecsv(parquet: Path, to: Path) -> None:
    table, note = _in_memory(read_table(parquet), "generic")
    table.meta = note
    table.write(to, format="ascii.ecsv", delimiter=",", overwrite=True)


def _to_csv(parquet: Path, to: Path) -> None:
    options = pa.csv.WriteOptions(include_header=False)
    with open_parquet(parquet) as source, to.open("wb") as file:
        schema = pa.schema(
            [(f.name, pa.string() if pa.types.is_list(f.type) else f.type) for f in source.schema_arrow]
        )
        file.write((",".join(schema.names) + "\n").encode())
        with pa.csv.CSVWriter(file, schema, write_options=options) as writer:
            for group in range(source.num_row_groups):
                rows = read_groups(source, groups=[group])
                writer.write_table(pa.table([_text(c) for c in rows.itercolumns()], schema=schema))


def _text(column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    """The column as csv can hold it: lists in brackets, an empty cell where a value is missing."""
    if pa.types.is_list(column.type):
        whole = column.combine_chunks()
        texts = pa.ListArray.from_arrays(whole.offsets, whole.values.cast(pa.string()))
        return pc.binary_join_element_wise("[", pc.binary_join(texts, ", "), "]", "")
    floating = pa.types.is_floating(column.type)
    return pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column) if floating else column


CONVERSIONS: dict[str, Callable[[Path, Path], None]] = {
    ".fits": _to_fits,
    ".vot": _to_votable,
    ".ecsv": _to_ecsv,
    ".csv": _to_csv,
}
SUFFIXES = (".parquet", *CONVERSIONS)


def _in_memory(rows: pa.Table, unit_format: str) -> "tuple[Table, dict[str, Any]]":
    """The table as astropy's, with units that the format knows, and what it says of its making."""
    from astropy.table import Table

    table = Table()
    if "" in rows.column_names:
        raise ValueError(f"its column {rows.column_names.index('') + 1} has no name")
    for field, column in zip(rows.schema, rows.itercolumns(), strict=True):
        values = _values(field.name, column)
        unit, description = _known_unit(unit_and_description(field), unit_format)
        if unit_format == "fits":  # which knows ASCII alone
            description = description.encode("ascii", "replace").decode()
            values = np.char.encode(values, "ascii", "replace") if values.dtype.kind == "U" else values
        table[field.name] = values
        table[field.name].info.unit = unit or None
        table[field.name].info.description = description or None
        if ucd := ucd_of(field.name):
            table[field.name].info.meta = {"ucd": ucd}
    return table, notes_of(rows.schema)


@cache
def _is_known(unit: str, unit_format: str) -> bool:
    import astropy.units as u

    try:
        u.Unit(unit).to_string(unit_format)
    except (ValueError, TypeError):
        return False
    return True


def _values(name: str, column: pa.ChunkedArray) -> np.ndarray:
    """NumPy's form of a column: lists as rows, missing numbers NaN or masked, missing text empty."""
    kind = column.type
    if pa.types.is_list(kind):
        lengths = pc.unique(pc.list_value_length(column))
        if len(lengths) > 1 or column.null_count:
            raise DataError(f"{name}: its lists differ in length, which only parquet and csv can hold")
        flat = np.asarray(pc.list_flatten(column).to_numpy())
        return flat.reshape(len(column), -1) if len(column) else np.empty((0, 0), flat.dtype)
    boolean = pa.types.is_boolean(kind)
    if pa.types.is_floating(kind) or (boolean and not column.null_count):
        return np.asarray(column.to_numpy())
    if boolean or pa.types.is_integer(kind):
        return _masked(column.cast(pa.int16()) if boolean else column)
    return np.array([text or "" for text in column.cast(pa.string()).to_pylist()], dtype=np.str_)


def _masked(column: pa.ChunkedArray) -> np.ndarray:
    """Integers, signed and of 16 bits at least; masked where some are missing."""
    width = 2 * column.type.bit_width if str(column.type).startswith("u") else column.type.bit_width
    whole = column.cast(f"int{min(max(width, 16), 64)}")
    if not whole.null_count:
        return np.asarray(whole.to_numpy())
    return np.ma.MaskedArray(whole.fill_null(0).to_numpy(), mask=whole.is_null().to_numpy())
