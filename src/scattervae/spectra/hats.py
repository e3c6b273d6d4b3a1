"""Folders laid out as HATS catalogues: sky pixels of about equal numbers of rows, and files that describe them.

Source:
    IVOA note "HATS: A Standard for the Hierarchical Adaptive Tiling Scheme in the Virtual Observatory"; the
    ``hats`` package writes and checks the properties.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64

from scattervae import __version__
from scattervae.arrays import SourceIds, StarArray
from scattervae.errors import StoreError
from scattervae.files import write_digests, write_text, written_file
from scattervae.opening import Budget

SPATIAL_INDEX, SPATIAL_ORDER = "_healpix_29", 29
SOURCE_ID_ORDER = 12
_SOURCE_IDS_A_PIXEL = 2**35  # source_id // 2**35 is an order-12 pixel: Gaia DR3 documentation, sect. 20.1.1
_N_SOURCE_ID_PIXELS = 12 * 4**SOURCE_ID_ORDER
_POSITIONS_KEY, _N_ROWS = "scattervae_positions", "num_rows"
_PIXELS_A_DIRECTORY = 10_000
_PROPERTY_FILES = ("hats.properties", "properties")
_SCHEMA_FILES = ("_common_metadata", "_metadata")
DESCRIPTIONS = ("hats.properties", "partition_info.csv", "dataset/_common_metadata")
_OBJECT_TYPES = ("object", "source")
# What opening a parquet file may end in; a name of a column that is no UTF-8 is the last.
UNREADABLE = (OSError, pa.ArrowException, UnicodeDecodeError)


class Positions(Enum):
    """Where the ``ra`` and ``dec`` of a catalogue's rows come from; the value is written to its properties."""

    MEASURED = "measured"
    PIXEL_CENTRES = "approximate: centres of the order-12 pixels in the source_ids"


class Partition(NamedTuple):
    """A HEALPix pixel (nested) and the rows in it: one parquet file of a catalogue."""

    order: int
    pixel: int
    n_rows: int

    @property
    def index_range(self) -> tuple[int, int]:
        """First value of ``_healpix_29`` in the pixel, and the first beyond it."""
        shift = 2 * (SPATIAL_ORDER - self.order)
        return self.pixel << shift, (self.pixel + 1) << shift


def partition_path(folder: Path, order: int, pixel: int) -> Path:
    """The file of a partition, ``folder/dataset/Norder=K/Dir=D/Npix=N.parquet``."""
    return folder / "dataset" / partition_name(order, pixel)


def partition_name(order: int, pixel: int, suffix: str = ".parquet") -> str:
    """The file of a partition below a catalogue's ``dataset``."""
    directory = pixel - pixel % _PIXELS_A_DIRECTORY
    return f"Norder={order}/Dir={directory}/Npix={pixel}{suffix}"


def spatial_index(ra: StarArray, dec: StarArray) -> Int64[np.ndarray, " star"]:
    """The order-29 HEALPix pixels (nested) of positions [deg]: the column ``_healpix_29`` of a catalogue."""
    from hats.pixel_math.spatial_index import compute_spatial_index

    index: Int64[np.ndarray, " star"] = compute_spatial_index(ra, dec)
    return index


def pixel_centres(source_id: SourceIds) -> tuple[StarArray, StarArray]:
    """Right ascension and declination [deg] of the centres of the order-12 pixels in the source_ids.

    Corners lie up to 53 arcsec from it; a star that has moved out of its pixel is further off (Barnard's: 157 arcsec).

    Source:
        Gaia DR3 documentation, sect. 20.1.1, ``source_id``.
    """
    from cdshealpix.nested import healpix_to_lonlat

    pixel = source_id // _SOURCE_IDS_A_PIXEL
    wrong = source_id[(pixel < 0) | (pixel >= _N_SOURCE_ID_PIXELS)]
    if len(wrong):
        highest = _N_SOURCE_ID_PIXELS * _SOURCE_IDS_A_PIXEL - 1
        raise StoreError(
            f"source_id {wrong[0]} names no pixel of the sky; Gaia's run from 0 to {highest}, "
            "so give positions for these stars"
        )
    longitude, latitude = healpix_to_lonlat(pixel, SOURCE_ID_ORDER, num_threads=1)
    return longitude.to_value("deg"), latitude.to_value("deg")


def finish_catalogue(
    folder: Path,
    *,
    name: str,
    schema: pa.Schema,
    partitions: Sequence[Partition],
    positions: Positions,
    notes: Mapping[str, str] = {},
    unchanged: Collection[Partition] = (),
) -> None:
    """Write ``hats.properties``, ``partition_info.csv`` and ``dataset/_common_metadata`` over written partitions.

    Their digests go to ``digests.json``. The same arguments over the same files give the same bytes.

    Args:
        schema: That of every partition; ``_healpix_29``, ``ra`` and ``dec`` among its columns.
        notes: Further properties, as ``{"obs_ack": "..."}``.
        unchanged: Partitions whose files are those that the folder's ``digests.json`` is of.
    """
    from hats.catalog.dataset.table_properties import TableProperties
    from upath import UPath

    in_order = sorted(partitions, key=lambda partition: partition.index_range)
    files = [partition_path(folder, p.order, p.pixel) for p in in_order]
    properties = TableProperties(
        catalog_name=name,
        catalog_type="object",
        total_rows=sum(p.n_rows for p in in_order),
        ra_column="ra",
        dec_column="dec",
        healpix_column=SPATIAL_INDEX,
        healpix_order=SPATIAL_ORDER,
        hats_max_rows=max((p.n_rows for p in in_order), default=0),
        hats_estsize=sum(file.stat().st_size for file in files) // 1024,
        **{"hats_version": "v1.0", "hats_builder": f"scattervae {__version__}"},
        **{_POSITIONS_KEY: positions.value, **notes},
    )
    with written_file(folder / "dataset" / "_common_metadata") as partial:
        pq.write_metadata(schema, partial)
    rows = [f"Norder,Npix,{_N_ROWS}", *(f"{p.order},{p.pixel},{p.n_rows}" for p in in_order)]
    write_text(folder / "partition_info.csv", "\n".join(rows) + "\n")
    with written_file(folder / "hats.properties") as partial:
        properties.to_properties_file_path(UPath(partial), initial_comments="HATS catalog")
    kept = [partition_path(folder, p.order, p.pixel) for p in unchanged]
    write_digests(folder, [*files, *(folder / name for name in DESCRIPTIONS)], unchanged=kept)


@dataclass(frozen=True)
class HatsFolder:
    """What a HATS catalogue says of itself."""

    path: Path  # the folder, of its main table where the catalogue is a collection of tables
    partitions: tuple[Partition, ...]  # its partitions in the order of ``_healpix_29``
    schema: pa.Schema  # the columns of every partition
    properties: Mapping[str, str]  # everything in ``hats.properties``
    positions: Positions  # where ra and dec come from

    @staticmethod
    def is_catalogue(folder: str | Path) -> bool:
        """True where a folder has the properties of a HATS catalogue or collection."""
        names = (*_PROPERTY_FILES, "collection.properties")
        return any((Path(folder) / name).is_file() for name in names)

    @staticmethod
    def read(folder: str | Path) -> "HatsFolder":
        """The description of a catalogue.

        Raises:
            StoreError: The folder is no HATS catalogue, or a file that describes it is missing or unreadable.
        """
        path = _main_table(Path(folder))
        properties = _properties(path)
        kind = properties.get("dataproduct_type")
        if kind not in _OBJECT_TYPES:
            raise StoreError(f"{path}: a HATS table of type {kind}; expected {' or '.join(_OBJECT_TYPES)}")
        suffix = properties.get("hats_npix_suffix", ".parquet")
        if suffix != "/" and "/" in suffix:
            raise StoreError(
                f"{path}: hats_npix_suffix {suffix!r} leads to other folders; expected an ending or /"
            )
        partitions = _partitions(path, suffix)
        approximate = properties.get(_POSITIONS_KEY) == Positions.PIXEL_CENTRES.value
        return HatsFolder(
            path=path,
            partitions=partitions,
            schema=_schema(path, _files(path, partitions[0], suffix) if partitions else ()),
            properties=properties,
            positions=Positions.PIXEL_CENTRES if approximate else Positions.MEASURED,
        )

    def files_of(self, partition: Partition) -> tuple[Path, ...]:
        """The files of a partition: one, or those of its folder where the catalogue says so."""
        return _files(self.path, partition, self.properties.get("hats_npix_suffix", ".parquet"))


def require_in_pixel(file: Path, footer: pq.FileMetaData, partition: Partition) -> None:
    """Refuse a file whose own statistics say that it is of another pixel, as one that was swapped or copied over is."""
    first, beyond = partition.index_range
    if any(not first <= low <= high < beyond for _, low, high in ranges_in(footer, SPATIAL_INDEX)):
        raise StoreError(f"{file}: holds stars of another pixel than its name says; put its own file back")


def ranges_in(footer: pq.FileMetaData, name: str) -> Iterator[tuple[int, int, int]]:
    """Each row group with the lowest and the highest value of a column in it, where the file states them."""
    columns = [index for index, own in enumerate(footer.schema.names) if own == name][:1]
    for group in range(footer.num_row_groups):
        for stated in (footer.row_group(group).column(column).statistics for column in columns):
            if stated is not None and stated.has_min_max:
                yield group, stated.min, stated.max


def _main_table(folder: Path) -> Path:
    collection = folder / "collection.properties"
    if not collection.is_file():
        return folder
    table = Path(_read_properties(collection).get("hats_primary_table_url", ".."))
    if table.is_absolute() or ".." in table.parts or not (folder / table).is_dir():
        raise StoreError(f"{collection}: main table {table} is not a folder in it")
    return folder / table


def _properties(path: Path) -> dict[str, str]:
    file = next((path / name for name in _PROPERTY_FILES if (path / name).is_file()), None)
    if file is None:
        raise StoreError(f"{path}: no {_PROPERTY_FILES[0]}; not a HATS catalogue")
    return _read_properties(file)


def _read_properties(file: Path) -> dict[str, str]:
    """``key = value`` lines; reading them with ``hats`` would cost two seconds of imports."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise StoreError(f"{file}: not readable: {error}") from error
    pairs = (line.partition("=") for line in lines if line.strip() and line.lstrip()[0] not in "#!")
    return {key.strip(): value.strip() for key, _, value in pairs}


def _partitions(path: Path, suffix: str) -> tuple[Partition, ...]:
    """What ``partition_info.csv`` names; rows are counted in the files where it does not count them."""
    file = path / "partition_info.csv"
    try:
        header, *lines = file.read_text(encoding="utf-8").split()
        rows = [dict(zip(header.split(","), line.split(","), strict=True)) for line in lines]
        named = [Partition(int(r["Norder"]), int(r["Npix"]), int(r.get(_N_ROWS, -1))) for r in rows]
    except (OSError, KeyError, ValueError) as error:
        raise StoreError(f"{file}: not the partitions of a HATS catalogue: {error!r}") from error
    for i, p in enumerate(named):
        if p.n_rows < 0:
            named[i] = p._replace(n_rows=sum(read_footer(f).num_rows for f in _files(path, p, suffix)))
    return tuple(sorted(named, key=lambda partition: partition.index_range))


def _files(path: Path, partition: Partition, suffix: str) -> tuple[Path, ...]:
    name = path / "dataset" / partition_name(partition.order, partition.pixel, suffix.strip("/"))
    return tuple(sorted(name.glob("*.parquet"))) if suffix == "/" else (name,)


def read_footer(file: Path) -> pq.FileMetaData:
    """What a parquet file says of its columns and row groups.

    Raises:
        StoreError: It is gone, or no parquet file.
    """
    try:
        return pq.read_metadata(file)
    except FileNotFoundError as error:
        raise StoreError(f"{file}: is gone; the catalogue is not complete") from error
    except UNREADABLE as error:
        raise StoreError(f"{file}: cannot be read as parquet: {error}") from error


def _schema(path: Path, files: tuple[Path, ...]) -> pa.Schema:
    described = [path / "dataset" / name for name in _SCHEMA_FILES]
    file = next((file for file in (*described, *files) if file.is_file()), None)
    if file is None:
        raise StoreError(f"{path}: neither dataset/{_SCHEMA_FILES[0]} nor a partition is there")
    return read_footer(file).schema.to_arrow_schema()


ROWS_A_GROUP = 8192
_NUMBER_BYTES, _LIST_BYTES = 16, 150  # of a value with what says where lists begin; of a list as an array
_COMPRESSION_LEVEL = 1  # higher levels take longer and save less than 0.1 %


def parquet_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """A writer of zstd parquet: floats split into streams of bytes, integers as differences, flags as runs.

    Columns of numbers get statistics, by which readers pass over row groups; those of lists would fill the footers.
    """
    encoding, dictionary, statistics = {}, [], []
    for field in schema:
        is_list = pa.types.is_list(field.type)
        kind = field.type.value_type if is_list else field.type
        leaf = f"{field.name}.list.element" if is_list else field.name
        if not is_list:
            statistics.append(leaf)
        if pa.types.is_floating(kind):
            encoding[leaf] = "BYTE_STREAM_SPLIT"
        elif pa.types.is_int64(kind):
            encoding[leaf] = "DELTA_BINARY_PACKED"
        else:
            dictionary.append(leaf)
    return pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        compression_level=_COMPRESSION_LEVEL,
        column_encoding=encoding,
        use_dictionary=dictionary or False,
        write_statistics=statistics or False,
        write_page_checksum=True,
    )


def open_parquet(source: Path | pa.NativeFile, *, memory_map: bool = False) -> pq.ParquetFile:
    """A parquet file to read row groups of, with `read_groups`; closed by ``with``.

    Raises:
        OSError: It cannot be opened.
        pa.ArrowException: It is no parquet file.
    """
    return pq.ParquetFile(source, memory_map=memory_map, pre_buffer=False, page_checksum_verification=True)


def schema_of(path: Path) -> pa.Schema:
    """The columns of a parquet file, or of the HATS catalogue in a folder.

    Raises:
        StoreError: The folder is no HATS catalogue.
        OSError: The file cannot be opened.
        pa.ArrowException: It is no parquet file.
    """
    if path.is_dir():
        return HatsFolder.read(path).schema
    with open_parquet(path) as file:
        return file.schema_arrow


def spend_on(file: pq.ParquetFile, budget: Budget, leaves: Sequence[str] | None = None) -> None:
    """Count what reading columns takes, before it is done: a run of equal values is a few bytes in the file.

    Args:
        leaves: Dotted names of columns, without the parts that parquet puts below lists; all columns where None.
    """
    for group in map(file.metadata.row_group, range(file.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            path = column.path_in_schema
            if leaves is None or any(f"{path}.".startswith(f"{leaf}.") for leaf in leaves):
                size = _NUMBER_BYTES * column.num_values + column.total_uncompressed_size
                budget.spend(size + (_LIST_BYTES * group.num_rows if "." in path else 0))


def read_groups(
    file: pq.ParquetFile, columns: Sequence[str] | None = None, *, groups: Sequence[int] | None = None
) -> pa.Table:
    """These row groups of an open file (all where None), computed by this thread alone.

    Arrow's own threads may outlive the reading, and then abort the process after the right answer: 19 of 48 did.

    Source:
        https://github.com/apache/arrow/issues/34314, open for pyarrow 10 to 25.
    """
    groups = range(file.num_row_groups) if groups is None else groups
    return file.read_row_groups(groups, columns=columns, use_threads=False)


def read_table(
    source: Path | pa.NativeFile, columns: Sequence[str] | None = None, *, budget: Budget | None = None
) -> pa.Table:
    """The rows of a whole file, as `read_groups` reads them."""
    with open_parquet(source) as file:
        if budget is not None:
            spend_on(file, budget, columns)
        return read_groups(file, columns)


def write_sorted(path: Path, table: pa.Table) -> None:
    """Write a table in row groups of `ROWS_A_GROUP`."""
    with parquet_writer(path, table.schema) as writer:
        writer.write_table(table, row_group_size=ROWS_A_GROUP)
