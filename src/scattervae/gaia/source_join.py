"""Where stars are: by files of ``gaia_source``, which say how bright and trustworthy too, or by their own file."""

import logging
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from scattervae.arrays import SourceIds, StarArray, StarMask
from scattervae.errors import DataError, StoreError, counted
from scattervae.gaia.bulk.lines import BrokenFileError, Header, lacking_columns, read_header, read_texts
from scattervae.gaia.facts import DR3, SOURCE_ID_NAMES
from scattervae.gaia.files.assemble import assemble_sources
from scattervae.gaia.files.cells import floats, identifiers
from scattervae.gaia.files.columns import Columns, pick
from scattervae.gaia.files.reading import read_sources_file
from scattervae.spectra.hats import Positions
from scattervae.spectra.spectra import GFluxSource, Spectra, repeats
from scattervae.spectra.star_tables import (
    G_FLUX_COLUMN,
    POSITION_COLUMNS,
    SOURCE_COLUMNS,
    DataRelease,
    SourceColumns,
    joined_sources,
    rows_of,
)

logger = logging.getLogger(__name__)

_LEVEL8 = 2**43
"""Source_ids a HEALPix pixel of level 8: the level-12 pixel is source_id // 2**35, and holds 4**4 times less sky.

Source:
    Gaia DR3 documentation, gaia_source, source_id.
"""
# Files of the bulk archive are named after the first and last level-8 pixel they hold.
# Source: cdn.gea.esac.esa.int/Gaia/gdr3/gaia_source, _readme.txt.
_RANGE = re.compile(r"_(\d{6})-(\d{6})\.")
_OPEN = 3  # tables kept in memory: a spectrum file rarely needs more than one, of about 50 MB


class SourceFiles:
    """Files of ``gaia_source``, opened as the stars at hand ask for them.

    Args:
        ranged: Files whose names say which level-8 pixels they hold: read when a star lies in one.
        table: The folder of all others, as one sorted table on disk; None where there are none.
    """

    def __init__(self, ranged: Sequence[tuple[Path, range]], table: Path | None) -> None:
        self.ranged = tuple(ranged)
        self.table = table
        self._open: dict[Path, SourceColumns] = {}  # the files of the last chunks, the newest last

    @classmethod
    def of(cls, paths: Iterable[Path], scratch: Path, release: DataRelease = DR3) -> "SourceFiles":
        """These files, in any number and order; of several rows of one star the first is taken.

        Args:
            paths: Bulk files of ``gaia_source``, or any table that `read_sources_file` reads.
            scratch: A folder for the table of those whose names say nothing; it may be removed at the end.
            release: Theirs; where its source_ids hold no pixel, no name says which stars are in a file.
        """
        ranged, others = [], []
        for path in paths:
            found = _RANGE.search(path.name)
            if found is None or not release.ids_hold_pixels:
                others.append(path)
            else:
                ranged.append((path, range(int(found[1]), int(found[2]) + 1)))
        return cls(ranged, _write_table(others, scratch, release) if others else None)

    def of_stars(self, source_id: SourceIds) -> SourceColumns:
        """What the files say of these stars, NaN where they say nothing."""
        values = {name: np.full(len(source_id), np.nan) for name in SOURCE_COLUMNS}
        known = np.zeros(len(source_id), dtype=bool)
        covered = np.full(len(source_id), self.table is not None)
        pixels = source_id // _LEVEL8
        for path, own in self.ranged:
            inside = (pixels >= own.start) & (pixels < own.stop)
            covered |= inside
            if (inside & ~known).any():
                _fill(values, known, self._opened(path), source_id)
        if not covered.all():
            lacking = np.unique(pixels[~covered])
            raise DataError(
                f"{counted(int((~covered).sum()), 'star')}, in level-8 pixels {lacking[0]} to {lacking[-1]}, are in no "
                "gaia_source file given; give the files of these pixels too"
            )
        if self.table is not None and not known.all():
            _fill(values, known, self._opened(self.table), source_id)
        return SourceColumns(source_id, values)

    def _opened(self, path: Path) -> SourceColumns:
        found = self._open.pop(path, None)
        if found is None and path == self.table:
            columns = {file.stem: np.load(file, mmap_mode="r") for file in path.glob("*.npy")}
            found = SourceColumns(columns.pop("source_id"), columns)
        elif found is None:
            found = _sorted(_read(path))
        self._open[path] = found
        while len(self._open) > _OPEN:
            del self._open[next(iter(self._open))]
        return found


class PlacedStars(NamedTuple):
    """The stars of a file that have a position, where any has, with what ``gaia_source`` says of them."""

    spectra: Spectra
    sources: SourceColumns  # empty where the source_ids alone say where the stars are
    skipped: list[str]  # stars without a position, each with where it was looked for


def place_stars(
    spectra: Spectra, own: SourceColumns, files: SourceFiles | None, *, release: DataRelease, where: str
) -> PlacedStars:
    """Where the stars of a file are: by files of ``gaia_source``, else by its own ra and dec, else by their source_ids.

    Columns of its own that say nothing of some stars are not used at all where source_ids hold a pixel, which all have.
    """
    if files is not None:
        try:
            sources = files.of_stars(spectra.source_id)
        except DataError as error:
            raise DataError(f"{where}: its stars have no positions: {error}") from error
        spectra = spectra.with_g_flux(sources.values[G_FLUX_COLUMN], GFluxSource.TABLE)
    else:
        sources = own
    n_nowhere = int((~sources.located).sum()) if len(sources) else 0
    if n_nowhere == 0:
        return PlacedStars(spectra, sources, [])
    if files is None and release.ids_hold_pixels:
        logger.warning(
            "%s: %d of %d stars have no ra and dec, so those of the others are not used either",
            where,
            n_nowhere,
            len(sources),
        )
        return PlacedStars(spectra, SourceColumns.empty(), [])
    searched = "the file" if files is None else "the gaia_source files"
    nowhere = sources.source_id[~sources.located].tolist()
    sources = sources.take(sources.located)
    spectra = spectra.take(np.isin(spectra.source_id, sources.source_id))
    return PlacedStars(spectra, sources, [f"source_id {star}: no position in {searched}" for star in nowhere])


def require_joinable(of_store: Positions | None, where: str) -> None:
    """Refuse to join positions to the stars of a store whose stars have the centres of pixels."""
    if of_store is Positions.PIXEL_CENTRES:
        raise StoreError(
            f"{where}: its positions are {of_store.value}, and one source of positions "
            "serves a store; ingest into a new one with gaia_source files for all its stars"
        )


def _fill(
    values: dict[str, np.ndarray], known: StarMask, sources: SourceColumns, source_id: SourceIds
) -> None:
    """Take over what `sources`, sorted by source_id, say of stars that are not known yet."""
    if len(sources) == 0:
        return
    row, there = rows_of(source_id, among=sources.source_id)
    new = there & ~known
    for name, column in sources.values.items():
        values[name][new] = column[row[new]]
    known |= new


def _read(path: Path, release: DataRelease = DR3) -> SourceColumns:
    return read_sources(path) if is_bulk_sources(path) else read_sources_file(path, release=release)


def _sorted(sources: SourceColumns) -> SourceColumns:
    """One row a star, the first, in the order of source_id."""
    if (np.diff(sources.source_id) > 0).all():
        return sources
    first = sources.take(~repeats(sources.source_id))
    return first.take(np.argsort(first.source_id))


def _write_table(paths: Sequence[Path], scratch: Path, release: DataRelease) -> Path:
    """The rows of all files, sorted, as arrays that processes share through the machine's page cache."""
    joined = _sorted(joined_sources([_read(path, release) for path in paths]))
    if len(joined) == 0:
        raise DataError(f"{paths[0]}: holds no star; give gaia_source files that do")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    for name, column in {"source_id": joined.source_id, **joined.values}.items():
        np.save(scratch / f"{name}.npy", column)
    return scratch


_BLOCK_BYTES = 2**23  # must hold the comments before the header, which are 0.1 MB in Gaia's files
_NULLS = ["", "null", "NULL", "nan", "NaN", "None", "--"]


def is_bulk_sources(path: str | Path) -> bool:
    """True for a text file, gzipped or not, with Gaia's identifier, ra and dec in columns divided by commas."""
    try:
        header, _ = read_header(Path(path))
    except DataError:
        return False
    return not lacking_columns(_picked(header), POSITION_COLUMNS)


def read_sources(path: str | Path) -> SourceColumns:
    """The `SOURCE_COLUMNS` that a bulk file of ``gaia_source`` has, in the order of the file, one row a star.

    A cell that is no number becomes NaN. Rows without an identifier are left out, and so are those with more
    or fewer cells than the header; the log says how many.
    """
    path = Path(path)
    header, _ = read_header(path)
    picked = _picked(header)
    header.require(picked, POSITION_COLUMNS, f"{path}: is no gaia_source file")
    parts = [_cells(batch) for batch in _batches(path, header, picked)]
    cells = {
        name: np.concatenate([part[name] for part in parts]) if parts else np.empty(0, dtype=np.int64)
        for name in picked
    }
    return assemble_sources(Columns.of("gaia_source csv", cells, header.names))


def _picked(header: Header) -> dict[str, int]:
    """Columns to read, with their places: the best identifier first, under whatever name it has."""
    own = pick(header.names, frozenset((*SOURCE_ID_NAMES, *SOURCE_COLUMNS)))
    identifiers = [name for name in SOURCE_ID_NAMES if name in own]
    names = (*identifiers[:1], *SOURCE_COLUMNS)
    return {name: header.names.index(own[name]) for name in names if name in own}


def _batches(path: Path, header: Header, picked: Mapping[str, int]) -> Iterator[pa.RecordBatch]:
    """The columns as text, some thousand rows at a time."""
    n_rows, n_dropped = 0, 0

    def leave_out(_: csv.InvalidRow) -> str:
        nonlocal n_dropped
        n_dropped += 1
        return "skip"

    columns = [f"column {index}" for index in range(len(header.names))]
    wanted = [columns[index] for index in picked.values()]
    try:
        reader = csv.open_csv(
            pa.PythonFile(_Stream(read_texts(path)), mode="r"),
            read_options=csv.ReadOptions(
                use_threads=False,
                block_size=_BLOCK_BYTES,
                skip_rows=header.n_before + 1,
                column_names=columns,
            ),
            parse_options=csv.ParseOptions(invalid_row_handler=leave_out),
            convert_options=csv.ConvertOptions(
                include_columns=wanted,
                column_types=dict.fromkeys(wanted, pa.string()),
                null_values=_NULLS,
                strings_can_be_null=True,
            ),
        )
        for batch in reader:
            n_rows += batch.num_rows
            yield batch.rename_columns(list(picked))
    except BrokenFileError as error:
        raise error.after(n_rows) from error.__cause__
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: cannot be read ({' '.join(str(error).split())[:200]})") from error
    if n_dropped:
        logger.warning("%s: %s left out: not %d cells", path, counted(n_dropped, "row"), len(columns))


class _Stream:
    """The text of a file as arrow reads files."""

    closed = False

    def __init__(self, texts: Iterator[bytes]) -> None:
        self._texts = texts
        self._rest = b""

    def read(self, size: int) -> bytes:
        """So many bytes, fewer only at the end."""
        read = [self._rest]
        missing = size - len(self._rest)
        while missing > 0 and (text := next(self._texts, b"")):
            read.append(text)
            missing -= len(text)
        whole = b"".join(read)
        self._rest = whole[size:]
        return whole[:size]


def _cells(batch: pa.RecordBatch) -> dict[str, np.ndarray]:
    """The columns as numbers, of all rows that have an identifier."""
    identifier, *others = batch.column_names
    source_id = _integers(batch[identifier])
    cells = {identifier: source_id, **{name: _floats(batch[name]) for name in others}}
    return {name: column[source_id > 0] for name, column in cells.items()}


def _integers(cells: pa.StringArray) -> SourceIds:
    """The integers in the cells, 0 where there is none."""
    try:
        return np.asarray(pc.cast(cells, pa.int64()).fill_null(0).to_numpy(zero_copy_only=False))
    except pa.ArrowInvalid:
        return identifiers(cells.to_numpy(zero_copy_only=False)).values


def _floats(cells: pa.StringArray) -> StarArray:
    """The numbers in the cells, NaN where there is none."""
    try:
        return np.asarray(pc.cast(cells, pa.float64()).to_numpy(zero_copy_only=False))
    except pa.ArrowInvalid:
        return floats(cells.to_numpy(zero_copy_only=False))
