"""Models that come with the package: by name, unchanged, and separated from folders."""

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest

import scattervae as sv
from scattervae.errors import CheckpointError
from scattervae.science.shipped import CARD, card_of, model_folder, require_own, shipped_models

NAMES = sorted(shipped_models())


def test_best_comes_with_the_package_small_and_without_pickle():
    assert "best" in NAMES
    for folder in shipped_models().values():
        files = [file for file in folder.rglob("*") if file.is_file()]
        assert {file.suffix for file in files} <= {".json", ".jsonl", ".safetensors", ".md"}
        assert sum(file.stat().st_size for file in files) < 12e6


def test_the_wheel_takes_every_file_of_every_model():
    root = Path(sv.__file__).parents[2]
    settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = settings["tool"]["setuptools"]["package-data"]["scattervae"]
    package = Path(sv.__file__).parent
    taken = {file for pattern in patterns for file in package.glob(pattern)}
    for folder in shipped_models().values():
        assert {file for file in folder.rglob("*") if file.is_file()} <= taken


@pytest.mark.parametrize("name", NAMES)
def test_a_name_loads_the_same_model_as_its_folder(name):
    model = sv.load_model(name)
    assert model.digest == sv.load_model(shipped_models()[name]).digest
    card = card_of(model.folder)
    assert card["name"] == name
    assert card["digest"] == model.digest
    assert card["labels"] == list(model.label_model.names)
    low, high = card["training"]["g_mag_range"]
    assert low < high
    assert card["scores"]["negative_elbo"] < 0
    assert all(isinstance(star, str) and int(star) > 0 for star in card["training"]["field_ids"])
    assert {"not_for", "licence", "credit", "made_by"} <= card.keys()


def test_a_folder_of_that_name_wins_and_an_unknown_name_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert model_folder("best") == shipped_models()["best"]
    Path("best").mkdir()
    assert model_folder("best") == Path("best")
    with pytest.raises(CheckpointError, match=r"^besst: no such folder, .*\(.*best.*\); check the path$"):
        model_folder("besst")


def test_nothing_is_written_into_a_model_of_the_package(tmp_path):
    with pytest.raises(CheckpointError, match=r"^best: comes with the package; copy "):
        require_own(shipped_models()["best"])
    require_own(tmp_path)


@pytest.mark.parametrize("text", ["{", "[1]", "[" * 100_000])
def test_a_broken_card_is_refused_by_name(tmp_path, text):
    (tmp_path / CARD).write_text(text)
    with pytest.raises(CheckpointError, match=CARD):
        card_of(tmp_path)
    assert card_of(tmp_path / "elsewhere") is None


def test_scores_in_the_card_are_finite():
    for folder in shipped_models().values():
        labels = json.loads((folder / CARD).read_text())["scores"]["labels"]
        assert np.isfinite([value for scores in labels.values() for value in scores.values()]).all()
