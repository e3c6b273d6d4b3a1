import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from scattervae.model.network import NetworkShape, Reconstruction, ScatterVAE, residual_layers, with_errors
from scattervae.seeds import stream


def count(module: torch.nn.Module) -> int:
    return sum(parameters.numel() for parameters in module.parameters())


def dense(*widths: int) -> int:
    """Weights and biases of fully connected layers, counted by hand."""
    return sum((n_in + 1) * n_out for n_in, n_out in pairwise(widths))


def test_the_papers_shape_has_44332_parameters():
    network = ScatterVAE(110)
    assert count(network.encoder) == dense(110, 80, 50, 30, 12) == 14_832
    assert count(network.decoder) == dense(6, 30, 50, 80, 110) == 14_750
    assert count(network.scatter_estimator) == 14_750
    assert count(network) == 14_832 + 2 * 14_750 == 44_332


def test_gelu_stands_between_linear_layers_and_not_after_the_last():
    names = [type(layer).__name__ for layer in ScatterVAE(110).scatter_estimator]
    assert names == ["Linear", "GELU", "Linear", "GELU", "Linear", "GELU", "Linear"]


def test_no_part_shares_a_weight_with_another():
    network = ScatterVAE(110)
    storages = [parameters.data_ptr() for parameters in network.parameters()]
    assert len(set(storages)) == len(storages) == 3 * 8
    z = torch.randn(4, 6, generator=stream(0, "z"))
    before = network.decode(z)
    with torch.no_grad():
        for parameters in network.scatter_estimator.parameters():
            parameters.add_(0.1)
    after = network.decode(z)
    assert torch.equal(before.mean, after.mean)
    assert not torch.equal(before.scatter, after.scatter)


@pytest.mark.parametrize("n_coeffs", [106, 110, 11])
def test_any_number_of_coefficients(n_coeffs):
    """51 + 55 is what Gaia DR4's solution has."""
    network = ScatterVAE(n_coeffs, NetworkShape(n_latent=3, hidden=(8,)))
    x = torch.randn(5, n_coeffs, generator=stream(0, "x"))
    posterior = network.encode(x, torch.ones_like(x))
    reconstruction = network.decode(posterior.mean)
    assert posterior.mean.shape == posterior.log_variance.shape == (5, 3)
    assert reconstruction.mean.shape == reconstruction.scatter.shape == (5, n_coeffs)


@given(st.sampled_from(["softplus", "exp", "sigmoid"]), st.floats(-80.0, 80.0), st.floats(1e-6, 1.0))
def test_scatter_is_positive_and_above_its_floor(link, raw, floor):
    network = ScatterVAE(4, NetworkShape(n_latent=2, hidden=(3,), scatter_link=link, scatter_floor=floor))
    with torch.no_grad():
        for parameters in network.scatter_estimator[-1].parameters():
            parameters.zero_()
        network.scatter_estimator[-1].bias.fill_(raw)
        scatter = network.decode(torch.zeros(1, 2)).scatter
    exact = {
        "softplus": max(raw, 0.0) + math.log1p(math.exp(-abs(raw))),
        "exp": math.exp(raw),
        "sigmoid": 1.0 / (1.0 + math.exp(-raw)),
    }[link]
    assert (scatter > 0).all()
    assert scatter[0].tolist() == pytest.approx(
        [exact + floor] * 4, rel=1e-4
    )  # raw itself is rounded to float32


@given(st.floats(-1e6, 1e6), st.sampled_from([(-12.0, 6.0), (-3.0, -1.0)]))
def test_the_log_variance_stays_inside_its_limits(bias, limits):
    network = ScatterVAE(4, NetworkShape(n_latent=2, hidden=(3,), log_variance_limits=limits))
    with torch.no_grad():
        network.encoder[-1].weight.zero_()
        network.encoder[-1].bias.fill_(bias)
        posterior = network.encode(torch.zeros(1, 4), torch.ones(1, 4))
    assert posterior.log_variance[0].tolist() == pytest.approx([min(max(bias, limits[0]), limits[1])] * 2)
    assert posterior.mean[0].tolist() == pytest.approx([bias] * 2)


@pytest.mark.parametrize(
    "given",
    [
        {"n_latent": 0},
        {"hidden": []},
        {"hidden": [80, 0]},
        {"scatter_link": "relu"},
        {"scatter_floor": 0.0},
        {"log_variance_limits": [6.0, -12.0]},
        {"log_variance_limits": [1.0, 1.0]},
        {"latent": 6},
    ],
)
def test_a_shape_that_makes_no_network_is_refused(given):
    with pytest.raises(ValidationError):
        NetworkShape.model_validate(given)


def test_normalised_errors_are_residuals_over_both_errors_in_quadrature():
    reconstruction = Reconstruction(mean=torch.tensor([[1.0, 2.0]]), scatter=torch.tensor([[3.0, 0.0]]))
    normalised = reconstruction.normalised_errors(torch.tensor([[11.0, 1.0]]), torch.tensor([[4.0, 2.0]]))
    torch.testing.assert_close(normalised, torch.tensor([[2.0, -0.5]]))


@pytest.mark.parametrize("n_stars", [0, 1, 5000])
def test_answers_are_the_same_with_and_without_gradients(n_stars):
    """Without them another library multiplies the matrices."""
    network = ScatterVAE(110)
    x = 3.0 * torch.randn(n_stars, 110, generator=stream(0, "x"))
    x[3:4] = torch.nan
    learning = network.encode(x, torch.ones_like(x))
    with torch.no_grad():
        asking = network.encode(x, torch.ones_like(x))
        predicted = network.decode(asking.mean)
    torch.testing.assert_close(learning.mean.detach(), asking.mean, equal_nan=True)
    torch.testing.assert_close(learning.log_variance.detach(), asking.log_variance, equal_nan=True)
    for one, other in zip(network.decode(learning.mean), predicted, strict=True):
        assert one.requires_grad
        torch.testing.assert_close(one.detach(), other, equal_nan=True)


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
def test_a_network_that_sees_errors_separates_stars_by_them(layers):
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
