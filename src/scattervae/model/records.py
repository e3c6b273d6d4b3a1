"""What training says after each epoch, and its file: one JSON line an epoch."""

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class EpochRecord:
    """Means over the stars of one epoch, in nats per star; the same whatever the objective weighs.

    Attributes:
        epoch: Counted from 1.
        objective: What was minimised.
        chi2: Half the squared normalised errors, summed over coefficients.
        penalty: Half the log variances, summed over coefficients.
        kl: Divergence from the prior, summed over latents.
        negative_elbo: chi2 + penalty + kl.
        learning_rate: At the epoch's last step.
    """

    epoch: int
    objective: float
    chi2: float
    penalty: float
    kl: float
    negative_elbo: float
    learning_rate: float


Progress = Callable[[EpochRecord], None]


def write_records(path: Path, records: Iterable[EpochRecord]) -> None:
    """Write one JSON line an epoch."""
    path.write_text("".join(json.dumps(asdict(record)) + "\n" for record in records), encoding="utf-8")


def read_records(path: Path) -> tuple[EpochRecord, ...]:
    """The records that `write_records` wrote."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return tuple(EpochRecord(**json.loads(line)) for line in lines)
