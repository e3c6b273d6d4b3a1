"""The trace of a star's way: it starts, follows a star from file to catalogue, and counts who calls in."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
from studies.star_way import Way, module_of

from scattervae.errors import counted


@pytest.fixture(scope="module")
def printed():
    """What the script prints, run as a reader would: without the types' checks, whose frames lie between ours."""
    done = subprocess.run(
        [sys.executable, "-m", "studies.star_way"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    return done.stdout


def test_the_way_leads_from_the_bulk_file_to_the_catalogue(printed):
    star, model = printed.split("a model, from its folder into encode:")
    assert star.index("gaia.bulk.reading") < star.index("spectra.columns") < star.index("model.network")
    assert "model.network" in model
    assert "gaia" not in model


def test_an_entry_is_a_function_of_another_module():
    way, code = Way(), inspect.unwrap(counted).__code__
    way.called(code, None)
    way.called(code, sys._getframe())  # which is no function of ours
    assert module_of(code) == "errors"
    assert way.entries == {"errors": {("", "")}}
    assert [line.split()[:3] for line in way.lines()][1:] == [["1", "errors", "1"]]


def test_the_architecture_page_lists_the_modules_of_the_trace(printed):
    star, _ = printed.split("a model, from its folder into encode:")
    traced = set(re.findall(r"^ *\d+ ([\w.]+) +\d+ ", star, re.MULTILINE))
    page = (Path(__file__).parents[2] / "docs" / "explanation" / "architecture.md").read_text(
        encoding="utf-8"
    )
    way = page.split("## A star's way")[1].split("\n## ")[0].split("\n1. ", 1)[1]
    assert set(re.findall(r"`([\w.]+)`", way)) == traced
    assert len(traced) <= 36
