import hashlib
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from scattervae.errors import BusyError
from scattervae.files import file_digest, replace_folder, restored, sole_writer, write_json, written_file


def test_a_file_appears_under_its_name_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "file.txt"
    with written_file(path) as partial:
        partial.write_text("whole")
        assert not path.exists()
        assert partial.name == "file.txt.partial"
    assert path.read_text() == "whole"
    assert not partial.exists()


def test_a_file_stays_as_it_was_when_writing_breaks(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def torn() -> None:
        with written_file(path) as partial:
            partial.write_text("ne")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        torn()
    assert path.read_text() == "old"
    with written_file(path) as partial:
        partial.write_text("new")
    assert path.read_text() == "new"


def test_json_comes_back_as_it_was(tmp_path):
    content = {"source_id": "6917528997577384320", "values": [1.5, None, True], "name": "Ångström"}
    write_json(tmp_path / "content.json", content)
    assert json.loads((tmp_path / "content.json").read_text(encoding="utf-8")) == content
    assert [path.name for path in tmp_path.iterdir()] == ["content.json"]


def test_a_digest_is_sha256_of_the_bytes(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    assert file_digest(path) == hashlib.sha256(b"abc").hexdigest()
    # FIPS 180-2, appendix B.1
    assert file_digest(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def folder_with(path: Path, text: str) -> Path:
    path.mkdir(parents=True)
    (path / "content").write_text(text)
    return path


def test_a_folder_takes_the_place_of_another_or_of_none(tmp_path):
    for text in ("first", "second"):
        replace_folder(tmp_path / "folder", folder_with(tmp_path / "new", text))
        assert (tmp_path / "folder" / "content").read_text() == text
        assert [path.name for path in tmp_path.iterdir()] == ["folder"]


class Killed(BaseException):
    """What no code of ours catches."""


@pytest.fixture
def killed_before(monkeypatch):
    """Die before the n-th step on disk: a renaming or a removal."""

    def prepare(n: int) -> None:
        n_done = 0

        def counted(real):
            def step(*arguments, **more):
                nonlocal n_done
                if n_done == n:
                    raise Killed
                n_done += 1
                return real(*arguments, **more)

            return step

        monkeypatch.setattr(Path, "rename", counted(Path.rename))
        monkeypatch.setattr(shutil, "rmtree", counted(shutil.rmtree))

    return prepare


@pytest.mark.parametrize("step", range(4))
def test_a_folder_is_there_whole_wherever_its_replacement_is_killed(
    tmp_path, step, killed_before, monkeypatch
):
    folder = folder_with(tmp_path / "folder", "old")
    new = folder_with(tmp_path / "new", "new")
    killed_before(step)
    with pytest.raises(Killed):
        replace_folder(folder, new)
    monkeypatch.undo()
    assert (restored(folder) / "content").read_text() == ("old" if new.exists() else "new")
    shutil.rmtree(new, ignore_errors=True)
    replace_folder(folder, folder_with(new, "newer"))
    assert (folder / "content").read_text() == "newer"
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_folder_that_stands_is_left_alone(tmp_path):
    """Even beside one that is called as a replaced one would be."""
    folder = folder_with(tmp_path / "folder", "own")
    other = folder_with(tmp_path / "folder.replaced", "somebody's")
    assert restored(folder) == folder
    assert restored(tmp_path / "nowhere") == tmp_path / "nowhere"
    assert (folder / "content").read_text() == "own"
    assert (other / "content").read_text() == "somebody's"


def test_two_runs_do_not_write_one_output(tmp_path):
    pytest.importorskip("fcntl", reason="this system has no such locks")
    out = tmp_path / "new" / "out"
    with (
        sole_writer(out),
        pytest.raises(BusyError, match=r"/new/out: another run is writing to it"),
        sole_writer(out),
    ):
        pass
    assert list(out.parent.iterdir()) == []
    with sole_writer(out):  # the lock is gone with the first
        pass


def test_a_killed_run_leaves_no_lock(tmp_path):
    pytest.importorskip("fcntl", reason="this system has no such locks")
    script = f"""
import os, pathlib, signal
from scattervae.files import sole_writer
with sole_writer(pathlib.Path({str(tmp_path / "out")!r})):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -signal.SIGKILL
    assert (tmp_path / ".out.lock").exists()
    with sole_writer(tmp_path / "out"):
        pass


def test_where_nothing_can_be_locked_the_run_goes_on(tmp_path):
    (tmp_path / "file").write_text("in the place of a folder")
    with sole_writer(tmp_path / "file" / "out"):
        pass
