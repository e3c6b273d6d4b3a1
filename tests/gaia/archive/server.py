"""A file server on loopback that answers ranges and HEAD, and misbehaves when asked to.

`FileServer` serves a folder or bytes in memory; `faults` says what happens to the next requests of a path. It is
plain enough to stand in for the archive in benchmarks too.
"""

import re
import socket
import struct
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from threading import Lock, Thread

CHUNK = 2**16
PAGE = b"<!DOCTYPE html>\n<html><head><title>Log in to the guest network</title></head></html>\n"


@dataclass(frozen=True)
class Break:
    """The connection ends after so many bytes of the body.

    Attributes:
        after: The bytes.
        reset: The connection is reset instead of closed.
        whole: The body begins with the file, whatever part of it was asked for.
    """

    after: int
    reset: bool = False
    whole: bool = False


@dataclass(frozen=True)
class Status:
    """An answer without a body of any use."""

    code: int
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Corrupt:
    """One byte of the whole file is another, whichever part of it is sent."""

    at: int


@dataclass(frozen=True)
class Shorten:
    """The file seems whole, and is shorter by so many bytes."""

    by: int


@dataclass(frozen=True)
class Page:
    """A web page comes instead, with status 200."""

    kind: str = "text/html; charset=utf-8"


@dataclass(frozen=True)
class NoRange:
    """The whole file comes, whatever part of it was asked for."""


@dataclass(frozen=True)
class Drip:
    """The body comes a little at a time, with pauses [s]."""

    size: int
    pause: float


Fault = Break | Status | Corrupt | Shorten | Page | NoRange | Drip


@dataclass
class Request:
    """A request that was answered."""

    method: str
    path: str
    start: int
    headers: dict[str, str]
    status: int = 0
    n_sent: int = 0


class FileServer:
    """Serves files at `url` while the block runs.

    Attributes:
        url: Where, with a slash at its end.
        files: Bytes or files on disk by their path below `url`.
        faults: What happens at the next GETs of a path, one each; None for nothing. At the end all is well again.
        requests: All that was asked, in order.
        says_size: False to leave Content-Length out of answers to HEAD.
    """

    def __init__(self, files: Mapping[str, bytes | Path] | Path) -> None:
        if isinstance(files, Path):
            files = {str(path.relative_to(files)): path for path in files.rglob("*") if path.is_file()}
        self.files = dict(files)
        self.faults: dict[str, Iterator[Fault | None]] = {}
        self.requests: list[Request] = []
        self.says_size = True
        self._lock = Lock()
        self._http = _Quiet(("127.0.0.1", 0), type("Handler", (_Handler,), {"files": self}))
        self.url = f"http://127.0.0.1:{self._http.server_port}/"

    def __enter__(self):
        Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._http.shutdown()
        self._http.server_close()

    def fail(self, path: str, faults: Iterable[Fault | None]) -> None:
        """Let these happen to the next GETs of a path."""
        self.faults[path] = iter(faults)

    def note(self, request: Request) -> Fault | None:
        with self._lock:
            self.requests.append(request)
            return next(self.faults.get(request.path, iter(())), None) if request.method == "GET" else None

    def gets(self, path: str) -> list[Request]:
        return [request for request in self.requests if (request.method, request.path) == ("GET", path)]

    def answer(self, request: Request, body: bytes) -> "Answer | None":
        """What is answered to a request for no file; None for 404. `body` is what was posted."""


@dataclass
class Answer:
    """An answer that is no file."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


def checksums(files: Mapping[str, bytes]) -> bytes:
    """The archive's list of checksums of the files of one folder."""
    lines = [f"{md5(content).hexdigest()}  {name.rpartition('/')[2]}\n" for name, content in files.items()]
    return "".join(lines).encode()


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request, client_address):
        if not isinstance(sys.exception(), ConnectionError):  # which is what clients that stop look like
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    files: FileServer

    def do_HEAD(self):
        self._serve(self._read_request())

    def do_GET(self):
        self._serve(self._read_request())

    def do_POST(self):
        self._serve(self._read_request())

    def log_message(self, *_):
        pass

    def _read_request(self) -> Request:
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        path = self.path.lstrip("/")
        return Request(self.command, path, int(asked[1]) if asked else 0, dict(self.headers))

    def _serve(self, request: Request) -> None:
        fault = self.files.note(request)
        content = self.files.files.get(request.path)
        if isinstance(fault, Status | Page):
            return self._answer(request, _odd_answer(fault))
        if content is None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            return self._answer(request, self.files.answer(request, body) or Answer(status=404))
        return self._send_file(request, content, fault)

    def _answer(self, request: Request, answer: Answer) -> None:
        request.status, request.n_sent = answer.status, len(answer.body)
        headers = {"Content-Length": str(len(answer.body)), **answer.headers}
        self.send_response(answer.status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.close_connection |= headers["Content-Length"] != str(len(answer.body))
        if request.method != "HEAD":
            self.wfile.write(answer.body)

    def _send_file(self, request: Request, content: bytes | Path, fault: Fault | None) -> None:
        total = (len(content) if isinstance(content, bytes) else content.stat().st_size) - (
            fault.by if isinstance(fault, Shorten) else 0
        )
        tag = f'"{total}-{id(content)}"' if isinstance(content, bytes) else f'"{total}"'
        same = self.headers.get("If-Range", tag) == tag
        whole = isinstance(fault, NoRange) or (isinstance(fault, Break) and fault.whole)
        start = 0 if whole or not same else request.start
        if start and start >= total:
            self._answer(request, Answer(status=416, headers={"Content-Range": f"bytes */{total}"}))
            return
        request.status = 206 if start else 200
        self.send_response(request.status)
        if request.method == "GET" or self.files.says_size:
            self.send_header("Content-Length", str(total - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        self.send_header("ETag", tag)
        self.send_header("Last-Modified", formatdate(0, usegmt=True))
        self.end_headers()
        if request.method == "GET":
            self._send_body(request, _buffers(content, start, total, fault), fault)

    def _send_body(self, request: Request, buffers: Iterator[bytes], fault: Fault | None) -> None:
        rest = fault.after if isinstance(fault, Break) else None
        for buffer in buffers:
            part = buffer if rest is None else buffer[:rest]
            self.wfile.write(part)
            request.n_sent += len(part)
            if isinstance(fault, Drip):
                time.sleep(fault.pause)
            if rest is not None:
                rest -= len(part)
                if not rest:
                    break
        if isinstance(fault, Break):
            self.close_connection = True
            if fault.reset:
                with suppress(OSError):
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _odd_answer(fault: Status | Page) -> Answer:
    if isinstance(fault, Page):
        return Answer(PAGE, headers={"Content-Type": fault.kind})
    return Answer(status=fault.code, headers=fault.headers)


def _buffers(content: bytes | Path, start: int, end: int, fault: Fault | None) -> Iterator[bytes]:
    size = fault.size if isinstance(fault, Drip) else CHUNK
    with BytesIO(content) if isinstance(content, bytes) else content.open("rb") as file:
        file.seek(start)
        while start < end:
            buffer = file.read(min(size, end - start))
            if isinstance(fault, Corrupt) and start <= fault.at < start + len(buffer):
                broken = bytearray(buffer)
                broken[fault.at - start] ^= 0xFF
                buffer = bytes(broken)
            start += len(buffer)
            yield buffer
