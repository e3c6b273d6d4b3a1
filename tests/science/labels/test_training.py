import numpy as np
import pytest
import torch
from torch.distributions import StudentT

from scattervae.model.network import NetworkShape, ScatterVAE
from scattervae.science.labels.targets import ScaledTargets
from scattervae.science.labels.training import (
    LabelledBatches,
    LabelSettings,
    ScaledLabels,
    Schedule,
    predict,
    spread_weights,
    student_t_nll,
    train_network,
)
from scattervae.spectra.normalization import Inputs

SHAPE = NetworkShape(n_latent=3, hidden=(16, 16), layers="residual", encoder_sees="errors")


def stars_of(n: int = 300, *, n_known: int | None = None) -> LabelledBatches:
    """Stars whose two labels follow their first coefficient, the second known for some alone."""
    generator = torch.Generator().manual_seed(1)
    x, errors = torch.randn(n, 11, generator=generator), torch.full((n, 11), 0.05)
    known = torch.ones(n, 2, dtype=torch.bool)
    known[n if n_known is None else n_known :, 1] = False
    values = torch.where(known, torch.stack([x[:, 0], -x[:, 0]], dim=1), 0.0)
    return LabelledBatches(
        Inputs(x, errors), ScaledTargets(values, torch.zeros(n, 2), known), np.ones(n), (6, 5)
    )


def vae() -> ScatterVAE:
    torch.manual_seed(0)
    return ScatterVAE(11, SHAPE)


SCHEDULE = Schedule(networks=1, blocks=1, steps=200, batch=64)


def test_the_first_label_counts_for_more_where_it_is_spread_and_no_gradient_runs_through_that():
    variance = torch.tensor([[1.0, 1.0], [3.0, 9.0], [16.0, 1.0]], requires_grad=True)
    known = torch.tensor([[True, True], [True, True], [False, True]])
    errors = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    predicted = ScaledLabels(torch.zeros(3, 2, requires_grad=True), variance)
    targets = ScaledTargets(torch.ones(3, 2), errors, known)
    weights = spread_weights(predicted, targets, 0.5)
    torch.testing.assert_close(weights[:2, 0], 1.0 + torch.tensor([1.0, 2.0]) / 1.5)
    torch.testing.assert_close(weights[:, 1], torch.ones(3))
    assert not weights.requires_grad
    torch.testing.assert_close(spread_weights(predicted, targets, 0.0), torch.ones(3, 2))


def test_the_loss_is_that_of_a_student_t():
    generator = torch.Generator().manual_seed(0)
    mean, values = torch.randn(2, 50, 3, generator=generator, dtype=torch.float64)
    variance, errors = torch.rand(2, 50, 3, generator=generator, dtype=torch.float64) + 0.1
    predicted, known = ScaledLabels(mean, variance), torch.ones(50, 3, dtype=torch.bool)
    scale = (variance + errors.square()).sqrt()
    expected = -StudentT(torch.tensor(5.0, dtype=torch.float64), mean, scale).log_prob(values)
    nll = student_t_nll(predicted, ScaledTargets(values, errors, known), 5.0)
    torch.testing.assert_close(nll - nll[0, 0], expected - expected[0, 0])
    assert not student_t_nll(predicted, ScaledTargets(values, errors, ~known), 5.0).any()


def test_labels_are_fitted_where_they_are_known_for_some_stars_alone():
    stars = stars_of(n_known=200)
    network = train_network(vae(), stars, LabelSettings(), SCHEDULE, index=0)
    off = predict(network, *vars(stars_of().inputs).values()).mean - stars_of().targets.values
    assert (off.square().mean(dim=0).sqrt() < 0.35).all()


def test_the_value_of_a_missing_label_does_not_matter():
    stars = stars_of(n_known=200)
    spoilt = torch.where(stars.targets.known, stars.targets.values, 99.0)
    other = LabelledBatches(stars.inputs, stars.targets._replace(values=spoilt), stars.g_flux, stars.bands)
    first, second = (
        train_network(vae(), one, LabelSettings(), SCHEDULE._replace(steps=5), index=0).state_dict()
        for one in (stars, other)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_fewer_stars_than_a_batch_holds_are_one_batch():
    network = train_network(vae(), stars_of(20), LabelSettings(), SCHEDULE._replace(steps=4), index=0)
    assert network.last.weight.any()


def test_the_same_seed_gives_the_same_network_and_another_member_another():
    def weights(index: int) -> torch.Tensor:
        schedule = SCHEDULE._replace(steps=3)
        return train_network(vae(), stars_of(), LabelSettings(), schedule, index=index).last.weight

    vae()
    state = torch.get_rng_state()
    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))
    assert torch.equal(torch.get_rng_state(), state)  # nothing is drawn from global state


def test_a_trunk_that_may_not_move_does_not():
    network = train_network(
        vae(), stars_of(), LabelSettings(trunk_rates=(0.0,)), SCHEDULE._replace(steps=5), index=0
    )
    before = vae().encoder[:-1].state_dict()
    assert all(torch.equal(weights, before[name]) for name, weights in network.trunk.state_dict().items())


def test_a_plain_encoder_is_never_given_gaps():
    torch.manual_seed(0)
    plain = ScatterVAE(11, NetworkShape(n_latent=3, hidden=(16, 12)))
    network = train_network(plain, stars_of(), LabelSettings(), SCHEDULE._replace(blocks=0, steps=5), index=0)
    assert all(weights.isfinite().all() for weights in network.parameters())


@pytest.mark.parametrize("n_stars", [40, 100, 1000, 10_000, 30_000])
def test_more_labels_take_longer_and_batches_fit(n_stars):
    schedule = Schedule.of(n_stars, LabelSettings())
    assert schedule.batch <= min(n_stars, 512)
    assert schedule.steps >= Schedule.of(40, LabelSettings()).steps
    assert schedule.steps <= 5000
    assert Schedule.of(n_stars, LabelSettings(networks=99, folds=4)).networks == 4
