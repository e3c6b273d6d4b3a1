import hashlib
import json
import os

import pytest

from scattervae.gaia.archive.transfer import NAME, CheckedFiles, md5_of
from scattervae.gaia.archive.transport import StoppedError

BODY = b"some bytes" * 1000
MD5 = hashlib.md5(BODY).hexdigest()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "gaia_source").mkdir()
    for name in "ab":
        (tmp_path / "gaia_source" / name).write_bytes(BODY)
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
    lines = (folder / NAME).read_text().splitlines()
    assert [json.loads(line)["path"] for line in lines] == ["gaia_source/a", "gaia_source/b"]


@pytest.mark.parametrize("change", ["size", "time", "gone"])
def test_a_file_that_changed_is_not_known(folder, change):
    noted(folder, "a")
    path = folder / "gaia_source" / "a"
    status = path.stat()
    if change == "size":
        path.write_bytes(BODY + b"x")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    elif change == "time":
        path.write_bytes(BODY[::-1])
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000_000))
    else:
        path.unlink()
    assert not CheckedFiles(folder).knows("gaia_source/a", MD5)


def test_a_line_cut_short_costs_no_other(folder):
    noted(folder, "a", "b")
    path = folder / NAME
    path.write_bytes(path.read_bytes()[:-20])
    checked = CheckedFiles(folder)
    assert checked.knows("gaia_source/a", MD5)
    assert not checked.knows("gaia_source/b", MD5)
    checked.note("gaia_source/b", MD5)
    assert CheckedFiles(folder).knows("gaia_source/b", MD5)


def test_a_ledger_of_something_else_is_no_reason_to_fail(folder):
    (folder / NAME).write_text('[1, 2]\nnull\n{"path": "gaia_source/a"}\nmd5 text\n')
    assert not CheckedFiles(folder).knows("gaia_source/a", MD5)


def test_md5_of_a_file(folder):
    path = folder / "gaia_source" / "a"
    assert md5_of(path, stopped=lambda: False) == MD5
    with pytest.raises(StoppedError):
        md5_of(path, stopped=lambda: True)
