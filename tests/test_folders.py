import hashlib
import json

import pytest

from scattervae.folders import file_digest, write_json, written_aside


def test_a_file_appears_under_its_name_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "file.txt"
    with written_aside(path) as partial:
        partial.write_text("whole")
        assert not path.exists()
        assert partial.name == "file.txt.partial"
    assert path.read_text() == "whole"
    assert not partial.exists()


def test_a_file_stays_as_it_was_when_writing_breaks(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def torn() -> None:
        with written_aside(path) as partial:
            partial.write_text("ne")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        torn()
    assert path.read_text() == "old"
    with written_aside(path) as partial:
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
