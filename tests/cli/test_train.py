import json
import logging
import re
from contextlib import contextmanager

import pytest
import torch

from cli.toys import RECIPE, write_parquet
from scattervae.cli.train import free_memory, memory_for_stars
from scattervae.errors import RecipeError, StoreError
from scattervae.model import training
from scattervae.model.checkpoint import read_checkpoint
from scattervae.model.distributed import AlreadyReportedError, World
from toy import spoiled, toy_sky


def test_says_what_it_wrote(cli, folder, tmp_path):
    run = cli("train", folder / "store", "--out", tmp_path / "m", "-r", folder / "toy.toml", "--epochs", "2")
    assert (run.code, run.err.count("\n")) == (0, run.err.count("warning"))
    trained, elbo, wrote = run.out.splitlines()
    assert trained.startswith("trained toy on 2")
    assert "of 300 stars (300 usable; the test fold is left out), 2 epochs in " in trained
    assert elbo.endswith("of 3 latents active")
    assert wrote == f"wrote {tmp_path / 'm'}"
    assert read_checkpoint(tmp_path / "m").recipe.training.epochs == 2


def test_json(cli, folder, tmp_path):
    arguments = ("--recipe", folder / "toy.toml", "--epochs", 3, "--seed", 5, "--device", "cpu", "--json")
    run = cli("train", folder / "stars.parquet", "--out", tmp_path / "model", *arguments)
    values = run.json
    assert (values["out"], values["recipe"]) == (str(tmp_path / "model"), "toy")
    assert values["data"]["n_stars"] == 300
    assert values["training"]["stars_per_second"] > 0
    assert values["final_epoch"]["epoch"] == 3
    assert len((tmp_path / "model" / "training.jsonl").read_text().splitlines()) == 3
    assert read_checkpoint(tmp_path / "model").recipe.training.seed == 5


def test_named_recipes(cli, dr3, tmp_path):
    for name in ("elbo_sgd", "paper2023"):
        run = cli("train", dr3 / "stars.parquet", "-o", tmp_path / name, "-r", name, "--epochs", 1, "--json")
        assert run.json["recipe"] == name


def test_a_collapse_is_warned_of_on_stderr(cli, folder, tmp_path):
    recipe = tmp_path / "printed.toml"
    recipe.write_text(
        'base = "paper2023"\n[network]\nn_latent = 5\nhidden = [16]\n'
        "[training]\nepochs = 3\nbatch_size = 64\nlearning_rate = 1e-3\n"
    )
    run = cli("train", folder / "store", "--out", tmp_path / "model", "--recipe", recipe, "--json")
    assert run.code == 0
    assert run.json["training"]["active_latents"] < 3
    (warning,) = run.err.splitlines()
    assert warning.startswith("scattervae: warning: posterior collapse: ")
    assert "the loss as printed averages chi^2 over 11 coefficients" in warning
    assert warning.endswith("--recipe elbo sums both")


def test_a_model_that_is_there(cli, folder, tmp_path, model):
    arguments = ("train", folder / "store", "--recipe", folder / "toy.toml", "--epochs", 1)
    run = cli(*arguments, "--out", model)
    assert (run.code, run.error) == (
        1,
        f"{model}: exists; give another --out, or --overwrite to replace it",
    )
    cli(*arguments, "--out", tmp_path / "m", "--seed", 1)
    assert cli(*arguments, "--out", tmp_path / "m", "--seed", 2, "--overwrite").code == 0
    assert read_checkpoint(tmp_path / "m").recipe.training.seed == 2


@pytest.mark.parametrize("there", ["store", "stars.parquet"])
def test_overwrite_removes_models_only(cli, folder, there):
    run = cli("train", folder / "store", "--out", folder / there, "--overwrite")
    assert run.code == 1
    assert "exists and is no model; nothing was removed" in run.error
    assert (folder / there).exists()


def test_out_that_cannot_be_made(cli, folder):
    run = cli("train", folder / "store", "--out", folder / "stars.parquet" / "model", "--epochs", 1)
    assert run.code == 1
    assert "Not a directory" in run.error


def test_a_stopped_run_goes_on_bit_for_bit(cli, folder, tmp_path, monkeypatch):
    arguments = ("train", folder / "store", "--recipe", folder / "toy.toml", "--epochs", 6)
    assert cli(*arguments, "--out", tmp_path / "whole").code == 0
    real = training._run_epoch

    def stop(state, inputs, epoch):
        if epoch == 4:
            raise KeyboardInterrupt
        return real(state, inputs, epoch)

    monkeypatch.setattr(training, "_SECONDS_BETWEEN_SAVES", 0.0)
    monkeypatch.setattr(training, "_run_epoch", stop)
    assert cli(*arguments, "--out", tmp_path / "parts").code == 130
    assert not (tmp_path / "parts").exists()
    monkeypatch.setattr(training, "_run_epoch", real)
    run = cli(*arguments, "--out", tmp_path / "parts")
    assert "an unfinished run; --resume to go on with it, or --overwrite to start again" in run.error
    info = cli("info", tmp_path / "parts.partial")
    assert "an unfinished training run" in info.error
    assert cli(*arguments, "--out", tmp_path / "parts", "--resume").code == 0
    whole, parts = (read_checkpoint(tmp_path / name) for name in ("whole", "parts"))
    assert parts.digest == whole.digest
    assert parts.records == whole.records
    assert not (tmp_path / "parts.partial").exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = [", "not a TOML file"),
        ("[training]\nepoch = 3", "training.epoch = 3: Extra inputs are not permitted"),
        ("[training]\nepochs = 0", "training.epochs = 0: Input should be greater than 0"),
        ('base = "elba"', "base = 'elba' is no recipe; choose one of best, elbo"),
        ("training = 3", "training = 3: "),
        ("[network]\nhidden = [1.5]", "network.hidden.0 = 1.5: "),
    ],
)
def test_bad_recipes(cli, folder, tmp_path, text, expected):
    recipe = tmp_path / "bad.toml"
    recipe.write_text(text)
    run = cli("train", folder / "store", "--out", tmp_path / "model", "--recipe", recipe)
    assert run.code == 1
    assert run.error.startswith(f"{recipe}: ")
    assert expected in run.error
    assert not (tmp_path / "model").exists()


def test_unknown_recipe(cli, folder, tmp_path):
    run = cli("train", folder / "store", "--out", tmp_path / "model", "--recipe", "elba")
    assert run.error == "elba: neither a recipe (best, elbo, elbo_sgd, paper2023) nor a TOML file"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_device_that_is_not_there(cli, folder, tmp_path):
    run = cli("train", folder / "store", "--out", tmp_path / "model", "--device", "cuda")
    assert run.code == 1
    assert run.error.startswith("--device cuda: not to be had here")
    assert run.error.endswith("use --device cpu")


def test_stars_that_cannot_be_trained_on(cli, tmp_path):
    stars = write_parquet(tmp_path / "stars.parquet", spoiled(toy_sky(40).spectra).take(slice(2, 4)))
    run = cli("train", stars, "--out", tmp_path / "model")
    assert run.code == 1
    assert run.error.startswith("none of 2 stars can be trained on: 0 are usable")
    assert not (tmp_path / "model.partial").exists()


def test_recipe_of_the_toy_is_what_the_model_keeps(model):
    kept = json.loads((model / "config.json").read_text())["recipe"]
    assert kept["network"]["hidden"] == [24, 16]
    assert "hidden = [24, 16]" in RECIPE


def test_how_it_was_trained_is_said(cli, folder, tmp_path):
    arguments = ("train", folder / "store", "--recipe", folder / "toy.toml", "--epochs", 1)
    for memory, how in (("auto", "in memory"), ("1GB", "in memory"), ("0", "streamed"), ("1kB", "streamed")):
        run = cli(*arguments, "--out", tmp_path / memory, "--memory", memory)
        assert re.search(rf" \({how}: [\d,]+ stars/s\)$", run.out.splitlines()[0])
    streamed, again = (read_checkpoint(tmp_path / name) for name in ("0", "1kB"))
    assert streamed.digest == again.digest
    assert read_checkpoint(tmp_path / "auto").digest == read_checkpoint(tmp_path / "1GB").digest


def test_a_size_that_is_none_is_refused(cli, folder, tmp_path):
    run = cli("train", folder / "store", "--out", tmp_path / "model", "--memory", "much")
    assert run.error == "--memory much: not a size; give a number with a unit, as 4GB, or auto"


def test_a_run_stopped_within_an_epoch_is_gone_on_with(cli, folder, tmp_path, monkeypatch):
    """Streamed at first, it is streamed again although the stars fit in memory."""
    arguments = ("train", folder / "store", "--recipe", folder / "toy.toml", "--epochs", 4)
    assert cli(*arguments, "--out", tmp_path / "whole", "--memory", "0").code == 0
    real, n_steps = training._step, 0

    def stop(state, batch):
        nonlocal n_steps
        n_steps += 1
        if n_steps == 7:
            raise KeyboardInterrupt
        return real(state, batch)

    monkeypatch.setattr(training, "_SECONDS_BETWEEN_SAVES", 0.0)
    monkeypatch.setattr(training, "_step", stop)
    assert cli(*arguments, "--out", tmp_path / "parts", "--memory", "0").code == 130
    monkeypatch.setattr(training, "_step", real)
    run = cli(*arguments, "--out", tmp_path / "parts", "--resume")
    assert "(streamed: " in run.out
    whole, parts = (read_checkpoint(tmp_path / name) for name in ("whole", "parts"))
    assert parts.digest == whole.digest
    assert parts.records == whole.records


@pytest.fixture
def second(monkeypatch):
    """This process is the second of two, as torchrun would have it; the first sends it `sent`."""
    sent: list[Exception] = []

    def from_first(_self, make):
        if sent:
            raise sent[0]
        return make()

    @contextmanager
    def joined(_self, _device):
        yield

    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(World, "from_first", from_first)
    monkeypatch.setattr(World, "joined", joined)
    yield sent
    logging.getLogger("scattervae").setLevel(logging.WARNING)


def test_the_second_process_does_not_repeat_what_the_first_prints(cli, folder, tmp_path, second):
    second.append(AlreadyReportedError("the model exists"))
    run = cli("train", folder / "store", "--out", tmp_path / "model")
    assert (run.code, run.out, run.err) == (1, "", "")


def test_the_second_process_says_who_it_is(cli, folder, tmp_path, second):
    second.append(StoreError("row group 3: torn"))
    run = cli("train", folder / "store", "--out", tmp_path / "model")
    assert (run.code, run.error) == (1, "rank 1: row group 3: torn")


def test_a_recipe_with_the_full_likelihood(cli, folder, formats, tmp_path):
    """A file is read with its correlations; a store without them says so."""
    recipe = tmp_path / "full.toml"
    recipe.write_text('base = "elbo"\nlikelihood = "full"\n[training]\nepochs = 1\nbatch_size = 64\n')
    votable = formats / "XP_CONTINUOUS_COMBINED_examples.vot"
    run = cli("train", votable, "--out", tmp_path / "four", "--recipe", recipe, "--json")
    assert run.json["data"]["n_with_correlations"] == run.json["data"]["n_trained_on"] > 1
    run = cli("train", folder / "store", "--out", tmp_path / "none", "--recipe", recipe, "--json")
    assert run.json["data"]["n_with_correlations"] == 0
    assert "no star has correlations or an error of its G flux" in run.err
    run = cli("train", folder / "store", "--out", tmp_path / "m", "--recipe", recipe, "--memory", "1kB")
    assert "and are not streamed" in run.error


CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("size", "expected"),
    [("0", 0), ("512", 512), ("4GB", 4e9), ("4 gb", 4e9), ("1.5T", 1.5e12), ("200M", 2e8), ("3kb", 3000)],
)
def test_sizes_with_units(size, expected):
    assert memory_for_stars(size, CPU) == expected


@pytest.mark.parametrize("size", ["", "much", "-1", "4PB", "GB", "4GB or so"])
def test_what_is_no_size_is_refused(size):
    with pytest.raises(
        RecipeError, match=r"--memory .*: not a size; give a number with a unit, as 4GB"
    ) as caught:
        memory_for_stars(size, CPU)
    assert "\n" not in str(caught.value)


def test_auto_is_half_of_what_is_free():
    assert 0 < memory_for_stars("auto", CPU) <= free_memory() * 0.75  # others take and give while this runs


def machine(root, free_kb, groups, own=""):
    """The files in which Linux lists memory; `groups` gives (limit, used, stat) by a group's path."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(f"MemTotal: 99999999 kB\nMemAvailable:   {free_kb} kB\n")
    (root / "proc/self/cgroup").write_text(own)
    for path, files in groups.items():
        folder = root / "sys/fs/cgroup" / path
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text)
    return root


def test_a_machine_without_limits(tmp_path):
    assert free_memory(machine(tmp_path, 1000, {})) == 1000 * 1024


def test_the_tightest_group_counts(tmp_path):
    """Version 2: one tree, each group within its parents' limits; files kept in memory can be let go of."""
    groups = {
        "job": {"memory.max": "500000", "memory.current": "100000", "memory.stat": "inactive_file 30000\n"},
        "job/step": {"memory.max": "max", "memory.current": "100000"},
    }
    root = machine(tmp_path, 1000, groups, own="0::/job/step\n")
    assert free_memory(root) == 430_000


def test_groups_of_the_first_version(tmp_path):
    files = {"memory.limit_in_bytes": "700000", "memory.usage_in_bytes": "300000"}
    stat = {"memory.stat": "cache 5\ntotal_inactive_file 1000\n"}
    root = machine(
        tmp_path,
        1000,
        {"memory/job": files | stat, "cpu/job": files},
        own="7:cpu:/job\n4:memory:/job\n",
    )
    assert free_memory(root) == 401_000


def test_more_used_than_allowed_is_nothing_free(tmp_path):
    groups = {"": {"memory.max": "10", "memory.current": "20"}}
    assert free_memory(machine(tmp_path, 1000, groups, own="0::/\n")) == 0


def test_a_system_that_reports_nothing_of_itself(tmp_path):
    assert free_memory(tmp_path) > 0
