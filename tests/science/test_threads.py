"""Results come in order from any number of threads, and nothing is left behind when the caller stops."""

import threading
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scattervae.science.threads import in_order


@given(st.lists(st.integers()), st.integers(1, 4))
def test_each_item_comes_with_its_result_in_order(items, threads):
    assert list(in_order(lambda n: n * n, items, threads=threads)) == [(n, n * n) for n in items]


def test_slow_items_hold_back_no_work_and_change_no_order():
    def wait(seconds: float) -> int:
        time.sleep(seconds)
        return threading.get_ident()

    done = list(in_order(wait, [0.2, 0.0, 0.0, 0.0], threads=2))
    assert [item for item, _ in done] == [0.2, 0.0, 0.0, 0.0]
    slow, *others = [ident for _, ident in done]
    assert slow not in others


def test_items_are_taken_only_a_few_ahead():
    taken = []

    def items():
        for n in range(100):
            taken.append(n)
            yield n

    results = in_order(lambda n: n, items(), threads=2)
    next(results)
    assert len(taken) < 10
    results.close()
    assert len(taken) < 10


def test_an_error_in_a_thread_is_the_callers():
    def fail(n: int) -> int:
        raise RuntimeError(f"item {n}")

    with pytest.raises(RuntimeError, match="item 3"):
        list(in_order(fail, [3, 4], threads=2))


def test_each_thread_computes_with_one_core_and_the_process_keeps_its_own():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert [n for _, n in in_order(lambda _: torch.get_num_threads(), range(8), threads=2)] == [1] * 8
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_no_thread_outlives_its_caller():
    before = threading.active_count()
    results = in_order(lambda n: n, range(100), threads=3)
    next(results)
    results.close()
    assert threading.active_count() == before
