"""An archive on loopback that lies: each answer is to be refused in one line, or to give the right stars alone."""

import gzip
import io
import shutil
import zipfile
from argparse import Namespace
from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

from torture import Row, is_chosen, row_of
from torture.forks import Ended, forked, run

SECONDS = 60.0  # that a lie may keep us; a server that drips is waited for
Lie = Callable[[Any], None]


def _stars() -> Any:
    from gaia.archive.stars import toy_stars

    return toy_stars()


def _zip(text: bytes, *, name: str = "a.csv", cut: int = 0, method: int = zipfile.ZIP_DEFLATED) -> Any:
    from gaia.archive.server import Answer

    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as archive:
        archive.writestr(name, text)
    body = content.getvalue()
    return Answer(body[: len(body) - cut], headers={"Content-Type": "application/zip"})


def _answers(path: str, make: Callable[[Any], Any], *, at_once: bool = True) -> Lie:
    def lie(server: Any) -> None:
        server.at_once = at_once
        server.trouble[path] = repeat(make(server))

    return lie


def _results(answer: Any) -> Lie:
    """The same answer for each job but the first, which asks for the names of columns."""
    from gaia.archive.gaia_server import JOBS

    def lie(server: Any) -> None:
        server.at_once = False
        server.trouble |= {f"{JOBS}/{job}/results": repeat(answer) for job in range(2, 9)}

    return lie


def _lines(server: Any, change: Callable[[list[str]], list[str]]) -> Any:
    return _zip("\n".join(change([server.header, *server.spectra.values()])).encode() + b"\n")


def data_lies() -> dict[str, Lie]:
    """What DataLink may send in place of spectra."""
    from gaia.archive.gaia_server import DATA
    from gaia.archive.server import PAGE, Answer

    bodies: dict[str, Callable[[Any], Any]] = {
        "a page with 200": lambda _: Answer(PAGE),
        "an empty body": lambda _: Answer(b""),
        "500": lambda _: Answer(b"<html>", 500),
        "404": lambda _: Answer(b"", 404),
        "a length that is too long": lambda _: Answer(b"PK\x03\x04", headers={"Content-Length": "100000"}),
        "a length that is no number": lambda _: Answer(b"PK", headers={"Content-Length": "much"}),
        "a length below 0": lambda _: Answer(b"PK", headers={"Content-Length": "-5"}),
        "a redirect to a file": lambda _: Answer(status=302, headers={"Location": "file:///etc/hostname"}),
        "a redirect to itself": lambda s: Answer(status=302, headers={"Location": s.url + DATA}),
        "a zip that is cut": lambda _: _zip(b"x" * 10_000, cut=30),
        "a zip of 600 MB": lambda _: Answer(_bomb(), headers={"Content-Type": "application/zip"}),
        "a zip out of its folder": lambda s: _zip(s.header.encode(), name="../../evil.csv"),
        "gzip in place of zip": lambda s: Answer(gzip.compress(s.header.encode())),
        "no header": lambda s: _lines(s, lambda lines: lines[1:]),
        "a header in capitals and quotes": lambda s: _lines(
            s, lambda lines: [",".join(f'"{name.upper()}"' for name in lines[0].split(",")), *lines[1:]]
        ),
        "a header alone": lambda s: _lines(s, lambda lines: lines[:1]),
        "a star twice": lambda s: _lines(s, lambda lines: [*lines, lines[-1]]),
        "a star that nobody asked for": lambda s: _lines(
            s, lambda lines: [*lines[:-1], "7" + lines[-1][lines[-1].index(",") :]]
        ),
        "an identifier that is none": lambda s: _lines(s, lambda lines: [*lines[:-1], "x" + lines[-1]]),
        "an identifier of 30 digits": lambda s: _lines(s, lambda lines: [*lines[:-1], "9" * 12 + lines[-1]]),
        "a row that is cut": lambda s: _lines(s, lambda lines: [*lines[:-1], lines[-1][:200]]),
        "a row with a quote too many": lambda s: _lines(s, lambda lines: [*lines[:-1], lines[-1] + '"']),
        "bytes that are no text": lambda _: _zip(b"source_id\xff\xfe\x00\n\x80\n"),
        "nothing but zeros": lambda _: _zip(b"\0" * 1000),
    }
    return {f"DataLink: {name}": _answers(DATA, make) for name, make in bodies.items()}


def _bomb() -> bytes:
    """A zip archive of 600 kB that holds 600 MB."""
    content = io.BytesIO()
    with (
        zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("a.csv", "w") as member,
    ):
        for _ in range(600):
            member.write(b"0" * 2**20)
    return content.getvalue()


def table_lies() -> dict[str, Lie]:
    """What TAP may send in place of a result."""
    from gaia.archive.gaia_server import AT_ONCE, JOBS
    from gaia.archive.server import PAGE, Answer

    field = '<FIELD name="source_id" datatype="long"/>'
    start, end = "<VOTABLE><RESOURCE><TABLE>", "</TABLE></RESOURCE></VOTABLE>"

    def stream(href: str) -> bytes:
        return f'{start}{field}<DATA><BINARY><STREAM href="{href}"/></BINARY></DATA>{end}'.encode()

    bodies: dict[str, Any] = {
        "a page": Answer(PAGE),
        "nothing": Answer(b""),
        "a table that is cut": Answer(start.encode()),
        "a stream in a file": Answer(stream("file:///etc/hostname")),
        "a stream at an address": Answer(gzip.compress(stream("http://127.0.0.1:9/x"))),
        "entities": Answer(b'<!DOCTYPE V [<!ENTITY a SYSTEM "file:///etc/hostname">]><VOTABLE>&a;</VOTABLE>'),
        "gzip that is cut": Answer(gzip.compress(b"<VOTABLE/>" * 100)[:40]),
        "gzip of 2 GB": Answer(gzip.compress(b"\0" * 2**20) * 2000),
        "a table without rows": Answer(f"{start}{field}<DATA><TABLEDATA/></DATA>{end}".encode()),
        "another column": Answer(f"{start}{field.replace('source_id', 'x')}{end}".encode()),
        "503": Answer(b"", 503),
    }
    found = {f"TAP: {name}": _results(answer) for name, answer in bodies.items()}
    found |= {f"TAP at once: {name}": _answers(AT_ONCE, lambda _, a=a: a) for name, a in bodies.items()}
    found["TAP: an error without a reason"] = _answers(
        f"{JOBS}/2/phase", lambda _: Answer(b"ERROR"), at_once=False
    )
    found["TAP: no Location"] = _answers(JOBS, lambda _: Answer(status=303), at_once=False)
    found["TAP: a Location in a file"] = _answers(
        JOBS, lambda _: Answer(status=303, headers={"Location": "file:///etc/hostname"}), at_once=False
    )
    return found


def bulk_lies() -> dict[str, Lie]:
    """What the bulk server may send in place of files and of the list of their checksums."""
    from gaia.archive.server import PAGE, Break, Corrupt, Drip, NoRange, Page, Shorten, Status

    faults = {
        "another byte": Corrupt(100),
        "a shorter file": Shorten(10),
        "a page": Page(),
        "an end in the middle, always": Break(50),
        "a reset in the middle, always": Break(50, reset=True),
        "a drip": Drip(4096, 0.002),
        "no ranges": NoRange(),
        "404": Status(404),
        "503": Status(503),
        "a redirect to a file": Status(302, {"Location": "file:///etc/hostname"}),
    }

    def fails(fault: Any) -> Lie:
        def lie(server: Any) -> None:
            for path in server.files:
                if path.endswith(".gz"):
                    server.fail(path, repeat(fault))

        return lie

    found = {f"bulk: {name}": fails(fault) for name, fault in faults.items()}
    lists = {
        "a page for a list": PAGE,
        "a list of nothing": b"",
        "a list with paths out of the folder": b"0" * 32 + b"  ../../evil_000000-000001.csv.gz\n",
        "a list with no checksums": b"hello world\n" * 100,
        "an endless list": b"0" * 70_000_000,
        "a list that is no text": b"\xff\xfe\x00" * 1000,
    }

    def listed(content: bytes) -> Lie:
        def lie(server: Any) -> None:
            for path in server.files:
                if path.endswith("_MD5SUM.txt"):
                    server.files[path] = content

        return lie

    return found | {f"bulk: {name}": listed(content) for name, content in lists.items()}


def _impatient() -> None:
    """Waits too short to notice, in processes that are forked from here."""
    from scattervae.gaia.archive.transport import Patience

    _, _, _, stop = Patience.__init__.__defaults__ or (None,) * 4
    Patience.__init__.__defaults__ = (2, 0.01, 0.02, stop)


def _fetched(name: str, lie: Lie, work: Path) -> Ended:
    """What becomes of a fetch from a server that lies."""
    from gaia.archive.server import FileServer
    from gaia.archive.stars import server_of
    from gaia.archive.toys import toy_archive

    def act() -> None:
        if name.startswith("bulk"):
            with FileServer(toy_archive(n_files=1, n_bytes=20_000)) as server:
                lie(server)
                run(["fetch", "bulk", "--out", work / "out", "--base-url", server.url])
        stars = _stars()
        ids = work / "ids.txt"
        ids.write_text("\n".join(map(str, stars.source_id.tolist())))
        with server_of(stars) as server:
            lie(server)
            run(["fetch", "ids", ids, "--out", work / "stars.csv.gz", "--archive-url", server.url])

    return forked(act, work / "log")


def _ending(name: str, lie: Lie, work: Path) -> str | None:
    """None where it was refused in one line with nothing left, or came right."""
    work.mkdir(parents=True)
    ended = _fetched(name, lie, work)
    errors = [line for line in ended.text.splitlines() if line.startswith("scattervae: error: ")]
    written = [p for p in work.rglob("*") if p.is_file() and p.suffix == ".gz" and ".parts" not in str(p)]
    if ended.seconds > SECONDS:
        return f"{name}: {ended.seconds:.0f} s"
    if ended.code == 0:
        return _wrong(name, written)
    if ended.code != 1 or "Traceback" in ended.text or (len(errors) != 1 and not name.startswith("bulk")):
        return f"{name}: code {ended.code}, {ended.line}"
    return f"{name}: left {written}" if written else None


def _wrong(name: str, written: list[Path]) -> str | None:
    """What is wrong with the files that came."""
    import numpy as np

    from scattervae.gaia.reading import load

    if name.startswith("bulk"):
        from gaia.archive.toys import toy_archive

        truth = {
            path.rpartition("/")[2]: content
            for path, content in toy_archive(n_files=1, n_bytes=20_000).items()
        }
        bad = [path.name for path in written if path.read_bytes() != truth.get(path.name)]
        return f"{name}: other bytes in {bad}" if bad else None
    stars, truth = load(written[0]).spectra, _stars()
    rows = np.isin(truth.source_id, stars.source_id)
    same = len(stars) == rows.sum() and np.array_equal(stars.coeffs, truth.coeffs[rows])
    return None if same else f"{name}: other stars than the archive's"


def outcomes(work: Path, given: Namespace) -> Iterator[Row]:
    """A row for each service."""
    _impatient()
    for service, lies in (("DataLink", data_lies()), ("TAP", table_lies()), ("bulk", bulk_lies())):
        if is_chosen(service, given.only):
            folder = work / "server" / service
            shutil.rmtree(folder, ignore_errors=True)
            chosen = list(enumerate(lies.items()))[:: given.every]
            endings = [_ending(name, lie, folder / str(number)) for number, (name, lie) in chosen]
            yield row_of("server that lies", service, endings)
