import json
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
import torch

from cli.toys import RECIPE as TOML
from model import ranks
from scattervae.errors import CheckpointError, TrainingError
from scattervae.model import distributed
from scattervae.model.distributed import ALONE, World
from scattervae.model.recipe import load_recipe
from scattervae.model.run import RunFolder, train
from scattervae.model.training import read_state
from scattervae.spectra.store import SpectrumStore
from spectra.row_group_toys import toy_store
from toy import toy_sky

CPU = torch.device("cpu")


@contextmanager
def two_ranks(*arguments: object):
    """Two processes on this machine, ended in any case."""
    port = ranks.free_port()
    processes = [ranks.started(rank, 2, port, *arguments) for rank in (0, 1)]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What two processes found, each on its own."""
    folder = tmp_path_factory.mktemp("ranks")
    with two_ranks(folder) as processes:
        for process in processes:
            out, err = process.communicate(timeout=120)
            assert (process.returncode, out, err) == (0, "", "")
    names = {path.name for path in folder.iterdir()}
    assert names == {"rank0.json", "rank1.json", "state0"}  # the first alone writes a state
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize(
    ("way", "stars", "recipe"),
    [
        ("memory", ranks.in_memory, ranks.RECIPE),
        ("disk", ranks.on_disk, ranks.RECIPE),
        ("one more", ranks.in_memory, ranks.ONE_MORE),
        ("degraded", ranks.on_disk, ranks.DEGRADED),
    ],
)
def test_two_processes_give_the_loss_curve_of_one(found, way, stars, recipe):
    """They add up the same numbers in another order: float32 rounding, which steps of the optimiser carry on."""
    alone = ranks.trained(stars(), recipe, ALONE)
    for rank in found:
        for record, expected in zip(rank[way]["records"], alone["records"], strict=True):
            assert record == pytest.approx(expected, rel=1e-4, abs=1e-4)
        torch.testing.assert_close(
            torch.tensor(rank[way]["weights"]), torch.tensor(alone["weights"]), rtol=1e-2, atol=1e-3
        )
    assert found[0][way] == found[1][way]  # both hold the same model, bit for bit


def test_each_process_knows_its_place(found):
    assert [rank["world"] for rank in found] == [[0, 2, 0, 2], [1, 2, 1, 2]]
    assert [rank["total"] for rank in found] == [[2.0, 1.0], [2.0, 1.0]]


def test_what_the_first_makes_all_have(found):
    assert [rank["first"] for rank in found] == ["made by 0", "made by 0"]


def test_an_error_of_the_first_stops_all_and_is_reported_once(found):
    assert found[0]["refused"] == ["CheckpointError", "the model exists"]
    assert found[1]["refused"] == ["AlreadyReportedError", "the model exists"]


def test_a_loss_that_is_no_number_in_one_process_stops_all_at_the_same_step(found):
    assert [named for named, _ in (rank["broken"] for rank in found)] == [False, True]
    assert {message for _, message in (rank["broken"] for rank in found)} == {found[0]["broken"][1]}
    assert found[0]["broken"][1].startswith("epoch 1: the loss is nan")


@pytest.fixture(scope="module")
def toy_run(tmp_path_factory):
    """A store, and a recipe that takes longer than a test."""
    folder = tmp_path_factory.mktemp("run")
    toy_store(folder / "store", toy_sky(300).spectra)
    (folder / "long.toml").write_text(TOML.replace("epochs = 30", "epochs = 2000"))
    return folder


@pytest.mark.parametrize("killed", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_killed_process_ends_in_a_clear_message_and_a_state_to_go_on_from(toy_run, tmp_path, killed):
    store, recipe, out = toy_run / "store", toy_run / "long.toml", tmp_path / "model"
    with two_ranks("cli", "train", store, "--out", out, "-r", recipe, "--device", "cpu") as processes:
        _wait_for_epochs(tmp_path / "model.partial" / "training.jsonl", 3)
        processes[killed].kill()
        survivor = processes[1 - killed]
        said, complained = survivor.communicate(timeout=60)
    assert (survivor.returncode, said) == (1, "")
    (line,) = complained.splitlines()
    who = "" if killed == 1 else "rank 1: "
    assert line.startswith(f"scattervae: error: {who}rank {killed} is gone (")
    assert line.endswith("what was saved is kept: run the same command with --resume")

    records = []

    def stop_after_two_more(record):
        records.append(record)
        if record.epoch == n_done + 2:
            raise KeyboardInterrupt

    state = read_state(tmp_path / "model.partial" / "state.safetensors")
    n_done = len(json.loads(state.notes["records"]))
    assert n_done >= 2
    for folder in (RunFolder(out, resume=True), RunFolder(tmp_path / "undisturbed")):
        with pytest.raises(KeyboardInterrupt):
            train(SpectrumStore(store), load_recipe(recipe), out=folder, progress=stop_after_two_more)
    resumed, undisturbed = records[: n_done + 2], records[n_done + 2 :]
    for record, expected in zip(resumed, undisturbed, strict=True):
        assert vars(record) == pytest.approx(vars(expected), rel=1e-3, abs=1e-3)


@pytest.mark.slow
def test_torchrun_starts_the_command(toy_run, tmp_path):
    command = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", 2, "-m", "scattervae")
    options = ("--out", tmp_path / "model", "-r", toy_run / "long.toml", "--epochs", 2, "--device", "cpu")
    arguments = (*command, "train", toy_run / "store", *options)
    done = subprocess.run(map(str, arguments), capture_output=True, check=False, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    trained, _, wrote = done.stdout.splitlines()
    assert "(in memory, 2 processes: " in trained
    assert wrote == f"wrote {tmp_path / 'model'}"


def test_one_process_needs_no_variables_and_no_others(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert World.of_environment() == ALONE
    with ALONE.joined(CPU):
        assert ALONE.from_first(lambda: 3) == 3
        assert ALONE.total(torch.ones(2)).tolist() == [1.0, 1.0]
        module = torch.nn.Linear(1, 1)
        assert ALONE.shared(module) is module
    with pytest.raises(CheckpointError):
        ALONE.from_first(ranks.refused)


@pytest.mark.parametrize(("rank", "size"), [("2", "2"), ("-1", "2"), ("a", "2"), ("0", "")])
def test_variables_that_make_no_sense_are_refused(monkeypatch, rank, size):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", size)
    with pytest.raises(TrainingError, match=f"RANK={rank} of WORLD_SIZE={size}") as caught:
        World.of_environment()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("message", "size", "expected"),
    [
        ("[a/pair.cc:537] Read error [127.0.0.1]:1: Connection reset by peer. This is", 2, "rank 1 is gone"),
        ("NCCL error: remote process exited\nand more", 8, "one of 7 other ranks is gone"),
    ],
)
def test_a_lost_connection_is_one_line(message, size, expected):
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(TrainingError, match=expected) as caught, World(0, size)._watched():
            raise RuntimeError(message)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert "\n" not in str(caught.value)
    assert "This is" not in str(caught.value)
    assert str(caught.value).endswith("--resume")


def test_processes_that_cannot_join_say_why(monkeypatch):
    def fails(*_args: object, **_kwargs: object) -> None:
        raise RuntimeError("The server socket has failed to listen. port: 1\nmore")

    monkeypatch.setattr(distributed.dist, "init_process_group", fails)
    expected = r"rank 1 of 2 cannot join the others \(The server socket has failed to listen\); let torchrun"
    with pytest.raises(TrainingError, match=expected) as caught, World(1, 2).joined(CPU):
        pass
    assert "\n" not in str(caught.value)


def test_other_errors_stay_what_they_are():
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(RuntimeError, match="mat1 and mat2"), World(0, 2)._watched():
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_process_that_is_asked_to_stop_reports_it():
    before = signal.getsignal(signal.SIGTERM)
    try:
        signal.signal(signal.SIGTERM, distributed._stop)
        with pytest.raises(TrainingError, match=r"stopped by a signal, as torchrun does .* --resume"):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)  # a second signal does not hide the message
    finally:
        signal.signal(signal.SIGTERM, before)


def _wait_for_epochs(log, n_epochs: int) -> None:
    until = time.monotonic() + 300  # a busy machine
    while not log.exists() or len(log.read_text().splitlines()) < n_epochs:
        assert time.monotonic() < until, "the processes do not train"
        time.sleep(0.05)
