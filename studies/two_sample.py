"""Whether two samples could come from one distribution: generated stars beside real ones."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64
from scipy.spatial.distance import cdist
from scipy.stats import binom
from torch import Tensor, nn

from scattervae.model.network import residual_layers
from scattervae.seeds import numpy_stream, stream

Sample = Float64[np.ndarray, "star feature"]
OtherSample = Float64[np.ndarray, "other_star feature"]

N_PERMUTATIONS = 500
_WIDTH = 64
_EPOCHS = 30
_BATCH = 256
_LEARNING_RATE = 2e-3
_WEIGHT_DECAY = 0.1
_REACH = 10.0


class EnergyTest(NamedTuple):
    """Energy distance of two samples.

    Attributes:
        distance: Squared energy distance over standardised features, estimated without bias: about 0 where the two
            are alike, and then as often negative.
        p: Share of random divisions of all stars in two with a distance as large, the true one counted.
    """

    distance: float
    p: float


class ClassifierTest(NamedTuple):
    """How well a classifier tells two samples apart.

    Attributes:
        accuracy: Share of held-out stars whose sample it names; 0.5 where the samples are alike.
        p: Probability of so many by guessing.
        n: Held-out stars.
    """

    accuracy: float
    p: float
    n: int


def energy_test(
    a: Sample, b: OtherSample, *, n_permutations: int = N_PERMUTATIONS, seed: int = 0
) -> EnergyTest:
    r"""The energy distance of two samples, with a permutation test.

    .. math:: 2\, E|a - b| - E|a - a'| - E|b - b'|

    Features are standardised by both samples together. Time and memory grow as the square of the number of stars.

    Args:
        a: One sample.
        b: The other.
        n_permutations: Random divisions.
        seed: Of them.

    Source:
        Szekely & Rizzo (2013), Energy statistics: a class of statistics based on distances, sect. 3 and 4.
    """
    both = _standardised(a, b)
    distances = cdist(both, both)
    rng = numpy_stream(seed, "energy test")
    n, m = len(a), len(b)
    in_a = np.zeros((len(both), 1 + n_permutations))
    in_a[:n, 0] = 1.0
    for column in range(1, 1 + n_permutations):
        in_a[rng.permutation(len(both))[:n], column] = 1.0
    in_b = 1.0 - in_a
    from_a = distances @ in_a
    from_b = distances.sum(axis=1, keepdims=True) - from_a
    within_a = (in_a * from_a).sum(axis=0) / (n * (n - 1))
    within_b = (in_b * from_b).sum(axis=0) / (m * (m - 1))
    between = (in_a * from_b).sum(axis=0) / (n * m)
    found = 2.0 * between - within_a - within_b
    slack = 1e-12 * between[0]  # the same division again may round otherwise
    return EnergyTest(float(found[0]), float((found >= found[0] - slack).mean()))


def classifier_test(a: Sample, b: OtherSample, *, seed: int = 0) -> ClassifierTest:
    """How well a small residual network, trained on half of both samples, tells the other halves apart.

    As many stars of each are used: the first of the larger one are as many as the smaller has.

    Args:
        a: One sample, its stars in any order.
        b: The other.
        seed: Of the halves and the network.

    Source:
        Lopez-Paz & Oquab (2017), arXiv:1610.06545, sect. 3.
    """
    n = min(len(a), len(b))
    x = torch.from_numpy(_standardised(a[:n], b[:n])).float().clamp(-_REACH, _REACH)
    is_b = torch.arange(2 * n) >= n
    generator = stream(seed, "classifier test")
    order = torch.randperm(2 * n, generator=generator)
    train, held_out = order[:n], order[n:]
    network = _trained(x[train], is_b[train].float(), generator)
    with torch.no_grad():
        right = int(((network(x[held_out])[:, 0] > 0) == is_b[held_out]).sum())
    return ClassifierTest(right / n, float(binom.sf(right - 1, n, 0.5)), n)


def _standardised(a: Sample, b: OtherSample) -> Float64[np.ndarray, "both feature"]:
    both = np.concatenate([a, b])
    return np.asarray((both - both.mean(axis=0)) / both.std(axis=0))


def _trained(
    x: Float[Tensor, "star feature"], is_b: Float[Tensor, " star"], generator: torch.Generator
) -> nn.Module:
    """A network whose output is above 0 where it takes a star for one of b."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator.initial_seed())
        network = residual_layers(x.shape[1], (_WIDTH, _WIDTH), 1)
    steps = _EPOCHS * -(-len(x) // _BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(_EPOCHS):
        for rows in torch.split(torch.randperm(len(x), generator=generator), _BATCH):
            told = network(x[rows])[:, 0]
            optimizer.zero_grad()
            loss = nn.functional.binary_cross_entropy_with_logits(told, is_b[rows])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return network
