"""The errors a user of scattervae can meet; the command line prints each as one line."""

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from operator import index
from typing import SupportsIndex

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def counted(n: SupportsIndex, noun: str, plural: str | None = None) -> str:
    """A number, of Python or numpy, with its noun, for messages: 1 star, 2,000 stars."""
    number = index(n)
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def shortened(names: Sequence[str]) -> str:
    """The first of many names, for messages, and how many more there are."""
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    found = ", ".join(name[:40] for name in names[:8]) or "none"
    return f"{' '.join(found.split())}{more}"


class ScatterVaeError(Exception):
    """Anything wrong with what the user gave: data, settings, stores or checkpoints.

    The message says where, what was found, what was expected and the way out, in one line, whatever libraries say in
    several.
    """

    def __str__(self) -> str:
        return " ".join(super().__str__().split("\n")).strip()


class DataError(ScatterVaeError):
    """A file or table holds no spectra that can be read."""

    def located(self, where: object) -> "DataError":
        """The same error of a file or table of this name."""
        return DataError(f"{where}: {self}")


@contextmanager
def located(where: object) -> Iterator[None]:
    """Let errors in what a file or table holds begin with its name."""
    try:
        yield
    except DataError as error:
        raise error.located(where) from error.__cause__


class SkippedRowsError(DataError):
    """All was done, but without more rows than may be skipped."""


class RecipeError(ScatterVaeError):
    """A setting is unknown, of the wrong type or out of range."""


class StoreError(ScatterVaeError):
    """A spectrum store is missing, incomplete or of another make."""


class CheckpointError(ScatterVaeError):
    """A model folder is missing, incomplete, or does not fit the data it is given."""


class TrainingError(ScatterVaeError):
    """Training cannot go on: the loss is not a number, or nothing is left to train on."""


class BusyError(ScatterVaeError):
    """Another run is writing the same output."""


class FetchError(ScatterVaeError):
    """An archive cannot be reached, does not have what was asked for, or sends something else."""
