"""Requests to a server that may be slow, busy or broken: what is worth another try, and when."""

import errno
import logging
import re
import socket
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event
from typing import Any, TypeVar

import requests
from urllib3.exceptions import ConnectTimeoutError, HTTPError, InvalidHeader
from urllib3.util import Retry

from scattervae import __version__
from scattervae.errors import FetchError, counted

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT = 10.0  # a person waits for the first word no longer [s]
_TIMEOUT = (CONNECT_TIMEOUT, 60.0)  # to connect, and between two parts of an answer [s]
_UNREACHABLE = frozenset({errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTUNREACH, errno.ETIMEDOUT})
# Statuses that pass: a slow client, too many requests, and any trouble of the server's own.
# Source: RFC 9110, sections 15.5.9 and 15.6; RFC 6585, section 4.
PASSING_STATUSES = frozenset({408, 425, 429, *range(500, 600)})
_PAGE_STARTS = (b"<!doctype html", b"<html")
_PAGE_BYTES = 512
_LARGEST_TEXT = 64 * 10**6  # bytes; the largest list of the archive is below 1 MB
_REFUSAL_BYTES = 2**16
_BLOCK_BYTES = 2**20
_MARKUP = re.compile(r"<!\[CDATA\[|\]\]>|<[^>]*>")
# What the archive says of a word that it lacks.
_UNKNOWN = re.compile(r"(?:Error \d+: ?)?Unknown\b")
_NOTICED = 0.5  # a wait that a person would notice [s]
_ASKED = Retry(retry_after_max=3600)  # a server that asks for more time [s] is asked earlier all the same

_Result = TypeVar("_Result")


class PassingError(Exception):
    """A request failed in a way that may pass; the message says how."""

    def __init__(self, message: str, *, after: float | None = None, progressed: bool = False) -> None:
        super().__init__(message)
        self.after = after  # seconds that the server asks us to wait, where it does
        self.progressed = progressed  # true where something was gained before it failed


class PageError(PassingError):
    """A web page came in place of a file."""

    def __init__(self, message: str, page: str) -> None:
        super().__init__(message)
        self.page = page


class RefusedError(FetchError):
    """The server says that it will not, which asking again does not change."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class UnknownWordError(RefusedError):
    """The server does not know a word of the request."""


class StoppedError(Exception):
    """Somebody else asked for an end."""


@dataclass(frozen=True)
class Patience:
    """How often to ask again, and how long to wait before it.

    The n-th wait in a row is ``first_wait * 2**(n - 1)`` seconds, at most `longest_wait`, or what the server asks
    for if that is longer. Only failures without any gain between them are counted.
    """

    tries: int = 7  # failures in a row after which to give up
    first_wait: float = 1.0  # the first wait [s]
    longest_wait: float = 120.0  # where our own waits stop growing [s]
    stop: Event = field(default_factory=Event)  # set by whoever wants an end: waiting is over at once

    def persist(self, action: Callable[[], _Result]) -> _Result:
        """What `action` returns, asked again as long as it raises `PassingError`.

        Raises:
            FetchError: It failed too often.
            StoppedError: An end was asked for.
        """
        failures = 0
        while True:
            if self.stop.is_set():
                raise StoppedError
            try:
                return action()
            except PassingError as error:
                failures = 1 if error.progressed else failures + 1
                if failures >= self.tries:
                    raise FetchError(
                        f"{error}; tried {counted(failures, 'time')}; try again later"
                    ) from error
                wait = max(min(self.first_wait * 2 ** (failures - 1), self.longest_wait), error.after or 0.0)
                level = logging.WARNING if failures == 1 and wait >= _NOTICED else logging.INFO
                logger.log(
                    level, "%s; trying again in %.0f s, at most %d times in all", error, wait, self.tries
                )
                self.stop.wait(wait)


def new_session() -> requests.Session:
    """A session for one thread; bodies come as they lie on the server, never compressed on the way."""
    session = requests.Session()
    session.headers.update({"Accept-Encoding": "identity", "User-Agent": f"scattervae/{__version__}"})
    return session


@contextmanager
def answered(
    session: requests.Session,
    method: str,
    url: str,
    *,
    passing: Container[int] = PASSING_STATUSES,
    **request: Any,
) -> Iterator[requests.Response]:
    """A server's answer whose body is still to be read; closed when the block ends.

    Status 416 (no such range) is the caller's business, as is everything below 400.

    Args:
        passing: Statuses that may pass.
        request: What else ``requests`` takes: headers, data, files, timeout.

    Raises:
        PassingError: The connection failed, also while the body is read, or the status is one that passes.
        RefusedError: The server says it will not.
        FetchError: The address is none.
    """
    try:
        with session.request(method, url, stream=True, **{"timeout": _TIMEOUT, **request}) as response:
            _check_status(response, url, passing)
            yield response
    except requests.exceptions.InvalidURL as error:
        raise FetchError(f"{url}: is no address; give --base-url as https://...") from error
    except (requests.exceptions.MissingSchema, requests.exceptions.InvalidSchema) as error:
        raise FetchError(f"{url}: is no web address; give --base-url as https://...") from error
    except (requests.RequestException, HTTPError) as error:
        raise PassingError(f"{url}: {reason_of(error)}") from error


def is_page(response: requests.Response, start: bytes) -> bool:
    """True where the server sent a web page, by what it says or by how the body begins."""
    kind = response.headers.get("Content-Type", "").lower()
    return kind.startswith("text/html") or start[:_PAGE_BYTES].lstrip().lower().startswith(_PAGE_STARTS)


def read_text(session: requests.Session, url: str) -> str:
    """A small text file.

    Raises:
        PassingError: As `answered`.
        PageError: A web page came instead.
        FetchError: As `answered`, or the answer is too large to be a list.
    """
    with answered(session, "GET", url) as response:
        content = read_body(response, _LARGEST_TEXT)
        text = str(content, "utf-8", errors="replace")
        if is_page(response, content):
            raise PageError(f"{url}: the server sent a web page instead", text)
    return text


def read_body(response: requests.Response, most: int) -> bytes:
    """All bytes of an answer.

    Raises:
        FetchError: They are more than `most`.
    """
    content = bytearray()
    for block in response.raw.stream(_BLOCK_BYTES, decode_content=True):
        content += block
        if len(content) > most:
            raise FetchError(
                f"{response.url}: sends more than {most / 1e6:g} MB, which no list has; ask for less at once (--batch)"
            )
    return bytes(content)


def require_known(content: bytes, url: str, status: int = 200) -> str:
    """What an answer says, without the markup it may come in.

    Raises:
        UnknownWordError: That the server does not know a word of the request.
    """
    said = " ".join(_MARKUP.sub(" ", str(content, "utf-8", errors="replace")).split())[:300]
    if _UNKNOWN.match(said):
        raise UnknownWordError(f"{url}: {said}", status)
    return said


def reason_of(error: BaseException) -> str:
    """The root of an error of the network, in a few words; says so where there seems to be no network."""
    unconnected = False
    while (
        inner := error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    ) is not None:
        unconnected |= type(error) is ConnectTimeoutError  # not of its kinds: one is that the server refuses
        error = inner
    unconnected |= isinstance(error, socket.gaierror) or getattr(error, "errno", None) in _UNREACHABLE
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    absent = "; the network, or the way to this server, seems absent" if unconnected else ""
    return " ".join(text.split())[:160] + absent


def _check_status(response: requests.Response, url: str, passing: Container[int]) -> None:
    status = response.status_code
    if status < 400 or status == 416:
        return
    content = response.raw.read(_REFUSAL_BYTES, decode_content=True)
    said = "" if is_page(response, content) else require_known(content, url, status)
    answer = ": ".join(filter(None, (f"{url}: the server answers {status} {response.reason}".rstrip(), said)))
    if status in passing:
        raise PassingError(answer, after=_asked_wait(response))
    raise RefusedError(answer, status)


def _asked_wait(response: requests.Response) -> float | None:
    asked = response.headers.get("Retry-After")
    try:
        return None if asked is None else float(_ASKED.parse_retry_after(asked))
    except InvalidHeader:
        return None
