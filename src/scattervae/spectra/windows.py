"""Stars of a store as a model sees them: all in memory, or shuffled from disk window by window.

A window is a few hundred thousand stars from row groups all over the sky, mixed in memory while threads read the
next one. What a window holds, and in which order, depends on the seed and the epoch alone: not on threads, nor
on how many processes share the reading.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import cycle
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from scattervae.arrays import StarMask
from scattervae.errors import StoreError
from scattervae.parallel import ahead, in_threads, keep_memory, thread_pool
from scattervae.seeds import stream
from scattervae.spectra.columns import RowGroup, StoredSpectra
from scattervae.spectra.normalization import Inputs, Normalization
from scattervae.spectra.spectra import Basis

WINDOW_STARS = 524_288  # 460 MB with 110 coefficients, from 32 to 64 row groups; two are in memory at a time
_THREADS = 2

T = TypeVar("T")
R = TypeVar("R")
Keep = Callable[[StoredSpectra], StarMask]


@runtime_checkable
class RowGroupSource(Protocol):
    """What reading needs of a `scattervae.spectra.store.SpectrumStore`."""

    @property
    def basis(self) -> Basis: ...
    @property
    def row_groups(self) -> tuple[RowGroup, ...]: ...
    def read_row_group(self, row_group: RowGroup) -> StoredSpectra: ...


class Rank(NamedTuple):
    """Which of several processes reads: it takes every `size`-th row group of a window."""

    rank: int
    size: int


ALONE = Rank(0, 1)


class Window(NamedTuple):
    """Stars of one stretch of an epoch, to be taken in the epoch's order."""

    end: int  # index in the epoch behind the stretch's last star
    # where in the epoch the stars of this process stand, rising; all of the stretch for one
    indices: Int64[Tensor, " star"]
    rows: Int64[Tensor, " star"]  # which row of `inputs` each of them is
    inputs: Inputs  # these stars; their memory is written over when the window after next is asked for

    def between(self, begin: int, end: int) -> tuple[Int64[Tensor, " star"], Inputs]:
        """Indices and stars from `begin` to before `end`, in memory of their own."""
        first, last = torch.searchsorted(self.indices, torch.tensor([begin, end])).tolist()
        return self.indices[first:last], self.inputs.take(self.rows[first:last])


@dataclass(frozen=True)
class ChosenStars:
    """Those stars of a store that one wants, such as those to train on."""

    source: RowGroupSource  # the store
    keep: Keep  # says which stars of a row group are wanted
    n_kept: Int64[np.ndarray, " row_group"]  # how many of each row group they are
    normalization: Normalization  # from archive units to the model's inputs
    gaps: bool = False  # whether a missing band is a gap to the model, as in `Normalization.apply`
    threads: int = _THREADS  # how many row groups are read at a time
    # stars that are mixed with each other; the last window of an epoch is no smaller than others
    window: int = WINDOW_STARS
    # memory of windows that nobody uses at present, kept for the next epoch
    spare: list[Inputs] = field(default_factory=list, repr=False)

    def __len__(self) -> int:
        return int(self.n_kept.sum())

    def read(self) -> Inputs:
        """All of them in memory, in the store's order."""
        inputs = Inputs.empty(len(self), self.normalization.n_coeffs)
        ends = np.cumsum(self.n_kept)

        def fill(index: int) -> None:
            self._fill(inputs[ends[index] - self.n_kept[index] : ends[index]], index)

        for _ in in_threads(fill, range(len(self.n_kept)), threads=self.threads):
            pass
        return inputs

    def windows(self, seed: int, epoch: int, *, first: int = 0, rank: Rank = ALONE) -> Iterator[Window]:
        """Every star once, in an order that is the epoch's own; the next window is read meanwhile.

        Args:
            first: Leave out the windows that end before this star of the epoch.
            rank: Which stars of each window to read.
        """
        plans = [plan for plan in self._plans(seed, epoch) if plan.end > first]
        buffers = [self._space() for _ in plans[:2]]  # one is read while the other is used
        keep_memory()
        try:
            with thread_pool(self.threads, thread_name_prefix="window") as pool:
                jobs = zip(plans, cycle(buffers), strict=False)
                for _, (window, work) in ahead(
                    jobs, lambda job: self._begin(pool, job[0], rank, job[1]), len(buffers) - 1
                ):
                    for done in work:
                        done.result()
                    yield window
        finally:
            self.spare.extend(buffers)

    def _space(self) -> Inputs:
        """Memory for the largest window that an epoch may have; touched no further than it is used."""
        if self.spare:
            return self.spare.pop()
        n_windows = max(1, -(-len(self) // self.window))
        largest = len(self) // n_windows + int(self.n_kept.max()) + 1
        return Inputs.empty(largest, self.normalization.n_coeffs)

    def _plans(self, seed: int, epoch: int) -> Iterator["_Plan"]:
        """The row groups in the epoch's order, cut into windows of as equal numbers of stars as they allow."""
        order = torch.randperm(len(self.n_kept), generator=stream(seed, "pieces", epoch)).numpy()
        order = order[self.n_kept[order] > 0]
        ends = np.cumsum(self.n_kept[order])
        n_windows = -(-len(self) // self.window)
        cuts = np.searchsorted(ends, len(self) * np.arange(1, n_windows + 1) / max(n_windows, 1)) + 1
        start = first_group = 0
        for index, cut in enumerate(np.unique(cuts).tolist()):
            end = int(ends[cut - 1])
            yield _Plan(start, end, order[first_group:cut], stream(seed, "window", epoch, index))
            start, first_group = end, cut

    def _begin(
        self, pool: ThreadPoolExecutor, plan: "_Plan", rank: Rank, buffer: Inputs
    ) -> tuple[Window, list[Future[None]]]:
        """A window in this buffer, and the threads' work that fills it, row_group after row_group."""
        sizes = self.n_kept[plan.row_groups]
        is_read = np.arange(len(sizes)) % rank.size == rank.rank
        ends = np.cumsum(sizes[is_read])
        work = [
            pool.submit(self._fill, buffer[end - size : end], int(index), quick=True)
            for index, size, end in zip(plan.row_groups[is_read], sizes[is_read], ends, strict=True)
        ]
        order = torch.randperm(plan.end - plan.start, generator=plan.generator).numpy()
        star_is_read = np.repeat(is_read, sizes)
        indices = np.flatnonzero(star_is_read[order])
        rows = (np.cumsum(star_is_read) - 1)[order[indices]]
        return Window(plan.end, torch.from_numpy(indices + plan.start), torch.from_numpy(rows), buffer), work

    def _fill(self, inputs: Inputs, index: int, *, quick: bool = False) -> None:
        """Read a row group and write its stars over these."""
        row_group = self.source.row_groups[index]
        stars = self.source.read_row_group(row_group)
        kept = np.flatnonzero(self.keep(stars))
        if len(kept) != len(inputs):
            raise StoreError(
                f"{row_group.path}: row group {row_group.group} has {len(kept)} stars to train on, {len(inputs)} when "
                "they were counted; it was changed during the run: start again"
            )
        self.normalization.apply_to(stars, kept, inputs, quick=quick, gaps=self.gaps)


class _Plan(NamedTuple):
    """A window to be read: its stretch of the epoch, its row groups, and the chance that mixes their stars."""

    start: int
    end: int
    row_groups: Int64[np.ndarray, " row_group"]
    generator: torch.Generator
