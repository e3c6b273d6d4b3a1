"""A full disk, a folder that may not be written to, weights that are no numbers: one line that says where, code 1."""

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from scattervae.science.trained import load_model


@pytest.fixture
def broken_disk(monkeypatch):
    """Let every write of tensors fail as a disk does; `error` says how, with the file's name or without."""

    def breaks(number: int, *, named: bool) -> None:
        def write_bytes(path: Path, _: bytes) -> int:
            path.touch()
            raise OSError(number, os.strerror(number), *([str(path)] if named else []))

        monkeypatch.setattr(Path, "write_bytes", write_bytes)

    return breaks


def test_train_on_a_full_disk(cli, folder, tmp_path, broken_disk):
    broken_disk(errno.ENOSPC, named=False)
    run = cli(
        "train",
        folder / "stars.parquet",
        "-o",
        tmp_path / "model",
        "-r",
        folder / "toy.toml",
        "--epochs",
        "1",
    )
    assert run.code == 1
    assert run.err.splitlines()[-1].startswith(f"scattervae: error: {tmp_path}/model.")
    assert run.err.splitlines()[-1].endswith(".safetensors: No space left on device")
    assert not (tmp_path / "model").exists()


def test_generate_with_a_model_that_may_not_be_written_to(cli, model, store, tmp_path, broken_disk):
    broken_disk(errno.EACCES, named=True)
    run = cli("generate", model, "--flow", "--stars", store, "-o", tmp_path / "made.parquet")
    assert run.error == f"{model}/flow.safetensors.partial: Permission denied"
    assert not (model / "flow.safetensors").exists()
    assert list(tmp_path.iterdir()) == []
    assert not (model / "flow.safetensors.partial").exists()  # what was begun is removed


def test_evaluate_a_model_whose_weights_are_no_numbers(cli, model, store, tmp_path):
    trained = load_model(model)
    for weights in trained.network.parameters():
        torch.nn.init.constant_(weights, float("nan"))
        break
    replace(trained).save(tmp_path / "broken")
    run = cli("evaluate", tmp_path / "broken", store)
    assert run.code == 1
    assert run.error.startswith(f"{tmp_path}/broken/weights.safetensors: ")
    assert "are not finite; the model is broken: train or fetch it again" in run.error


def test_a_full_disk_is_reported_with_the_file_that_was_written(tmp_path):
    from scattervae.files import written_file

    def full() -> None:
        with written_file(tmp_path / "file"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="No space") as caught:
        full()
    assert caught.value.filename == str(tmp_path / "file")
