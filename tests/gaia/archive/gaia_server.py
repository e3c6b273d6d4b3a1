"""A server on loopback that answers as the archive's TAP and DataLink do, for astroquery to speak to.

TAP: a job is posted, answered with 303 and its address; its phase and its result are asked for. DataLink: one post,
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

JOBS = "tap-server/tap/async"
DATA = "data-server/data"
ID = "SOURCE_ID"


class GaiaServer(FileServer):
    """The archive with a source table and some spectra.

    Attributes:
        sources: The source table.
        spectra: Lines of csv by source_id.
        header: The line above them.
        found: What a query gives that uploads nothing; by default all source_ids.
        trouble: Answers to give instead, one each, by what the path starts with; None for none.
        asked: Parameters of all jobs and of all DataLink requests, in order.
    """

    def __init__(self, sources: Table, header: str, spectra: Mapping[int, str]) -> None:
        super().__init__({})
        self.sources, self.header, self.spectra = sources, header, dict(spectra)
        self.found: Table | None = None
        self.trouble: dict[str, Iterator[Answer | None]] = {}
        self.asked: list[dict[str, str]] = []
        self._results: dict[str, Table] = {}

    def answer(self, request: Request, body: bytes) -> Answer | None:
        for start, answers in self.trouble.items():
            if request.path.startswith(start) and (answer := next(answers, None)) is not None:
                return answer
        if request.path == JOBS:
            return self._new_job(request, body)
        if request.path == DATA:
            return self._data(body)
        if found := re.fullmatch(rf"{JOBS}/(\d+)/phase", request.path):
            return Answer(b"COMPLETED")
        if found := re.fullmatch(rf"{JOBS}/(\d+)/results/result", request.path):
            return Answer(gzip.compress(votable(self._results[found[1]])))
        return None

    def _new_job(self, request: Request, body: bytes) -> Answer:
        form, uploaded = _form(request, body)
        self.asked.append(form)
        job = str(len(self.asked))
        if uploaded is not None:
            rows = np.isin(self.sources[ID], uploaded["source_id"])
            self._results[job] = self.sources[rows]
        else:
            self._results[job] = self.sources[[ID]] if self.found is None else self.found
        return Answer(status=303, headers={"Location": f"{self.url}{JOBS}/{job}"})

    def _data(self, body: bytes) -> Answer:
        form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
        self.asked.append(form)
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
    kind = request.headers["Content-type"]
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
