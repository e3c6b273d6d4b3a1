"""The spectra of some stars in one file, batch by batch, with what the source table says of them."""

import csv
import gzip
import hashlib
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from jaxtyping import Int64

from scattervae.arrays import SourceIds, StarArray
from scattervae.errors import FetchError, counted
from scattervae.files import write_text, written_file
from scattervae.gaia.archive.listing import Release
from scattervae.gaia.archive.services import Services
from scattervae.spectra.spectra import repeats
from scattervae.spectra.star_tables import SOURCE_COLUMNS, SourceColumns, joined_sources

logger = logging.getLogger(__name__)

_SOURCES_BATCH = 50_000
_HEADER = "header.csv"


@dataclass(frozen=True)
class FetchedIds:
    """What became of a list of stars."""

    path: Path
    fetched: Int64[np.ndarray, " fetched"]  # stars in the file, in its order
    # those of them that a table of the release has, but without a position
    unlocated: Int64[np.ndarray, " unlocated"]
    unlisted: Int64[np.ndarray, " unlisted"]  # those of them that no table of the release has
    # stars that no table of the release has, and that have no spectrum
    unknown: Int64[np.ndarray, " unknown"]
    without: Int64[np.ndarray, " without"]  # stars that a table has, but that have no mean spectrum


def fetch_ids(
    source_id: SourceIds,
    out: str | Path,
    services: Services,
    *,
    batch_size: int = 1000,
    progress: Callable[[int], None] = lambda _: None,
) -> FetchedIds:
    """Write the spectra of these stars to one csv file, gzipped where its name ends in .gz.

    It holds the archive's own columns and, behind them, those of the source table, so that the G flux and the
    position of each star come with its spectrum. Stars that the source table
    lacks are asked for too. Batches that came are kept beside the file until all have: run again, only the others are
    fetched. A batch that does not come costs no other.

    Args:
        source_id: The stars; one that is named twice is fetched once.

    Raises:
        FetchError: The archive cannot be reached or refuses; a batch did not come; or no star has a spectrum.
    """
    limit = services.release.datalink.batch_limit
    if not 1 <= batch_size <= limit:
        raise FetchError(f"batches of {batch_size} stars: expected 1 to {limit}, the archive's limit")
    out = Path(out)
    wanted = source_id[~repeats(source_id)]
    starts = range(0, len(wanted), _SOURCES_BATCH)
    sources = joined_sources([services.sources_of(wanted[i : i + _SOURCES_BATCH]) for i in starts])
    parts = out.with_name(out.name + ".parts")
    parts.mkdir(parents=True, exist_ok=True)
    batches = [wanted[i : i + batch_size] for i in range(0, len(wanted), batch_size)]
    paths = [parts / f"{_digest(services.release, batch)}.csv.gz" for batch in batches]
    failures = []
    for batch, path in zip(batches, paths, strict=True):
        try:
            if not path.is_file():
                _fetch_batch(batch, path, services, sources)
        except FetchError as error:
            logger.warning("%s", error)
            failures.append(str(error))
        progress(len(batch))
    if failures:
        raise FetchError(
            f"{len(failures)} of {counted(len(batches), 'batch', 'batches')} did not come ({failures[0]}); "
            f"the others are kept in {parts}, and the same command resumes"
        )
    fetched = _join(out, parts / _HEADER, paths)
    shutil.rmtree(parts)
    if len(fetched) == 0:
        raise FetchError(
            f"none of {counted(len(wanted), 'star')} has a mean spectrum in this release; nothing was written"
        )
    listed, came = np.isin(wanted, sources.source_id), np.isin(wanted, fetched)
    located = sources.aligned_to(wanted).located
    return FetchedIds(
        path=out,
        fetched=fetched,
        unlocated=wanted[listed & came & ~located],
        unlisted=wanted[~listed & came],
        unknown=wanted[~listed & ~came],
        without=wanted[listed & ~came],
    )


def _digest(release: Release, batch: SourceIds) -> str:
    """What names a batch: another release's spectra of the same stars are others."""
    return hashlib.sha256(release.datalink.release.encode() + batch.tobytes()).hexdigest()[:16]


def _fetch_batch(source_id: SourceIds, path: Path, services: Services, sources: SourceColumns) -> None:
    """Write a batch's lines without their header, which all batches share."""
    lines = services.spectra_of(source_id)
    with written_file(path) as partial, gzip.open(partial, "wt", encoding="utf-8", compresslevel=4) as file:
        if not lines:
            return
        header = next(csv.reader(lines[:1]))
        more = [name for name in sources.values if name not in header]
        _check_header(path.parent / _HEADER, [*header, *more])
        column = header.index("source_id")
        stars = np.array([int(row[column]) for row in csv.reader(lines[1:])], dtype=np.int64)
        known = sources.aligned_to(stars)
        columns = [_texts(name, known.values[name]) for name in more]
        for cells in zip(lines[1:], *columns, strict=True):
            file.write(",".join(cells) + "\n")


def _texts(name: str, values: StarArray) -> list[str]:
    """Numbers as the archive's csv has them: as short as their type allows, nothing where there is none."""
    kind = SOURCE_COLUMNS[name][0].to_pandas_dtype()
    return ["" if text == "nan" else text for text in values.astype(kind).astype(str).tolist()]


def _check_header(path: Path, header: list[str]) -> None:
    text = ",".join(header) + "\n"
    if not path.is_file():
        write_text(path, text)
    elif path.read_text(encoding="utf-8") != text:
        raise FetchError(
            f"{path.parent}: the archive's columns are not those of the batches there; remove it and fetch all again"
        )


def _join(out: Path, header: Path, paths: list[Path]) -> SourceIds:
    """Put all batches into one file, with the identifiers found on the way; no file where no star came."""
    if not header.is_file():
        return np.empty(0, dtype=np.int64)
    text = header.read_text(encoding="utf-8")
    column = text.rstrip("\n").split(",").index("source_id")
    stars: list[int] = []
    with _written(out) as file:
        file.write(text.encode())
        for path in paths:
            with gzip.open(path, "rb") as lines:
                for line in lines:
                    stars.append(int(next(csv.reader([str(line, "utf-8")]))[column]))
                    file.write(line)
    return np.array(stars, dtype=np.int64)


@contextmanager
def _written(out: Path) -> Iterator[IO[bytes]]:
    with written_file(out) as partial, partial.open("wb") as file:
        if out.suffix != ".gz":
            yield file
            return
        with gzip.GzipFile("", "wb", compresslevel=4, fileobj=file, mtime=0) as zipped:
            yield zipped  # type: ignore[misc]  # it writes bytes as any file does
