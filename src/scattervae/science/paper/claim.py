"""What the paper claims, what was measured here, and whether it holds: values for reports and JSON."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

HOLDS = "holds"
DOES_NOT_HOLD = "does not hold"
NOT_TESTABLE = "not testable here"


@dataclass(frozen=True)
class Table:
    """A table for people."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Claim:
    """One quantitative claim of a paper beside its number on the stars at hand.

    Attributes:
        id: Name for programs; `title` is that for people.
        paper: What the paper says, with its number.
        measured: The number here; None where it cannot be had.
        interval: Its 95 % interval.
        verdict: ``holds``, ``does not hold``, ``depends on ...`` or ``not testable here``.
        note: What to conclude from it.
        details: Tables behind the number.
        tested: Recipe and loss of the network that was tested; empty where there is none in it.
        as_printed: The number and the verdict of a network trained with the paper's loss as printed; None where that
            was not tried, or is what was tested.
    """

    id: str
    title: str
    paper: str
    measured: float | None
    interval: tuple[float, float] | None
    verdict: str
    note: str
    details: tuple[Table, ...] = field(default=())
    tested: str = ""
    as_printed: "Outcome | None" = None

    @property
    def outcome(self) -> "Outcome":
        """The number with its interval and verdict alone."""
        return Outcome(self.measured, self.interval, self.verdict)


@dataclass(frozen=True)
class Outcome:
    """What came out for a claim with another network: as `Claim` has it."""

    measured: float | None
    interval: tuple[float, float] | None
    verdict: str


def as_json(claims: "list[Claim]") -> list[dict[str, Any]]:
    """The claims as JSON values; a number that is not finite becomes null."""
    return [_finite(asdict(claim)) for claim in claims]


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
