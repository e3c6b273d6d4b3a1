import json

import numpy as np
import pytest
import torch

from scattervae.model import provenance
from scattervae.model.preparation import data_digest, training_stars
from scattervae.model.run import train
from scattervae.spectra.spectra import Flag, GFluxSource
from toy import spoiled, toy_recipe, toy_sky

SKY = toy_sky(200)
QUICK = toy_recipe(epochs=3)


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
    }
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
    assert model.provenance["training"]["active_latents"] == posterior.n_active()


def test_divergences_of_many_stars_are_those_of_some(monkeypatch):
    everyone = train(SKY.spectra, QUICK).provenance["training"]["kl_per_latent"]
    monkeypatch.setattr(provenance, "_STARS_FOR_DIVERGENCE", 128)  # two batches of three
    some = train(SKY.spectra, QUICK).provenance["training"]["kl_per_latent"]
    assert some != everyone
    assert some == pytest.approx(everyone, rel=0.3, abs=0.05)


def test_the_commit_is_that_of_the_source_where_there_is_one():
    commit = train(SKY.spectra, toy_recipe(epochs=1)).provenance["commit"]
    assert commit is None or (len(commit) == 40 and int(commit, 16) >= 0)
