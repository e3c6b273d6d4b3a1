import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scattervae.errors import StoreError
from scattervae.spectra.columns import RowGroup, StoredSpectra
from scattervae.spectra.normalization import Normalization
from scattervae.spectra.spectra import Spectra
from scattervae.spectra.windows import ChosenStars, Rank, Window
from spectra.row_group_toys import ToyRowGroups, in_float32, rows_of, toy_store
from toy import spoiled, toy_sky

STARS = in_float32(toy_sky(400).spectra)
NORMALIZATION = Normalization.fit(lambda: [STARS])


def odd(group: StoredSpectra) -> np.ndarray:
    return group.source_id % 2 == 1


def chosen(sizes: list[int], spectra: Spectra = STARS, **settings: object) -> ChosenStars:
    """The odd stars of a store of row_groups of these sizes."""
    source = ToyRowGroups(spectra.take(slice(0, sum(sizes))), sizes)
    n_kept = np.array(
        [odd(source.read_row_group(row_group)).sum() for row_group in source.row_groups], dtype=np.int64
    )
    source.read.clear()
    return ChosenStars(source, odd, n_kept, NORMALIZATION, **settings)


def wanted(stars: ChosenStars) -> torch.Tensor:
    """What the odd stars are to a model, in the store's order, by the way of all spectra at once."""
    spectra = stars.source.spectra
    return NORMALIZATION.apply(spectra.take(spectra.source_id % 2 == 1)).x


def in_order(windows: list[Window] | object) -> tuple[torch.Tensor, torch.Tensor]:
    """Places and stars of all windows; taken window by window, since their memory is used again."""
    parts = [window.between(0, 10**9) for window in windows]
    places = [places for places, _ in parts]
    return torch.cat([torch.empty(0, dtype=torch.int64), *places]), torch.cat(
        [torch.empty(0, 11), *(inputs.x for _, inputs in parts)]
    )


sizes = st.lists(st.integers(0, 60), min_size=0, max_size=6)


@given(sizes, st.integers(1, 150), st.integers(1, 3), st.integers(1, 4), st.integers(0, 5))
def test_every_star_comes_once_an_epoch(sizes, window, threads, n_shares, epoch):
    stars = chosen(sizes, window=window, threads=threads)
    among = wanted(stars)
    shares = [Rank(rank, n_shares) for rank in range(n_shares)]
    parts = [in_order(stars.windows(0, epoch, rank=share)) for share in shares]
    places = torch.cat([places for places, _ in parts])
    assert sorted(places.tolist()) == list(range(len(stars)))
    assert sorted(rows_of(torch.cat([x for _, x in parts]), among)) == list(range(len(among)))


@given(sizes, st.integers(1, 150), st.integers(2, 4))
def test_who_reads_a_star_does_not_change_its_place(sizes, window, n_shares):
    whole_places, whole = in_order(chosen(sizes, window=window).windows(3, 1))
    assert whole_places.tolist() == list(range(len(whole)))
    for rank in range(n_shares):
        places, x = in_order(chosen(sizes, window=window).windows(3, 1, rank=Rank(rank, n_shares)))
        assert torch.equal(x, whole[places])
        assert places.tolist() == sorted(places.tolist())


@given(sizes, st.integers(1, 150), st.integers(0, 400))
def test_an_epoch_may_be_entered_at_any_star(sizes, window, first):
    _, whole = in_order(chosen(sizes, window=window).windows(3, 1))
    stars = chosen(sizes, window=window)
    places, x = in_order(stars.windows(3, 1, first=first))
    assert torch.equal(x, whole[places])
    assert places.tolist() == list(range(len(whole) - len(x), len(whole)))
    if first < len(whole):
        assert len(whole) - len(x) <= first
    else:
        assert len(x) == 0
        assert stars.source.read == []


def test_threads_change_no_bit():
    sizes = [40] * 10
    parts = [in_order(chosen(sizes, window=90, threads=threads).windows(0, 1))[1] for threads in (1, 2, 7)]
    assert torch.equal(parts[0], parts[1])
    assert torch.equal(parts[0], parts[2])


def test_each_epoch_and_each_seed_has_an_order_of_its_own():
    stars = chosen([40] * 10, window=90)
    orders = {
        tuple(rows_of(in_order(stars.windows(seed, epoch))[1], wanted(stars)))
        for seed, epoch in [(0, 1), (0, 2), (1, 1), (1, 2)]
    }
    assert len(orders) == 4


def test_a_window_mixes_its_stars_whatever_their_row_group():
    """Where each window of an epoch ends, about as many of its stars come from each of its row_groups as anywhere."""
    stars = chosen([40] * 10, window=100)
    group_of = torch.repeat_interleave(torch.arange(10), torch.from_numpy(stars.n_kept))
    counts = np.zeros((2, 10))
    for epoch in range(60):
        for window in stars.windows(0, epoch):
            _, inputs = window.between(0, 10**9)
            row_groups = group_of[rows_of(inputs.x, wanted(stars))].numpy()
            middle = len(row_groups) // 2
            counts[0] += np.bincount(row_groups[:middle], minlength=10)
            counts[1] += np.bincount(row_groups[middle:], minlength=10)
    expected = counts.sum(axis=0) / 2
    assert (np.abs(counts - expected) < 5 * np.sqrt(expected / 2)).all()


def test_windows_are_of_about_equal_size_and_only_one_is_read_ahead():
    stars = chosen([40] * 10, window=80, threads=2)
    ends, n_read = [0], []
    for window in stars.windows(0, 1):
        ends.append(window.end)
        n_read.append(len(stars.source.read))
    assert ends[-1] == len(stars)
    assert np.diff(ends).max() < 1.5 * np.diff(ends).min()
    assert n_read[0] <= 8  # two windows of three or four row_groups
    assert any(name.startswith("window") for name in stars.source.threads)


def test_readers_at_the_same_time_have_memory_of_their_own_and_epochs_share_it():
    stars = chosen([40] * 10, window=90)
    _, expected = in_order(stars.windows(0, 1))
    assert len(stars.spare) == 2
    kept = {buffer.x.data_ptr() for buffer in stars.spare}
    first, second = stars.windows(0, 1), stars.windows(0, 2)
    parts = [window.between(0, 10**9)[1].x for window, _ in zip(first, second, strict=False)]
    first.close()
    second.close()
    assert torch.equal(torch.cat(parts), expected[: sum(map(len, parts))])
    assert len(parts) >= 2
    assert kept < {buffer.x.data_ptr() for buffer in stars.spare}


def test_a_reader_that_leaves_early_stops_the_threads():
    stars = chosen([40] * 10, window=40, threads=1)
    windows = stars.windows(0, 1)
    next(windows)
    windows.close()
    assert len(stars.source.read) < 10
    assert not [t for t in threading.enumerate() if t.name.startswith("window")]


def test_all_stars_in_memory_are_in_the_stores_order():
    stars = chosen([7, 0, 60, 33, 1])
    inputs = stars.read()
    spectra = stars.source.spectra
    expected = NORMALIZATION.apply(spectra.take(spectra.source_id % 2 == 1))
    assert torch.equal(inputs.x, expected.x)
    assert torch.equal(inputs.errors, expected.errors)


def test_a_row_group_that_changed_is_an_error():
    stars = chosen([40] * 4)
    stars.n_kept[2] += 1
    for read in (stars.read, lambda: list(stars.windows(0, 1))):
        with pytest.raises(
            StoreError, match=r"toy: row group 2 has \d+ stars .* \d+ when .* start again"
        ) as caught:
            read()
        assert "\n" not in str(caught.value)


def test_an_error_of_a_thread_reaches_the_reader():
    stars = chosen([40] * 4)

    def broken(row_group: RowGroup) -> StoredSpectra:
        raise StoreError(f"{row_group.path}: torn")

    stars.source.read_row_group = broken
    for read in (stars.read, lambda: list(stars.windows(0, 1))):
        with pytest.raises(StoreError, match="torn"):
            read()


def test_a_real_store_gives_the_numbers_of_its_spectra(tmp_path):
    """Bit for bit: coefficients are float32 in the store, and the arithmetic is the same."""
    store = toy_store(tmp_path / "store", spoiled(STARS))
    spectra = store.read()
    spectra = spectra.take(spectra.usable)

    def usable() -> list[StoredSpectra]:
        groups = map(store.read_row_group, store.row_groups)
        return [group.take(np.flatnonzero(group.usable)) for group in groups]

    normalization = Normalization.fit(usable, basis=store.basis)
    expected = Normalization.fit(lambda: [spectra])
    assert normalization.mean.tobytes() == expected.mean.tobytes()
    assert normalization.std.tobytes() == expected.std.tobytes()
    assert normalization.n_g_flux_from_table == expected.n_g_flux_from_table
    n_kept = np.array([len(group) for group in usable()])
    chosen = ChosenStars(store, lambda group: group.usable, n_kept, normalization, window=120)
    assert len(chosen) == len(spectra) == 394
    inputs = expected.apply(spectra)
    assert torch.equal(chosen.read().x, inputs.x)
    assert torch.equal(chosen.read().errors, inputs.errors)
    _, shuffled = in_order(chosen.windows(0, 1))
    assert sorted(rows_of(shuffled, inputs.x)) == list(range(394))
