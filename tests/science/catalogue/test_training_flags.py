"""Whether a star trained, and in what it is unlike the stars that did."""

from dataclasses import replace
from fnmatch import fnmatch

import numpy as np
import pytest

from scattervae.model.checkpoint import STARS, read_checkpoint
from scattervae.model.run import train
from scattervae.model.training_stars import Machine
from scattervae.science.catalogue.encoding import catalogue, chunks_of
from scattervae.science.catalogue.training_flags import TRAINING_FLAGS, TrainingFlag, file_flags
from scattervae.science.shipped import MODEL_FILES
from scattervae.science.trained import load_model
from scattervae.seeds import fold_fraction
from scattervae.spectra.spectra import Flag, GFluxSource
from scattervae.spectra.star_tables import DataRelease
from scattervae.spectra.store import SpectrumStore
from spectra.stores import write_store
from toy import DR3, signed_again, spoiled, toy_recipe, toy_sky

SKY = toy_sky(300)
OTHERS = toy_sky(100, seed=1).spectra
MODEL = train(spoiled(SKY.spectra), toy_recipe(epochs=1))


def bits(stars, model=MODEL):
    return catalogue(model, stars)[TRAINING_FLAGS].to_numpy()


def having(stars, flag, model=MODEL):
    return (bits(stars, model) & flag) > 0


def test_the_fold_is_that_of_the_hash():
    found = catalogue(MODEL, SKY.spectra)["fold"].to_numpy()
    u = fold_fraction(SKY.spectra.source_id)
    np.testing.assert_array_equal(found, np.select([u < 0.15, u < 0.25], [0, 1], 2))


def test_stars_that_trained_are_known_and_no_others(tmp_path):
    """A star of a training fold that was not among the stars, or could not be used, did not train."""
    trained = having(SKY.spectra, TrainingFlag.TRAINED_ON)
    expected = (fold_fraction(SKY.spectra.source_id) >= 0.15) & spoiled(SKY.spectra).usable
    np.testing.assert_array_equal(trained, expected)
    assert trained.sum() == MODEL.provenance["data"]["n_trained_on"]
    assert not having(OTHERS, TrainingFlag.TRAINED_ON | TrainingFlag.MAY_HAVE_TRAINED).any()
    MODEL.save(tmp_path / "model")
    np.testing.assert_array_equal(bits(SKY.spectra, read_checkpoint(tmp_path / "model")), bits(SKY.spectra))
    for file in (tmp_path / "model").iterdir():  # or a model from the hub would lack what its digests name
        assert any(fnmatch(file.name, pattern) for pattern in MODEL_FILES), file


@pytest.mark.parametrize("streamed", [False, True])
def test_a_store_gives_what_its_stars_give(tmp_path, streamed):
    write_store(tmp_path / "store", SKY.spectra, rows_a_partition=40)
    store = SpectrumStore(tmp_path / "store")
    model = train(store, toy_recipe(epochs=1), machine=Machine(memory=0 if streamed else None))
    whole = train(store.read(), toy_recipe(epochs=1))
    np.testing.assert_array_equal(model.source_id, whole.source_id)
    for name in ("g_mag_range", "colour_range"):
        assert model.provenance["data"][name] == whole.provenance["data"][name]
    assert not having(SKY.spectra, TrainingFlag.OUTSIDE_G | TrainingFlag.OUTSIDE_COLOUR, model)[
        np.isin(SKY.spectra.source_id, model.source_id)
    ].any()


def test_a_model_without_a_list_says_which_stars_may_have_trained(tmp_path):
    MODEL.save(tmp_path / "model")
    (tmp_path / "model" / STARS).unlink()
    signed_again(tmp_path / "model")
    unknown = read_checkpoint(tmp_path / "model")
    assert not having(SKY.spectra, TrainingFlag.TRAINED_ON, unknown).any()
    may = having(SKY.spectra, TrainingFlag.MAY_HAVE_TRAINED, unknown)
    np.testing.assert_array_equal(may, fold_fraction(SKY.spectra.source_id) >= 0.15)


def test_a_model_without_the_record_flags_no_star():
    silent = replace(MODEL, provenance={}, source_id=np.empty(0, dtype=np.int64))
    faint = replace(SKY.spectra, g_flux=SKY.spectra.g_flux / 1e6)
    assert set(bits(faint, silent) | TrainingFlag.MAY_HAVE_TRAINED) == {TrainingFlag.MAY_HAVE_TRAINED}


def test_coefficients_and_g_flux_of_another_kind():
    made = np.full(100, GFluxSource.COEFFICIENTS, dtype=np.uint16)
    stars = replace(OTHERS, g_flux_source=made)
    half = np.arange(100) < 50
    stars = stars.with_flags(np.where(half, Flag.INFERRED, 0).astype(np.uint16))
    np.testing.assert_array_equal(having(stars, TrainingFlag.OTHER_COEFFICIENTS), half)
    assert having(stars, TrainingFlag.OTHER_G_FLUX).all()
    data = MODEL.provenance["data"] | {"n_inferred_coefficients": 100, "n_trained_on": 200}
    mixed = replace(MODEL, provenance={"data": data})
    assert not having(stars, TrainingFlag.OTHER_COEFFICIENTS, mixed).any()


def test_g_and_colour_beyond_every_training_star():
    low, high = MODEL.provenance["data"]["g_mag_range"]
    factors = np.where(np.arange(100) < 50, 1.0, 10 ** (0.4 * (high - low + 1)))
    bright = replace(OTHERS, g_flux=OTHERS.g_flux * factors, coeffs=OTHERS.coeffs * factors[:, None])
    assert having(bright, TrainingFlag.OUTSIDE_G)[50:].all()
    coeffs = np.abs(OTHERS.coeffs)
    coeffs[:50, 0] *= 1e3
    blue = having(replace(OTHERS, coeffs=coeffs), TrainingFlag.OUTSIDE_COLOUR)
    assert blue[:50].all()
    assert not blue[50:].all()


def test_a_basis_without_ids_and_another_release():
    named = toy_sky(300, basis=DR3)
    data = {"data": {"release": "DR3"}}
    model = replace(train(named.spectra, toy_recipe(epochs=1)), provenance=data)
    assert file_flags(model, named.spectra.basis) == 0
    unnamed = replace(named.spectra.basis, bp_id=None, rp_id=None)
    assert having(replace(named.spectra, basis=unnamed), TrainingFlag.UNNAMED_BASIS, model).all()
    newer = DataRelease("DR4", 2017.5, False, None)
    assert file_flags(model, named.spectra.basis, newer) == TrainingFlag.OTHER_RELEASE
    assert file_flags(MODEL, SKY.spectra.basis, newer) == 0  # the model does not say what it is of
    moved = next(chunks_of(model, [named.spectra], known=TrainingFlag.OTHER_RELEASE))
    assert moved.shared == TrainingFlag.OTHER_RELEASE


def test_the_package_s_model_knows_its_stars():
    model = load_model("best", labels=False)
    data = model.provenance["data"]
    assert len(model.source_id) == data["n_trained_on"]
    assert (fold_fraction(model.source_id) >= 0.25).all()  # it holds out the validation fold
    assert data["release"] == "DR3"
