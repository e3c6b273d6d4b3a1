"""The archive's TAP and DataLink services: tables by queries, spectra by identifiers."""

import csv
import io
import logging
import re
import zipfile
import zlib
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any, TypeVar
from urllib.parse import urljoin, urlsplit
from xml.parsers.expat import ExpatError

import numpy as np
import requests
from astropy.table import Table
from astropy.utils.exceptions import AstropyWarning

from scattervae.arrays import SourceIds
from scattervae.errors import DataError, FetchError, counted
from scattervae.gaia.archive.listing import Release
from scattervae.gaia.archive.transport import (
    CONNECT_TIMEOUT,
    PASSING_STATUSES,
    PassingError,
    Patience,
    RefusedError,
    UnknownWordError,
    answered,
    new_session,
    read_body,
    reason_of,
    require_known,
)
from scattervae.gaia.files.fits_and_votable import first_table
from scattervae.opening import Budget, unpacked_bytes
from scattervae.spectra.spectra import repeats
from scattervae.spectra.star_tables import SOURCE_COLUMNS, SourceColumns, filled_sources, joined_sources

logger = logging.getLogger(__name__)

_TIMEOUT = 600.0  # the server may think for minutes about a batch before the first byte comes [s]
_LARGEST_ANSWER = 2 * 10**9  # bytes; 5,000 spectra with correlations have a tenth of that
_UPLOAD = "stars"
_AT_ONCE_PATH, _JOBS_PATH, _DATA_PATH = "tap-server/tap/sync", "tap-server/tap/async", "data-server/data"
# Rows that the archive gives at once, and how long that takes at most [s]; a job waits for its turn, at times hours.
# Source: the archive's help, "Limits" (2,000 rows and 60 s without a job).
_AT_ONCE, _AT_ONCE_TIMEOUT = 2000, 90.0
_FIRST_POLL, _LONGEST_POLL, _NOTICED_WAIT = 0.1, 10.0, 30.0  # [s]
# Source: IVOA, Universal Worker Service 1.1, sect. 2.1.3.
_UNFINISHED = frozenset({"PENDING", "QUEUED", "EXECUTING", "SUSPENDED", "HELD", "UNKNOWN"})
_FAILED = frozenset({"ERROR", "ABORTED"})
# In a refusal of what takes too long to be given at once.
_LATE = re.compile("time.?out|abort", re.IGNORECASE)
# Source: IVOA, Data Access Layer Interface 1.1, sect. 4.4.1.
_CUT = re.compile(rb"""QUERY_STATUS["'][^>]*["']OVERFLOW["']""")
# What reading an answer ends in that is none.
_NO_FILE = (EOFError, csv.Error, zlib.error, zipfile.BadZipFile)
_NO_TABLE = (*_NO_FILE, ValueError, LookupError, TypeError, AttributeError, AstropyWarning, ExpatError)
_Result = TypeVar("_Result")


class Services:
    """What the archive answers about single stars of one release.

    Args:
        url: Another server than the release's.
        timeout: How long an answer may keep us waiting for its next byte [s].
        longest_job: How long a query that is too large to be answered at once may wait for its turn and run [s].
    """

    def __init__(
        self,
        release: Release,
        *,
        url: str | None = None,
        patience: Patience | None = None,
        timeout: float = _TIMEOUT,
        longest_job: float = np.inf,
    ) -> None:
        url = url or release.archive_url
        release.warn_if_preliminary()
        address = urlsplit(url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise FetchError(f"{url}: is no web address; give --archive-url as https://...")
        self.release, self._url = release, url.rstrip("/") + "/"
        self._patience, self._timeout, self._longest_job = patience or Patience(), timeout, longest_job
        self._structures = list(release.datalink.data_structures)
        self._refusal = ""  # of the last word that the archive did not know
        self._columns: dict[str, dict[str, str]] = {}

    def ids_of(self, adql: str) -> SourceIds:
        """The source_ids that a query finds, each once, in its order."""

        def found() -> SourceIds:
            table = self._rows(adql, passing=PASSING_STATUSES - {500})
            name = next((name for name in table.colnames if name.lower() == "source_id"), None)
            if name is None:
                gives = ", ".join(table.colnames) or "no columns"
                raise FetchError(f"{adql}: gives {gives}; expected source_id")
            return np.asarray(table[name], dtype=np.int64)

        ids = self._ask(found)
        return np.asarray(ids[~repeats(ids)])

    def ids_in_cone(self, ra: float, dec: float, radius: float) -> SourceIds:
        """The source_ids within a radius of a position [deg], ICRS at the release's reference epoch."""
        name = self.release.tap.own("source_id", "ra", "dec")
        return self.ids_of(
            f"SELECT {name['source_id']} AS source_id FROM {self.release.tap.sources} WHERE 1 = CONTAINS("
            f"POINT({name['ra']}, {name['dec']}), CIRCLE({ra!r}, {dec!r}, {radius!r}))"
        )

    def sources_of(self, source_id: SourceIds) -> SourceColumns:
        """What the release says of these stars, in any order; those that its tables do not have are left out.

        Columns that the release lacks are null. Stars that the source table lacks are looked for in the release's
        tables of all sources, where there are any.
        """
        found = self._rows_of(self.release.tap.sources, source_id)
        missing = source_id[~np.isin(source_id, found.source_id)]
        if len(missing) == 0:
            return found
        others = [self._rows_of(table, missing) for table in self.release.tap.others if self._lists(table)]
        return joined_sources([found, filled_sources(others)])

    def _lists(self, table: str) -> bool:
        """True where TAP_SCHEMA lists a table; where it does not, that is said once."""
        known = table in self._columns
        if not self.columns_of(table) and not known:
            logger.warning("%s: not in TAP_SCHEMA; done without", table)
        return bool(self.columns_of(table))

    @property
    def structure(self) -> str:
        """The ``DATA_STRUCTURE`` that is asked for: the first word that the archive has not refused."""
        return (self._structures or self.release.datalink.data_structures)[0]

    def columns_of(self, table: str) -> dict[str, str]:
        """Units of a table's columns by their names in lower case; empty where TAP_SCHEMA lists no such table.

        Source:
            IVOA, Table Access Protocol 1.1, sect. 4, ``TAP_SCHEMA.columns``; a unit that is null there is empty here.
        """
        if table not in self._columns:
            listed = self._schema(f"column_name, unit FROM TAP_SCHEMA.columns WHERE table_name = '{table}'")
            self._columns[table] = {name.lower(): unit for name, unit in listed}
        return self._columns[table]

    def tables_like(self, table: str) -> list[str]:
        """Tables of the same name that TAP_SCHEMA lists in any schema."""
        like = f"'%{table.rpartition('.')[2]}'"
        return [
            name
            for (name,) in self._schema(f"table_name FROM TAP_SCHEMA.tables WHERE table_name LIKE {like}")
        ]

    def _schema(self, selected: str) -> list[tuple[str, ...]]:
        """Rows of TAP_SCHEMA, null as empty text."""
        rows = self._ask(lambda: self._rows(f"SELECT {selected}"))
        columns = [np.ma.filled(np.ma.asarray(rows[own], dtype=object), "").tolist() for own in rows.colnames]
        return [tuple(str(cell).strip('"') for cell in row) for row in zip(*columns, strict=True)]

    def _rows_of(self, table: str, source_id: SourceIds) -> SourceColumns:
        own = self.release.tap.own("source_id", *SOURCE_COLUMNS)
        listed = table in self._columns
        there = self.columns_of(table)
        if not there and (like := self.tables_like(table)):
            raise FetchError(
                f"{table}: not in TAP_SCHEMA, which has {', '.join(like)}; correct [tap] of a release file "
                "(--release FILE.toml)"
            )
        lacking = [name for name, theirs in own.items() if there and theirs.lower() not in there]
        if lacking and not listed:
            logger.warning("%s: has no %s; left empty", table, ", ".join(own[name] for name in lacking))
        columns = ", ".join(f"s.{theirs}" for name, theirs in own.items() if name not in lacking)
        adql = (
            f"SELECT {columns} FROM {table} AS s "
            f"JOIN tap_upload.{_UPLOAD} AS u ON s.{own['source_id']} = u.source_id"
        )
        upload = Table({"source_id": source_id})

        def found() -> SourceColumns:
            rows = self._rows(adql, upload)
            cells = {name.lower(): rows[name] for name in rows.colnames}
            empty = np.full(len(rows), np.nan)
            values = {name: _floats(cells.get(own[name].lower(), empty)) for name in SOURCE_COLUMNS}
            return SourceColumns(np.asarray(cells[own["source_id"].lower()], dtype=np.int64), values)

        return self._ask(found)

    def spectra_of(self, source_id: SourceIds) -> list[str]:
        """The mean spectra of these stars as lines of the archive's csv, the header first, in lower case.

        Stars without a spectrum are not among them; where none has one, nothing is.

        Source:
            astroquery 0.4.11, gaia/core.py, ``load_data`` (parameters); its docs, gaia.rst (the limit).
        """
        while self._structures:
            structure = self._structures[0]
            try:
                return self._load(source_id, structure)
            except UnknownWordError as refusal:
                self._refusal = str(refusal)
                self._structures.pop(0)
                if self._structures:
                    logger.warning("%s; asking for %s instead of %s", refusal, self._structures[0], structure)
        words = self.release.datalink
        raise FetchError(
            f"{self._refusal}; asked for {words.release}, {words.retrieval_type} as "
            f"{' and as '.join(words.data_structures)}; correct the words in a release file (--release FILE.toml)"
        )

    def _load(self, source_id: SourceIds, structure: str) -> list[str]:
        parameters = {
            "ID": ",".join(map(str, source_id.tolist())),
            "RELEASE": self.release.datalink.release,
            "RETRIEVAL_TYPE": self.release.datalink.retrieval_type,
            "DATA_STRUCTURE": structure,
            "FORMAT": "csv",
            "VALID_DATA": "false",
            "USE_ZIP_ALWAYS": "true",
        }
        n_empty = 0

        def load() -> list[str]:
            nonlocal n_empty
            content = self._sent("POST", _DATA_PATH, data=parameters)
            require_known(content[:300], self._url)  # a refusal that says 200
            if not content.strip():  # what the archive sends where no star has the product
                n_empty += 1
                if n_empty == 1:
                    raise PassingError(f"{self._url}: sent nothing")
                return []
            header, lines = _rows_in(content)
            _require_asked(lines, header, source_id)
            return [",".join(header), *lines] if lines else []

        return self._ask(load)

    def _rows(
        self, adql: str, upload: Table | None = None, *, passing: Container[int] = PASSING_STATUSES
    ) -> Table:
        """What a query gives: at once where that is little; else, and where that fails, by a job.

        Source:
            IVOA, Table Access Protocol 1.1, sect. 2.7; Universal Worker Service 1.1, sect. 2.2.
        """
        form = {"REQUEST": "doQuery", "LANG": "ADQL", "FORMAT": "votable_gzip", "QUERY": adql}
        query: dict[str, Any] = {"data": form, "passing": passing}
        if upload is not None:
            form["UPLOAD"] = f"{_UPLOAD},param:{_UPLOAD}"
            file = io.BytesIO()
            upload.write(file, format="votable")
            query["files"] = {_UPLOAD: ("stars.vot", file.getvalue())}
        if upload is None or len(upload) < _AT_ONCE:
            patient = min(self._timeout, _AT_ONCE_TIMEOUT)
            try:
                rows, cut = _table_in(self._sent("POST", _AT_ONCE_PATH, timeout=patient, **query))
                if len(rows) < _AT_ONCE and not cut:
                    return rows
            except UnknownWordError:
                raise
            except RefusedError as error:
                if error.status == 400 and not _LATE.search(str(error)):
                    raise  # the query is wrong, which a job would say no sooner
            except (PassingError, DataError, *_NO_TABLE) as error:
                logger.debug("%s: no answer at once: %s", self._url, error)
        form["PHASE"] = "RUN"
        with self._answered("POST", _JOBS_PATH, allow_redirects=False, **query) as response:
            job = urljoin(response.url, response.headers["Location"])
        self._wait_for(job)
        rows, cut = _table_in(self._sent("GET", f"{job}/results/result", passing=passing))
        if cut:
            raise FetchError(
                f"{self._url}: gives no more than {len(rows):,} rows; ask for a smaller part of the sky"
            )
        return rows

    def _wait_for(self, job: str) -> None:
        """Wait until a job has run; its place in the queue is kept while the archive does not answer."""
        start, wait, noticed = monotonic(), _FIRST_POLL, False
        while (
            phase := self._ask(lambda: str(self._sent("GET", f"{job}/phase"), "utf-8").strip())
        ) in _UNFINISHED:
            since = monotonic() - start
            if since > self._longest_job:
                raise FetchError(
                    f"{self._url}: its queue is long: no result in {since:.0f} s; try again later"
                )
            if since > _NOTICED_WAIT and not noticed:
                logger.warning("%s: the query waits for its turn; others are before it", self._url)
                noticed = True
            self._patience.stop.wait(wait)
            wait = min(2 * wait, _LONGEST_POLL)
        if phase in _FAILED:
            said = require_known(self._ask(lambda: self._sent("GET", f"{job}/error")), self._url)
            raise FetchError(f"{self._url}: the query failed: {said or phase}")

    @contextmanager
    def _answered(
        self, method: str, path: str, *, timeout: float | None = None, **request: Any
    ) -> Iterator[requests.Response]:
        timeouts = CONNECT_TIMEOUT, timeout or self._timeout
        url = urljoin(self._url, path)
        with (
            new_session() as session,
            answered(session, method, url, timeout=timeouts, **request) as response,
        ):
            yield response

    def _sent(self, method: str, path: str, **request: Any) -> bytes:
        """The body of the archive's answer."""
        with self._answered(method, path, **request) as response:
            return read_body(response, _LARGEST_ANSWER)

    def _ask(self, action: Callable[[], _Result]) -> _Result:
        """What the archive answers, asked again where its failure may pass."""

        def once() -> _Result:
            try:
                return action()
            except DataError as error:  # which no second try makes better
                raise FetchError(f"{self._url}: sent a table that {error}") from error
            except _NO_TABLE as error:
                why = f"sent something that is not what was asked for ({reason_of(error)})"
                raise PassingError(f"{self._url}: {why}") from error

        return self._patience.persist(once)


def _table_in(content: bytes) -> tuple[Table, bool]:
    """The table of an answer, zipped or not, and whether the archive cut it."""
    stream = unpacked_bytes(content)
    return first_table(stream, "VOTable"), _CUT.search(stream.getbuffer()) is not None


def _rows_in(answer: bytes) -> tuple[list[str], list[str]]:
    """The names of columns, in lower case, and the lines below them, of a csv file or of all in a zip archive."""
    texts = [answer]
    if answer.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(answer)) as archive:
            inside = [file for file in archive.infolist() if not file.is_dir()]
            Budget(len(answer)).spend(sum(file.file_size for file in inside))
            texts = [archive.read(file) for file in inside]
    names, rows = list[str](), list[str]()
    for text in texts:
        first, *more = [
            line for line in str(text, "utf-8").splitlines() if line and not line.startswith("#")
        ] or [""]
        header = [name.strip().lower() for name in next(csv.reader([first]), [])]
        if first and "source_id" not in header:
            raise ValueError(f"no column source_id in {first[:80]}")
        if names and first and header != names:
            raise ValueError("files of different columns")
        names, rows = header or names, rows + more
    return names, rows


def _require_asked(lines: Iterable[str], header: list[str], source_id: SourceIds) -> None:
    """Refuse rows that are cut, of stars that nobody asked for, or of one star twice."""
    wanted, column = set(source_id.tolist()), header.index("source_id") if header else 0
    for row in csv.reader(lines, strict=True):
        if len(row) != len(header):
            raise ValueError(f"a row of {counted(len(row), 'value')} below {len(header)} names")
        if int(row[column]) not in wanted:
            raise ValueError(f"star {row[column]}, which was not asked for, or twice")
        wanted.remove(int(row[column]))


def _floats(column: Any) -> np.ndarray:
    return np.ma.filled(np.ma.asarray(column, dtype=np.float64), np.nan)
