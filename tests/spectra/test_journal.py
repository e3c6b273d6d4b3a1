from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scattervae.errors import StoreError
from scattervae.spectra.hats import Positions
from scattervae.spectra.journal import Journal, Line
from scattervae.spectra.manifest import Manifest
from scattervae.spectra.spectra import Basis
from scattervae.spectra.staging import StagedStars
from spectra.stores import entry


def lines(folder):
    staged = StagedStars(
        Journal(folder).staged_path(4),
        basis=Basis(6, 5, rp_id=2),
        n_rows=3,
        n_kept=3,
        flags={"MISSING_BP": 1},
        positions=Positions.MEASURED,
    )
    staged.path.parent.mkdir(parents=True, exist_ok=True)
    staged.path.write_bytes(b"stars")
    return [Line(entry("a", skipped=("row 2: no",)), staged), Line(entry("b", error="torn"), None)]


def begun(folder):
    journal = Journal(folder)
    journal.begin()
    return journal


def test_lines_are_read_back(tmp_path):
    written = lines(tmp_path)
    journal = begun(tmp_path)
    written = lines(tmp_path)
    for line in written:
        journal.note(line)
    assert Journal(tmp_path).lines == journal.lines == written
    assert Journal(tmp_path).n_staged == 5


def test_there_are_none_where_nothing_was_begun(tmp_path):
    assert not Journal.is_in(tmp_path)
    assert (Journal(tmp_path).lines, Journal(tmp_path).n_staged) == ([], 0)
    begun(tmp_path)
    assert Journal.is_in(tmp_path)
    assert Journal(tmp_path).lines == []


@given(st.data())
def test_a_line_half_written_is_dropped_and_the_next_is_whole(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("store")
    journal = begun(folder)
    first, second = lines(folder)
    journal.note(first)
    before = (folder / "staging" / "journal.jsonl").read_bytes()
    journal.note(second)
    after = (folder / "staging" / "journal.jsonl").read_bytes()
    n_written = data.draw(st.integers(len(before), len(after) - 1))
    (folder / "staging" / "journal.jsonl").write_bytes(after[:n_written])
    resumed = begun(folder)
    assert resumed.lines == [first]
    resumed.note(second)
    assert (folder / "staging" / "journal.jsonl").read_bytes() == after


def test_a_newer_manifest_makes_it_void(tmp_path):
    journal = begun(tmp_path)
    for line in lines(tmp_path):
        journal.note(line)
    Manifest(entries=(entry("a"),)).write(tmp_path)
    assert Journal(tmp_path).lines == []


def test_staged_files_that_no_line_names_are_removed(tmp_path):
    journal = begun(tmp_path)
    for line in lines(tmp_path):
        journal.note(line)
    for name in ("stars-00000.parquet", "stars-00004.parquet.partial", "notes.txt"):
        (tmp_path / "staging" / name).write_bytes(b"left")
    begun(tmp_path)
    left = {path.name for path in (tmp_path / "staging").iterdir()}
    assert left == {"journal.jsonl", "stars-00004.parquet", "notes.txt"}


@pytest.mark.parametrize("somebodys", [False, True])
def test_it_is_discarded_with_its_files_but_nothing_else(tmp_path, somebodys):
    journal = begun(tmp_path)
    for line in lines(tmp_path):
        journal.note(line)
    if somebodys:
        (tmp_path / "staging" / "notes.txt").write_text("mine")
    journal.discard()
    assert not Journal.is_in(tmp_path)
    assert [p.name for p in tmp_path.rglob("*.txt")] == ["notes.txt"] * somebodys
    assert (tmp_path / "staging").exists() == somebodys
    journal.discard()


def test_its_digest_changes_with_its_lines(tmp_path):
    journal = begun(tmp_path)
    before = journal.digest
    journal.note(Line(entry("b", error="torn"), None))
    assert journal.digest != before
    assert asdict(journal.lines[0].entry)["error"] == "torn"


@pytest.mark.parametrize("line", ["{", "3", '{"entry": {}, "staged": null}', '{"entry": {"name": "a"}}'])
def test_a_damaged_line_is_refused_in_one_line(tmp_path, line):
    begun(tmp_path)
    with (tmp_path / "staging" / "journal.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(StoreError, match=r"journal\.jsonl: no journal of an ingest") as caught:
        Journal(tmp_path)
    assert "\n" not in str(caught.value)
