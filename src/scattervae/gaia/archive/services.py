"""The archive's TAP and DataLink services, spoken to through astroquery."""

import csv
import errno
import io
import logging
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout, suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import numpy as np
import requests
from astropy.table import Table

from scattervae.arrays import SourceIds
from scattervae.errors import DataError, FetchError, counted
from scattervae.gaia.archive.listing import Release
from scattervae.gaia.archive.transport import (
    CONNECT_TIMEOUT,
    PASSING_STATUSES,
    PassingError,
    Patience,
    reason_of,
)
from scattervae.gaia.files.checks import checked_votable
from scattervae.gaia.files.rows import duplicates
from scattervae.gaia.files.star_columns import joined_sources
from scattervae.opening import Budget
from scattervae.spectra.star_tables import SOURCE_COLUMNS, SourceColumns

logger = logging.getLogger(__name__)

_TIMEOUT = 600.0  # the server may think for minutes about a batch before the first byte comes [s]
_UPLOAD = "stars"
_REFUSAL_BYTES = 2**16
_LARGEST_ANSWER = 2 * 10**9  # bytes; 5,000 spectra with correlations have a tenth of that
# What the archive says of a word that it lacks.
_UNKNOWN = re.compile(r"(?:Error \d+: ?)?(Unknown\b.*)", re.DOTALL)
# What an answer ends in that is no table; astroquery takes a job's address for granted.
_NO_TABLE = (ValueError, LookupError, TypeError, AttributeError, EOFError, csv.Error, zlib.error)
_Result = TypeVar("_Result")


class Services:
    """What the archive answers about single stars of one release.

    astroquery's ``Gaia`` object asks the archive for messages when it is imported, and prints them; the clients
    that it is made of do not, so those are used.

    Args:
        url: Another server than the release's.
        timeout: How long an answer may keep us waiting for its next byte [s].
    """

    def __init__(
        self,
        release: Release,
        *,
        url: str | None = None,
        patience: Patience | None = None,
        timeout: float = _TIMEOUT,
    ) -> None:
        from astroquery.utils.tap import TapPlus
        from astroquery.utils.tap.conn.tapconn import TapConn

        url = url or release.archive_url
        release.warn_if_preliminary()
        address = urlsplit(url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise FetchError(f"{url}: is no web address; give --archive-url as https://...")
        https = address.scheme == "https"
        self.release, self._url = release, url
        self._patience = patience or Patience()
        self._structures = list(release.datalink.data_structures)
        self._refusal = ""  # of the last word that the archive did not know
        self._columns: dict[str, dict[str, str]] = {}
        self._connections = _Connections(address.hostname, address.port or (443 if https else 80), timeout)

        def client(context: str) -> Any:
            connection = TapConn(
                https,
                address.hostname,
                server_context=f"{address.path.rstrip('/')}/{context}",
                tap_context="tap",
                data_context="data",
                connhandler=self._connections,
            )
            return TapPlus(url=url, connhandler=connection, use_names_over_ids=True), connection

        self._tap, self._tap_connection = client("tap-server")
        self._data, self._data_connection = client("data-server")

    def ids_of(self, adql: str) -> SourceIds:
        """The source_ids that a query finds, each once, in its order.

        Raises:
            FetchError: The archive refuses the query, or it gives no column source_id.
        """

        def found() -> SourceIds:
            table = self._job(adql)
            name = next((name for name in table.colnames if name.lower() == "source_id"), None)
            if name is None:
                gives = ", ".join(table.colnames) or "no columns"
                raise FetchError(f"{adql}: gives {gives}; expected source_id")
            return np.asarray(table[name], dtype=np.int64)

        ids = self._ask(found, self._tap_connection, passing=PASSING_STATUSES - {500})
        return np.asarray(ids[~duplicates(ids)])

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
        other table of photometry, where there is one.
        """
        found = self._rows_of(self.release.tap.sources, source_id)
        other = self.release.tap.photometry
        missing = source_id[~np.isin(source_id, found.source_id)]
        if other is None or len(missing) == 0:
            return found
        more = self._rows_of(other, missing)
        return joined_sources([found, more])

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
            adql = f"SELECT column_name, unit FROM TAP_SCHEMA.columns WHERE table_name = '{table}'"

            def units() -> dict[str, str]:
                listed = self._job(adql)
                names, units = (
                    np.ma.filled(np.ma.asarray(listed[listed.colnames[index]], dtype=object), "").tolist()
                    for index in (0, 1)
                )
                return {str(n).lower().strip('"'): str(u) for n, u in zip(names, units, strict=True)}

            self._columns[table] = self._ask(units, self._tap_connection)
        return self._columns[table]

    def _rows_of(self, table: str, source_id: SourceIds) -> SourceColumns:
        own = self.release.tap.own("source_id", *SOURCE_COLUMNS)
        listed = table in self._columns
        there = self.columns_of(table)
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
            rows = self._job(adql, upload)
            cells = {name.lower(): rows[name] for name in rows.colnames}
            empty = np.full(len(rows), np.nan)
            values = {name: _floats(cells.get(own[name].lower(), empty)) for name in SOURCE_COLUMNS}
            return SourceColumns(np.asarray(cells[own["source_id"].lower()], dtype=np.int64), values)

        return self._ask(found, self._tap_connection)

    def spectra_of(self, source_id: SourceIds, scratch: Path) -> list[str]:
        """The mean spectra of these stars as lines of the archive's csv, the header first, in lower case.

        Stars without a spectrum are not among them; where none has one, nothing is.

        Args:
            scratch: A file to keep the archive's answer in meanwhile.

        Source:
            astroquery 0.4.11, gaia/core.py, ``load_data`` (parameters); its docs, gaia.rst (the limit).
        """
        while self._structures:
            structure = self._structures[0]
            try:
                return self._load(source_id, structure, scratch)
            except _UnknownWordError as refusal:
                self._refusal = str(refusal)
                self._structures.pop(0)
                if self._structures:
                    logger.warning("%s; asking for %s instead of %s", refusal, self._structures[0], structure)
            finally:
                scratch.unlink(missing_ok=True)
        words = self.release.datalink
        raise FetchError(
            f"{self._refusal}; asked for {words.release}, {words.retrieval_type} as "
            f"{' and as '.join(words.data_structures)}; correct the words in a release file (--release FILE.toml)"
        )

    def _load(self, source_id: SourceIds, structure: str, scratch: Path) -> list[str]:
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
            self._data.load_data(params_dict=parameters, output_file=str(scratch))
            with scratch.open("rb") as answer:
                start = str(answer.read(300), "utf-8", errors="replace").strip()
            if _UNKNOWN.match(start):  # a refusal that says 200
                raise _UnknownWordError(f"{self._url}: {_message(start, '')}")
            if not start:  # what the archive sends where no star has the product
                n_empty += 1
                if n_empty == 1:
                    raise PassingError(f"{self._url}: sent nothing")
                return []
            text = str(_only_member(scratch), "utf-8")
            lines = [line for line in text.splitlines() if line and not line.startswith("#")]
            if not lines:
                return []
            header = [name.strip().lower() for name in next(csv.reader(lines[:1]))]
            if "source_id" not in header:
                raise ValueError(f"no column source_id in {lines[0][:80]}")
            _require_asked(lines[1:], header, source_id)
            return [",".join(header), *lines[1:]] if len(lines) > 1 else []

        return self._ask(load, self._data_connection)

    def _job(self, adql: str, upload: Table | None = None) -> Table:
        job = self._tap.launch_job_async(
            adql,
            output_format="votable_gzip",
            upload_resource=upload,
            upload_table_name=None if upload is None else _UPLOAD,
            format_with_results_compressed=("votable_gzip",),
        )
        return job.get_results()

    def _ask(
        self, action: Callable[[], _Result], connection: Any, *, passing: Iterable[int] = PASSING_STATUSES
    ) -> _Result:
        """What astroquery answers, asked again where its failure may pass; what it prints is dropped."""

        def once() -> _Result:
            try:
                with redirect_stdout(io.StringIO()):
                    return action()
            except (requests.RequestException, SystemError) as error:  # the archive answered, and refused
                text = _message(str(error), self._connections.unread())
                refusal = f"{self._url}: {text}"
                if _UNKNOWN.match(text):
                    raise _UnknownWordError(refusal) from error
                if connection.get_response_status() in passing:
                    raise PassingError(refusal) from error
                raise FetchError(refusal) from error
            except (OSError, HTTPException, zipfile.BadZipFile) as error:
                raise PassingError(f"{self._url}: {reason_of(error)}") from error
            except DataError as error:  # which no second try makes better
                raise FetchError(f"{self._url}: sent a table that {error}") from error
            except _NO_TABLE as error:
                why = f"sent something that is not what was asked for ({reason_of(error)})"
                raise PassingError(f"{self._url}: {why}") from error
            finally:
                self._connections.close()

        return self._patience.persist(once)


class _UnknownWordError(FetchError):
    """The archive does not know a word of the request: to ask again is of no use."""


class _Connections:
    """Connections as astroquery asks for them, with a limit to its patience, closed after each use."""

    def __init__(self, host: str, port: int, timeout: float) -> None:
        self._address, self._timeout = (host, port), timeout
        self._open: list[HTTPConnection] = []
        self._answers: list[HTTPResponse] = []

    def get_connection(
        self,
        *,
        ishttps: bool = False,
        cookie: str | None = None,
        verbose: bool = False,  # noqa: ARG002
    ) -> HTTPConnection:
        kind = HTTPSConnection if ishttps or cookie is not None else HTTPConnection
        connection = kind(*self._address, timeout=CONNECT_TIMEOUT)
        try:
            connection.connect()
        except TimeoutError:
            raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)) from None
        connection.sock.settimeout(self._timeout)
        answer = connection.getresponse

        def kept() -> HTTPResponse:
            self._answers.append(_bounded(answer()))
            return self._answers[-1]

        connection.getresponse = kept  # type: ignore[method-assign]  # astroquery drops what a refusal says
        self._open.append(connection)
        return connection

    def unread(self) -> str:
        """What the last answer holds that nobody has read."""
        if not self._answers or self._answers[-1].isclosed():
            return ""
        with suppress(OSError, HTTPException):
            return str(self._answers[-1].read(_REFUSAL_BYTES), "utf-8", errors="replace")
        return ""

    def close(self) -> None:
        self._answers.clear()
        while self._open:
            self._open.pop().close()


def _bounded(response: HTTPResponse) -> HTTPResponse:
    """The same answer, which ends where it grows too large; a table in it is checked before astropy opens it."""
    read, left = response.read, _LARGEST_ANSWER

    def bounded(amount: int | None = None) -> bytes:
        nonlocal left
        content = read(left + 1 if amount is None else min(amount, left + 1))
        left -= len(content)
        if left < 0:
            raise DataError(
                f"has more than {_LARGEST_ANSWER / 1e9:g} GB; ask for fewer stars at once (--batch)"
            )
        return checked_votable(content) if amount is None else content

    response.read = bounded  # type: ignore[method-assign, assignment]
    return response


def _only_member(path: Path) -> bytes:
    """The one file in a zip archive, nothing where there is none."""
    with zipfile.ZipFile(path) as archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
        if len(members) > 1:
            raise ValueError(f"{len(members)} files instead of one")
        Budget(path.stat().st_size).spend(sum(member.file_size for member in members))
        return archive.read(members[0]) if members else b""


def _require_asked(lines: Iterable[str], header: list[str], source_id: SourceIds) -> None:
    """Refuse rows that are cut, of stars that nobody asked for, or of one star twice."""
    wanted, place = set(source_id.tolist()), header.index("source_id")
    for row in csv.reader(lines, strict=True):
        if len(row) != len(header):
            raise ValueError(f"a row of {counted(len(row), 'value')} below {len(header)} names")
        if int(row[place]) not in wanted:
            raise ValueError(f"star {row[place]}, which was not asked for, or twice")
        wanted.remove(int(row[place]))


def _floats(column: Any) -> np.ndarray:
    return np.ma.filled(np.ma.asarray(column, dtype=np.float64), np.nan)


def _message(error: str, unread: str) -> str:
    """What the archive says, without the markup it may come in."""
    texts = (" ".join(re.sub(r"<[^>]*>", " ", text).split()) for text in (error, unread))
    return ": ".join(filter(None, texts))[:300].rstrip(":") or "refused"
