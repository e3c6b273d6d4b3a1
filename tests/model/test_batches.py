import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.noise_toys import a_noise
from scattervae.model.batches import Batch, StarsInMemory, StarsOnDisk, TrainingStars
from scattervae.model.covariance import CorrelatedNoise, square
from scattervae.model.distributed import ALONE, World
from scattervae.model.recipe import DegradationSettings
from scattervae.seeds import stream
from scattervae.spectra.columns import RowGroup, StoredSpectra
from scattervae.spectra.normalization import Inputs, Normalization
from scattervae.spectra.windows import ChosenStars
from spectra.row_group_toys import ToyRowGroups, in_float32, rows_of
from toy import toy_recipe, toy_sky

STARS = in_float32(toy_sky(200).spectra)
NORMALIZATION = Normalization.fit(lambda: [STARS])
X = NORMALIZATION.apply(STARS).x
CPU = torch.device("cpu")


def in_memory(n_stars: int) -> StarsInMemory:
    return StarsInMemory(NORMALIZATION.apply(STARS)[:n_stars], NORMALIZATION.bp.stop)


def on_disk(n_stars: int, window: int = 45) -> StarsOnDisk:
    sizes = [30] * (n_stars // 30) + [n_stars % 30]
    chosen = ChosenStars(
        ToyRowGroups(STARS, sizes),
        lambda block: np.ones(len(block), dtype=bool),
        np.array(sizes, dtype=np.int64),
        NORMALIZATION,
        window=window,
    )
    return StarsOnDisk(chosen, "d" * 64, CPU)


def settings(batch_size: int, seed: int = 0):
    return toy_recipe(batch_size=batch_size, seed=seed).training


@pytest.mark.parametrize("source", [in_memory, on_disk], ids=["memory", "disk"])
@given(n_stars=st.integers(0, 200), batch_size=st.integers(1, 210), seed=st.integers(0, 3))
def test_every_star_is_in_one_batch_and_all_but_the_last_are_full(source, n_stars, batch_size, seed):
    stars = source(n_stars)
    batches = list(stars.batches(settings(batch_size, seed), epoch=1))
    assert [batch.n_stars for batch in batches] == [len(batch.x) for batch in batches]
    full, rest = divmod(n_stars, batch_size)
    assert [batch.n_stars for batch in batches] == [batch_size] * full + [rest] * (rest > 0)
    x = torch.cat([torch.empty(0, 11), *(batch.x for batch in batches)])
    assert sorted(rows_of(x, X[:n_stars])) == list(range(n_stars))


@pytest.mark.parametrize("source", [in_memory, on_disk], ids=["memory", "disk"])
@given(n_stars=st.integers(1, 200), batch_size=st.integers(1, 100), size=st.integers(2, 5))
def test_processes_together_take_the_batches_of_one(source, n_stars, batch_size, size):
    """The same stars with the same noise at the same step, however many share them."""
    whole = source(n_stars).batches(settings(batch_size), epoch=2)
    worlds = [World(rank, size, rank, size) for rank in range(size)]
    shared = [list(source(n_stars).batches(settings(batch_size), epoch=2, world=w)) for w in worlds]
    for batch, *parts in zip(whole, *shared, strict=True):
        assert {part.n_stars for part in parts} == {batch.n_stars}
        order = torch.cat([part.rows for part in parts]).argsort()
        assert torch.equal(torch.cat([part.x for part in parts])[order], batch.x)
        assert torch.equal(torch.cat([part.errors for part in parts])[order], batch.errors)
        noise = torch.cat([part.noise(3, stream(0, "noise")) for part in parts])
        assert torch.equal(noise[order], batch.noise(3, stream(0, "noise")))


@pytest.mark.parametrize("source", [in_memory, on_disk], ids=["memory", "disk"])
@given(n_stars=st.integers(0, 200), batch_size=st.integers(1, 100), first=st.integers(0, 30))
def test_an_epoch_may_be_entered_at_any_batch(source, n_stars, batch_size, first):
    stars = source(n_stars)
    whole = list(stars.batches(settings(batch_size), epoch=1))
    rest = list(stars.batches(settings(batch_size), epoch=1, first=first))
    assert len(rest) == max(0, len(whole) - first)
    for batch, again in zip(whole[first:], rest, strict=True):
        assert torch.equal(again.x, batch.x)
        assert torch.equal(again.rows, batch.rows)


def test_a_finished_epoch_is_not_read_again():
    stars = on_disk(200)
    assert list(stars.batches(settings(40), epoch=1, first=5)) == []
    assert stars.stars.source.read == []


@pytest.mark.parametrize("source", [in_memory, on_disk], ids=["memory", "disk"])
def test_an_epoch_has_an_order_of_its_own(source):
    orders = [
        tuple(rows_of(next(source(200).batches(settings(200, seed), epoch)).x, X))
        for seed, epoch in [(0, 1), (0, 2), (1, 1)]
    ]
    assert len(set(orders)) == 3
    assert orders[0] == tuple(rows_of(next(source(200).batches(settings(200), 1)).x, X))


def test_a_batch_keeps_its_numbers_when_the_next_one_comes():
    """The memory of a window is used again, that of a batch is not."""
    batches = [(batch, batch.x.clone()) for batch in on_disk(200).batches(settings(16), epoch=1)]
    assert all(torch.equal(batch.x, x) for batch, x in batches)


def test_noise_is_that_of_the_whole_batch():
    """What a posterior of the whole batch would draw from the same stream."""
    places = torch.tensor([0, 3, 4])
    part = Batch(torch.empty(3, 11), torch.empty(3, 11), places, n_stars=20, n_bp=6)
    drawn = torch.randn(20, 3, generator=stream(0, "latents", 1))
    assert torch.equal(part.noise(3, stream(0, "latents", 1)), drawn[places])


def test_sources_of_stars_know_each_other_apart():
    x, errors = (torch.ones(5, 3) * value for value in (1.0, 2.0))
    stars = [
        in_memory(200),
        in_memory(199),
        on_disk(200),
        on_disk(199),
        StarsOnDisk(on_disk(200).stars, "e" * 64, CPU),
        StarsInMemory(Inputs(x, errors), 3),
        StarsInMemory(Inputs(errors, x), 3),
    ]
    assert len({source.identity for source in stars}) == len(stars)
    for source in stars:
        assert isinstance(source, TrainingStars)
        assert source.device == CPU


def test_stars_of_no_process_are_an_empty_part_of_the_batch():
    """Where a batch has fewer stars than there are processes."""
    world = World(rank=0, size=3)
    (batch,) = in_memory(2).batches(settings(8), epoch=1, world=world)
    assert (len(batch.x), batch.n_stars) == (0, 2)
    assert batch.noise(3, stream(0, "noise")).shape == (0, 3)
    assert ALONE.size == 1


def test_row_groups_are_read_as_they_are_needed():
    stars = on_disk(200, window=45)
    batches = stars.batches(settings(8), epoch=1)
    next(batches)
    assert len(stars.stars.source.read) < len(stars.stars.source.row_groups)
    assert isinstance(
        stars.stars.source.read_row_group(RowGroup(stars.stars.source.row_groups[0].path, 0, 30)),
        StoredSpectra,
    )
    batches.close()


def with_noise() -> StarsInMemory:
    """Stars each of whose correlations show which star it is."""
    noise = a_noise(200).to(torch.float32)
    noise = noise._replace(g_error=torch.arange(200.0), bp=noise.bp[:1] * torch.linspace(0, 1, 200)[:, None])
    return StarsInMemory(NORMALIZATION.apply(STARS), NORMALIZATION.bp.stop, noise)


@pytest.mark.parametrize("size", [1, 3])
def test_correlations_go_with_their_stars(size):
    stars = with_noise()
    for rank in range(size):
        for batch in stars.batches(settings(64), 1, world=World(rank, size, rank, size)):
            rows = torch.tensor(rows_of(batch.x, X), dtype=torch.long)
            assert torch.equal(batch.correlated.g_error, rows.float())
            assert torch.equal(batch.correlated.bp, stars.correlated.bp[rows])


def test_stars_with_other_correlations_are_other_stars():
    stars = with_noise()
    others = [stars, in_memory(200), StarsInMemory(stars.inputs, stars.n_bp, stars.correlated.independent())]
    assert len({source.identity for source in others}) == 3


def test_added_noise_is_as_correlated_as_the_stars_own():
    n = 100_000
    one = a_noise(1).to(torch.float32)
    noise: CorrelatedNoise = one.take(torch.zeros(n, dtype=torch.long))
    x, errors = torch.zeros(n, 11), torch.rand(1, 11, generator=stream(0, "errors")).expand(n, 11) + 0.1
    fainter = DegradationSettings(
        share=1.0, noise_factor=5.0, without_band=0.0, without_orders=0.0, without_coeffs=0.0
    )
    batch = Batch(x, errors, torch.arange(n), n, 6, noise).degraded(fainter, stream(0, "degradation"))
    added = (batch.x / (batch.errors.square() - errors.square()).sqrt()).double()
    expected = torch.block_diag(square(one.bp)[0], square(one.rp)[0]).double()
    found = torch.from_numpy(np.cov(added.numpy().T))
    torch.testing.assert_close(found, expected, rtol=0, atol=0.025)  # 5 sigma
    assert batch.correlated is noise
