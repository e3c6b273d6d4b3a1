"""What training says after each epoch and in the end, and its files: one JSON line an epoch, ``provenance.json``."""

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    TypeAdapter,
    ValidationError,
)

from scattervae.errors import CheckpointError
from scattervae.files import problems


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
    """The records that `write_records` wrote.

    Raises:
        CheckpointError: A line is nothing of the kind.
    """
    schema = TypeAdapter(EpochRecord)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return tuple(schema.validate_json(line) for line in lines)
    except ValidationError as error:
        raise CheckpointError(f"{path}: {problems(error)}") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable: {error}") from error


class _Open(BaseModel):
    """Facts of which some are known by name; others may stand beside them."""

    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, Any] = Field(init=False)


class TrainingFacts(_Open):
    """How training went; None where the file does not say."""

    seconds: NonNegativeFloat | None = None
    stars_per_second: NonNegativeInt | NonNegativeFloat | None = None
    active_latents: NonNegativeInt | None = None
    kl_per_latent: tuple[float, ...] = ()


class DataFacts(_Open):
    """What it was trained on; None where the file does not say."""

    digest: str | None = None
    n_trained_on: NonNegativeInt | None = None
    n_inferred_coefficients: NonNegativeInt | None = None
    n_g_flux_from_table: NonNegativeInt | None = None
    n_g_flux_from_coefficients: NonNegativeInt | None = None


class Facts(_Open):
    """``provenance.json``: what a model was made from and with."""

    versions: dict[str, str] = {}
    commit: str | None = None
    data: DataFacts = DataFacts()
    training: TrainingFacts = TrainingFacts()
    credit: str | None = None

    @staticmethod
    def of(provenance: dict[str, Any]) -> "Facts":
        """The facts of a model in memory."""
        return Facts.model_validate(provenance)
