import math

import pytest
import torch

from scattervae.model.layers import residual_layers, with_errors
from scattervae.model.network import NetworkShape, ScatterVAE
from scattervae.seeds import stream

INF = math.inf


def test_a_coefficient_is_seen_shrunk_by_its_error_tamed_and_with_its_log_error():
    x, errors = torch.tensor([[2.0, -100.0]]), torch.tensor([[1.0, 0.0]])
    shrunk, tamed, log_errors = with_errors(x, errors).reshape(3, 2).tolist()
    assert shrunk == pytest.approx([1.0, -100.0])
    assert tamed == pytest.approx([math.asinh(6.0) / 3.0, -math.asinh(300.0) / 3.0])
    assert log_errors == pytest.approx([0.0, math.log(1e-6)])


def test_a_missing_coefficient_is_seen_as_one_of_which_nothing_is_known():
    seen = with_errors(torch.tensor([[0.0, 0.0]]), torch.tensor([[INF, 1e3]])).reshape(3, 2)
    assert seen.isfinite().all()
    assert torch.equal(seen[:, 0], torch.tensor([0.0, 0.0, math.log(1e3)]))
    torch.testing.assert_close(seen[:, 0], seen[:, 1])


def test_residual_blocks_that_add_nothing_leave_a_normalised_linear_layer():
    layers = residual_layers(3, (4, 4), 2)
    for block in list(layers)[1:3]:
        for weights in block.layers[-1].parameters():
            torch.nn.init.zeros_(weights)
    x = torch.randn(5, 3, generator=stream(0, "x"))
    first, norm, last = layers[0], layers[3], layers[4]
    torch.testing.assert_close(layers(x), last(norm(first(x))))


def test_a_residual_network_has_the_weights_that_its_widths_say():
    shape = NetworkShape(
        n_latent=8, hidden=(128,) * 3, layers="residual", encoder_sees="errors", posterior="correlated"
    )
    network = ScatterVAE(110, shape)
    block = 2 * 128 + 2 * (128 * 128 + 128)
    encoder = 331 * 128 + 3 * block + 256 + 129 * (8 + 8 + 28)
    decoder = 9 * 128 + 3 * block + 256 + 129 * 110
    assert sum(p.numel() for p in network.encoder.parameters()) == encoder
    assert sum(p.numel() for p in network.parameters()) == encoder + 2 * decoder


@pytest.mark.parametrize("layers", ["plain", "residual"])
def test_a_network_that_sees_errors_tells_stars_apart_by_them(layers):
    network = ScatterVAE(11, NetworkShape(hidden=(16, 16), layers=layers, encoder_sees="errors"))
    for weights in network.parameters():
        torch.nn.init.normal_(weights, std=0.3, generator=stream(0, "weights"))
    x = torch.randn(4, 11, generator=stream(0, "x"))
    one, other = (network.encode(x, torch.full_like(x, error)).mean for error in (0.1, 1.0))
    assert not torch.allclose(one, other)


def test_a_residual_network_begins_at_the_prior():
    shape = NetworkShape(hidden=(16,), layers="residual", posterior="correlated")
    posterior = ScatterVAE(11, shape).encode(torch.randn(4, 11, generator=stream(0, "x")), torch.ones(4, 11))
    assert posterior.kl().abs().max() == 0.0


def test_residual_widths_are_all_the_same():
    with pytest.raises(ValueError, match="all the same"):
        NetworkShape(hidden=(80, 50), layers="residual")
