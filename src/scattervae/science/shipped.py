"""Models that come with the package: their names, folders and cards.

A model is taken by name wherever a folder is; a folder of that name wins. A card says what a model saw, how it scores
on stars it did not see, and where not to use it.
"""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from scattervae.errors import CheckpointError

CARD = "card.json"
_HOME = Path(str(files("scattervae") / "models"))


def shipped_models() -> dict[str, Path]:
    """The folder of each model that comes with the package, by name."""
    return {path.parent.name: path.parent for path in sorted(_HOME.glob(f"*/{CARD}"))}


def card_of(folder: str | Path) -> dict[str, Any] | None:
    """The card of a model, as JSON values; None for a model without one."""
    path = Path(folder) / CARD
    if not path.is_file():
        return None
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: no readable JSON: {error}; copy the folder again") from error
    if not isinstance(card, dict):
        raise CheckpointError(f"{path}: expected a JSON object; copy the folder again")
    return card


def model_folder(name_or_folder: str | Path) -> Path:
    """The folder of a model.

    Args:
        name_or_folder: A folder that exists, or the name of a model that comes with the package.

    Raises:
        CheckpointError: There is neither.
    """
    from scattervae.files import restored  # with numpy: the command line starts without it

    if not isinstance(name_or_folder, str | Path):
        raise CheckpointError(f"a {type(name_or_folder).__name__} is no model; give a folder or a name")
    path, known = Path(name_or_folder), shipped_models()
    if restored(path).exists():
        return path
    if str(name_or_folder) in known:
        return known[str(name_or_folder)]
    raise CheckpointError(
        f"{path}: no such folder, and no model of that name comes with the package "
        f"({', '.join(known) or 'none does'}); check the path"
    )


def require_own(folder: Path) -> None:
    """Refuse to write into a model that comes with the package.

    Raises:
        CheckpointError: It is one.
    """
    if folder.resolve().is_relative_to(_HOME):
        raise CheckpointError(f"{folder.name}: comes with the package; copy {folder} and give the copy")
