"""A server on loopback that answers as the archive's TAP and DataLink do.

TAP: what is posted to `sync` is answered at once; a job is answered with 303 and its address, and its phase and its
result are asked for. DataLink: one post,
answered with a zip archive of one csv file.
"""

import email
import gzip
import io
import re
import zipfile
from collections.abc import Iterator, Mapping
from urllib.parse import parse_qs

import numpy as np
from astropy.table import Table

from gaia.archive.server import Answer, FileServer, Request

AT_ONCE = "tap-server/tap/sync"
JOBS = "tap-server/tap/async"
DATA = "data-server/data"
ID = "SOURCE_ID"
UNITS = {
    "ra": "deg",
    "dec": "deg",
    "phot_g_mean_flux": "'electron'.s**-1",
    "phot_g_mean_flux_error": "'electron'.s**-1",
    "phot_g_mean_mag": "mag",
    "bp_rp": "mag",
    "parallax": "mas",
    "parallax_error": "mas",
}


class GaiaServer(FileServer):
    """The archive with a source table and some spectra.

    Attributes:
        sources: The source table.
        spectra: Lines of csv by source_id.
        header: The line above them.
        found: What a query gives that uploads nothing; by default all source_ids.
        trouble: Answers to give instead, one each, by what the path starts with; None for none.
        asked: Parameters of all jobs and of all DataLink requests, in order; questions about columns are not.
        tables: Other tables by name, beside `sources`.
        words: What DataLink knows as DATA_STRUCTURE.
        units: What TAP_SCHEMA says of columns, by their names in lower case.
        schema: Names of the tables that TAP_SCHEMA lists; None for whichever is asked for.
        at_once: False where there is nothing at `sync`.
    """

    def __init__(self, sources: Table, header: str, spectra: Mapping[int, str]) -> None:
        super().__init__({})
        self.sources, self.header, self.spectra = sources, header, dict(spectra)
        self.found: Table | None = None
        self.trouble: dict[str, Iterator[Answer | None]] = {}
        self.asked: list[dict[str, str]] = []
        self.tables: dict[str, Table] = {}
        self.words = {"RAW"}
        self.units = dict(UNITS)
        self.schema: set[str] | None = None
        self.at_once = True
        self._results: dict[str, Table] = {}

    def answer(self, request: Request, body: bytes) -> Answer | None:
        for start, answers in self.trouble.items():
            if request.path.startswith(start) and (answer := next(answers, None)) is not None:
                return answer
        if request.path == JOBS or (request.path == AT_ONCE and self.at_once):
            job = self._new_job(request, body)
            if isinstance(job, Answer):
                return job
            if request.path == AT_ONCE:
                return Answer(gzip.compress(votable(self._results[job][:2000])))
            return Answer(status=303, headers={"Location": f"{self.url}{JOBS}/{job}"})
        if request.path == DATA:
            return self._data(body)
        if found := re.fullmatch(rf"{JOBS}/(\d+)/phase", request.path):
            return Answer(b"COMPLETED")
        if found := re.fullmatch(rf"{JOBS}/(\d+)/results/result", request.path):
            return Answer(gzip.compress(votable(self._results[found[1]])))
        return None

    def table(self, query: str) -> Table:
        """The table that a query names."""
        return next((table for name, table in self.tables.items() if name in query), self.sources)

    def lists(self, query: str) -> bool:
        """True where TAP_SCHEMA lists the table that a query names."""
        return self.schema is None or any(f"'{name}'" in query for name in self.schema)

    def _new_job(self, request: Request, body: bytes) -> str | Answer:
        """The number of a new job, whose result is there at once, or a refusal."""
        form, uploaded = _form(request, body)
        job = str(len(self._results) + 1)
        if "TAP_SCHEMA.tables" in form["QUERY"]:
            name = form["QUERY"].rpartition("%")[2].strip("'")
            listed = [table for table in sorted(self.schema or self.tables) if table.endswith(name)]
            self._results[job] = Table({"table_name": listed}, dtype=("U64",))
            return job
        if "TAP_SCHEMA" in form["QUERY"]:
            columns = self.table(form["QUERY"]).colnames if self.lists(form["QUERY"]) else []
            units = [self.units.get(name.lower(), "") for name in columns]
            self._results[job] = Table({"column_name": columns, "unit": units}, dtype=("U64", "U64"))
            return job
        self.asked.append(form)
        if uploaded is not None:
            table = self.table(form["QUERY"])
            chosen = re.findall(r"\bs\.(\w+)", form["QUERY"].split(" FROM ")[0])
            own = {name.lower(): name for name in table.colnames}
            lacking = [name for name in chosen if name.lower() not in own]
            if lacking:
                return refusal(f"Unknown column {lacking[0]!r}")
            rows = np.isin(table[own["source_id"]], uploaded["source_id"])
            self._results[job] = table[rows][[own[name.lower()] for name in chosen]]
        else:
            self._results[job] = self.sources[[ID]] if self.found is None else self.found
        return job

    def _data(self, body: bytes) -> Answer:
        form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
        self.asked.append(form)
        if form["DATA_STRUCTURE"] not in self.words:
            return Answer(f"Unknown data structure: {form['DATA_STRUCTURE']}".encode(), 500)
        wanted = [int(star) for star in form["ID"].split(",")]
        lines = [self.spectra[star] for star in wanted if star in self.spectra]
        return zipped({"XP_CONTINUOUS_RAW.csv": "\n".join([self.header, *lines]) + "\n"} if lines else {})


def zipped(files: Mapping[str, str]) -> Answer:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return Answer(content.getvalue(), headers={"Content-Type": "application/zip"})


def votable(table: Table) -> bytes:
    content = io.BytesIO()
    table.write(content, format="votable")
    return content.getvalue()


def refusal(message: str, status: int = 400) -> Answer:
    """A VOTable that says why, as the archive writes it."""
    info = f'<INFO name="QUERY_STATUS" value="ERROR">{message}</INFO>'
    return Answer(f"<VOTABLE><RESOURCE>{info}</RESOURCE></VOTABLE>".encode(), status)


def _form(request: Request, body: bytes) -> tuple[dict[str, str], Table | None]:
    kind = request.headers["Content-Type"]
    if not kind.startswith("multipart/"):
        return {name: values[0] for name, values in parse_qs(body.decode()).items()}, None
    form, uploaded = {}, None
    for part in email.message_from_bytes(f"Content-Type: {kind}\n\n".encode() + body).get_payload():
        name = part.get_param("name", header="Content-Disposition")
        content = part.get_payload(decode=True)
        if part.get_filename() is None:
            form[name] = content.decode().strip()
        else:
            uploaded = Table.read(io.BytesIO(content), format="votable")
    return form, uploaded
