import numpy as np
import torch

from scattervae.model.network import Posterior
from scattervae.science.labels.support import LabelledVolume


def posterior_of(means: np.ndarray, width: float = 0.1) -> Posterior:
    mean = torch.from_numpy(means).float()
    return Posterior(mean, torch.full_like(mean, 2 * np.log(width)))


def volume_of(n: int = 1000) -> LabelledVolume:
    """Labelled stars about the origin; those to the right of it alone have the second label."""
    means = np.random.default_rng(0).normal(size=(n, 3))
    known = np.column_stack([np.ones(n, dtype=bool), means[:, 0] > 0])
    return LabelledVolume.of(posterior_of(means), known, seed=0)


def test_reliability_of_stars_drawn_as_the_labelled_ones_is_uniform():
    means = np.random.default_rng(1).normal(size=(4000, 3))
    found = volume_of(4000).reliability(posterior_of(means))[:, 0]
    for level in (0.01, 0.1, 0.5, 0.9):
        assert abs((found < level).mean() - level) < 4 * np.sqrt(level * (1 - level) / 2000)


def test_a_star_far_away_is_recognised():
    found = volume_of().reliability(posterior_of(np.array([[0.0, 0, 0], [9.0, 0, 0], [np.nan, 0, 0]])))
    assert found[0].min() > 0.5
    np.testing.assert_allclose(found[1], [1 / 1001, 1 / (1 + np.isfinite(volume_of().distances[:, 1]).sum())])
    assert np.isnan(found[2]).all()


def test_each_label_has_a_volume_of_its_own():
    found = volume_of().reliability(posterior_of(np.array([[-1.5, 0.0, 0.0]])))
    assert found[0, 0] > 0.1
    assert found[0, 1] < 0.01


def test_distances_are_those_of_brute_force():
    means = np.random.default_rng(2).normal(size=(60, 3))
    volume = LabelledVolume.of(posterior_of(means), np.ones((60, 1), dtype=bool), seed=0)
    latents = volume.latents
    apart = np.linalg.norm(latents[:, None] - latents[None], axis=2)
    np.testing.assert_allclose(volume.distances[:, 0], np.sort(apart, axis=1)[:, 10])


def test_a_wide_posterior_is_recognised():
    volume = volume_of()
    ranks = [volume.width_rank(posterior_of(np.zeros((1, 3)), width))[0] for width in (0.05, 0.2)]
    np.testing.assert_allclose(ranks, [1.0, 1 / 1001])


def test_a_label_that_hardly_any_star_has_is_reliable_nowhere():
    known = np.zeros((50, 1), dtype=bool)
    known[0] = True
    means = np.random.default_rng(3).normal(size=(50, 3))
    found = LabelledVolume.of(posterior_of(means), known, seed=0).reliability(posterior_of(means))
    assert not found.any()
