import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from scattervae.errors import CheckpointError, TrainingError
from scattervae.model.batches import StarsInMemory, StarsOnDisk
from scattervae.model.checkpoint import EpochRecord
from scattervae.model.distributed import ALONE
from scattervae.model.loss import loss_terms, objective
from scattervae.model.network import ScatterVAE
from scattervae.model.recipe import RECIPES, Recipe
from scattervae.model.training import (
    TrainingState,
    fit_network,
    initial_network,
    read_state,
    training_threads,
    was_streamed,
)
from scattervae.seeds import stream
from scattervae.spectra.columns import StoredSpectra
from scattervae.spectra.normalization import Inputs, Normalization
from scattervae.spectra.spectra import Spectra
from scattervae.spectra.windows import ChosenStars
from spectra.row_group_toys import ToyRowGroups, toy_store
from toy import toy_best, toy_recipe, toy_sky

SKY = toy_sky(150)
INPUTS = Normalization.fit(lambda: [SKY.spectra]).apply(SKY.spectra)
N_BP = SKY.spectra.basis.n_bp
STARS = StarsInMemory(INPUTS, n_bp=N_BP)
ADAMW = toy_recipe(epochs=5, batch_size=40)  # the last batch of an epoch holds 30 stars
MUON = toy_best(epochs=5, batch_size=40)
SGD = toy_recipe(epochs=5, batch_size=40, optimizer="sgd", schedule="cosine", learning_rate=0.05)


TRIED = {"adamw": ADAMW, "sgd": SGD, "muon": MUON}


def slow(*values: int) -> list[object]:
    """Cases beyond the one or two of a plain run."""
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


@cache
def whole_run(stars: str, recipe: str) -> TrainingState:
    """A run that nobody stops; once for all cases that are held against it."""
    return fit_network(SOURCES[stars], TRIED[recipe])


def stop_after(epoch: int) -> Callable[[EpochRecord], None]:
    def progress(record: EpochRecord) -> None:
        if record.epoch == epoch:
            raise KeyboardInterrupt

    return progress


@pytest.fixture
def saves_every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scattervae.model.training._SECONDS_BETWEEN_SAVES", 0.0)


def all_numbers(state: TrainingState) -> dict[str, object]:
    """Everything a run is made of, down to the bits."""
    return {
        "weights": {name: w.numpy().tobytes() for name, w in state.network.state_dict().items()},
        "steps": {name: value.numpy().tobytes() for name, value in state.optimizers.tensors().items()},
        "rates": state.optimizers.notes(),
        "records": state.records,
    }


@pytest.mark.parametrize("recipe", [ADAMW, SGD, MUON], ids=["adamw", "sgd", "muon"])
def test_the_same_seed_gives_the_same_bits(recipe):
    torch.manual_seed(1)
    first = all_numbers(fit_network(STARS, recipe))
    torch.manual_seed(2)
    assert all_numbers(fit_network(STARS, recipe)) == first


def test_another_seed_gives_other_weights():
    other = ADAMW.model_copy(update={"training": ADAMW.training.model_copy(update={"seed": 1})})
    one, two = (all_numbers(fit_network(STARS, recipe))["weights"] for recipe in (ADAMW, other))
    assert one != two


def test_each_epoch_draws_from_streams_of_its_own(monkeypatch):
    asked: list[tuple[object, ...]] = []

    def noting(*names: int | str) -> torch.Generator:
        asked.append(names)
        return stream(*names)

    for module in ("training", "batches"):
        monkeypatch.setattr(f"scattervae.model.{module}.stream", noting)
    fit_network(STARS, ADAMW)
    assert (
        len(asked) == len(set(asked)) == 1 + 3 * 5
    )  # the weights; order, latents and degradation of each epoch


def test_the_initial_network_leaves_global_chance_alone():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, second = initial_network(11, ADAMW), initial_network(11, ADAMW)
    assert torch.equal(torch.random.get_rng_state(), before)
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.usefixtures("saves_every_epoch")
@pytest.mark.parametrize("stopped_after", [2, *slow(1, 3, 4, 5)])
@pytest.mark.parametrize("name", TRIED)
def test_a_run_stopped_at_any_epoch_goes_on_to_the_same_bits(tmp_path, name, stopped_after):
    whole, recipe = whole_run("memory", name), TRIED[name]
    file = tmp_path / "state.safetensors"
    with pytest.raises(KeyboardInterrupt):
        fit_network(STARS, recipe, state_file=file, progress=stop_after(stopped_after))
    records: list[EpochRecord] = []
    resumed = fit_network(STARS, recipe, state_file=file, progress=records.append)
    assert all_numbers(resumed) == all_numbers(whole)
    assert records == whole.records
    assert resumed.n_epochs_resumed == stopped_after - 1  # progress is reported before the state is saved


@pytest.mark.usefixtures("saves_every_epoch")
def test_a_run_may_be_stopped_twice_and_a_finished_one_is_only_read(tmp_path):
    file = tmp_path / "state.safetensors"
    for epoch in (2, 4):
        with pytest.raises(KeyboardInterrupt):
            fit_network(STARS, ADAMW, state_file=file, progress=stop_after(epoch))
    finished = fit_network(STARS, ADAMW, state_file=file)
    again = fit_network(STARS, ADAMW, state_file=file)
    assert again.n_epochs_resumed == 5
    assert all_numbers(again) == all_numbers(finished) == all_numbers(fit_network(STARS, ADAMW))


def test_the_state_on_disk_is_the_state(tmp_path):
    state = fit_network(STARS, ADAMW)
    state.save(tmp_path / "state.safetensors")
    other = TrainingState(STARS, ADAMW)
    assert all_numbers(other) != all_numbers(state)
    other.restore(read_state(tmp_path / "state.safetensors"))
    assert all_numbers(other) == all_numbers(state)
    assert [path.name for path in tmp_path.iterdir()] == ["state.safetensors"]


def check_refused(file: Path, stars: StarsInMemory, recipe: Recipe, match: str) -> None:
    before = file.read_bytes()
    with pytest.raises(CheckpointError, match=match) as caught:
        fit_network(stars, recipe, state_file=file)
    assert "\n" not in str(caught.value)
    assert str(file) in str(caught.value)
    assert file.read_bytes() == before


def test_the_state_of_another_run_is_refused(tmp_path):
    file = tmp_path / "state.safetensors"
    fit_network(STARS, ADAMW, state_file=file)
    longer = toy_recipe(epochs=6, batch_size=40)
    fewer = StarsInMemory(Inputs(INPUTS.x[:-1], INPUTS.errors[:-1]), n_bp=N_BP)
    others = StarsInMemory(Inputs(INPUTS.x.flip(0), INPUTS.errors.flip(0)), n_bp=N_BP)
    check_refused(file, STARS, longer, "another recipe")
    check_refused(file, fewer, ADAMW, "other stars.*150.*149")
    check_refused(file, others, ADAMW, "other stars.*150.*150")


def test_what_is_no_state_is_refused(tmp_path):
    file = tmp_path / "state.safetensors"
    file.write_bytes(b"torn")
    check_refused(file, STARS, ADAMW, "not a training state")
    save_file({"network/a": torch.zeros(1)}, file)
    check_refused(file, STARS, ADAMW, "another recipe")
    fit_network(STARS, ADAMW, state_file=tmp_path / "good")
    file.write_bytes((tmp_path / "good").read_bytes()[:-50])
    check_refused(file, STARS, ADAMW, "not a training state")


@pytest.mark.usefixtures("saves_every_epoch")
def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_state(tmp_path, monkeypatch):
    file = tmp_path / "state.safetensors"
    with pytest.raises(KeyboardInterrupt):
        fit_network(STARS, ADAMW, state_file=file, progress=stop_after(4))

    def broken(terms, *args, **kwargs):
        return objective(terms, *args, **kwargs) * torch.nan

    with monkeypatch.context() as patch:
        patch.setattr("scattervae.model.training.objective", broken)
        with pytest.raises(TrainingError, match="epoch 5: the loss is nan") as caught:
            fit_network(STARS, ADAMW, state_file=file)
    assert "\n" not in str(caught.value)
    assert "learning_rate" in str(caught.value)
    assert [record["epoch"] for record in json.loads(read_state(file).notes["records"])] == [1, 2, 3, 4]
    assert all_numbers(fit_network(STARS, ADAMW, state_file=file)) == all_numbers(fit_network(STARS, ADAMW))


def test_a_star_that_cannot_be_encoded_stops_the_run():
    x = INPUTS.x.clone()
    x[3] = torch.nan
    with pytest.raises(TrainingError, match="epoch 1: the loss is nan"):
        fit_network(StarsInMemory(Inputs(x, INPUTS.errors), n_bp=N_BP), ADAMW)


@pytest.mark.usefixtures("saves_every_epoch")
def test_weights_that_are_no_numbers_are_never_saved(tmp_path, monkeypatch):
    """A gradient can be no number where the loss is one: that of the root at 0, say."""

    def broken(terms, *args, **kwargs):
        return objective(terms, *args, **kwargs) + (0.0 * terms.kl).sqrt()

    monkeypatch.setattr("scattervae.model.training.objective", broken)
    one_step = toy_recipe(epochs=1, batch_size=150)
    with pytest.raises(TrainingError, match="epoch 1: a weight is not a number") as caught:
        fit_network(STARS, one_step, state_file=tmp_path / "state.safetensors")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_no_stars_are_an_error():
    with pytest.raises(TrainingError, match="no star"):
        fit_network(StarsInMemory(Inputs(INPUTS.x[:0], INPUTS.errors[:0]), n_bp=N_BP), ADAMW)


@pytest.mark.parametrize("recipe", [ADAMW, SGD, MUON], ids=["adamw", "sgd", "muon"])
def test_training_lowers_the_loss(recipe):
    settings = recipe.training.model_copy(update={"epochs": 20})
    records = fit_network(STARS, recipe.model_copy(update={"training": settings})).records
    assert records[-1].objective < records[0].objective - 1.0


def test_a_record_holds_means_over_the_stars_of_one_epoch():
    """With steps too small to move a weight, it is the mean of the loss terms at the initial weights."""
    still = toy_recipe(epochs=1, batch_size=40, optimizer="sgd", schedule="cosine", learning_rate=1e-30)
    (record,) = fit_network(STARS, still).records
    network = initial_network(11, still)
    with torch.no_grad():
        posterior = network.encode(INPUTS.x, INPUTS.errors)
        many = [
            loss_terms(INPUTS.x, INPUTS.errors, posterior, network.decode(posterior.sample(generator)))
            for generator in map(torch.Generator().manual_seed, range(20))
        ]
    assert record.kl == pytest.approx(posterior.kl().sum(dim=-1).mean().item(), rel=1e-5)
    chi2 = [terms.chi2.mean().item() for terms in many]  # depends on the draws: within their spread
    assert min(chi2) * 0.98 < record.chi2 < max(chi2) * 1.02
    assert record.negative_elbo == pytest.approx(record.chi2 + record.penalty + record.kl)
    assert record.objective == pytest.approx(record.negative_elbo, rel=1e-6)
    assert record.epoch == 1


def test_printed_records_hold_the_same_terms_under_another_weight():
    printed = ADAMW.model_copy(update={"objective": "printed"})
    for record in fit_network(STARS, printed).records:
        expected = (record.chi2 + record.penalty) / 11 + record.kl / 3
        assert record.objective == pytest.approx(expected, rel=1e-5)  # batches of float32 are summed


@pytest.mark.parametrize(("recipe", "last"), [(ADAMW, 5e-3 / 25 / 1e4), (SGD, 0.0)], ids=["adamw", "sgd"])
def test_the_learning_rate_falls_to_nothing_over_the_run(recipe, last):
    """One cycle ends at peak / 25 / 1e4 (PyTorch's defaults), the cosine at 0."""
    rates = [record.learning_rate for record in fit_network(STARS, recipe).records]
    assert rates[-1] == pytest.approx(last, abs=1e-12)
    assert max(rates) <= recipe.training.learning_rate
    assert rates[-1] < rates[-2] < rates[-3]


def test_a_batch_may_be_larger_than_the_set():
    state = fit_network(STARS, toy_recipe(epochs=2, batch_size=10_000))
    assert len(state.records) == 2


@dataclass(frozen=True)
class Stopped:
    """Stars whose batches end after so many with what a signal or a full disk would do."""

    stars: StarsInMemory | StarsOnDisk
    n_batches: int

    def __getattr__(self, name: str) -> object:
        return getattr(self.stars, name)

    def __len__(self) -> int:
        return len(self.stars)

    def batches(self, settings, epoch, *, first=0, world=ALONE):
        batches = self.stars.batches(settings, epoch, first=first, world=world)
        steps_before = (epoch - 1) * -(-len(self.stars) // settings.batch_size)
        for number, batch in enumerate(batches, start=first):
            if steps_before + number == self.n_batches:
                raise KeyboardInterrupt
            yield batch


def on_disk(window: int = 60) -> StarsOnDisk:
    sizes = [30, 50, 10, 60]
    normalization = Normalization.fit(lambda: [SKY.spectra])
    chosen = ChosenStars(
        ToyRowGroups(SKY.spectra, sizes), everything, np.array(sizes), normalization, window=window
    )
    return StarsOnDisk(chosen, "digest", torch.device("cpu"))


def everything(block: StoredSpectra) -> np.ndarray:
    return np.ones(len(block), dtype=bool)


SOURCES = {"memory": STARS, "disk": on_disk()}


@pytest.mark.usefixtures("saves_every_epoch")
@pytest.mark.parametrize("n_batches", [6, *slow(1, 3, 4, 19)])
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("name", TRIED)
def test_a_run_stopped_within_an_epoch_goes_on_to_the_same_bits(tmp_path, name, source, n_batches):
    whole, recipe, stars = whole_run(source, name), TRIED[name], SOURCES[source]
    file = tmp_path / "state.safetensors"
    with pytest.raises(KeyboardInterrupt):
        fit_network(Stopped(stars, n_batches), recipe, state_file=file)
    assert int(read_state(file).notes["n_batches_done"]) == n_batches % 4
    with pytest.raises(KeyboardInterrupt):  # and once more, two batches on, where so many are left
        fit_network(Stopped(stars, min(n_batches + 2, 19)), recipe, state_file=file)
    records: list[EpochRecord] = []
    resumed = fit_network(stars, recipe, state_file=file, progress=records.append)
    assert all_numbers(resumed) == all_numbers(whole)
    assert records == whole.records
    assert (
        resumed.n_stars_seen == 5 * 150 - min(n_batches + 2, 19) // 4 * 150 - min(n_batches + 2, 19) % 4 * 40
    )


def test_a_streamed_run_is_not_gone_on_with_in_memory_nor_the_other_way_round(tmp_path):
    for first, then in ((STARS, on_disk()), (on_disk(), STARS)):
        file = tmp_path / first.identity
        fit_network(first, ADAMW, state_file=file)
        assert was_streamed(read_state(file)) == isinstance(first, StarsOnDisk)
        check_refused(file, then, ADAMW, "other stars.*150.*150")


@pytest.mark.slow
def test_streaming_trains_as_well_as_memory_on_a_store_sorted_by_where_stars_are(tmp_path):
    """Spectra depend on the place in the sky, so that too little mixing would hurt, as with one row group at a time."""
    stars, held_out = sky_with_a_gradient(8000, signal_to_noise=8.0, scatter=0.05)
    store = toy_store(tmp_path / "store", stars, rows_a_partition=200)
    normalization = Normalization.fit(lambda: [stars])
    sizes = np.array([row_group.n_rows for row_group in store.row_groups])
    assert len(sizes) > 40
    inputs = normalization.apply(held_out)

    def scores(window: int | None, n_seeds: int) -> np.ndarray:
        chosen = ChosenStars(store, everything, sizes, normalization, window=window or 1)
        source = StarsOnDisk(chosen, store.digest, torch.device("cpu"))
        source = StarsInMemory(chosen.read(), n_bp=N_BP) if window is None else source
        recipes = [toy_recipe(epochs=4, learning_rate=1e-2, seed=seed) for seed in range(n_seeds)]
        return np.array([negative_elbo(fit_network(source, recipe).network, inputs) for recipe in recipes])

    memory, streamed, unmixed = scores(None, 3), scores(2200, 3), scores(1, 1)
    scatter = np.sqrt((memory.var(ddof=1) + streamed.var(ddof=1)) / 2)
    assert abs(streamed.mean() - memory.mean()) < 2 * scatter
    assert unmixed.mean() > memory.mean() + 2 * scatter


def sky_with_a_gradient(n_stars: int, **settings: float) -> tuple[Spectra, Spectra]:
    """Stars whose first latent rises with the number of their pixel; every fifth is held out."""
    sky = toy_sky(n_stars, **settings)
    stars = sky.spectra.take(np.argsort(sky.latents[:, 0]))
    pixels = np.sort(np.random.default_rng(0).integers(12 * 4**12, size=n_stars))
    stars = replace(stars, source_id=pixels * 2**35 + np.arange(n_stars))
    held_out = np.arange(n_stars) % 5 == 0
    return stars.take(~held_out), stars.take(held_out)


@torch.no_grad()
def negative_elbo(network: ScatterVAE, inputs: Inputs) -> float:
    posterior, draws = network.encode(inputs.x, inputs.errors), torch.Generator().manual_seed(0)
    drawn = [network.decode(posterior.sample(draws)) for _ in range(4)]
    terms = [loss_terms(inputs.x, inputs.errors, posterior, one) for one in drawn]
    return float(np.mean([term.negative_elbo.mean().item() for term in terms]))


@pytest.mark.parametrize(("batch_size", "expected"), [(64, 1), (512, 2), (4096, 4)])
def test_small_batches_are_shared_out_to_few_threads(batch_size, expected):
    recipe = RECIPES["elbo"]
    recipe = recipe.model_copy(
        update={"training": recipe.training.model_copy(update={"batch_size": batch_size})}
    )
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        assert training_threads(recipe) == expected
    finally:
        torch.set_num_threads(before)


def test_training_leaves_the_number_of_threads_as_it_was():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    seen = []
    try:
        fit_network(STARS, toy_recipe(epochs=1), progress=lambda _: seen.append(torch.get_num_threads()))
        assert (seen, torch.get_num_threads()) == ([1], 3)
    finally:
        torch.set_num_threads(before)
