"""Chance under control: named random streams, and folds chosen by a hash of the source_id."""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch

from scattervae.arrays import SourceIds, StarArray, StarMask

TEST_BELOW = 0.15
VALIDATION_BELOW = 0.25
_KNUTH_MULTIPLIER = np.uint64(2654435761)
_LOW_32_BITS = np.uint64(0xFFFFFFFF)


def stream(seed: int, *names: str | int) -> torch.Generator:
    """A random generator of its own for one use, the same on every machine.

    Args:
        seed: The run's seed.
        names: What the numbers are for, as ``stream(0, "shuffle", epoch)``; other names, other numbers.
    """
    generator = torch.Generator()
    generator.manual_seed(_stream_seed(seed, *names))
    return generator


def numpy_stream(seed: int, *names: str | int) -> np.random.Generator:
    """As `stream`, for NumPy."""
    return np.random.default_rng(_stream_seed(seed, *names))


def _stream_seed(seed: int, *names: str | int) -> int:
    digest = hashlib.sha256("/".join(map(str, (seed, *names))).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1  # torch takes 63 bits


def fold_fraction(source_id: SourceIds) -> StarArray:
    r"""A number in [0, 1) for each star that depends on its source_id alone.

    .. math:: u = (\mathrm{source\_id} \times 2654435761 \bmod 2^{32}) / 2^{32}

    Adding rows to a set moves no star to another fold.

    Source:
        Multiplicative hashing with Knuth's constant (The Art of Computer Programming, vol. 3, sect. 6.4).
    """
    with np.errstate(over="ignore"):
        product = source_id.astype(np.uint64) * _KNUTH_MULTIPLIER
    return (product & _LOW_32_BITS).astype(np.float64) / 2.0**32


@dataclass(frozen=True)
class Folds:
    """Which stars train, which choose between models, and which are scored once at the end."""

    train: StarMask
    validation: StarMask
    test: StarMask


def folds(source_id: SourceIds) -> Folds:
    """The fold of each star: test where u < 0.15, validation where 0.15 <= u < 0.25, train elsewhere.

    Example:
        >>> import scattervae as sv
        >>> stars = sv.read("stars.csv.gz")
        >>> chosen = sv.folds(stars.spectra.source_id)
        >>> int(chosen.train.sum() + chosen.validation.sum() + chosen.test.sum())
        220
    """
    u = fold_fraction(source_id)
    test = u < TEST_BELOW
    validation = (u < VALIDATION_BELOW) & ~test
    return Folds(train=~(test | validation), validation=validation, test=test)
