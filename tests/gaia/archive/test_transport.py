import errno
import socket
import threading
import time

import pytest

from gaia.archive.server import FileServer, Status
from scattervae.errors import FetchError
from scattervae.gaia.archive.transport import (
    PassingError,
    Patience,
    StoppedError,
    answered,
    new_session,
    read_text,
    reason_of,
)


class Waits(threading.Event):
    """An event that notes how long it was waited for, and does not wait."""

    def __init__(self):
        super().__init__()
        self.waits = []

    def wait(self, timeout=None):
        self.waits.append(timeout)
        return self.is_set()


def failing(*errors):
    """An action that raises these, then returns "done"."""
    pending = list(errors)

    def act():
        if pending:
            raise pending.pop(0)
        return "done"

    return act


def test_waits_double_up_to_the_longest():
    waits = Waits()
    patience = Patience(tries=7, first_wait=1.0, longest_wait=10.0, stop=waits)
    assert patience.persist(failing(*[PassingError("x")] * 6)) == "done"
    assert waits.waits == [1, 2, 4, 8, 10, 10]


def test_a_server_that_asks_for_more_time_gets_it():
    waits = Waits()
    errors = [PassingError("x", after=300.0), PassingError("x", after=0.0)]
    assert Patience(stop=waits).persist(failing(*errors)) == "done"
    assert waits.waits == [300, 2]


def test_failures_with_a_gain_between_them_are_not_counted_together():
    waits = Waits()
    errors = [PassingError("x", progressed=True)] * 50
    assert Patience(tries=2, first_wait=1.0, stop=waits).persist(failing(*errors)) == "done"
    assert waits.waits == [1.0] * 50


def test_it_gives_up_and_says_why():
    with pytest.raises(FetchError, match=r"^busy; tried 3 times; try again later$"):
        Patience(tries=3, stop=Waits()).persist(failing(*[PassingError("busy")] * 3))


def test_a_wait_ends_when_an_end_is_asked_for():
    patience = Patience(first_wait=60.0)
    threading.Timer(0.05, patience.stop.set).start()
    started = time.monotonic()
    with pytest.raises(StoppedError):
        patience.persist(failing(*[PassingError("x")] * 3))
    assert time.monotonic() - started < 30


@pytest.mark.parametrize(
    ("asked", "understood"),
    [("7", 7.0), ("0", 0.0), ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0), ("99999999", 3600.0), ("soon", None)],
)
def test_what_a_server_asks_for(asked, understood):
    with FileServer({"file": b"x"}) as server, new_session() as session:
        server.fail("file", [Status(503, {"Retry-After": asked})])
        with pytest.raises(PassingError) as failed, answered(session, "GET", server.url + "file"):
            pass
    assert failed.value.after == understood


def test_bodies_come_as_they_lie_on_the_server():
    with FileServer({"file": b"x"}) as server, new_session() as session:
        with answered(session, "GET", server.url + "file", headers={"Range": "bytes=0-"}):
            pass
        assert server.requests[0].headers["Accept-Encoding"] == "identity"


def test_the_root_of_an_error_is_what_is_reported():
    refused = OSError(111, "Connection refused")
    story = ValueError("a long story about a pool of connections")
    story.__cause__ = refused
    assert reason_of(story) == "Connection refused"
    assert reason_of(RuntimeError()) == "RuntimeError"


@pytest.mark.parametrize(
    "error",
    [
        socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
        OSError(errno.ENETUNREACH, "Network is unreachable"),
        TimeoutError(errno.ETIMEDOUT, "Connection timed out"),
    ],
    ids=["no name", "unreachable", "timed out"],
)
def test_an_absent_network_is_said_at_the_first_failure(monkeypatch, caplog, error):
    def absent(*_, **__):
        raise error

    monkeypatch.setattr(socket, "getaddrinfo", absent)
    waits = Patience(tries=2, first_wait=0.6, stop=Waits())
    with new_session() as session, pytest.raises(FetchError, match="seems absent; tried 2 times"):
        waits.persist(lambda: read_text(session, "http://archive.invalid/list"))
    (record,) = caplog.records
    assert f"{error.strerror}; the network, or the way to this server, seems absent" in record.message
    assert record.message.endswith("trying again in 1 s, at most 2 times in all")


def test_a_server_that_refuses_is_no_absent_network():
    assert reason_of(ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")) == "Connection refused"
