"""``scattervae convert``: a table of results in another form."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scattervae.cli.console import TABLE_FILE, AsJson, Summary, check_out, existing
from scattervae.errors import DataError, counted

if TYPE_CHECKING:
    import pyarrow as pa
    from astropy.table import Table


def convert(
    table: Annotated[
        Path,
        typer.Argument(
            callback=existing,
            metavar="TABLE",
            help=f"A {TABLE_FILE} file, or the folder of a HATS catalogue.",
        ),
    ],
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help=f"The same table: {TABLE_FILE}.")],
    as_json: AsJson = False,
) -> None:
    """Write a table in another form, with units, descriptions and what it says of its making; a HATS folder as one.

    Examples:

        scattervae convert catalogue.parquet --out catalogue.fits

        scattervae convert latents --out latents.vot
    """
    from scattervae.files import sole_writer
    from scattervae.spectra.tables import CONVERSIONS, write_table

    check_out(out, "table")
    if os.path.realpath(out) == os.path.realpath(table):
        raise DataError(f"{out}: is the table itself; give another --out")
    with sole_writer(out):
        if table.suffix in CONVERSIONS and table.is_file():
            rows = read_other(table)
            write_table(rows, out)
            n_rows = len(rows)
        else:
            n_rows = _copy_parquet(table, out)
    what = counted(n_rows, "row")
    Summary({"out": str(out), "n_rows": n_rows}, (f"wrote {what} to {out}",)).show(as_json=as_json)


def _copy_parquet(path: Path, out: Path) -> int:
    """The rows of a parquet file or a HATS catalogue, row group by row group; how many they are."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from scattervae.spectra.hats import HatsFolder, open_parquet, parquet_writer, read_groups
    from scattervae.spectra.tables import NOTES, ROWS_A_GROUP, result_schema, written_table

    hats, n_rows = HatsFolder.read(path) if path.is_dir() else None, 0
    files = [path] if hats is None else [file for p in hats.partitions for file in hats.files_of(p)]
    try:
        found = pq.read_schema(path) if hats is None else hats.schema
        notes = {key: (found.metadata or {}).get(key.encode(), b"").decode() for key in NOTES}
        schema = result_schema(list(found), {key: note for key, note in notes.items() if note})
        with written_table(out) as partial, parquet_writer(partial, schema) as writer:
            for file in files:
                with open_parquet(file) as source:
                    for group in range(source.num_row_groups):
                        rows = read_groups(source, schema.names, groups=[group])
                        n_rows += len(rows)
                        rows = (
                            pa.table(rows.columns, names=rows.column_names).select(schema.names).cast(schema)
                        )
                        writer.write_table(rows, row_group_size=ROWS_A_GROUP)
    except (pa.ArrowException, LookupError) as error:
        raise DataError(f"{path}: cannot be read as parquet: {error}") from error
    return n_rows


def read_other(path: Path) -> "pa.Table":
    """A FITS, VOTable, ECSV or csv file with units and descriptions, and what it says of its making."""
    import json

    import pyarrow as pa
    import pyarrow.csv
    from astropy.io import fits
    from astropy.io.votable import parse
    from astropy.table import Table

    from scattervae.spectra.tables import FITS_NOTE

    try:
        if path.suffix == ".csv":
            return pa.csv.read_csv(path, pa.csv.ReadOptions(use_threads=False))
        if path.suffix == ".vot":
            file = parse(path)
            table = file.get_first_table().to_table()
            return _of_astropy(table, {info.name: info.value for info in file.infos})
        table = Table.read(path, format={".fits": "fits", ".ecsv": "ascii.ecsv"}[path.suffix])
        header = fits.getheader(path, 1) if path.suffix == ".fits" else {}
        for number, column in enumerate(table.itercols(), start=1):
            column.info.description = header.get(f"TCOMM{number}", column.info.description)
    except (OSError, ValueError, TypeError, LookupError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read: {' '.join(str(error).split())[:200]}") from error
    stated = json.loads(table.meta.get(FITS_NOTE, "{}")) | dict(table.meta)
    return _of_astropy(table, {key: json.dumps(value) for key, value in stated.items()})


def _of_astropy(table: "Table", notes: dict[str, str]) -> "pa.Table":
    import re

    import numpy as np
    import pyarrow as pa

    from scattervae.spectra.columns import described
    from scattervae.spectra.tables import NOTES, result_schema

    fields, columns = [], []
    for column in table.itercols():
        values, text = np.ma.getdata(column), column.info.description or ""
        values = np.char.decode(values, "utf-8") if values.dtype.kind == "S" else values
        values = values.astype(values.dtype.newbyteorder("="))
        mask = np.ma.getmaskarray(column) if values.ndim == 1 else None
        array = pa.array(values if values.ndim == 1 else list(values), mask=mask)
        bracket = None if column.unit else re.fullmatch(r"(.*?) ?\[([^][]+)\]", text)
        unit, text = (bracket[2], bracket[1]) if bracket else (str(column.unit or ""), text)
        fields.append(described(column.info.name, array.type, unit, text))
        columns.append(array)
    kept = {key: note for key, note in notes.items() if key in NOTES}
    return pa.table(columns, schema=result_schema(fields, kept))
