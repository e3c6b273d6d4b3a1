from dataclasses import fields

import numpy as np
import pytest
import torch

from model.noise_toys import correlated
from scattervae.errors import TrainingError
from scattervae.model.batches import StarsInMemory, StarsOnDisk
from scattervae.model.distributed import World
from scattervae.model.recipe import Recipe, trained_on
from scattervae.model.training_stars import (
    Machine,
    Prepared,
    StoreStatistics,
    data_digest,
    prepare_spectra,
    prepare_store,
    training_stars,
)
from scattervae.seeds import folds
from scattervae.spectra.normalization import NormalizationSettings
from scattervae.spectra.spectra import Flag, GFluxSource, Spectra
from scattervae.spectra.store import SpectrumStore
from spectra.row_group_toys import rows_of, toy_store
from spectra.stores import scattered, write_store
from toy import spoiled, toy_best, toy_recipe, toy_sky, without_bands

HERE = Machine()
QUICK = toy_recipe(epochs=1)
SKY = toy_sky(200)


def with_training(recipe: Recipe, **settings: object) -> Recipe:
    return recipe.model_copy(update={"training": recipe.training.model_copy(update=settings)})


def mixed_stars() -> Spectra:
    """Some unusable, some inferred, some with a G flux from their coefficients."""
    spectra = spoiled(SKY.spectra).with_g_flux(SKY.spectra.g_flux, GFluxSource.COEFFICIENTS)
    return spectra.with_flags(np.where(np.arange(200) % 2, Flag.INFERRED, 0).astype(np.uint16))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return toy_store(tmp_path_factory.mktemp("toy") / "store", mixed_stars(), rows_a_partition=40)


def prepared(store: SpectrumStore, recipe: Recipe = QUICK, *, streamed: bool = False) -> Prepared:
    return prepare_store(store, recipe, HERE, statistics=StoreStatistics.of(store, recipe), streamed=streamed)


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
        found, wanted = (getattr(p.normalization, name) for p in (by_store, by_spectra))
        assert found.tobytes() == wanted.tobytes()
    assert {**by_store.data, "digest": ""} == {**by_spectra.data, "digest": ""}
    assert by_store.data["digest"] == store.digest


@pytest.mark.parametrize("recipe", [QUICK, toy_best(epochs=1)], ids=["coefficients", "errors"])
def test_stars_with_one_band_train_an_encoder_that_sees_what_is_missing(recipe, tmp_path):
    spectra = without_bands(SKY.spectra)
    store = toy_store(tmp_path / "store", spectra, rows_a_partition=40)
    by_spectra, by_store, on_disk = (
        prepare_spectra(store.read(), recipe, HERE),
        prepared(store, recipe),
        prepared(store, recipe, streamed=True),
    )
    trained = ~folds(spectra.source_id).test
    if recipe is QUICK:
        trained &= spectra.usable
    assert {one.data["n_trained_on"] for one in (by_spectra, by_store, on_disk)} == {trained.sum()}
    assert by_spectra.data["n_one_band"] == (trained & ~spectra.usable).sum() == by_store.data["n_one_band"]
    assert by_store.stars.identity == by_spectra.stars.identity
    x, errors = by_spectra.stars.inputs.x, by_spectra.stars.inputs.errors
    missing = torch.from_numpy(np.isnan(store.read().take(~folds(store.read().source_id).test).coeffs))
    if recipe is QUICK:
        missing = missing[~missing.any(dim=1)]
    assert torch.equal(errors.isinf(), missing)
    assert (x[missing] == 0.0).all()
    assert x.isfinite().all()
    streamed = torch.cat([batch.x for batch in on_disk.stars.batches(recipe.training, 1)])
    assert sorted(rows_of(streamed, x)) == list(range(len(x)))


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
        message = f"none of {len(spectra)} stars can be trained on: {int(spectra.usable.sum())} are usable"
        with pytest.raises(TrainingError, match=message) as caught:
            prepare_spectra(spectra, QUICK, HERE)
        assert "\n" not in str(caught.value)
        with pytest.raises(TrainingError, match=message):
            StoreStatistics.of(toy_store(tmp_path / f"{number}", spectra), QUICK)


def test_stars_are_in_memory_where_all_processes_of_the_machine_may_have_them():
    needed = 1000 * 110 * 2 * 4  # coefficients and errors in float32
    assert Machine().holds(10**12, 110)
    assert Machine(memory=needed).holds(1000, 110)
    assert not Machine(memory=needed - 1).holds(1000, 110)
    assert not Machine(memory=0).holds(1, 1)
    two = World(0, 8, 0, 2)
    assert not Machine(memory=2 * needed - 1, world=two).holds(1000, 110)
    assert Machine(memory=2 * needed, world=two).holds(1000, 110)


FULL = QUICK.model_copy(update={"likelihood": "full"})


def test_correlations_are_kept_where_the_likelihood_knows_them():
    stars = correlated(SKY.spectra)
    full, diagonal = prepare_spectra(stars, FULL, HERE), prepare_spectra(stars, QUICK, HERE)
    kept = training_stars(stars, FULL)
    assert torch.equal(full.stars.correlated.bp, torch.from_numpy(kept.correlations.bp))
    assert torch.equal(full.stars.inputs.x, diagonal.stars.inputs.x)
    assert diagonal.stars.correlated is None
    assert diagonal.data == prepare_spectra(SKY.spectra, QUICK, HERE).data
    assert full.data["digest"] != diagonal.data["digest"]
    assert full.stars.identity != diagonal.stars.identity
    assert full.data["n_with_correlations"] == len(kept)
    assert full.data["n_correlations_refused"] == full.data["n_with_g_flux_error"] == 0


def test_errors_of_the_g_flux_follow_their_stars():
    errors = np.where(np.arange(200) % 3, 0.01 * SKY.spectra.g_flux, np.nan)
    prepared = prepare_spectra(SKY.spectra, FULL, HERE, g_flux_error=errors)
    kept = np.isfinite(errors)[np.isin(SKY.spectra.source_id, training_stars(SKY.spectra, FULL).source_id)]
    np.testing.assert_allclose(prepared.stars.correlated.g_error, np.where(kept, 0.01, 0.0), rtol=1e-6)
    assert prepared.data["n_with_g_flux_error"] == kept.sum()


def test_nothing_for_the_full_likelihood_to_know_is_reported(caplog):
    prepare_spectra(SKY.spectra, FULL, HERE)
    assert "no star has correlations or an error of its G flux" in caplog.text


def test_a_store_gives_the_noise_of_its_stars(tmp_path):
    stars = correlated(SKY.spectra)
    sources = scattered(stars.source_id, phot_g_mean_flux_error=np.float32(0.02) * stars.g_flux)
    write_store(tmp_path / "store", stars, rows_a_partition=40, sources=sources, correlations=True)
    store = SpectrumStore(tmp_path / "store")
    by_store = prepared(store, FULL)
    by_spectra = prepare_spectra(store.read(), FULL, HERE, g_flux_error=store.g_flux_error())
    for found, wanted in zip(by_store.stars.correlated, by_spectra.stars.correlated, strict=True):
        assert torch.equal(found, wanted)
    np.testing.assert_allclose(by_store.stars.correlated.g_error, 0.02, rtol=1e-6)
    assert by_store.data == by_spectra.data | {"digest": store.digest}
    assert torch.equal(by_store.stars.inputs.x, prepared(store).stars.inputs.x)


def test_a_store_without_errors_of_the_g_flux_has_none(store):
    assert store.g_flux_error() is None


def test_correlations_that_do_not_fit_into_memory_are_an_error(store):
    needed = r"\d+ stars with correlations need 0.0 GB .* more than memory may hold, and are not streamed; give more"
    with pytest.raises(TrainingError, match=needed) as caught:
        prepared(store, FULL, streamed=True)
    assert "\n" not in str(caught.value)
    few = Machine(memory=150 * (2 * 11 + 20) * 4)  # coefficients and errors alone would fit
    with pytest.raises(TrainingError, match=needed):
        prepare_store(store, FULL, few, statistics=StoreStatistics.of(store, FULL), streamed=False)


@pytest.mark.parametrize("hold_out", [False, True])
def test_the_test_fold_never_trains_and_validation_only_when_nothing_is_chosen_by_it(hold_out):
    spectra = spoiled(SKY.spectra)
    recipe = with_training(QUICK, hold_out_validation=hold_out)
    stars = training_stars(spectra, recipe)
    fold = folds(spectra.source_id)
    chosen = fold.train if hold_out else fold.train | fold.validation
    assert stars.source_id.tolist() == spectra.source_id[chosen & (spectra.flags == 0)].tolist()
    assert trained_on(spectra, recipe).sum() == len(stars)
    assert fold.validation.any()
    assert fold.test.any()


def test_statistics_count_what_is_there(store):
    statistics = StoreStatistics.of(store, QUICK)
    spectra = store.read()
    trained = training_stars(spectra, QUICK)
    g_mag = -2.5 * np.log10(trained.g_flux) + 25.6873668671
    with np.errstate(invalid="ignore"):
        colour = -2.5 * np.log10(trained.coeffs[:, 0] / trained.coeffs[:, trained.basis.n_bp])
    assert statistics.totals(len(store)) == {
        "n_stars": len(spectra),
        "n_usable": int(spectra.usable.sum()),
        "n_trained_on": len(trained),
        "n_one_band": 0,
        "n_inferred_coefficients": int(((trained.flags & np.uint16(Flag.INFERRED)) > 0).sum()),
        "g_mag_range": [g_mag.min(), g_mag.max()],
        "colour_range": [np.nanmin(colour), np.nanmax(colour)],
    }
    assert statistics.source_id.tolist() == sorted(trained.source_id)
    assert len(statistics.n_trained_on) == len(store.row_groups) > 4
    assert statistics.normalization.n_g_flux_from_table == (trained.g_flux_source == GFluxSource.TABLE).sum()


def test_statistics_are_kept_for_its_store_and_settings_alone(store, tmp_path):
    path = tmp_path / "statistics"
    recipe = QUICK.model_copy(update={"normalization": NormalizationSettings(n_bp=4)})
    statistics = StoreStatistics.of(store, recipe)
    assert StoreStatistics.saved(path, store, recipe) is None
    statistics.save(path, store, recipe)
    again = StoreStatistics.saved(path, store, recipe)
    assert again.totals(len(store)) == statistics.totals(len(store))
    assert again.n_trained_on.tolist() == statistics.n_trained_on.tolist()
    for field in fields(statistics.normalization):
        found, wanted = (getattr(s.normalization, field.name) for s in (again, statistics))
        assert np.array_equal(found, wanted)
    other = toy_store(tmp_path / "other", SKY.spectra)
    assert StoreStatistics.saved(path, other, recipe) is None
    assert StoreStatistics.saved(path, store, QUICK) is None
    assert StoreStatistics.saved(path, store, with_training(recipe, hold_out_validation=True)) is None
    assert StoreStatistics.saved(path, store, with_training(recipe, epochs=7)) is not None
    path.write_bytes(path.read_bytes()[:-9])
    assert StoreStatistics.saved(path, store, recipe) is None
