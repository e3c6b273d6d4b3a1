import errno
import os
import shutil
import threading

import pytest

from gaia.archive.server import Break, Corrupt, Drip, FileServer, Page, Shorten, Status
from gaia.archive.toys import SOURCES, XP, patience, toy_archive
from scattervae.errors import FetchError
from scattervae.gaia.archive.bulk import Moved, fetch, plan
from scattervae.gaia.archive.listing import read_listing
from scattervae.gaia.archive.transfer import Partial, partial_path
from scattervae.gaia.archive.transport import new_session


def listed(server, products=(XP, SOURCES)):
    with new_session() as session:
        return [
            file for product in products for file in read_listing(session, server.url, product, patience())
        ]


def run(server, out, *, tries=3, progress=lambda _: None, **options):
    made = plan(listed(server), out, patience=patience(tries), **options)
    return made, fetch(made, patience=patience(tries), progress=progress)


def check(server, out, *, absent=()):
    """Every file is byte for byte the server's, or is one of `absent` and not there."""
    for file in listed(server):
        path = out / file.path
        if file.path in absent:
            assert not path.exists()
        else:
            assert path.read_bytes() == server.files[file.url.removeprefix(server.url)]
    if not absent:
        names = {name for _, _, files in os.walk(out) for name in files}
        assert names == {file.name for file in listed(server)} | {"checksums.jsonl"}


def paths_of(server):
    return [file.url.removeprefix(server.url) for file in listed(server)]


def test_all_files_come(tmp_path):
    with FileServer(toy_archive(n_files=5)) as server:
        made, report = run(server, tmp_path / "gaia")
        assert (made.n_done, made.n_present, made.n_unknown) == (0, 0, 0)
        assert made.n_bytes == sum(len(server.files[path]) for path in paths_of(server))
        assert sorted(report.fetched) == sorted(file.path for file in listed(server))
        assert not report.failed
        check(server, tmp_path / "gaia")


def test_what_is_here_is_passed_over(tmp_path):
    with FileServer(toy_archive()) as server:
        run(server, tmp_path)
        server.requests.clear()
        made, report = run(server, tmp_path)
        assert made.n_done == len(report.kept) == 6
        assert not report.fetched
        assert {request.path.rpartition("/")[2] for request in server.requests} == {"_MD5SUM.txt"}


def test_what_somebody_else_fetched_is_checked_once(tmp_path):
    with FileServer(
        toy_archive(),
    ) as server:
        run(server, tmp_path)
        (tmp_path / "checksums.jsonl").unlink()
        made, report = run(server, tmp_path)
        assert made.n_done == 0
        assert len(report.kept) == 6
        assert plan(listed(server), tmp_path).n_done == 6


@pytest.mark.parametrize("verify", [False, True])
def test_a_file_that_rotted_is_fetched_again(tmp_path, verify):
    with FileServer(toy_archive()) as server:
        run(server, tmp_path)
        rotten = tmp_path / listed(server)[2].path
        status = rotten.stat()
        body = bytearray(rotten.read_bytes())
        body[1000] ^= 1
        rotten.write_bytes(body)
        if verify:  # nothing but its bytes betrays it
            os.utime(rotten, ns=(status.st_atime_ns, status.st_mtime_ns))
        _, report = run(server, tmp_path, verify=verify)
        assert report.fetched == [listed(server)[2].path]
        assert len(report.kept) == 5
        check(server, tmp_path)


def test_a_list_that_changed_fetches_what_changed(tmp_path):
    files = toy_archive()
    with FileServer(files) as server:
        run(server, tmp_path)
        newer = toy_archive(n_bytes=50_000)
        path = paths_of(server)[0]
        server.files[path] = newer[path]
        lists = [name for name in files if name.startswith(XP.folder) and name.endswith("_MD5SUM.txt")]
        old, new = (next(line for line in each[lists[0]].decode().splitlines()) for each in (files, newer))
        server.files[lists[0]] = files[lists[0]].replace(old.encode(), new.encode())
        _, report = run(server, tmp_path)
        assert report.fetched == [listed(server)[0].path]
        check(server, tmp_path)


def test_files_that_do_not_come_cost_no_other_and_come_another_time(tmp_path):
    with FileServer(toy_archive(n_files=5)) as server:
        paths = paths_of(server)
        for path, fault in zip(
            paths, [Status(503), Status(404), Corrupt(9), Shorten(9), Page(), Break(0)], strict=False
        ):
            server.fail(path, [fault] * 20)
        _, report = run(server, tmp_path)
        wanted = [file.path for file in listed(server)]
        assert set(report.failed) == set(wanted[:6])
        assert set(report.fetched) == set(wanted[6:])
        reasons = [report.failed[path] for path in wanted[:6]]
        for text, reason in zip(
            reasons, ["503", "404", "MD5", "MD5", "web page", "tried 3 times"], strict=True
        ):
            assert reason in text
        check(server, tmp_path, absent=wanted[:6])
        server.faults.clear()
        _, report = run(server, tmp_path)
        assert set(report.fetched) == set(wanted[:6])
        check(server, tmp_path)


def test_news_add_up_to_the_bytes_of_all_files(tmp_path):
    with FileServer(toy_archive(n_files=4)) as server:
        paths = paths_of(server)
        for path, faults in zip(
            paths, [[Break(50_000)], [Corrupt(5)], [Corrupt(5), Corrupt(5)], [None]], strict=False
        ):
            server.fail(path, faults)
        file = listed(server)[3]
        (tmp_path / file.product).mkdir()
        partial_path(tmp_path / file.product, file).write_bytes(server.files[paths[3]][:30_000])
        news = []
        made, report = run(server, tmp_path, progress=news.append)
        assert made.n_present == 30_000
        failed = len(server.files[paths[2]])
        assert list(report.failed) == [listed(server)[2].path]
        assert sum(item.n_bytes for item in news) == made.n_bytes - 30_000 - failed
        assert sum(item.finished for item in news) == 8
        assert all(isinstance(item, Moved) for item in news)


def test_several_files_come_at_a_time(tmp_path):
    with FileServer(toy_archive(n_files=4, n_bytes=20_000, products=(XP,))) as server:
        files = listed(server, (XP,))
        for path in [file.url.removeprefix(server.url) for file in files]:
            server.fail(path, [Drip(2000, 0.01)])
        made = plan(files, tmp_path, patience=patience())
        order = []
        fetch(made, workers=4, patience=patience(), progress=lambda news: order.append(news.path))
        assert len(set(order[:20])) > 1, "the first bytes are of more than one file"
        assert threading.active_count() < 30


def test_a_server_that_says_no_sizes(tmp_path):
    with FileServer(toy_archive()) as server:
        server.says_size = False
        made, report = run(server, tmp_path)
        assert (made.n_unknown, made.n_bytes) == (6, 0)
        assert len(report.fetched) == 6
        check(server, tmp_path)


def test_no_space_is_reported_before_anything_is_written(tmp_path, monkeypatch):
    with FileServer(toy_archive()) as server:
        made = plan(listed(server), tmp_path / "gaia", patience=patience())
        usage = shutil.disk_usage(tmp_path)
        spare = made.n_bytes + made.n_bytes // 100 + 100 * 2**20
        for free, fits in ((spare - 1, False), (spare, True)):
            monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: usage._replace(free=free))
            if fits:
                made.check_space()
                continue
            with pytest.raises(FetchError, match=r"0\.11 GB are free, but 0\.11 GB are needed"):
                fetch(made, patience=patience())
        assert not (tmp_path / "gaia").exists()
        monkeypatch.undo()
        fetch(made, patience=patience())
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=0))
        fetch(plan(listed(server), tmp_path / "gaia"))  # nothing is missing, so nothing is needed


@pytest.mark.parametrize(
    ("number", "message"),
    [(errno.ENOSPC, "the disk is full; free some space"), (errno.EIO, "cannot be written: Input/output")],
)
def test_a_disk_that_fails_ends_the_run_and_loses_nothing(tmp_path, monkeypatch, number, message):
    write = Partial.write

    def failing(self, chunk):
        if "000000-000999" in self.path.name and self.size > 30_000:
            raise OSError(number, os.strerror(number))
        write(self, chunk[:10_000])
        if len(chunk) > 10_000:
            failing(self, chunk[10_000:])

    with FileServer(toy_archive()) as server:
        monkeypatch.setattr(Partial, "write", failing)
        with pytest.raises(FetchError, match=message):
            run(server, tmp_path)
        monkeypatch.undo()
        server.requests.clear()
        _, report = run(server, tmp_path)
        assert not report.failed
        check(server, tmp_path)
        assert any(request.start > 30_000 for request in server.requests), "it went on where it was"


def test_a_stop_from_outside_ends_soon(tmp_path):
    """As Ctrl-C does: an exception in the thread that waits."""
    with FileServer(toy_archive(n_bytes=500_000)) as server:
        for path in paths_of(server):
            server.fail(path, [Drip(1000, 0.01)])
        made = plan(listed(server), tmp_path, patience=patience())

        def interrupted(news):
            if threading.current_thread() is threading.main_thread():
                raise KeyboardInterrupt

        server.faults.pop(paths_of(server)[0])  # one file comes at once, and its news come from this thread
        with pytest.raises(KeyboardInterrupt):
            fetch(made, patience=patience(), progress=interrupted)
        server.faults.clear()
        _, report = run(server, tmp_path)
        assert not report.failed
        check(server, tmp_path)
