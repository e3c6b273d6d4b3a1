import numpy as np
import pytest
import torch

from scattervae.errors import TrainingError
from scattervae.model.batches import StarsInMemory, StarsOnDisk
from scattervae.model.distributed import World
from scattervae.model.preparation import (
    Machine,
    Prepared,
    Survey,
    data_digest,
    prepare_spectra,
    prepare_store,
)
from scattervae.model.recipe import Recipe
from scattervae.seeds import folds
from scattervae.spectra.flags import Flag, GFluxSource
from scattervae.spectra.normalization import NormalizationSettings
from scattervae.spectra.spectra import Spectra
from scattervae.spectra.store import SpectrumStore
from spectra.piece_toys import rows_of, toy_store
from toy import spoiled, toy_recipe, toy_sky

HERE = Machine()
QUICK = toy_recipe(epochs=1)
SKY = toy_sky(200)


def with_training(recipe: Recipe, **settings: object) -> Recipe:
    return recipe.model_copy(update={"training": recipe.training.model_copy(update=settings)})


def mixed_stars() -> Spectra:
    """Some unusable, some inferred, some with a G flux from their coefficients."""
    spectra = spoiled(SKY.spectra).with_g_flux(np.full(200, 3e4), GFluxSource.COEFFICIENTS)
    return spectra.with_flags(np.where(np.arange(200) % 2, Flag.INFERRED, 0).astype(np.uint16))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return toy_store(tmp_path_factory.mktemp("toy") / "store", mixed_stars(), rows_a_partition=40)


def prepared(store: SpectrumStore, recipe: Recipe = QUICK, *, streamed: bool = False) -> Prepared:
    return prepare_store(store, recipe, HERE, survey=Survey.of(store, recipe), streamed=streamed)


def test_the_digest_of_data_sees_every_number():
    stars = SKY.spectra
    digests = {
        data_digest(stars),
        data_digest(stars.take(slice(0, 199))),
        data_digest(stars.take(np.arange(200)[::-1])),
    }
    assert len(digests) == 3
    assert data_digest(stars) == data_digest(toy_sky(200).spectra)


@pytest.mark.parametrize("hold_out", [False, True])
@pytest.mark.parametrize("clip_sigma", [None, 2.0])
def test_a_store_gives_the_numbers_of_its_spectra_bit_for_bit(store, hold_out, clip_sigma):
    recipe = with_training(QUICK, hold_out_validation=hold_out)
    recipe = recipe.model_copy(update={"normalization": NormalizationSettings(clip_sigma=clip_sigma)})
    by_spectra, by_store = prepare_spectra(store.read(), recipe, HERE), prepared(store, recipe)
    assert by_store.stars.identity == by_spectra.stars.identity
    assert torch.equal(by_store.stars.inputs.x, by_spectra.stars.inputs.x)
    assert torch.equal(by_store.stars.inputs.errors, by_spectra.stars.inputs.errors)
    for name in ("mean", "std", "columns"):
        ours, theirs = (getattr(p.normalization, name) for p in (by_store, by_spectra))
        assert ours.tobytes() == theirs.tobytes()
    assert {**by_store.data, "digest": ""} == {**by_spectra.data, "digest": ""}
    assert by_store.data["digest"] == store.digest


def test_streamed_stars_are_those_in_memory(store):
    on_disk, in_memory = prepared(store, streamed=True), prepared(store)
    assert isinstance(on_disk.stars, StarsOnDisk)
    assert isinstance(in_memory.stars, StarsInMemory)
    assert (on_disk.streamed, in_memory.streamed) == (True, False)
    assert on_disk.data == in_memory.data
    x = torch.cat([batch.x for batch in on_disk.stars.batches(QUICK.training, 1)])
    assert sorted(rows_of(x, in_memory.stars.inputs.x)) == list(range(len(in_memory.stars)))


def test_no_star_to_train_on_is_an_error(tmp_path):
    none = SKY.spectra.with_flags(np.full(200, Flag.BAD_ERRORS, dtype=np.uint16))
    test_fold = SKY.spectra.take(folds(SKY.spectra.source_id).test)
    for number, spectra in enumerate((none, test_fold)):
        told = f"none of {len(spectra)} stars can be trained on: {int(spectra.usable.sum())} are usable"
        with pytest.raises(TrainingError, match=told) as caught:
            prepare_spectra(spectra, QUICK, HERE)
        assert "\n" not in str(caught.value)
        with pytest.raises(TrainingError, match=told):
            Survey.of(toy_store(tmp_path / f"{number}", spectra), QUICK)


def test_stars_are_in_memory_where_all_processes_of_the_machine_may_have_them():
    needed = 1000 * 110 * 2 * 4  # coefficients and errors in float32
    assert Machine().holds(10**12, 110)
    assert Machine(memory=needed).holds(1000, 110)
    assert not Machine(memory=needed - 1).holds(1000, 110)
    assert not Machine(memory=0).holds(1, 1)
    two = World(0, 8, 0, 2)
    assert not Machine(memory=2 * needed - 1, world=two).holds(1000, 110)
    assert Machine(memory=2 * needed, world=two).holds(1000, 110)
