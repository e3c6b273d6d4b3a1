"""Two populations of known volume, some of whose cells no star fell in, and the same population twice."""

import numpy as np
from studies.corrected_overlap import corrected_overlap, share_new_of_the_same

from scattervae.science.latent_volume.comparison import overlap_at
from scattervae.science.latent_volume.richness import count_cells


def boxes(rng, n_small, n_large, *, ratio=1.5):
    """A square of 10 by 10 cells and a rectangle `ratio` times as long that contains it."""
    small = rng.uniform(0.0, [2.5, 2.5], (n_small, 2))
    large = rng.uniform(0.0, [2.5 * ratio, 2.5], (n_large, 2))
    return count_cells(small, large, 0.25)


def test_the_corrected_ratio_is_nearer_the_truth_and_its_interval_holds_it():
    rng = np.random.default_rng(4)
    raw, corrected, held = [], [], []
    for _ in range(120):
        counts = boxes(rng, 80, 300, ratio=2.0)
        raw.append(overlap_at(counts, 80, 80).difference.value)
        result = corrected_overlap(counts)
        corrected.append((result.difference.value, result.new.value))
        held.append([e.low <= 1.0 <= e.high for e in (result.difference, result.new)])
    assert np.all(np.abs(np.mean(corrected, axis=0) - 1.0) < 0.5 * abs(np.mean(raw) - 1.0))
    assert np.all(np.mean(held, axis=0) >= 0.93)


def test_the_same_population_differs_by_nothing_after_correction_whatever_its_sizes():
    rng = np.random.default_rng(5)
    results = [
        corrected_overlap(count_cells(rng.normal(size=(300, 2)), rng.normal(size=(4000, 2)), 0.25))
        for _ in range(40)
    ]
    for name in ("new", "difference"):
        values = [getattr(result, name).value for result in results]
        assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(40) + 0.02


def test_further_stars_of_the_same_population_lie_in_new_cells_as_often_as_is_predicted():
    rng = np.random.default_rng(2)
    counts = count_cells(rng.normal(size=(500, 2)), rng.normal(size=(5000, 2)), 0.25)
    estimate = share_new_of_the_same(counts.labelled, 500)
    assert abs(overlap_at(counts, 500, 5000).share_new.value - estimate.value) < 0.03
    assert estimate.value == (counts.labelled == 1).sum() / 500  # Good (1953)


def test_its_interval_holds_the_truth_at_least_as_often_as_it_says():
    rng = np.random.default_rng(3)
    estimates = [share_new_of_the_same(boxes(rng, 600, 1).labelled, 300) for _ in range(150)]
    truth = np.mean([e.value for e in estimates])
    assert np.mean([e.low <= truth <= e.high for e in estimates]) >= 0.93
