"""None"""

import hashlib
import json
import os
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gaia.archive.server import Break, Corrupt, Drip, FileServer, NoRange, Page, Shorten, Status
from gaia.archive.toys import content, patience
from scattervae.errors import FetchError
from scattervae.gaia.archive.listing import BulkFile
from scattervae.gaia.archive.transfer import CHECKSUMS, CheckedFiles, md5_of, partial_path, transfer
from scattervae.gaia.archive.transport import StoppedError

NAME = "GaiaSource_000000-000999.csv.gz"
BODY = content(300_000)


def bulk_file(server, body=BODY):
    """The file as the archive's list has it, whatever the server sends."""
    return BulkFile("gaia_source", NAME, server.url + NAME, hashlib.md5(body).hexdigest(), range(1000))


class Bytes:
    """Counts the bytes on the disk as `transfer` reports them."""

    total = 0

    def __call__(self, n):
        self.total += n


def fetched(server, folder, *, body=BODY, tries=4):
    """The file, fetched and checked byte by byte against `body`."""
    bytes_reported = Bytes()
    file = bulk_file(server, body)
    transfer(file, folder, patience=patience(tries), received=bytes_reported)
    path = folder / file.name
    assert path.read_bytes() == body
    assert os.listdir(folder) == [NAME]
    return bytes_reported.total


def sent(server):
    return [(request.start, request.status, request.n_sent) for request in server.gets(NAME)]


def test_a_file_comes_whole(tmp_path):
    with FileServer({NAME: BODY}) as server:
        assert fetched(server, tmp_path / "new" / "folder") == len(BODY)
        assert sent(server) == [(0, 200, len(BODY))]
        assert "Range" not in server.gets(NAME)[0].headers


@pytest.mark.parametrize("reset", [False, True])
def test_a_connection_that_breaks_goes_on_by_range(tmp_path, reset):
    with FileServer({NAME: BODY}) as server:
        server.fail(NAME, [Break(100_000, reset=reset), Break(50_000, reset=reset), Break(10, reset=reset)])
        assert fetched(server, tmp_path) == len(BODY)
        starts = [start for start, _, _ in sent(server)]
        assert starts[0] == 0
        assert starts == sorted(starts)
        assert starts[-1] > 0
        if not reset:  # a reset may take with it what was sent last
            assert starts == [0, 100_000, 150_000, 150_010]
            assert sum(request.n_sent for request in server.gets(NAME)) == len(BODY)


def test_many_breaks_are_no_reason_to_give_up_as_long_as_bytes_come(tmp_path):
    with FileServer({NAME: BODY}) as server:
        server.fail(NAME, [Break(2000)] * 100)
        fetched(server, tmp_path, tries=2)
        assert len(server.gets(NAME)) == 101


def test_the_rest_is_asked_of_the_same_version(tmp_path):
    with FileServer({NAME: BODY}) as server:
        server.fail(NAME, [Break(1000)])
        fetched(server, tmp_path)
        assert re.fullmatch(r'"\d+-\d+"', server.gets(NAME)[1].headers["If-Range"])


def test_a_file_that_changes_on_the_way_is_not_glued(tmp_path):
    other = content(200_000, seed=1)
    with FileServer({NAME: other}) as server:

        class Changing(Bytes):
            def __call__(self, n):
                super().__call__(n)
                server.files[NAME] = BODY

        server.fail(NAME, [Break(100_000)])
        received = Changing()
        transfer(bulk_file(server), tmp_path, patience=patience(), received=received)
        path = tmp_path / bulk_file(server).name
        assert path.read_bytes() == BODY
        assert received.total == len(BODY)
        assert sent(server)[1] == (100_000, 200, len(BODY))


def test_a_server_without_ranges_starts_over(tmp_path):
    with FileServer({NAME: BODY}) as server:
        server.fail(NAME, [Break(100_000), NoRange()])
        assert fetched(server, tmp_path) == len(BODY)
        assert sent(server) == [(0, 200, 100_000), (100_000, 200, len(BODY))]


def test_a_server_without_ranges_that_breaks_time_and_again_is_given_up(tmp_path):
    """What comes again after a start from the beginning is no reason to hope."""
    with FileServer({NAME: BODY}) as server:
        server.fail(NAME, (Break(after, whole=True) for after in [100_000, 150_000] * 100))
        with pytest.raises(FetchError, match="tried 4 times"):
            transfer(bulk_file(server), tmp_path, patience=patience(), received=Bytes())
        assert len(server.gets(NAME)) < 10


def test_what_an_earlier_run_left_is_continued(tmp_path):
    with FileServer({NAME: BODY}) as server:
        partial_path(tmp_path, bulk_file(server)).write_bytes(BODY[:250_000])
        assert fetched(server, tmp_path) == len(BODY) - 250_000
        assert sent(server) == [(250_000, 206, len(BODY) - 250_000)]


@pytest.mark.parametrize("more", [b"", b"and more"])
def test_what_an_earlier_run_left_is_all_or_too_much(tmp_path, more):
    with FileServer({NAME: BODY}) as server:
        partial_path(tmp_path, bulk_file(server)).write_bytes(BODY + more)
        fetched(server, tmp_path)
        assert [status for _, status, _ in sent(server)] == ([416, 200] if more else [416])


def test_what_an_earlier_run_left_of_another_version_is_thrown_away(tmp_path):
    with FileServer({NAME: BODY}) as server:
        (tmp_path / f"{NAME}.00000000.partial").write_bytes(b"old" * 1000)
        fetched(server, tmp_path)
        assert sent(server) == [(0, 200, len(BODY))]


def test_what_an_earlier_run_left_is_wrong(tmp_path):
    with FileServer({NAME: BODY}) as server:
        partial_path(tmp_path, bulk_file(server)).write_bytes(b"x" * 1000)
        assert fetched(server, tmp_path) == len(BODY) - 1000
        assert sent(server) == [(1000, 206, len(BODY) - 1000), (0, 200, len(BODY))]


def test_a_wrong_checksum_once_is_mended(tmp_path):
    with FileServer({NAME: BODY}) as server:
        server.fail(NAME, [Corrupt(200_000)])
        assert fetched(server, tmp_path) == len(BODY)
        assert len(server.gets(NAME)) == 2


@pytest.mark.parametrize("fault", [Corrupt(5000), Shorten(1000)])
def test_a_wrong_checksum_twice_is_reported_and_nothing_is_kept(tmp_path, fault):
    received = Bytes()
    with FileServer({NAME: BODY}) as server:
        server.fail(NAME, [fault] * 3)
        with pytest.raises(
            FetchError, match=r"MD5 is \w{32}, twice, but the archive's list says \w{32}; try"
        ):
            transfer(bulk_file(server), tmp_path, patience=patience(), received=received)
        assert len(server.gets(NAME)) == 2
    assert os.listdir(tmp_path) == []
    assert received.total == 0


@pytest.mark.parametrize("kind", ["text/html", "application/gzip"])
def test_a_web_page_is_not_taken_for_the_file(tmp_path, kind):
    with FileServer({NAME: BODY}) as server:
        partial_path(tmp_path, bulk_file(server)).write_bytes(BODY[:1000])
        server.fail(NAME, [Page(kind)])
        assert fetched(server, tmp_path) == len(BODY) - 1000, "the page must not cost what had come"
        server.fail(NAME, [Page(kind)] * 5)
        with pytest.raises(FetchError, match="the server sent a web page instead of the file; tried 4 times"):
            transfer(bulk_file(server), tmp_path / "other", patience=patience(), received=Bytes())


def test_what_is_not_gzipped_is_not_taken_for_the_file(tmp_path):
    with FileServer({NAME: b"source_id,ra,dec\n" * 100}) as server:
        with pytest.raises(FetchError, match="the server sent something that is not gzipped; tried 2 times"):
            transfer(bulk_file(server), tmp_path, patience=patience(2), received=Bytes())
        assert not (tmp_path / NAME).exists()


@pytest.mark.parametrize(
    ("fault", "asked", "message"),
    [
        (Status(404), 1, "answers 404 Not Found$"),
        (Status(503), 4, "answers 503 Service Unavailable; tried 4 times"),
        (Status(503, {"Retry-After": "0"}), 4, "answers 503 Service Unavailable; tried 4 times"),
        (Status(204), 4, "answers 204, without the file; tried 4 times"),
        (Break(0), 4, "; tried 4 times"),
    ],
)
def test_an_end_in_words(tmp_path, fault, asked, message):
    with FileServer({NAME: BODY}) as server:
        server.fail(NAME, [fault] * 10)
        with pytest.raises(FetchError, match=rf"^{re.escape(server.url + NAME)}: .*{message}"):
            transfer(bulk_file(server), tmp_path, patience=patience(), received=Bytes())
        assert len(server.gets(NAME)) == asked
    assert not (tmp_path / NAME).exists()


def test_a_stop_leaves_what_came(tmp_path):
    with FileServer({NAME: BODY}) as server:
        waiting = patience()
        server.fail(NAME, [Drip(10_000, 0.005)])

        def received(n):
            waiting.stop.set()

        with pytest.raises(StoppedError):
            transfer(bulk_file(server), tmp_path, patience=waiting, received=received)
        left = partial_path(tmp_path, bulk_file(server)).read_bytes()
        assert left == BODY[: len(left)] != b""
        fetched(server, tmp_path)
        assert sent(server)[-1][0] == len(left)


def test_a_disk_that_takes_no_more_is_an_error_of_the_disk(tmp_path):
    """A limit on the size of files plays the disk: the system refuses the same write that a full disk does."""
    resource = pytest.importorskip("resource", reason="this system cannot limit the size of files")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with FileServer({NAME: BODY}) as server:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        try:
            with pytest.raises(OSError, match="File too large"):
                transfer(bulk_file(server), tmp_path, patience=patience(), received=Bytes())
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert partial_path(tmp_path, bulk_file(server)).read_bytes() == BODY[:100_000]
        assert fetched(server, tmp_path) == len(BODY) - 100_000


_FAULTS = st.one_of(
    st.none(),
    st.builds(Break, st.integers(0, 30_000), st.booleans(), st.booleans()),
    st.builds(Status, st.sampled_from([429, 500, 502, 503, 504])),
    st.builds(Corrupt, st.integers(0, 19_999)),
    st.builds(Shorten, st.integers(1, 19_999)),
    st.builds(Page, st.sampled_from(["text/html", "application/octet-stream"])),
    st.just(NoRange()),
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(faults=st.lists(_FAULTS, max_size=8), left=st.binary(max_size=100) | st.integers(0, 20_000))
def test_whatever_happens_the_file_is_right_or_absent(tmp_path_factory, faults, left):
    body = content(20_000, seed=7)
    folder = tmp_path_factory.mktemp("any")
    with FileServer({NAME: body}) as server:
        file = bulk_file(server, body)
        partial_path(folder, file).write_bytes(body[:left] if isinstance(left, int) else left)
        server.fail(NAME, faults)
        received = Bytes()
        received.total = partial_path(folder, file).stat().st_size
        try:
            transfer(file, folder, patience=patience(tries=3), received=received)
        except FetchError:
            assert not (folder / NAME).exists()
            server.faults.clear()
            transfer(file, folder, patience=patience(), received=received)
        assert (folder / NAME).read_bytes() == body
        assert received.total == len(body)
        assert os.listdir(folder) == [NAME]


WHOLE = b"some bytes" * 1000
MD5 = hashlib.md5(WHOLE).hexdigest()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "gaia_source").mkdir()
    for name in "ab":
        (tmp_path / "gaia_source" / name).write_bytes(WHOLE)
    return tmp_path


def noted(folder, *names):
    checked = CheckedFiles(folder)
    for name in names:
        checked.note(f"gaia_source/{name}", MD5)
    return checked


def test_what_was_noted_is_known_in_the_next_run(folder):
    assert not CheckedFiles(folder).knows("gaia_source/a", MD5)
    assert noted(folder, "a").knows("gaia_source/a", MD5)
    again = CheckedFiles(folder)
    assert again.knows("gaia_source/a", MD5)
    assert not again.knows("gaia_source/a", "0" * 32)
    assert not again.knows("gaia_source/b", MD5)
    assert not again.knows("gaia_source/c", MD5)


def test_a_file_is_noted_once(folder):
    noted(folder, "a", "b", "a")
    noted(folder, "a", "b", "missing")
    lines = (folder / CHECKSUMS).read_text().splitlines()
    assert [json.loads(line)["path"] for line in lines] == ["gaia_source/a", "gaia_source/b"]


@pytest.mark.parametrize("change", ["size", "time", "gone"])
def test_a_file_that_changed_is_not_known(folder, change):
    noted(folder, "a")
    path = folder / "gaia_source" / "a"
    status = path.stat()
    if change == "size":
        path.write_bytes(WHOLE + b"x")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    elif change == "time":
        path.write_bytes(WHOLE[::-1])
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000_000))
    else:
        path.unlink()
    assert not CheckedFiles(folder).knows("gaia_source/a", MD5)


def test_a_line_cut_short_costs_no_other(folder):
    noted(folder, "a", "b")
    path = folder / CHECKSUMS
    path.write_bytes(path.read_bytes()[:-20])
    checked = CheckedFiles(folder)
    assert checked.knows("gaia_source/a", MD5)
    assert not checked.knows("gaia_source/b", MD5)
    checked.note("gaia_source/b", MD5)
    assert CheckedFiles(folder).knows("gaia_source/b", MD5)


def test_a_ledger_of_something_else_is_no_reason_to_fail(folder):
    (folder / CHECKSUMS).write_text('[1, 2]\nnull\n{"path": "gaia_source/a"}\nmd5 text\n')
    assert not CheckedFiles(folder).knows("gaia_source/a", MD5)


def test_md5_of_a_file(folder):
    path = folder / "gaia_source" / "a"
    assert md5_of(path, stopped=lambda: False) == MD5
    with pytest.raises(StoppedError):
        md5_of(path, stopped=lambda: True)
