"""The archive's TAP and DataLink services, spoken to through astroquery."""

import io
import logging
import re
import zipfile
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import numpy as np
import requests
from astropy.table import Table

from scattervae.arrays import SourceIds
from scattervae.errors import FetchError
from scattervae.gaia.archive.releases import ARCHIVE_URL, Release
from scattervae.gaia.archive.transport import PASSING_STATUSES, PassingError, Patience, reason_of
from scattervae.spectra.sources import SOURCE_COLUMNS, SourceColumns

logger = logging.getLogger(__name__)

_TIMEOUT = 600.0  # the server may think for minutes about a batch before the first byte comes [s]
_UPLOAD = "stars"
_Result = TypeVar("_Result")


class Services:
    """What the archive answers about single stars of one release.

    astroquery's ``Gaia`` object asks the archive for messages when it is imported, and prints them; the clients
    that it is made of do not, so those are used.
    """

    def __init__(self, release: Release, *, url: str = ARCHIVE_URL, patience: Patience | None = None) -> None:
        from astroquery.utils.tap import TapPlus
        from astroquery.utils.tap.conn.tapconn import TapConn

        address = urlsplit(url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise FetchError(f"{url}: is no web address; give --archive-url as https://...")
        https = address.scheme == "https"
        self._release, self._url = release, url
        self._patience = patience or Patience()
        self._connections = _Connections(address.hostname, address.port or (443 if https else 80))

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
        table = self._ask(lambda: self._job(adql), self._tap_connection, passing=PASSING_STATUSES - {500})
        name = next((name for name in table.colnames if name.lower() == "source_id"), None)
        if name is None:
            raise FetchError(f"{adql}: gives {', '.join(table.colnames) or 'no columns'}; expected source_id")
        ids = np.asarray(table[name], dtype=np.int64)
        return ids[np.sort(np.unique(ids, return_index=True)[1])]

    def sources_of(self, source_id: SourceIds) -> SourceColumns:
        """What the source table says of these stars, in any order; those that it does not have are left out.

        Raises:
            FetchError: The archive cannot be reached, or refuses.
        """
        columns = ", ".join(f"s.{name}" for name in ("source_id", *SOURCE_COLUMNS))
        adql = (
            f"SELECT {columns} FROM {self._release.sources} AS s "
            f"JOIN tap_upload.{_UPLOAD} AS u ON s.source_id = u.source_id"
        )
        upload = Table({"source_id": source_id})
        table = self._ask(lambda: self._job(adql, upload), self._tap_connection)
        names = {name.lower(): name for name in table.colnames}
        return SourceColumns(
            source_id=np.asarray(table[names["source_id"]], dtype=np.int64),
            values={name: _floats(table[names[name]]) for name in SOURCE_COLUMNS if name in names},
        )

    def spectra_of(self, source_id: SourceIds, scratch: Path) -> list[str]:
        """The mean spectra of these stars as lines of the archive's csv, the header first; 5,000 stars at most.

        Stars without a spectrum are not among them; where none has one, nothing is.

        Args:
            source_id: The stars.
            scratch: A file to keep the archive's answer in meanwhile.

        Raises:
            FetchError: The archive cannot be reached, or refuses.

        Source:
            astroquery 0.4.11, gaia/core.py, ``load_data`` (parameters); its docs, gaia.rst (the limit).
        """
        parameters = {
            "ID": ",".join(map(str, source_id.tolist())),
            "RELEASE": self._release.datalink,
            "RETRIEVAL_TYPE": self._release.spectra,
            "DATA_STRUCTURE": "RAW",
            "FORMAT": "csv",
            "VALID_DATA": "false",
            "USE_ZIP_ALWAYS": "true",
        }

        def load() -> list[str]:
            self._data.load_data(params_dict=parameters, output_file=str(scratch))
            text = str(_only_member(scratch), "utf-8")
            lines = [line for line in text.splitlines() if line and not line.startswith("#")]
            if lines and "source_id" not in lines[0].split(","):
                raise ValueError(f"no column source_id in {lines[0][:80]}")
            return lines if len(lines) > 1 else []

        try:
            return self._ask(load, self._data_connection)
        finally:
            scratch.unlink(missing_ok=True)

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
                told = f"{self._url}: {_message(error)}"
                if connection.get_response_status() in passing:
                    raise PassingError(told) from error
                raise FetchError(told) from error
            except (OSError, HTTPException, zipfile.BadZipFile) as error:
                raise PassingError(f"{self._url}: {reason_of(error)}") from error
            except (ValueError, LookupError) as error:  # an answer that is no table
                raise PassingError(
                    f"{self._url}: sent something that is not what was asked for ({reason_of(error)})"
                ) from error
            finally:
                self._connections.close()

        return self._patience.persist(once)


class _Connections:
    """Connections as astroquery asks for them, with a limit to its patience, closed after each use."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._open: list[HTTPConnection] = []

    def get_connection(
        self,
        *,
        ishttps: bool = False,
        cookie: str | None = None,
        verbose: bool = False,  # noqa: ARG002
    ) -> HTTPConnection:
        kind = HTTPSConnection if ishttps or cookie is not None else HTTPConnection
        self._open.append(kind(*self._address, timeout=_TIMEOUT))
        return self._open[-1]

    def close(self) -> None:
        while self._open:
            self._open.pop().close()


def _only_member(path: Path) -> bytes:
    """The one file in a zip archive, nothing where there is none."""
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        if len(names) > 1:
            raise ValueError(f"{len(names)} files instead of one")
        return archive.read(names[0]) if names else b""


def _floats(column: Any) -> np.ndarray:
    return np.ma.filled(np.ma.asarray(column, dtype=np.float64), np.nan)


def _message(error: BaseException) -> str:
    """What the archive says, without the markup it may come in."""
    text = re.sub(r"<[^>]*>", " ", str(error))
    return " ".join(text.split())[:300].rstrip(":") or type(error).__name__
