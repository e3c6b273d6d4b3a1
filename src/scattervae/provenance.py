"""What an output says of its making: versions of the software, the commit, whom to credit."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt

import scattervae

CREDIT = "ESA/Gaia/DPAC"
"""Source: the Gaia archive's guide, "How to acknowledge Gaia"."""


def software_versions() -> dict[str, str]:
    """The versions that a model or catalogue was made with."""
    libraries = {name: metadata.version(name) for name in ("torch", "numpy")}
    return {"scattervae": scattervae.__version__, **libraries, "python": platform.python_version()}


def commit() -> str | None:
    """The commit of the source tree that runs, or None where it is an installed package."""
    here = Path(__file__).resolve().parent
    try:
        done = subprocess.run(
            ["git", "-C", str(here), "log", "-1", "--format=%H", "--", str(here)],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


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
    """``provenance.json`` of a trained folder: what a model was made from and with."""

    versions: dict[str, str] = {}
    commit: str | None = None
    data: DataFacts = DataFacts()
    training: TrainingFacts = TrainingFacts()
    credit: str | None = None
