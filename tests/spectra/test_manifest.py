import json
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scattervae.errors import StoreError
from scattervae.spectra.hats import Positions
from scattervae.spectra.manifest import Journal, Line, Manifest
from scattervae.spectra.spectra import Basis
from scattervae.spectra.staging import StagedStars
from scattervae.spectra.star_tables import DataRelease
from spectra.stores import entry


def test_a_manifest_is_read_back(tmp_path):
    manifest = Manifest(
        Basis(6, 5, bp_id=3),
        Positions.MEASURED,
        DataRelease("DR3", 2016.0, ids_hold_pixels=True, g_zero_point=25.7),
        (entry("a.csv", n_rows=3, skipped=("row 3: no",), flags={"MISSING_BP": 1}), entry("b", error="torn")),
    )
    manifest.write(tmp_path)
    assert Manifest.read(tmp_path) == manifest
    Manifest().write(tmp_path)
    assert Manifest.read(tmp_path) == Manifest()


def test_it_is_readable_json_with_the_credit(tmp_path):
    Manifest(Basis(6, 5), Positions.PIXEL_CENTRES, None, (entry("a.csv"),)).write(tmp_path)
    content = json.loads((tmp_path / "manifest.json").read_text())
    assert content["format"] == 2
    assert content["basis"] == {"n_bp": 6, "n_rp": 5, "bp_id": None, "rp_id": None}
    assert content["positions"].startswith("approximate")
    assert content["credit"] == "ESA/Gaia/DPAC"
    assert content["files"][0]["name"] == "a.csv"


def test_stars_that_join_complete_the_basis():
    joined = Manifest()
    for name, basis in (("a", Basis(6, 5)), ("b", Basis(6, 5, 3)), ("c", None)):
        stars = StagedStars(Path(name), basis=basis, positions=Positions.MEASURED)
        joined = joined.recording(entry(name), stars)
    assert (joined.basis, joined.positions) == (Basis(6, 5, 3), Positions.MEASURED)
    assert joined.recording(entry("d"), None).basis == joined.basis


def names(manifest):
    return [(e.name, e.error) for e in manifest.entries]


def test_a_broken_file_that_was_mended_is_noted_once():
    manifest = Manifest()
    for one in (entry("a", error="torn"), entry("b"), entry("a")):
        manifest = manifest.recording(one)
    assert names(manifest) == [("b", None), ("a", None)]


def test_a_file_that_is_broken_again_keeps_its_place():
    manifest = Manifest()
    for one in (entry("a", error="torn"), entry("b"), entry("a", error="still torn")):
        manifest = manifest.recording(one)
    assert names(manifest) == [("a", "still torn"), ("b", None)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not readable as JSON"),
        ("", "not readable as JSON"),
        ("\xff", "not readable as JSON"),
        ("[]", "holds no JSON object"),
        ("null", "holds no JSON object"),
        ('{"format": 1, "basis": null, "files": []}', "format 1, this version reads 2; .*ingest again"),
        ('{"format": 2}', "entries = None: .*ingest again"),
        ('{"format": 2, "basis": {"n": 3}, "positions": null, "files": []}', "basis.n_bp = .*Field required"),
        ('{"format": 2, "basis": null, "positions": "here", "files": []}', "positions = 'here'"),
        (
            '{"format": 2, "basis": null, "positions": null, "files": [{"name": "a"}]}',
            "entries.0.digest = .*Field required",
        ),
        ('{"format": 2, "basis": null, "positions": null, "files": [3]}', "entries.0 = 3"),
    ],
)
def test_a_manifest_that_is_none_is_refused_in_one_line(tmp_path, text, message):
    (tmp_path / "manifest.json").write_text(text, encoding="latin-1")
    with pytest.raises(StoreError, match=message) as caught:
        Manifest.read(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "manifest.json") in str(caught.value)


def lines(folder):
    staged = StagedStars(
        Journal(folder).staged_path(4),
        basis=Basis(6, 5, rp_id=2),
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
