import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from model.noise_toys import correlated
from scattervae.errors import BusyError, CheckpointError, TrainingError
from scattervae.model import run
from scattervae.model.checkpoint import Checkpoint, EpochRecord, read_checkpoint
from scattervae.model.distributed import World
from scattervae.model.recipe import RECIPES
from scattervae.model.run import RunFolder, collapse_warning, few_stars_warning, train, train_once
from scattervae.model.training_stars import (
    Machine,
    data_digest,
    named_ranges,
    ranges_of,
    training_stars,
)
from scattervae.seeds import folds
from scattervae.spectra.spectra import Flag, GFluxSource
from scattervae.spectra.store import SpectrumStore
from spectra.row_group_toys import toy_store
from toy import signed_again, spoiled, toy_best, toy_recipe, toy_sky

SKY = toy_sky(200)
QUICK = toy_recipe(epochs=3)


def stop(record: EpochRecord) -> None:
    if record.epoch == 2:
        raise KeyboardInterrupt


@pytest.fixture
def saves_every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scattervae.model.training._SECONDS_BETWEEN_SAVES", 0.0)


def start_and_stop(out: RunFolder) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(SKY.spectra, QUICK, out=out, progress=stop)


def bits(model: Checkpoint) -> tuple[object, ...]:
    return model.digest, model.records, model.recipe


def test_nothing_of_the_test_fold_reaches_the_model():
    fold = folds(SKY.spectra.source_id)
    whole, without = train(SKY.spectra, QUICK), train(SKY.spectra.take(~fold.test), QUICK)
    assert bits(whole) == bits(without)
    data = whole.provenance["data"]
    assert data["n_trained_on"] == (~fold.test).sum()
    assert data["n_stars"] == data["n_usable"] == 200


def test_an_evidence_lower_bound_keeps_the_latents_the_sky_has_and_does_not_warn(caplog):
    with caplog.at_level(logging.WARNING, logger="scattervae"):
        model = train(toy_sky(300).spectra, toy_recipe())
    assert not caplog.records
    assert model.provenance["training"]["active_latents"] >= 2
    assert model.records[-1].negative_elbo < model.records[0].negative_elbo - 5.0


def test_the_loss_as_printed_collapses_and_says_so(caplog):
    """Few stars of low signal to noise, and the divergence weighs 3.7 times what the bound says."""
    recipe = toy_recipe(epochs=30, optimizer="sgd", learning_rate=0.1, schedule="cosine")
    sky = toy_sky(200, signal_to_noise=2.0)
    with caplog.at_level(logging.WARNING, logger="scattervae"):
        model = train(sky.spectra, recipe.model_copy(update={"objective": "printed"}))
    assert model.provenance["training"]["active_latents"] == 0
    (warning,) = [record.message for record in caplog.records]
    assert "posterior collapse: 0 of 3 latents" in warning
    assert "3.7 times" in warning
    assert "\n" not in warning


@pytest.mark.parametrize(("active", "warns"), [(0.0, True), (0.4, True), (0.5, False), (1.0, False)])
@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_warning_comes_when_fewer_than_half_the_latents_are_active(name, active, warns):
    n_latent = RECIPES[name].network.n_latent
    n_active = int(active * n_latent)
    warning = collapse_warning(n_active, RECIPES[name], 110)
    assert (warning is not None) == warns
    if warning is not None:
        assert f"{n_active} of {n_latent}" in warning
        assert ("18.3 times" in warning) == (name == "paper2023")


def test_a_saved_run_leaves_the_model_and_nothing_else(tmp_path):
    records: list[EpochRecord] = []
    model = train(SKY.spectra, QUICK, out=RunFolder(tmp_path / "deep" / "model"), progress=records.append)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["model"]
    assert (
        bits(read_checkpoint(tmp_path / "deep" / "model")) == bits(model) == bits(train(SKY.spectra, QUICK))
    )
    assert tuple(records) == model.records


@pytest.mark.usefixtures("saves_every_epoch")
def test_a_stopped_run_goes_on_to_the_same_model(tmp_path):
    path = tmp_path / "model"
    start_and_stop(RunFolder(path))
    assert [p.name for p in tmp_path.iterdir()] == ["model.partial"]
    assert len((tmp_path / "model.partial" / "training.jsonl").read_text().splitlines()) == 2
    records: list[EpochRecord] = []
    model = train(SKY.spectra, QUICK, out=RunFolder(path, resume=True), progress=records.append)
    assert bits(model) == bits(train(SKY.spectra, QUICK)) == bits(read_checkpoint(path))
    assert [record.epoch for record in records] == [1, 2, 3]
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_resume_where_nothing_was_begun_begins(tmp_path):
    train(SKY.spectra, QUICK, out=RunFolder(tmp_path / "model", resume=True))
    assert Checkpoint.is_model(tmp_path / "model")


@pytest.mark.usefixtures("saves_every_epoch")
def test_an_unfinished_run_is_not_resumed_on_other_stars_or_settings(tmp_path):
    out = RunFolder(tmp_path / "model", resume=True)
    start_and_stop(out)
    with pytest.raises(CheckpointError, match="other stars"):
        train(toy_sky(200, seed=1).spectra, QUICK, out=out)
    with pytest.raises(CheckpointError, match="another recipe"):
        train(SKY.spectra, toy_recipe(epochs=4), out=out)
    assert bits(train(SKY.spectra, QUICK, out=out)) == bits(train(SKY.spectra, QUICK))


@pytest.mark.usefixtures("saves_every_epoch")
def test_an_unfinished_run_is_not_touched_unless_it_is_said(tmp_path):
    path = tmp_path / "model"
    start_and_stop(RunFolder(path))
    before = {p.name: p.read_bytes() for p in (tmp_path / "model.partial").iterdir()}
    with pytest.raises(
        CheckpointError, match=r"model\.partial: an unfinished run; --resume .* --overwrite"
    ) as caught:
        train(SKY.spectra, QUICK, out=RunFolder(path))
    assert "\n" not in str(caught.value)
    assert {p.name: p.read_bytes() for p in (tmp_path / "model.partial").iterdir()} == before
    records: list[EpochRecord] = []
    other = toy_recipe(epochs=2)
    train(SKY.spectra, other, out=RunFolder(path, overwrite=True), progress=records.append)
    assert read_checkpoint(path).recipe == other


def test_a_model_is_not_touched_unless_it_is_said(tmp_path):
    path = tmp_path / "model"
    train(SKY.spectra, QUICK, out=RunFolder(path))
    for resume in (False, True):
        with pytest.raises(CheckpointError, match="exists; give another --out, or --overwrite") as caught:
            train(SKY.spectra, QUICK, out=RunFolder(path, resume=resume))
        assert "\n" not in str(caught.value)
    start_and_stop(RunFolder(path, overwrite=True))
    assert read_checkpoint(path).recipe == QUICK  # the old model stays until the new one is whole
    other = toy_recipe(epochs=2)
    train(SKY.spectra, other, out=RunFolder(path, overwrite=True))
    assert read_checkpoint(path).recipe == other


@pytest.mark.parametrize("is_file", [False, True])
def test_overwrite_replaces_a_model_and_nothing_else(tmp_path, is_file):
    path = tmp_path / "thesis"
    if is_file:
        path.write_text("years of work")
    else:
        path.mkdir()
        (path / "thesis.tex").write_text("years of work")
    with pytest.raises(CheckpointError, match="is no model") as caught:
        train(SKY.spectra, QUICK, out=RunFolder(path, overwrite=True))
    assert "\n" not in str(caught.value)
    assert (path if is_file else path / "thesis.tex").read_text() == "years of work"
    assert not (tmp_path / "thesis.partial").exists()


def test_a_run_without_stars_leaves_no_folder(tmp_path):
    none = SKY.spectra.with_flags(np.full(200, Flag.BAD_ERRORS, dtype=np.uint16))
    fold = folds(SKY.spectra.source_id)
    for spectra in (none, SKY.spectra.take(fold.test)):
        with pytest.raises(TrainingError, match=f"none of {len(spectra)} stars") as caught:
            train(spectra, QUICK, out=RunFolder(tmp_path / "model"))
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_the_unfinished_folder_stands_beside_the_model():
    assert RunFolder(Path("a/model")).unfinished == Path("a/model.partial")


def test_what_is_trained_once_is_not_trained_again(tmp_path, monkeypatch):
    first = train_once(SKY.spectra, QUICK, tmp_path / "model")
    assert bits(first) == bits(train(SKY.spectra, QUICK)) == bits(read_checkpoint(tmp_path / "model"))
    monkeypatch.setattr("scattervae.model.run.fit_network", None)
    records: list[EpochRecord] = []
    assert bits(train_once(SKY.spectra, QUICK, tmp_path / "model", progress=records.append)) == bits(first)
    assert records == []


@pytest.mark.parametrize("changed", ["recipe", "stars", "provenance"])
def test_a_model_of_another_recipe_or_of_other_stars_is_replaced(tmp_path, changed):
    path = tmp_path / "model"
    train_once(SKY.spectra, QUICK, path)
    recipe, stars = QUICK, SKY.spectra
    if changed == "recipe":
        recipe = toy_recipe(epochs=2)
    elif changed == "stars":
        stars = SKY.spectra.take(slice(0, 190))
    else:
        (path / "provenance.json").write_text("{}")
        signed_again(path)
    model = train_once(stars, recipe, path)
    assert bits(model) == bits(train(stars, recipe)) == bits(read_checkpoint(path))
    assert model.provenance["data"]["digest"] == data_digest(training_stars(stars, recipe))
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_stars_of_the_test_fold_do_not_make_it_other_stars(tmp_path, monkeypatch):
    first = train_once(SKY.spectra, QUICK, tmp_path / "model")
    monkeypatch.setattr("scattervae.model.run.fit_network", None)
    without = SKY.spectra.take(~folds(SKY.spectra.source_id).test)
    assert bits(train_once(without, QUICK, tmp_path / "model")) == bits(first)


@pytest.mark.usefixtures("saves_every_epoch")
def test_training_once_goes_on_with_an_unfinished_run_of_the_same(tmp_path, caplog):
    out = RunFolder(tmp_path / "model", resume=True)
    start_and_stop(out)
    with caplog.at_level(logging.INFO, logger="scattervae.model.training"):
        model = train_once(SKY.spectra, QUICK, out.model)
    assert "going on after epoch 1" in caplog.text
    assert bits(model) == bits(train(SKY.spectra, QUICK))


@pytest.mark.usefixtures("saves_every_epoch")
@pytest.mark.parametrize("changed", ["recipe", "stars", "state"])
def test_training_once_begins_again_after_an_unfinished_run_of_another(tmp_path, changed):
    out = RunFolder(tmp_path / "model", resume=True)
    start_and_stop(out)
    recipe = toy_recipe(epochs=2) if changed == "recipe" else QUICK
    stars = toy_sky(200, seed=1).spectra if changed == "stars" else SKY.spectra
    if changed == "state":
        (out.unfinished / "state.safetensors").write_bytes(b"half")
    records: list[EpochRecord] = []
    model = train_once(stars, recipe, out.model, progress=records.append)
    assert bits(model) == bits(train(stars, recipe)) == bits(read_checkpoint(out.model))
    assert len(records) == recipe.training.epochs
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_training_once_replaces_nothing_but_models(tmp_path):
    path = tmp_path / "thesis"
    path.mkdir()
    (path / "thesis.tex").write_text("years of work")
    with pytest.raises(CheckpointError, match="is no model") as caught:
        train_once(SKY.spectra, QUICK, path)
    assert "\n" not in str(caught.value)
    assert (path / "thesis.tex").read_text() == "years of work"


STREAM = Machine(memory=0)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return toy_store(tmp_path_factory.mktemp("toy") / "store", SKY.spectra, rows_a_partition=40)


def test_a_store_trains_the_model_of_its_spectra_bit_for_bit(store):
    by_spectra, by_store = train(store.read(), QUICK), train(store, QUICK)
    assert bits(by_store) == bits(by_spectra)
    facts = by_store.provenance
    assert facts["data"] == {**by_spectra.provenance["data"], "digest": store.digest}
    assert facts["training"]["stars"] == "in memory"
    assert facts["training"]["processes"] == 1


def test_a_store_that_memory_does_not_hold_is_streamed(store, tmp_path):
    model = train(store, QUICK, machine=STREAM, out=RunFolder(tmp_path / "model"))
    assert model.provenance["training"]["stars"] == "streamed"
    assert model.provenance["data"] == train(store, QUICK).provenance["data"]
    assert (
        bits(read_checkpoint(tmp_path / "model")) == bits(model) == bits(train(store, QUICK, machine=STREAM))
    )
    assert model.digest != train(store, QUICK).digest  # its batches are others
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.usefixtures("saves_every_epoch")
@pytest.mark.parametrize(("begun", "then"), [(STREAM, Machine()), (Machine(), STREAM)])
def test_an_unfinished_run_goes_on_the_way_it_began(store, tmp_path, begun, then):
    """However much memory there is now; what the store holds is not counted again."""
    out = RunFolder(tmp_path / "model", resume=True)
    with pytest.raises(KeyboardInterrupt):
        train(store, QUICK, out=out, machine=begun, progress=stop)
    read: list[object] = []
    counted = SpectrumStore(store.path)
    counted.read_row_group = lambda row_group: read.append(row_group) or store.read_row_group(row_group)
    model = train(counted, QUICK, out=out, machine=then)
    assert bits(model) == bits(train(store, QUICK, machine=begun))
    if then == STREAM:
        assert len(read) == len(store.row_groups)  # to memory, once


@pytest.mark.usefixtures("saves_every_epoch")
def test_an_unfinished_run_is_not_resumed_on_another_store(store, tmp_path):
    out = RunFolder(tmp_path / "model", resume=True)
    with pytest.raises(KeyboardInterrupt):
        train(store, QUICK, out=out, machine=STREAM, progress=stop)
    other = toy_store(tmp_path / "other", toy_sky(200, seed=1).spectra)
    with pytest.raises(CheckpointError, match="other stars"):
        train(other, QUICK, out=out)
    assert bits(train(store, QUICK, out=out)) == bits(train(store, QUICK, machine=STREAM))


def test_what_is_in_the_way_is_found_before_the_store_is_read(store, tmp_path):
    (tmp_path / "model").mkdir()
    unread = SpectrumStore(store.path)
    unread.read_row_group = None
    with pytest.raises(CheckpointError, match="is no model"):
        train(unread, QUICK, out=RunFolder(tmp_path / "model", overwrite=True))


def test_only_the_first_of_several_processes_writes(store, tmp_path, monkeypatch):
    """Here the second, informed by the first that the folder is ready."""
    world = World(1, 2)
    machine = Machine(world=world)
    for name, value in {
        "total": lambda _self, values: values,
        "shared": lambda _self, module: module,
    }.items():
        monkeypatch.setattr(World, name, value)
    monkeypatch.setattr(World, "from_first", lambda _self, make: make())
    model = train(store, QUICK, out=RunFolder(tmp_path / "model"), machine=machine)
    assert model.provenance == {}
    assert len(model.records) == 3
    assert {path.name for path in (tmp_path / "model.partial").iterdir()} == {"statistics.safetensors"}


def test_the_full_likelihood_of_stars_without_correlations_trains_as_the_diagonal_one():
    full = QUICK.model_copy(update={"likelihood": "full"})
    by_diagonal, by_full = train(SKY.spectra, QUICK), train(SKY.spectra, full)
    for found, wanted in zip(by_full.records, by_diagonal.records, strict=True):
        assert found.negative_elbo == pytest.approx(
            wanted.negative_elbo, rel=1e-3
        )  # float32, in another order


@pytest.mark.parametrize("objective", ["elbo", "printed"])
def test_correlated_degraded_stars_train(objective):
    recipe = toy_best(epochs=4).model_copy(update={"likelihood": "full", "objective": objective})
    errors = 0.01 * SKY.spectra.g_flux
    model = train(correlated(SKY.spectra), recipe, g_flux_error=errors)
    assert model.records[-1].objective < model.records[0].objective
    assert model.provenance["data"]["n_with_g_flux_error"] == model.provenance["data"]["n_trained_on"]
    assert all(torch.isfinite(weights).all() for weights in model.network.parameters())


def test_two_runs_do_not_train_in_one_folder(tmp_path):
    out, met = RunFolder(tmp_path / "m", overwrite=True), []

    def second(record):
        if record.epoch == 1:
            with pytest.raises(BusyError, match="/m: another run is writing to it"):
                train(SKY.spectra, QUICK, out=out)
            met.append(True)

    alone = train(SKY.spectra, QUICK)
    assert train(SKY.spectra, QUICK, out=out, progress=second).digest == alone.digest
    assert met
    assert [file.name for file in tmp_path.iterdir()] == ["m"]


def test_provenance_says_what_the_model_was_made_of():
    spectra = spoiled(SKY.spectra)
    spectra = spectra.with_g_flux(SKY.spectra.g_flux, GFluxSource.COEFFICIENTS)
    inferred = np.where(np.arange(200) % 2, Flag.INFERRED, 0).astype(np.uint16)
    spectra = spectra.with_flags(inferred)
    model = train(spectra, QUICK)
    used = training_stars(spectra, QUICK)
    data = model.provenance["data"]
    assert data == {
        "digest": data_digest(used),
        "n_stars": 200,
        "n_usable": 195,
        "n_trained_on": len(used),
        "n_one_band": 0,
        "n_inferred_coefficients": int((used.flags == Flag.INFERRED).sum()),
        "n_g_flux_from_table": int((used.g_flux_source == GFluxSource.TABLE).sum()),
        "n_g_flux_from_coefficients": int((used.g_flux_source == GFluxSource.COEFFICIENTS).sum()),
        **named_ranges(ranges_of(used, used.basis.n_bp)[None]),
    }
    assert model.source_id.tolist() == sorted(used.source_id)
    assert model.provenance["versions"]["torch"] == torch.__version__
    assert json.loads(json.dumps(model.provenance)) == model.provenance
    assert len(model.provenance["training"]["kl_per_latent"]) == 3


def test_the_number_of_threads_is_in_the_provenance():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        for batch_size, threads in ((64, 1), (512, 2)):
            model = train(SKY.spectra, toy_recipe(epochs=1, batch_size=batch_size))
            assert model.provenance["training"]["threads"] == threads
    finally:
        torch.set_num_threads(before)


def test_divergences_of_latents_are_those_of_the_training_stars():
    """Against the encoder run over the stars by themselves."""
    model = train(SKY.spectra, QUICK)
    posterior = model.encode(training_stars(SKY.spectra, QUICK))
    assert model.provenance["training"]["kl_per_latent"] == pytest.approx(posterior.kl_per_latent(), rel=1e-6)
    assert model.provenance["training"]["active_latents"] == len(posterior.active_latents())


def test_divergences_of_many_stars_are_those_of_some(monkeypatch):
    everyone = train(SKY.spectra, QUICK).provenance["training"]["kl_per_latent"]
    monkeypatch.setattr(run, "_STARS_FOR_DIVERGENCE", 128)  # two batches of three
    some = train(SKY.spectra, QUICK).provenance["training"]["kl_per_latent"]
    assert some != everyone
    assert some == pytest.approx(everyone, rel=0.3, abs=0.05)


def test_the_commit_is_that_of_the_source_where_there_is_one():
    commit = train(SKY.spectra, toy_recipe(epochs=1)).provenance["commit"]
    assert commit is None or (len(commit) == 40 and int(commit, 16) >= 0)


def test_training_on_fewer_stars_than_coefficients_is_warned_of(caplog):
    train(SKY.spectra.take(slice(0, 5)), QUICK)
    assert "to train on, of 11 coefficients each" in caplog.text
    assert few_stars_warning(11, 11) is None
    assert few_stars_warning(2, 110).startswith("2 stars to train on")
