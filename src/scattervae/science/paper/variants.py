"""Ways of training that differ in what their names say, and their rows of a table, kept as they are finished."""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scattervae.files import write_json
from scattervae.model.preparation import data_digest
from scattervae.model.recipe import RECIPES, Recipe, parse_recipe
from scattervae.spectra.labels import StellarLabels
from scattervae.spectra.spectra import Spectra


@dataclass(frozen=True)
class Variant:
    """One way of training, differing from the default in what its name says."""

    name: str
    recipe: Recipe


def variant_of(base: Recipe | str, name: str, **changes: Any) -> Variant:
    """A named recipe with changes: a value, or for a group of settings only those that differ.

    Raises:
        RecipeError: A setting is unknown or out of range.
    """
    settings = (RECIPES[base] if isinstance(base, str) else base).model_dump()
    settings["name"] = name
    for group, change in changes.items():
        settings[group] = settings[group] | change if isinstance(change, dict) else change
    return Variant(name, parse_recipe(settings, where=name))


@dataclass(frozen=True)
class KeptRows:
    """The finished rows of a table, a file each; one made of another recipe or other stars does not count.

    Attributes:
        folder: Where they are.
        stars: What identifies the stars, from `stars_digest`.
    """

    folder: Path
    stars: str

    def find(self, variant: Variant) -> Any:
        """The finished row; None where there is none."""
        file = self._file(variant)
        if not file.is_file():
            return None
        row = json.loads(file.read_text(encoding="utf-8"))
        made_of = self._made_of(variant)
        return row["cells"] if isinstance(row, dict) and row.get("made_of") == made_of else None

    def keep(self, variant: Variant, cells: Any) -> None:
        """Write a finished row: JSON values."""
        write_json(self._file(variant), {"made_of": self._made_of(variant), "cells": cells})

    def _made_of(self, variant: Variant) -> dict[str, Any]:
        return {"stars": self.stars, "recipe": variant.recipe.model_dump(mode="json")}

    def _file(self, variant: Variant) -> Path:
        return self.folder / f"{re.sub(r'[^a-zA-Z0-9.]+', '_', variant.name)}.json"


def stars_digest(spectra: Spectra, labels: StellarLabels | None = None) -> str:
    """What identifies stars and their labels."""
    digest = hashlib.sha256(data_digest(spectra).encode())
    for array in () if labels is None else (labels.source_id, labels.values, labels.errors):
        digest.update(array.tobytes())
    return digest.hexdigest()
