import pytest
import torch

from scattervae.model.network import NetworkShape, ScatterVAE
from scattervae.model.optimizers import Muon, Optimizers, orthogonalized
from scattervae.model.recipe import TrainingSettings

MUON = TrainingSettings(
    optimizer="muon", learning_rate=0.004, matrix_learning_rate=0.01, schedule="trapezoid"
)


def a_network() -> ScatterVAE:
    return ScatterVAE(11, NetworkShape(n_latent=2, hidden=(16, 16), layers="residual"))


def take(steps: Optimizers, network: ScatterVAE) -> None:
    steps.zero_grad()
    for weights in network.parameters():
        weights.grad = torch.ones_like(weights)
    steps.step()


def test_the_trapezoid_rises_stays_and_falls_to_nothing():
    network = a_network()
    steps = Optimizers(network, MUON, n_steps=200)
    rates = []
    for _ in range(200):
        rates.append(steps.learning_rate / 0.004)
        take(steps, network)
    assert rates[0] == pytest.approx(0.1, abs=0.01)  # the first of some ten steps of warming up
    assert rates[15:95] == pytest.approx([1.0] * 80)
    assert rates[150] == pytest.approx(0.5, abs=0.01)
    assert 0.0 < rates[-1] < 0.02
    assert rates[100:] == sorted(rates[100:], reverse=True)


def test_muon_moves_matrices_by_orthogonal_steps_and_leaves_first_layers_and_vectors_to_adamw():
    """Orthogonalised, a gradient of ones is of rank one; AdamW moves each weight alike."""
    network = a_network()
    before = {name: w.detach().clone() for name, w in network.named_parameters()}
    steps = Optimizers(
        network, MUON.model_copy(update={"weight_decay": 0.0, "schedule": "one_cycle"}), n_steps=10
    )
    take(steps, network)
    moved = {name: w.detach() - before[name] for name, w in network.named_parameters()}
    first, inner = moved["encoder.0.weight"], moved["encoder.1.layers.1.weight"]
    assert first.abs().max().item() == pytest.approx(first.abs().min().item(), rel=1e-3)
    norm = torch.linalg.matrix_norm(inner, ord=2) / (0.01 / 25)  # one_cycle starts at a 25th
    assert norm == pytest.approx(1.0, abs=0.35)  # Muon's iteration brings singular values near 1, not to it
    assert {name.split("/")[0] for name in steps.tensors()} == {"0", "1"}


@pytest.mark.parametrize("shape", [(128, 128), (40, 16), (16, 40)])
def test_muons_steps_are_pytorchs_without_the_rounding_to_bfloat16(shape):
    """bfloat16 has 8 bits: PyTorch's step differs by some 1e-2 from that in float64, own by less than 1e-5."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(shape, generator=generator)
    own, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    steps = Muon([own], lr=0.1, weight_decay=0.1), torch.optim.Muon([theirs], lr=0.1, weight_decay=0.1)
    for _ in range(3):
        gradient = torch.randn(shape, generator=generator)
        for weights, step in zip((own, theirs), steps, strict=True):
            weights.grad = gradient.clone()
            step.step()
    moved, reference = own.detach() - start, theirs.detach() - start
    assert (moved - reference).norm() < 0.02 * reference.norm()
    group = steps[0].param_groups[0]
    exact = orthogonalized(gradient.double(), group)
    torch.testing.assert_close(orthogonalized(gradient, group).double(), exact, rtol=0, atol=1e-5)
    singular = torch.linalg.svdvals(exact)
    assert singular.max() < 1.3


def test_a_network_with_no_inner_matrix_still_moves():
    network = ScatterVAE(3, NetworkShape(n_latent=1, hidden=(2,)))
    steps = Optimizers(network, MUON, n_steps=10)
    before = [w.detach().clone() for w in network.parameters()]
    take(steps, network)
    assert all(not torch.equal(w, b) for w, b in zip(network.parameters(), before, strict=True))


def test_steps_go_on_as_they_were_left():
    networks = [a_network(), a_network()]
    networks[1].load_state_dict(networks[0].state_dict())
    one, other = (Optimizers(network, MUON, n_steps=20) for network in networks)
    for _ in range(3):
        take(one, networks[0])
    networks[1].load_state_dict(networks[0].state_dict())
    other.restore({name: value.clone() for name, value in one.tensors().items()}, one.notes())
    for steps, network in zip((one, other), networks, strict=True):
        take(steps, network)
    for a, b in zip(*(network.parameters() for network in networks), strict=True):
        assert torch.equal(a, b)
    assert one.notes() == other.notes()
