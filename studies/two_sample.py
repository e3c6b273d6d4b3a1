"""Whether two samples could come from one distribution: generated stars beside real ones."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64
from scipy.spatial.distance import cdist
from scipy.stats import binom
from torch import Tensor, nn

from scattervae.model.network import residual_layers
from scattervae.science.relative.differences import EnergyTest, energy_test
from scattervae.seeds import stream

Sample = Float64[np.ndarray, "star feature"]
OtherSample = Float64[np.ndarray, "other_star feature"]

N_PERMUTATIONS = 500
_WIDTH = 64
_EPOCHS = 30
_BATCH = 256
_LEARNING_RATE = 2e-3
_WEIGHT_DECAY = 0.1
_REACH = 10.0


class ClassifierTest(NamedTuple):
    """How well a classifier separates two samples.

    Attributes:
        accuracy: Share of held-out stars whose sample it names; 0.5 where the samples are alike.
        p: Probability of so many by guessing.
        n: Held-out stars.
    """

    accuracy: float
    p: float
    n: int


def unbiased_energy_test(
    a: Sample, b: Sample, *, n_permutations: int = N_PERMUTATIONS, seed: int = 0
) -> EnergyTest:
    r"""Squared energy distance of two samples of one size, without bias: about 0 where they are alike.

    .. math:: 2\, E|a - b| - E|a - a'| - E|b - b'|

    Features are standardised by both samples together. `energy_test` counts a star's distance to itself, which is 0,
    among those within a sample; here it does not count.

    Source:
        Szekely & Rizzo (2013), Energy statistics: a class of statistics based on distances, sect. 3 and 4.
    """
    both = _standardised(a, b)
    found = energy_test(both[: len(a)], both[len(a) :], n_permutations=n_permutations, seed=seed)
    squared = found.distance**2
    within = 2.0 * float(cdist(both, both).mean()) - 0.5 * squared
    return EnergyTest(squared - within / (len(a) - 1), found.p_value)


def classifier_test(a: Sample, b: OtherSample, *, seed: int = 0) -> ClassifierTest:
    """How well a small residual network, trained on half of both samples, separates the other halves.

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
            logits = network(x[rows])[:, 0]
            optimizer.zero_grad()
            loss = nn.functional.binary_cross_entropy_with_logits(logits, is_b[rows])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return network
