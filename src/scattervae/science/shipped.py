"""Models by name: those that come with the package, with their cards, and those of the Hugging Face hub.

A model is taken by name wherever a folder is; a folder of that name wins. A card says what a model saw, how it scores
on stars it did not see, and where not to use it. Of the hub only files of ours are fetched, of bounded size, and read
as any stranger's model is: JSON and safetensors, checked before anything is built of them.
"""

import json
import os
import re
from fnmatch import fnmatch
from importlib.resources import files
from pathlib import Path
from typing import Any

from scattervae.errors import CheckpointError

CARD = "card.json"
MODEL_FILES = (
    *("config.json", "provenance.json", "digests.json", CARD, "training.jsonl", "README.md"),
    *(
        f"{n}.safetensors"
        for n in (
            "weights",
            "normalization",
            "training_stars",
            "calibration",
            "flow",
            "label_flow",
            "outliers",
        )
    ),
    *("labels/*.json", "labels/*.safetensors"),
)
"""Files of a model's folder, which alone go to the hub and come from it."""
LARGEST_MODEL = 500_000_000
HUB_NAME = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*/[\w.-]+?)(@(?P<revision>[\w./-]+))?")
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
    on_hub = HUB_NAME.fullmatch(str(name_or_folder))
    if on_hub and not path.parent.exists():  # a mistyped path beside others is no name
        return _from_hub(on_hub["name"], on_hub["revision"])
    raise CheckpointError(
        f"{path}: no such folder, and no model of that name comes with the package "
        f"({', '.join(known) or 'none does'}); check the path"
    )


def _hub(what: str) -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise CheckpointError(
            f"{what}: no such folder; models of the hub need its package: in the checkout of scattervae, "
            "pip install '.[hub]'"
        ) from error
    return huggingface_hub


def _from_hub(name: str, revision: str | None) -> Path:
    """The folder of a model on the hub, fetched where it is not in the hub's cache yet.

    Raises:
        CheckpointError: There is no such model, the hub cannot be reached, or its files are no model's or too large.
    """
    what = f"{name}@{revision}" if revision else name
    hub, endpoint = _hub(what), os.environ.get("HF_ENDPOINT")
    try:
        info = hub.HfApi(endpoint=endpoint).model_info(name, revision=revision, files_metadata=True)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
        wanted = [file for file in sizes if any(fnmatch(file, pattern) for pattern in MODEL_FILES)]
        _check_sizes(what, {file: sizes[file] for file in wanted})
        folder = hub.snapshot_download(name, revision=info.sha, allow_patterns=wanted, endpoint=endpoint)
    except CheckpointError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise CheckpointError(
            f"{what}: no such folder, and the hub does not give it ({reason}); check the path"
        ) from error
    found = [file for file in Path(folder).rglob("*") if file.is_file()]
    _check_sizes(what, {str(file.relative_to(folder)): file.stat().st_size for file in found})
    return Path(folder)


def _check_sizes(what: str, sizes: dict[str, int]) -> None:
    if not {"config.json", "weights.safetensors"} <= sizes.keys():
        raise CheckpointError(
            f"{what}: has no config.json and weights.safetensors on the hub: no model of scattervae"
        )
    if sum(sizes.values()) > LARGEST_MODEL:
        total = sum(sizes.values()) / 1e6
        raise CheckpointError(
            f"{what}: {total:,.0f} MB on the hub; models have {LARGEST_MODEL / 1e6:.0f} MB at most"
        )


def push(folder: Path, name: str) -> str:
    """Write a model to the hub, files of ours alone; gives its address there.

    Raises:
        CheckpointError: The name is none, or the hub cannot be reached or refuses.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise CheckpointError(f"{name}: no name on the hub; expected user/name")
    hub = _hub(name)
    try:
        api = hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
        api.create_repo(name, exist_ok=True)
        done = api.upload_folder(repo_id=name, folder_path=folder, allow_patterns=list(MODEL_FILES))
    except Exception as error:
        raise CheckpointError(f"{name}: the hub refuses it ({' '.join(str(error).split())[:200]})") from error
    return str(done.commit_url)


def require_own(folder: Path) -> None:
    """Refuse to write into a model that comes with the package.

    Raises:
        CheckpointError: It is one.
    """
    if folder.resolve().is_relative_to(_HOME):
        raise CheckpointError(f"{folder.name}: comes with the package; copy {folder} and give the copy")
