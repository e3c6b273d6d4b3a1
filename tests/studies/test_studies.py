"""Every study starts, says how it is used, and is in the table that leads to its page."""

import re
import runpy
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "studies"
README = (FOLDER / "README.md").read_text(encoding="utf-8")
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py") if "python -m studies." in path.read_text("utf-8"))
SCRIPTS.remove("__init__")


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_study_starts_and_says_how_it_is_used(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    monkeypatch.delitem(sys.modules, f"studies.{name}", raising=False)  # which another test may have imported
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module(f"studies.{name}", run_name="__main__")
    assert stopped.value.code == 0
    assert name in capsys.readouterr().out


def test_the_table_names_every_study_and_a_page_that_names_it():
    rows = re.findall(r"^\| \[.*?\]\(\.\./docs/(\w+/\w+\.md)\) \| (.*?) \| .+ \|$", README, re.MULTILINE)
    page_of = {name: page for page, names in rows for name in re.findall(r"`(\w+)`", names)}
    assert sorted(page_of) == SCRIPTS
    for name, page in page_of.items():
        assert name in (FOLDER.parent / "docs" / page).read_text(encoding="utf-8"), name


def test_every_other_module_is_named():
    others = {path.stem for path in FOLDER.glob("*.py")} - {"__init__", *SCRIPTS}
    assert others == set(re.findall(r"`(\w+)`", README.rsplit("|", 1)[1]))
