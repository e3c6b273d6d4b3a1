"""The flow against densities that are known, and its file."""

import json
import math

import numpy as np
import pytest
import torch
from studies.two_sample import unbiased_energy_test
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from scattervae.errors import CheckpointError, TrainingError
from scattervae.files import read_tensors, write_tensors
from scattervae.model.flow import FLOW, FlowSettings, LatentFlow, fit_flow, fit_to_posteriors
from scattervae.model.network import Posterior
from scattervae.seeds import folds, stream
from toy import spoiled, toy_sky, untrained_model

SKY = toy_sky(300)
QUICK = FlowSettings(transforms=2, hidden=(16, 16), bins=4, epochs=3, batch_size=64)
CENTRES = torch.tensor([[-2.0, 0.5], [2.0, 1.0]])
WITHIN = torch.tensor([[0.5, 0.3], [0.3, 0.4]])
TRUTH = MixtureSameFamily(
    Categorical(torch.tensor([0.3, 0.7])), MultivariateNormal(CENTRES, WITHIN.expand(2, 2, 2))
)


def two_groups(n, seed):
    """Posteriors whose draws come from TRUTH: means scatter by part of WITHIN, the posteriors add the rest."""
    g = torch.Generator().manual_seed(seed)
    group = (torch.rand(n, generator=g) < 0.7).long()
    own = torch.tensor([[0.2, 0.0], [0.1, 0.15]])  # L of the posterior's covariance
    root = torch.linalg.cholesky(WITHIN - own @ own.T)
    mean = CENTRES[group] + torch.randn(n, 2, generator=g) @ root.T
    sd = own.diagonal()
    coupling = torch.tensor([[0.0, 0.0], [0.1 / 0.2, 0.0]]).expand(n, 2, 2)
    return Posterior(mean, (2 * sd.log()).expand(n, 2).clone(), coupling.clone())


@pytest.fixture(scope="module")
def fitted():
    settings = FlowSettings(transforms=2, hidden=(32, 32), epochs=12, batch_size=128)
    return fit_to_posteriors(two_groups(5000, 0), two_groups(1500, 1), settings)


@pytest.fixture(scope="module")
def model():
    return untrained_model(SKY.spectra)


@pytest.fixture(scope="module")
def flow(model):
    return fit_flow(model, SKY.spectra, QUICK)


def test_density_is_close_to_the_truth(fitted):
    z = TRUTH.sample((4000,))
    divergence = (TRUTH.log_prob(z) - fitted.log_density(z)).mean().item()
    assert -0.01 < divergence < 0.06
    normal = MultivariateNormal(torch.zeros(2), torch.eye(2)).log_prob(z)
    gain = (fitted.log_density(z) - normal).mean().item()
    assert fitted.fit.gain == pytest.approx(gain, abs=0.15)


def test_density_integrates_to_one(fitted):
    line = torch.linspace(-7.0, 7.0, 281)
    z = torch.cartesian_prod(line, line)
    total = fitted.log_density(z).double().exp().sum() * (line[1] - line[0]).double() ** 2
    assert total.item() == pytest.approx(1.0, abs=0.01)


def test_samples_are_of_the_density(fitted):
    z = fitted.sample(20_000, stream(0, "test"))
    entropy = -fitted.log_density(z).double().mean().item()
    of_truth = -TRUTH.log_prob(TRUTH.sample((200_000,))).double().mean().item()
    assert entropy == pytest.approx(of_truth, abs=0.1)  # 12 epochs' flow is 0.06 too wide
    torch.testing.assert_close(z.mean(dim=0), TRUTH.mean, rtol=0, atol=0.1)
    torch.testing.assert_close((z[:, 0] > 0).double().mean().item(), 0.7, rtol=0, atol=0.03)
    real = TRUTH.sample((400,))
    assert (
        unbiased_energy_test(real.double().numpy(), z[:400].double().numpy(), n_permutations=99).p_value
        > 0.01
    )
    normal = torch.randn(400, 2, generator=stream(0, "normal"))
    assert (
        unbiased_energy_test(real.double().numpy(), normal.double().numpy(), n_permutations=99).p_value
        == 0.01
    )


def test_prior_is_scored_in_closed_form(fitted):
    """Mean of -ln N(z; 0, 1) over the validation stars' draws, from their posteriors' first two moments."""
    posterior = two_groups(1500, 1)
    squares = (posterior.mean.square() + posterior.variance).sum(dim=1).double().mean().item()
    expected = 0.5 * squares + math.log(2 * math.pi)
    assert fitted.fit.validation_of_prior == pytest.approx(expected, abs=0.02)


def test_samples_come_back_and_follow_the_generator_alone(flow):
    first, again = (flow.sample(50, stream(3, "flow")) for _ in range(2))
    state = torch.random.get_rng_state()
    other = flow.sample(50, stream(4, "flow"))
    assert (torch.random.get_rng_state() == state).all()
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert (first != other).any()


def test_fitting_is_the_same_twice_and_touches_no_global_state(model, flow):
    state = torch.random.get_rng_state()
    again = fit_flow(model, SKY.spectra, QUICK)
    assert (torch.random.get_rng_state() == state).all()
    assert again.fit == flow.fit
    z = torch.randn(10, 3, generator=stream(0, "z"))
    torch.testing.assert_close(again.log_density(z), flow.log_density(z), rtol=0, atol=0)


def test_the_test_fold_and_stars_that_cannot_be_encoded_are_left_out(model, flow):
    fold = folds(SKY.spectra.source_id)
    assert (flow.fit.n_training, flow.fit.n_validation) == (fold.train.sum(), fold.validation.sum())
    assert fit_flow(model, SKY.spectra.take(~fold.test), QUICK).fit == flow.fit
    stars = spoiled(SKY.spectra)
    fit = fit_flow(model, stars, QUICK).fit
    kept = folds(stars.source_id[stars.usable])
    assert (fit.n_training, fit.n_validation) == (kept.train.sum(), kept.validation.sum())


def test_a_star_without_latents_has_no_density(flow):
    z = torch.zeros(3, 3)
    z[1, 2] = math.nan
    density = flow.log_density(z)
    assert density.isnan().tolist() == [False, True, False]
    assert density[0] == density[2]


def test_fitting_stops_where_nothing_is_gained_and_keeps_the_best_epoch():
    """Forty stars are soon learned by heart."""
    epochs = []
    settings = FlowSettings(epochs=200, patience=3, batch_size=8, learning_rate=2e-2)
    flow = fit_to_posteriors(two_groups(40, 0), two_groups(200, 1), settings, progress=epochs.append)
    assert len(epochs) == flow.fit.epochs + 3 < 200
    assert flow.fit.validation == min(epoch.validation for epoch in epochs)
    assert [epoch.epoch for epoch in epochs] == list(range(1, len(epochs) + 1))
    held_out = torch.cat([two_groups(200, 1).sample(stream(9, str(k))) for k in range(20)])
    assert -flow.log_density(held_out).mean().item() == pytest.approx(flow.fit.validation, abs=0.1)


def test_a_single_latent():
    posterior = Posterior(torch.linspace(-1, 1, 100)[:, None], torch.full((100, 1), -2.0))
    flow = fit_to_posteriors(posterior, posterior, QUICK)
    line = torch.linspace(-8, 8, 2001)[:, None]
    assert flow.log_density(line).exp().sum().item() * 0.008 == pytest.approx(1.0, abs=0.01)
    assert flow.sample(5, stream(0, "one")).shape == (5, 1)


def test_no_stars_is_an_error(model):
    fold = folds(SKY.spectra.source_id)
    for rows, name in ((fold.train, "validation"), (fold.validation, "training")):
        with pytest.raises(TrainingError, match=f"no star of the {name} fold"):
            fit_flow(model, SKY.spectra.take(rows), QUICK)


def test_saved_and_loaded_bit_for_bit(tmp_path, model, flow):
    path = flow.save(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [FLOW] == [path.name]
    loaded = LatentFlow.load(tmp_path, model)
    assert (loaded.settings, loaded.fit, loaded.model) == (flow.settings, flow.fit, model.digest)
    z = torch.randn(20, 3, generator=stream(0, "z"))
    torch.testing.assert_close(loaded.log_density(z), flow.log_density(z), rtol=0, atol=0)
    torch.testing.assert_close(
        loaded.sample(20, stream(1, "z")), flow.sample(20, stream(1, "z")), rtol=0, atol=0
    )


def rewritten(path, **notes):
    stored = read_tensors(path)
    write_tensors(path, stored.arrays, stored.notes | notes)


def test_files_that_are_no_flow_of_this_model(tmp_path, model, flow):
    with pytest.raises(CheckpointError, match=r"has no flow\.safetensors; fit a flow"):
        LatentFlow.load(tmp_path, model)
    path = flow.save(tmp_path)
    other = untrained_model(toy_sky(100, seed=1).spectra)
    with pytest.raises(CheckpointError, match="latents of another model"):
        LatentFlow.load(tmp_path, other)
    for notes, message in (
        ({"format": "2"}, "format 2, this version reads 1"),
        ({"settings": json.dumps({"depth": 3})}, "depth"),
        ({"settings": FlowSettings().model_dump_json()}, "another network|size mismatch"),
        ({"fit": "{}"}, "Field required"),
    ):
        flow.save(tmp_path)
        rewritten(path, **notes)
        with pytest.raises(CheckpointError, match=message) as raised:
            LatentFlow.load(tmp_path, model)
        assert "\n" not in str(raised.value)
        assert "fit the flow again" in str(raised.value)
    path.write_bytes(b"not a flow")
    with pytest.raises(CheckpointError, match="not readable"):
        LatentFlow.load(tmp_path, model)


def test_density_does_not_depend_on_other_stars(flow):
    z = torch.randn(30, 3, generator=stream(0, "z"))
    alone = np.array([flow.log_density(z[k : k + 1]).item() for k in range(30)])
    np.testing.assert_allclose(flow.log_density(z), alone, atol=1e-5)
