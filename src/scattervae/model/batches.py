"""Where batches come from: memory, by index, or a store on disk, shuffled window by window.

Either way an epoch's batches depend on the seed and the epoch alone, all but the last are full, and each star is
in one of them. Where several processes train, each gets its share of every batch.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Int64
from torch import Tensor

from scattervae.arrays import Coeffs, Latents
from scattervae.model.covariance import CorrelatedNoise
from scattervae.model.distributed import ALONE, World
from scattervae.model.recipe import Degradation, DegradationSettings, TrainingSettings, draw_degradation
from scattervae.seeds import stream
from scattervae.spectra.normalization import Inputs
from scattervae.spectra.windows import ChosenStars, Rank

STREAMED = "streamed"


class Batch(NamedTuple):
    """The stars of one gradient step, or this process's share of them."""

    x: Coeffs  # coefficients, in training standard deviations
    errors: Coeffs  # their errors, same units
    rows: Int64[Tensor, " star"]  # which of the batch's stars these are
    n_stars: int  # how many the whole batch has
    n_bp: int  # how many of the coefficients are BP's
    correlated: CorrelatedNoise | None = None  # how their noise is correlated, where the likelihood uses it

    def noise(self, n_latent: int, generator: torch.Generator) -> Latents:
        """Standard normal draws for these stars, the same whichever process has them."""
        drawn = torch.randn(self.n_stars, n_latent, generator=generator, dtype=self.x.dtype)
        return self._own(drawn).to(self.x.device)

    def degraded(self, settings: DegradationSettings, generator: torch.Generator) -> "Batch":
        """The same stars, some of them degraded, the same ones whichever process has them."""
        if settings.share == 0.0:
            return self
        bands = self.n_bp, self.x.shape[1] - self.n_bp
        drawn = Degradation(*map(self._own, draw_degradation(settings, self.n_stars, bands, generator)))
        drawn = drawn.to(self.x.device)
        if self.correlated is not None:
            drawn = drawn._replace(noise=self.correlated.draw(drawn.noise))
        x, errors = drawn.apply(self.x, self.errors)
        return self._replace(x=x, errors=errors)

    def _own(self, values: Tensor) -> Tensor:
        """The rows of this process's stars, of one for each star of the batch."""
        return values if len(self.rows) == self.n_stars else values[self.rows]


@runtime_checkable
class TrainingStars(Protocol):
    """Stars to train on."""

    @property
    def n_coeffs(self) -> int: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def identity(self) -> str:
        """Another for other stars, and for the same stars in batches of another order."""
        ...

    def __len__(self) -> int: ...

    def batches(
        self, settings: TrainingSettings, epoch: int, *, first: int = 0, world: World = ALONE
    ) -> Iterator[Batch]:
        """The epoch's batches in order, those before number `first` left out."""
        ...


@dataclass(frozen=True)
class StarsInMemory:
    """Encodable stars held in memory, on the device that trains; a batch is a random gather."""

    inputs: Inputs
    n_bp: int
    correlated: CorrelatedNoise | None = None

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def n_coeffs(self) -> int:
        return self.inputs.x.shape[1]

    @property
    def device(self) -> torch.device:
        return self.inputs.x.device

    @property
    def identity(self) -> str:
        sha = hashlib.sha256()
        known = self.correlated
        more = () if known is None else (known.bp, known.rp, known.g_error)
        for values in (self.inputs.x, self.inputs.errors, *more):
            sha.update(values.cpu().contiguous().numpy().tobytes())
        return f"{len(self)} with digest {sha.hexdigest()[:16]}"

    def batches(
        self, settings: TrainingSettings, epoch: int, *, first: int = 0, world: World = ALONE
    ) -> Iterator[Batch]:
        """Stars by index in an order drawn for the epoch; each process takes its stretch of every batch."""
        order = torch.randperm(len(self), generator=stream(settings.seed, "shuffle", epoch))
        for start in range(first * settings.batch_size, len(self), settings.batch_size):
            rows = order[start : start + settings.batch_size]
            begin, end = (len(rows) * rank // world.size for rank in (world.rank, world.rank + 1))
            own = rows[begin:end].to(self.device)
            stars = self.inputs.take(own)
            correlated = None if self.correlated is None else self.correlated.take(own)
            yield Batch(stars.x, stars.errors, torch.arange(begin, end), len(rows), self.n_bp, correlated)


@dataclass(frozen=True)
class StarsOnDisk:
    """Stars of a store read anew each epoch, shuffled window by window; a process reads its share of each window."""

    stars: ChosenStars
    digest: str
    device: torch.device

    def __len__(self) -> int:
        return len(self.stars)

    @property
    def n_coeffs(self) -> int:
        return self.stars.normalization.n_coeffs

    @property
    def identity(self) -> str:
        return f"{len(self)} of the store with digest {self.digest[:16]}, {STREAMED}"

    def batches(
        self, settings: TrainingSettings, epoch: int, *, first: int = 0, world: World = ALONE
    ) -> Iterator[Batch]:
        """Stretches of the epoch's order; a batch may begin in one window and end in another."""
        size, n_stars = settings.batch_size, len(self)
        begin = first * size
        rank = Rank(world.rank, world.size)
        taken: list[tuple[Tensor, Inputs]] = []
        for window in self.stars.windows(settings.seed, epoch, first=begin, rank=rank):
            while begin < n_stars and (end := min(begin + size, n_stars)) <= window.end:
                yield self._batch([*taken, window.between(begin, end)], begin, end)
                begin, taken = end, []
            taken.append(window.between(begin, window.end))

    def _batch(self, taken: list[tuple[Tensor, Inputs]], begin: int, end: int) -> Batch:
        rows, x, errors = (
            values[0] if len(values) == 1 else torch.cat(values)
            for values in zip(*((rows, stars.x, stars.errors) for rows, stars in taken), strict=True)
        )
        n_bp = self.stars.normalization.bp.stop
        return Batch(x.to(self.device), errors.to(self.device), rows - begin, end - begin, n_bp)
