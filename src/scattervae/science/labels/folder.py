"""A label model on disk: ``labels.json``, ``networks.safetensors`` and ``calibration.safetensors``, and no pickle.

It belongs to one model of spectra, whose digest it holds, and cannot be read with another.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from scattervae.errors import CheckpointError
from scattervae.files import replace_folder, restored, write_json
from scattervae.model.checkpoint import Checkpoint, software_versions
from scattervae.science.labels.conformal import Cells, Conformal
from scattervae.science.labels.model import LabelModel
from scattervae.science.labels.network import LabelNetwork
from scattervae.science.labels.scales import LabelScales
from scattervae.science.labels.settings import LabelSettings
from scattervae.science.labels.volume import LabelledVolume

CONFIG = "labels.json"
NETWORKS = "networks.safetensors"
CALIBRATION = "calibration.safetensors"
_FORMAT = 1


def save_label_model(label_model: LabelModel, folder: Path) -> None:
    """Write the folder; it appears whole or not at all, and an old one stays until then."""
    partial = folder.with_name(folder.name + ".saving")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    config = {
        "format": _FORMAT,
        "names": label_model.names,
        "model": label_model.model_digest,
        "n_stars": label_model.n_stars,
        "n_networks": len(label_model.networks),
        "n_blocks": label_model.networks[0].n_blocks,
        "cell_depth": label_model.conformal.cells.depth,
        "settings": label_model.settings.model_dump(mode="json"),
        "software": software_versions(),
    }
    write_json(partial / CONFIG, config)
    weights = {
        f"{index}.{name}": values.contiguous()
        for index, network in enumerate(label_model.networks)
        for name, values in network.state_dict().items()
    }
    save_file(weights, partial / NETWORKS)
    cells, factors = label_model.conformal
    arrays = {
        **label_model.scales._asdict(),
        "cell_axes": cells.axes,
        "cell_values": cells.values,
        "factors": factors,
        **{f"volume_{name}": values for name, values in label_model.volume._asdict().items()},
    }
    contiguous = {name: np.ascontiguousarray(values) for name, values in arrays.items()}
    safetensors.numpy.save_file(contiguous, partial / CALIBRATION)
    replace_folder(folder, partial)


def load_label_model(folder: str | Path, model: Checkpoint) -> LabelModel:
    """Read a label model that belongs to this model of spectra.

    Raises:
        CheckpointError: A file is missing or broken, or it belongs to another model.
    """
    folder = restored(Path(folder))
    missing = [name for name in (CONFIG, NETWORKS, CALIBRATION) if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(f"{folder}: no {', '.join(missing)}; not the folder of a label model")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if config["format"] != _FORMAT:
            raise CheckpointError(
                f"{folder / CONFIG}: format {config['format']}, this version reads {_FORMAT}"
            )
        if config["model"] != model.digest:
            raise CheckpointError(
                f"{folder}: its labels belong to the model {config['model']}, not to {model.digest}; give that "
                "model, or fit labels to this one"
            )
        arrays = safetensors.numpy.load_file(folder / CALIBRATION)
        cells = Cells(arrays["cell_axes"], arrays["cell_values"], config["cell_depth"])
        return LabelModel(
            names=tuple(config["names"]),
            scales=LabelScales(*(arrays[name] for name in LabelScales._fields)),
            networks=_networks(model, config, load_file(folder / NETWORKS)),
            conformal=Conformal(cells, arrays["factors"]),
            volume=LabelledVolume(*(arrays[f"volume_{name}"] for name in LabelledVolume._fields)),
            settings=LabelSettings.model_validate(config["settings"]),
            model_digest=config["model"],
            n_stars=config["n_stars"],
        )
    except (SafetensorError, RuntimeError, LookupError, TypeError, ValueError, OSError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise CheckpointError(f"{folder}: its files are broken or do not fit each other: {reason}") from error


def _networks(
    model: Checkpoint, config: dict[str, Any], weights: dict[str, Tensor]
) -> tuple[LabelNetwork, ...]:
    networks = []
    for index in range(config["n_networks"]):
        network = LabelNetwork(model.network, len(config["names"]), config["n_blocks"])
        prefix = f"{index}."
        own = {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}
        network.load_state_dict(own)
        networks.append(network.eval())
    return tuple(networks)
