import json
from pathlib import Path

import pytest

from scattervae.errors import StoreError
from scattervae.spectra.hats import Positions
from scattervae.spectra.manifest import Manifest
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
        ("[]", "format None, this version reads 2"),
        ("null", "format None"),
        ('{"format": 1, "basis": null, "files": []}', "format 1, this version reads 2; ingest again"),
        ('{"format": 2}', "no manifest of a store"),
        ('{"format": 2, "basis": {"n": 3}, "positions": null, "files": []}', "no manifest of a store"),
        ('{"format": 2, "basis": null, "positions": "here", "files": []}', "no manifest of a store"),
        (
            '{"format": 2, "basis": null, "positions": null, "files": [{"name": "a"}]}',
            "no manifest of a store",
        ),
        ('{"format": 2, "basis": null, "positions": null, "files": [3]}', "no manifest of a store"),
    ],
)
def test_a_manifest_that_is_none_is_refused_in_one_line(tmp_path, text, message):
    (tmp_path / "manifest.json").write_text(text, encoding="latin-1")
    with pytest.raises(StoreError, match=message) as caught:
        Manifest.read(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "manifest.json") in str(caught.value)
