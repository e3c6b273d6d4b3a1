"""Several processes that train one model together: PyTorch's own exchange, started by ``torchrun``.

Each process takes a part of every batch; DistributedDataParallel adds up the gradients. The first process alone
writes files.
"""

import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from scattervae.errors import ScatterVaeError, TrainingError

_PATIENCE = timedelta(hours=1)  # for the first process to read a store once, while the others wait
_WAY_OUT = "what was saved is kept: run the same command with --resume"

T = TypeVar("T")


class AlreadyReportedError(TrainingError):
    """An error of the first process, which reports it; the others only stop."""


@dataclass(frozen=True)
class World:
    """The processes that train together, and which of them this one is, counted from 0; the same of this machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @classmethod
    def of_environment(cls) -> "World":
        """As the variables of ``torchrun`` say; one process where they are not set."""
        names = {"rank": "RANK", "size": "WORLD_SIZE", "local_rank": "LOCAL_RANK"}
        given = {field: os.environ[name] for field, name in names.items() if name in os.environ}
        if "rank" not in given or "size" not in given:
            return ALONE
        given["local_size"] = os.environ.get("LOCAL_WORLD_SIZE", given["size"])
        try:
            world = cls(**{field: int(value) for field, value in given.items()})
        except ValueError:
            world = cls(0, 0)
        if not 0 <= world.rank < world.size:
            raise TrainingError(
                f"RANK={os.environ['RANK']} of WORLD_SIZE={os.environ['WORLD_SIZE']}: no process of that "
                "number; let torchrun set them, or unset both"
            )
        return world

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @contextmanager
    def joined(self, device: torch.device) -> Iterator[None]:
        """Connected with the others.

        Raises:
            TrainingError: They cannot be reached, or one of them is gone.
        """
        if self.size == 1:
            yield
            return
        try:
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
        except RuntimeError as error:
            raise TrainingError(
                f"rank {self.rank} of {self.size} cannot join the others ({_reason(error)}); let torchrun set "
                "MASTER_ADDR and MASTER_PORT, and all the rest"
            ) from error
        before = signal.getsignal(signal.SIGTERM)
        if device.type == "cpu":  # a process that waits for a GPU would not hear the signal
            signal.signal(signal.SIGTERM, _stop)
        with self._watched():
            yield
            dist.destroy_process_group()
        signal.signal(signal.SIGTERM, before)

    def total(self, values: Tensor) -> Tensor:
        """The sum over the processes."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def shared(self, module: nn.Module) -> nn.Module:
        """The same module, whose gradients are means over the processes."""
        if self.size == 1:
            return module
        device = next(module.parameters()).device
        return DistributedDataParallel(module, device_ids=None if device.type == "cpu" else [device])

    def from_first(self, make: Callable[[], T]) -> T:
        """What the first process makes, or the error that it meets, in every process."""
        if self.size == 1:
            return make()
        shared: list[Any] = [None, None]
        problem: Exception | None = None
        if self.is_first:
            try:
                shared[0] = make()
            except (ScatterVaeError, OSError) as error:
                problem, shared[1] = error, str(error)
        dist.broadcast_object_list(shared)
        if problem is not None:
            raise problem
        if shared[1] is not None:
            raise AlreadyReportedError(shared[1])
        made: T = shared[0]
        return made

    def each_own(self, make: Callable[[], T]) -> T:
        """What every process makes for itself, the first before the others: an error of all is reported once."""
        made: list[T] = []
        self.from_first(lambda: made.append(make()))
        return made[0] if made else make()

    def reported_once(self, error: ScatterVaeError) -> ScatterVaeError:
        """An error that all processes meet at the same step, so that only the first reports it."""
        return error if self.is_first else AlreadyReportedError(str(error))

    @contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            _ignore_signals()
            if not _is_of_the_connection(error):
                raise
            other = f"rank {1 - self.rank}" if self.size == 2 else f"one of {self.size - 1} other ranks"
            raise TrainingError(f"{other} is gone ({_reason(error)}); {_WAY_OUT}") from error


ALONE = World()


def _is_of_the_connection(error: RuntimeError) -> bool:
    words = ("gloo", "nccl", "connection", "peer", "socket", "timed out", "broken pipe")
    return isinstance(error, dist.DistError) or any(word in str(error).lower() for word in words)


def _reason(error: RuntimeError) -> str:
    """The first sentence of what PyTorch says, without the line of its source."""
    return re.sub(r"^\[\S*\] ", "", str(error).splitlines()[0]).partition(". ")[0]


def _stop(_number: int, _frame: object) -> None:
    _ignore_signals()
    raise TrainingError(f"stopped by a signal, as torchrun does where another rank is gone; {_WAY_OUT}")


def _ignore_signals() -> None:
    """From the first error on, another signal could only hide it."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
