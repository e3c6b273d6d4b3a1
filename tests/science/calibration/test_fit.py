"""A calibration finds factors that are known, makes an encoder right about itself, and is kept with its model."""

import copy
import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from scattervae.errors import CheckpointError
from scattervae.files import write_tensors
from scattervae.model.checkpoint import read_checkpoint
from scattervae.science.calibration import fit
from scattervae.science.calibration.calibrated import (
    CALIBRATION,
    is_calibrated,
    save_calibration,
    with_scatter_factor,
)
from scattervae.science.calibration.coverage import DrawnStars, coverage_table
from scattervae.science.calibration.fit import (
    CalibrationSettings,
    calibrate,
    fit_scatter,
    made_from,
    observe,
)
from scattervae.science.calibration.score import ScoreInputs, score_inputs
from scattervae.science.calibration.widths import WidthLaw, encode, latent_coverage
from scattervae.science.catalogue.encoding import catalogue, catalogue_schema
from scattervae.science.exact_posterior import posterior_draws
from scattervae.science.trained import load_model
from scattervae.seeds import folds, stream
from toy import spoiled, toy_best, toy_model, toy_recipe, toy_sky, untrained_model

SKY = toy_sky(1500, scatter=0.05)
QUICK = CalibrationSettings(n_score=12_000)


@pytest.fixture(scope="module")
def trained():
    return toy_model(SKY, toy_best(epochs=25))


@pytest.fixture(scope="module")
def model(trained):
    return calibrate(trained, SKY.spectra, QUICK)


@pytest.fixture(scope="module")
def like(trained):
    return trained.normalization.apply(SKY.spectra)


@pytest.fixture(scope="module")
def folder(trained, model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("calibrated") / "model"
    trained.save(folder)
    save_calibration(model, folder)
    return folder


def test_a_known_factor_of_the_scatter_is_found(trained, like):
    true = torch.linspace(0.5, 1.5, 11)
    maker = with_scatter_factor(trained, true)
    z = encode(trained, like).mean
    stars = made_from(maker, z, like, stream(0, "stars"))
    found = fit_scatter(trained, stars, CalibrationSettings())
    ratio = (maker.reconstruct(z).scatter / stars.errors).median(dim=0).values
    clear = ratio > 2.0
    assert clear.sum() >= 4
    np.testing.assert_allclose(found[clear], true[clear], rtol=0.15)
    assert (found[ratio / true < 0.3] == 1.0).all()


def test_an_encoder_too_sure_of_itself_is_put_right(trained, model, like):
    """What the model states of stars that it makes holds the truth, whatever its encoder said."""
    z = posterior_draws(model, like, encode(model, like), stream(0, "latents")).one(stream(1, "truth"))
    stars = made_from(model, z, like, stream(1, "stars"))
    sure = replace(model, network=copy.deepcopy(model.network))
    n = model.n_latent
    with torch.no_grad():
        sure.network.encoder[-1].bias[n : 2 * n] -= 2 * math.log(2.0)  # half as wide
    before = latent_coverage(encode(replace(sure, refined=None), stars), z)
    after = latent_coverage(encode(sure, stars), z)
    assert before.jointly < 0.4
    assert after.jointly == pytest.approx(0.6827, abs=0.06)
    assert after.per_latent == pytest.approx([0.6827] * n, abs=0.05)


def test_in_no_bin_is_coverage_as_stated_worse_after_calibration(trained, model):
    """Of the pooled coefficients at draws from the posteriors that `encode` states: what a catalogue gives."""
    stars = SKY.spectra.take(~folds(SKY.spectra.source_id).train)
    before, after = (coverage_table(m, DrawnStars.of(m, stars)) for m in (trained, model))
    for old, new in zip(before.rows, after.rows, strict=True):
        if old.stated.n and new.stated.n and (old.n_stars >= 100):
            noise = 2.0 / math.sqrt(new.n_stars)
            assert abs(new.stated.one - 0.6827) < abs(old.stated.one - 0.6827) + noise, new


def test_a_calibration_of_old_answers_with_its_encoder_alone(trained, folder, tmp_path):
    """Stored before posteriors were refined: an encoder and a law of its widths."""
    copied = shutil.copytree(folder, tmp_path / "model")
    n, n_coeffs = trained.n_latent, trained.network.n_coeffs
    law = WidthLaw(torch.full((1, n), 0.3), torch.zeros(1, n))
    old = {f"encoder.{name}": weights for name, weights in trained.network.encoder.state_dict().items()}
    old |= {
        "scatter_factor": torch.full((n_coeffs,), 2.0),
        "width_offset": law.offset,
        "width_slope": law.slope,
    }
    write_tensors(copied / CALIBRATION, old, {"model": trained.digest})
    read = load_model(copied)
    expected = law.apply(trained.encode(SKY.spectra), torch.zeros(len(SKY.spectra), dtype=torch.int64))
    for found, wanted in zip(read.encode(SKY.spectra), expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_decoder_and_normalization_stay_as_they_were(trained, model):
    own, calibrated = trained.network.state_dict(), model.network.state_dict()
    for name, weights in own.items():
        if not name.startswith("encoder."):
            assert torch.equal(calibrated[name], weights), name
    assert model.normalization == trained.normalization
    z = torch.randn(5, 3, generator=stream(0, "z"))
    assert torch.equal(model.reconstruct(z).scatter, trained.reconstruct(z).scatter * model.scatter_factor)


def test_the_score_of_simulated_stars_is_uniform_for_bright_and_for_faint_ones(model, like):
    stars = made_from(model, encode(model, like).sample(stream(5, "z")), like, stream(6, "x"))
    posterior = encode(model, stars)
    inputs = score_inputs(stars, posterior, model.reconstruct(posterior.mean), model.normalization)
    score = model.score(inputs).numpy()
    assert kstest(score, "uniform").statistic < 0.06
    bright = SKY.spectra.g_flux > np.median(SKY.spectra.g_flux)
    for half in (bright, ~bright):
        assert kstest(score[half], "uniform").statistic < 0.09


def test_a_spectrum_that_no_star_has_scores_low(model, like):
    odd = made_from(model, encode(model, like).mean, like, stream(7, "x"))
    odd.x[:, 0] += 30.0 * odd.errors[:, 0].clamp(min=0.1)
    posterior = encode(model, odd)
    inputs = score_inputs(odd, posterior, model.reconstruct(posterior.mean), model.normalization)
    assert model.score(inputs).median() < 0.05


def test_a_misfit_scores_low_however_far_its_latents_lie(model):
    """Where no star was simulated, mean and spread of the statistic must not grow until any misfit is ordinary."""
    score = model.score
    n = 2000
    features = score.centre + 30.0 * score.scale * torch.randn(
        n, len(score.centre), generator=stream(0, "far")
    )
    far = ScoreInputs(torch.full((n,), 10.0 ** (1 / 3)), features)
    assert (score(far) < 0.01).all()
    unlimited = score._replace(limits=torch.full((2,), torch.inf))
    assert (unlimited(far) > 0.1).any(), "the networks alone would call some of these ordinary"


def test_the_catalogue_has_the_score_of_a_calibrated_model_and_no_other(trained, model, like):
    assert "spectrum_score" not in catalogue_schema(trained).names
    table = catalogue(model, SKY.spectra)
    posterior = encode(model, like)
    inputs = score_inputs(like, posterior, model.reconstruct(posterior.mean), model.normalization)
    # the catalogue rounds its inputs to float32, by which a step may be taken that was not
    off = np.abs(table["spectrum_score"].to_numpy() - model.spectrum_score(inputs, SKY.spectra))
    assert np.quantile(off, 0.99) < 2e-3
    assert table.schema.field("spectrum_score").metadata[b"description"]
    bad = catalogue(model, spoiled(SKY.spectra))
    unreadable = np.isnan(bad["latent_1_mean"].to_numpy())
    np.testing.assert_array_equal(np.isnan(bad["spectrum_score"].to_numpy()), unreadable)


def test_scores_of_real_stars_are_uniform_though_their_errors_are_wrong(model):
    """Real errors are too large, by more for bright stars: judged by simulated stars alone, all fit too well."""
    other = toy_sky(3000, scatter=0.05, seed=7).spectra
    bright = other.g_flux > np.median(other.g_flux)
    wrong = replace(other, errors=other.errors * np.where(bright, 3.0, 2.0)[:, None])
    fitted, asked = wrong.take(np.arange(3000) < 1500), wrong.take(np.arange(3000) >= 1500)
    plain, observed = replace(model, observed=None), replace(model, observed=observe(model, fitted))
    bright = asked.g_flux > np.median(asked.g_flux)
    for here in (bright, ~bright):
        before, after = (
            kstest(catalogue(m, asked.take(here))["spectrum_score"].to_numpy(), "uniform").statistic
            for m in (plain, observed)
        )
        assert after < 0.09 < 0.15 < before  # chance, of 750 stars against 750: 1 in 100 above 0.084


def test_what_real_stars_change_is_the_score_alone(model):
    plain = replace(model, observed=None)
    assert model.observed is not None, "the validation fold has stars enough"
    assert model.latent_digest == plain.latent_digest == plain.digest != model.digest
    tables = [catalogue(m, SKY.spectra) for m in (model, plain)]
    changed = {name for name in tables[0].column_names if tables[0][name] != tables[1][name]}
    assert changed == {"spectrum_score"}


def test_a_saved_calibration_gives_the_same_bits(model, folder):
    read = load_model(folder)
    assert is_calibrated(read)
    assert catalogue(read, SKY.spectra) == catalogue(model, SKY.spectra)
    assert read.digest == model.digest != read_checkpoint(folder).digest
    assert read.to(torch.device("cpu")).digest == model.digest


def test_the_models_own_files_stay_and_the_calibration_can_be_left_out(trained, folder):
    plain = load_model(folder, calibrated=False)
    assert not is_calibrated(plain)
    assert plain.digest == trained.digest


def test_a_calibration_of_another_model_is_refused(folder, tmp_path):
    other = tmp_path / "other"
    untrained_model(SKY.spectra, toy_best()).save(other)
    shutil.copy(folder / CALIBRATION, other)
    with pytest.raises(CheckpointError, match="the calibration of another model") as error:
        load_model(other)
    assert "\n" not in str(error.value)


def test_a_broken_calibration_is_an_error_of_one_line(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "model")
    (copy / CALIBRATION).write_bytes(json.dumps({}).encode())
    with pytest.raises(CheckpointError, match="not readable") as error:
        load_model(copy)
    assert "\n" not in str(error.value)


def test_of_many_validation_stars_some_are_drawn(trained, monkeypatch):
    seen = []

    def stop(_, inputs, settings):
        seen.append(len(inputs))
        raise InterruptedError

    monkeypatch.setattr(fit, "MOST_STARS", 110)
    monkeypatch.setattr(fit, "fit_scatter", stop)
    with pytest.raises(InterruptedError):
        calibrate(trained, SKY.spectra)
    assert seen == [110]


def test_the_papers_network_is_calibrated_too():
    """Its encoder sees no errors; the refined posteriors do."""
    plain = untrained_model(SKY.spectra, toy_recipe())
    calibrated = calibrate(plain, SKY.spectra, QUICK.model_copy(update={"n_score": 2000}))
    assert all(
        torch.equal(w, calibrated.network.encoder.state_dict()[n])
        for n, w in plain.network.encoder.state_dict().items()
    )
    assert "latent_2_1_corr" in catalogue(calibrated, SKY.spectra.take(slice(0, 5))).column_names
