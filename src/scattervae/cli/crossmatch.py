"""``scattervae crossmatch``: the stars of a catalogue that are in a list, by position or by source_id."""

from pathlib import Path
from typing import Annotated

import typer

from scattervae.cli.console import TABLE_OR_FOLDER, AsJson, Summary, check_out, existing
from scattervae.errors import DataError, RecipeError, counted


def crossmatch(
    catalogue: Annotated[
        Path,
        typer.Argument(
            callback=existing, metavar="CATALOGUE", help="A store, or a catalogue encoded to a HATS folder."
        ),
    ],
    listing: Annotated[
        Path,
        typer.Argument(
            callback=existing, metavar="LIST", help="A csv, ECSV, FITS, VOTable, parquet file or HATS folder."
        ),
    ],
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help=TABLE_OR_FOLDER)],
    radius: Annotated[
        float | None, typer.Option(metavar="ARCSEC", help="How far apart a pair may be; 1 arcsec.")
    ] = None,
    by_id: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Match by source_id instead: the list's column of them."),
    ] = None,
    ra: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="The list's right ascension [deg], if not guessed.")
    ] = None,
    dec: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="The list's declination [deg], if not guessed.")
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="A Dask scheduler to compute on.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write the stars of a catalogue that are in a list, with the list's columns beside theirs.

    By position each star gets the nearest row of the list within the radius, and the separation. By source_id
    each gets every row with its own. Both are LSDB's work; list_row says which row of the list it is.

    Examples:

        scattervae crossmatch latents targets.fits --out matched.parquet --radius 1.5

        scattervae crossmatch store labels.csv --out labelled --by-id gaiaedr3_source_id
    """
    from scattervae.science.crossmatch import ById, ByPosition
    from scattervae.science.crossmatch import crossmatch as match

    how: ById | ByPosition
    if by_id is None:
        how = ByPosition(1.0 if radius is None else radius, ra, dec)
    elif (radius, ra, dec) == (None, None, None):
        how = ById(by_id)
    else:
        raise RecipeError("--by-id matches source_ids; give it without --radius, --ra and --dec")
    check_out(out, "crossmatch", folders=True)
    if not out.suffix and out.exists():
        raise DataError(f"{out}: exists; give another --out")
    result = match(catalogue, listing, out, how, scheduler=scheduler)
    lines = [
        f"matched {result.n_matched:,} of {counted(result.n_list, 'row')} with {counted(result.n_pairs, 'star')}"
    ]
    if result.n_shared:
        lines.append(f"{counted(result.n_shared, 'row')} of the list with several stars each")
    if result.n_without:
        missing = "position" if by_id is None else "source_id"
        lines.append(f"{counted(result.n_without, 'row')} of the list without a {missing}")
    if result.dropped_columns:
        names = ", ".join(result.dropped_columns)
        lines.append(f"left out (not one value a row, or named as a column of ours): {names}")
    values = {**vars(result), "path": str(result.path), "dropped_columns": list(result.dropped_columns)}
    Summary(values, (*lines, f"wrote {out}")).show(as_json=as_json)
