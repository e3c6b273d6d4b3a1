"""The paper's line and the unseen cells, on boxes whose volume is known."""

import numpy as np
import pytest

from scattervae.science.latent_volume.cells import count_cells_of_both
from scattervae.science.latent_volume.extrapolation import extrapolate, linear_extrapolation


def uniform(rng, n, sides):
    return rng.uniform(0.0, sides, (n, len(sides)))


def test_the_paper_s_line_is_the_paper_s_number():
    assert linear_extrapolation(0.30, 220_000_000, 1_000_000) == pytest.approx(66)  # "approximately 65"


def test_a_line_promises_volume_that_is_not_there_and_unseen_cells_do_not():
    """Unlabelled stars reach 2 times the labelled volume, which 200 of them have nearly filled."""
    rng = np.random.default_rng(2)
    counts = count_cells_of_both(uniform(rng, 1000, [2, 2]), uniform(rng, 400, [2, 4]), 0.25)
    result = extrapolate(counts, 220_000_000)
    assert result.linear > 100_000
    assert result.corrected.value == pytest.approx(1.0, abs=0.05)
    assert not result.reliable
    near = extrapolate(counts, 800)
    assert near.reliable
    assert near.times_the_sample == 2.0
    later = count_cells_of_both(uniform(rng, 1000, [2, 2]), uniform(rng, 800, [2, 4]), 0.25)
    assert near.corrected.value == pytest.approx(extrapolate(later, 800).corrected.value, abs=0.05)
