import json

import pytest

from scattervae.errors import StoreError
from scattervae.spectra.hats import Positions
from scattervae.spectra.manifest import FileEntry, Manifest
from scattervae.spectra.spectra import Basis
from spectra.stores import entry


def test_a_manifest_is_read_back(tmp_path):
    manifest = Manifest(
        Basis(6, 5, bp_id=3),
        Positions.MEASURED,
        (entry("a.csv", n_rows=3, skipped=("row 3: no",), flags={"MISSING_BP": 1}), entry("b", error="torn")),
    )
    manifest.write(tmp_path)
    assert Manifest.read(tmp_path) == manifest
    Manifest().write(tmp_path)
    assert Manifest.read(tmp_path) == Manifest()


def test_it_is_readable_json_with_the_credit(tmp_path):
    Manifest(Basis(6, 5), Positions.PIXEL_CENTRES, (entry("a.csv"),)).write(tmp_path)
    content = json.loads((tmp_path / "manifest.json").read_text())
    assert content["format"] == 2
    assert content["basis"] == {"n_bp": 6, "n_rp": 5, "bp_id": None, "rp_id": None}
    assert content["positions"].startswith("approximate")
    assert content["credit"] == "ESA/Gaia/DPAC"
    assert content["files"][0]["name"] == "a.csv"


def test_stars_that_join_complete_the_basis():
    joined = (
        Manifest().joined_by(Basis(6, 5), Positions.MEASURED).joined_by(Basis(6, 5, 3), Positions.MEASURED)
    )
    assert (joined.basis, joined.positions) == (Basis(6, 5, 3), Positions.MEASURED)
    assert joined.joined_by(None, None) == joined


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


def test_an_entry_goes_through_json():
    one = entry("a", skipped=("row 1: no", "row 2: no"), flags={"NO_G_FLUX": 2})
    assert FileEntry.of(json.loads(json.dumps(vars(one)))) == one


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not readable as JSON"),
        ("", "not readable as JSON"),
        ("\xff", "not readable as JSON"),
        ("[]", "format None, this version reads 2"),
        ("null", "format None"),
        ('{"format": 1, "basis": null, "files": []}', "format 1, this version reads 2; ingest again"),
        ('{"format": 2}', "not what a store's manifest holds"),
        ('{"format": 2, "basis": {"n": 3}, "positions": null, "files": []}', "not what"),
        ('{"format": 2, "basis": null, "positions": "here", "files": []}', "not what"),
        ('{"format": 2, "basis": null, "positions": null, "files": [{"name": "a"}]}', "not what"),
        ('{"format": 2, "basis": null, "positions": null, "files": [3]}', "not what"),
    ],
)
def test_a_manifest_that_is_none_is_refused_in_one_line(tmp_path, text, message):
    (tmp_path / "manifest.json").write_text(text, encoding="latin-1")
    with pytest.raises(StoreError, match=message) as caught:
        Manifest.read(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "manifest.json") in str(caught.value)
