import torch

from scattervae.model.network import NetworkShape, ScatterVAE
from scattervae.science.labels.training import LabelNetwork, predict

SHAPES = (
    NetworkShape(n_latent=3, hidden=(16, 12)),
    NetworkShape(n_latent=3, hidden=(16, 16), layers="residual", encoder_sees="errors"),
)


def stars(n: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, 11, generator=generator), torch.rand(n, 11, generator=generator) + 0.1


def vae_of(shape: NetworkShape) -> ScatterVAE:
    torch.manual_seed(0)
    network = ScatterVAE(11, shape)
    torch.nn.init.normal_(network.encoder[-1].weight)
    return network.eval()


def test_latents_are_a_linear_image_of_the_trunks_features():
    x, errors = stars()
    for shape in SHAPES:
        vae = vae_of(shape)
        network = LabelNetwork(vae, 2, 0)
        with torch.no_grad():
            network.last.weight[:2] = vae.encoder[-1].weight[:2]
            network.last.bias[:2] = vae.encoder[-1].bias[:2]
        torch.testing.assert_close(predict(network, x, errors).mean, vae.encode(x, errors).mean[:, :2])


def test_it_begins_with_the_median_of_every_label():
    x, errors = stars()
    predicted = predict(LabelNetwork(vae_of(SHAPES[0]), 4, 1), x, errors)
    assert (predicted.mean == 0).all()
    assert (predicted.variance == 1).all()


def test_the_encoder_stays_as_it_was():
    vae = vae_of(SHAPES[1])
    before = [weights.clone() for weights in vae.parameters()]
    network = LabelNetwork(vae, 2, 1)
    with torch.no_grad():
        for weights in network.parameters():
            weights.add_(1.0)
    assert all(torch.equal(a, b) for a, b in zip(before, vae.parameters(), strict=True))


def test_batches_change_nothing():
    x, errors = stars(7)
    network = LabelNetwork(vae_of(SHAPES[1]), 2, 1)
    torch.nn.init.normal_(network.last.weight)
    torch.testing.assert_close(predict(network, x, errors, batch=3).mean, predict(network, x, errors).mean)
    assert predict(network, x[:0], errors[:0]).mean.shape == (0, 2)


def test_a_missing_coefficient_counts_for_nothing_where_errors_are_seen():
    x, errors = stars()
    network = LabelNetwork(vae_of(SHAPES[1]), 2, 0)
    torch.nn.init.normal_(network.last.weight)
    x[:, 4], errors[:, 4] = 0.0, torch.inf
    assert predict(network, x, errors).mean.isfinite().all()
