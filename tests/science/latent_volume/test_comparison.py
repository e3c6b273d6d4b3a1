"""Coverage of simulated latents whose volumes are known, and what it says where it cannot know."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from scattervae.errors import DataError
from scattervae.model.posterior import Posterior
from scattervae.science.latent_volume.comparison import (
    NOT_TESTABLE,
    VolumeSettings,
    active_latents,
    compare_volumes,
    stated_selections,
)
from toy import toy_sky


def uniform(rng, n, sides):
    return rng.uniform(0.0, sides, (n, len(sides)))


@pytest.fixture(scope="module")
def grown():
    """Unlabelled stars reach half again as far in the second latent; the third of four is not active."""
    rng = np.random.default_rng(0)
    labelled, unlabelled = uniform(rng, 3000, [2, 2, 9, 2]), uniform(rng, 6000, [2, 3, 9, 2])
    labelled[5, 0] = np.nan
    settings = VolumeSettings(full_cell=0.5, cells=(0.25, 0.5), n_sizes=4)
    return compare_volumes(labelled, unlabelled, (0, 1, 3), settings=settings)


def test_known_volumes_come_back_in_every_pair_and_in_the_full_space(grown):
    assert [p.latents for p in grown.pairs] == [(0, 1), (0, 3), (1, 3)]
    for projection, truth in zip((*grown.pairs, grown.full), (0.5, 0.0, 0.5, 0.5), strict=True):
        dimensions = len(projection.latents)
        assert projection.as_given.v_sup == pytest.approx(2.0**dimensions)
        for result in (
            projection.as_given.new,
            projection.as_given.difference,
            projection.equal_n.difference,
        ):
            assert result.value == pytest.approx(truth, abs=0.01)
        assert projection.resolved
    assert (grown.n_labelled, grown.n_unlabelled, grown.n_left_out) == (2999, 6000, 1)
    assert "2999 stars of each set the unlabelled occupy more volume in 2 and less in 0 of 3" in grown.verdict


def test_curves_end_in_the_comparison_at_equal_numbers(grown):
    for projection in (*grown.pairs, grown.full):
        assert projection.over_n[-1] == projection.equal_n
        assert dict(projection.over_cell)[projection.cell] == projection.equal_n
        sizes = [overlap.n_labelled for overlap in projection.over_n]
        assert sizes == sorted(sizes)
        volumes = [overlap.v_sup for overlap in projection.over_n]
        assert volumes == sorted(volumes)


def test_the_order_of_the_stars_changes_nothing():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(300, 2)), rng.normal(size=(250, 2))
    assert compare_volumes(a[::-1].copy(), b[::-1].copy(), (0, 1)) == compare_volumes(a, b, (0, 1))


def test_a_selection_of_labelled_stars_is_not_a_test():
    sky = toy_sky(400)
    z, active = sky.latents, (0, 1)
    selections = stated_selections(sky.labels)
    assert len(selections) == 1  # every toy star has [Fe/H]
    giants = selections[0]
    assert not (giants.labelled & giants.unlabelled).any()
    result = compare_volumes(z[giants.labelled], z[giants.unlabelled], active, selection=giants.name)
    assert result.verdict.startswith(NOT_TESTABLE)
    assert giants.name in result.verdict
    assert not replace(result, selection=None).verdict.startswith(NOT_TESTABLE)


def test_cells_that_hold_a_star_each_are_said_to_tell_nothing():
    rng = np.random.default_rng(3)
    settings = VolumeSettings(full_cell=0.25)
    result = compare_volumes(
        rng.normal(size=(300, 6)), rng.normal(size=(300, 6)), tuple(range(6)), settings=settings
    )
    assert not result.full.resolved
    assert "too few stars" in result.verdict


def test_active_latents_are_those_with_information():
    mean = torch.tensor([[1.0, 0.0, -1.0], [-1.0, 0.0, 1.0], [float("nan")] * 3])
    assert active_latents(Posterior(mean, torch.zeros(3, 3))) == (0, 2)


def test_what_cannot_be_compared_is_an_error_of_one_line():
    z = np.zeros((5, 3))
    with pytest.raises(DataError, match="1 active latents"):
        compare_volumes(z, z, (0,))
    with pytest.raises(DataError, match="none of 5 unlabelled"):
        compare_volumes(z, np.full((5, 3), np.nan), (0, 1))
    with pytest.raises(DataError, match="lower threshold"):
        compare_volumes(z, z, (0, 1), settings=VolumeSettings(threshold=6))


def test_dense_sets_in_a_box_differ_by_half_the_box():
    """20,000 stars in 64 cells: every cell is seen."""
    rng = np.random.default_rng(0)
    wide, half = rng.uniform(-1, 1, (20_000, 2)), rng.uniform(-1, 1, (5_000, 2)) * [1.0, 0.5]
    pair = compare_volumes(wide, half, [0, 1]).pairs[0]
    assert pair.equal_n.difference.value == pytest.approx(-0.5, abs=1e-6)
