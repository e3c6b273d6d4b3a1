"""A label model on disk: ``labels.json``, ``networks.safetensors`` and ``calibration.safetensors``, and no pickle.

It belongs to one model of spectra, whose digest it holds, and cannot be read with another.
"""

from pathlib import Path

from pydantic import Field, NonNegativeInt, PositiveInt

from scattervae.errors import CheckpointError
from scattervae.files import DIGESTS, read_json, verified_folder, write_json, written_folder
from scattervae.model.checkpoint import Checkpoint, on_cpu, require_finite, software_versions, with_weights
from scattervae.science.labels.conformal import Cells, Conformal
from scattervae.science.labels.model import LabelModel
from scattervae.science.labels.network import LabelNetwork
from scattervae.science.labels.scales import LabelScales
from scattervae.science.labels.settings import LabelSettings
from scattervae.science.labels.volume import LabelledVolume
from scattervae.settings import Settings
from scattervae.tensors import StoredTensors, read_tensors, write_tensors

CONFIG = "labels.json"
NETWORKS = "networks.safetensors"
CALIBRATION = "calibration.safetensors"
_FORMAT = 2  # 1 had no digests


class _Config(Settings):
    """``labels.json``."""

    format: int
    names: tuple[str, ...] = Field(min_length=1, max_length=1000)
    model: str
    n_stars: NonNegativeInt
    n_networks: PositiveInt
    n_blocks: NonNegativeInt
    cell_depth: NonNegativeInt
    settings: LabelSettings
    software: dict[str, str]


def save_label_model(label_model: LabelModel, folder: Path) -> None:
    """Write the folder; it appears whole or not at all, and an old one stays until then."""
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
    weights = {
        f"{index}.{name}": values
        for index, network in enumerate(label_model.networks)
        for name, values in on_cpu(network).items()
    }
    cells, factors = label_model.conformal
    arrays = {
        **label_model.scales._asdict(),
        "cell_axes": cells.axes,
        "cell_values": cells.values,
        "factors": factors,
        **{f"volume_{name}": values for name, values in label_model.volume._asdict().items()},
    }
    with written_folder(folder) as partial:
        write_json(partial / CONFIG, config)
        write_tensors(partial / NETWORKS, weights)
        write_tensors(partial / CALIBRATION, arrays)


def load_label_model(folder: str | Path, model: Checkpoint) -> LabelModel:
    """Read a label model that belongs to this model of spectra.

    Raises:
        CheckpointError: A file is missing or broken, or it belongs to another model.
    """
    folder = verified_folder(folder, (CONFIG, NETWORKS, CALIBRATION), "a label model")
    config = read_json(folder / CONFIG, _Config.model_validate, formats=(1, _FORMAT))
    if config.format > 1 and not (folder / DIGESTS).is_file():
        raise CheckpointError(f"{folder}: no {DIGESTS}; copy the folder again")
    if config.model != model.latent_digest:
        raise CheckpointError(
            f"{folder}: its labels belong to the model {config.model}, not to {model.latent_digest}; give that "
            "model, or fit labels to this one"
        )
    networks = _networks(model, config, read_tensors(folder / NETWORKS))
    path, arrays, _ = read_tensors(folder / CALIBRATION)
    try:
        require_finite({name: arrays[name] for name in LabelScales._fields}, path)
        n_labels = {len(arrays[name]) for name in LabelScales._fields} | {len(config.names)}
        if len(n_labels) > 1:
            raise LookupError(f"{len(config.names)} labels, but its scales are of others")
        return LabelModel(
            names=config.names,
            scales=LabelScales(*(arrays[name] for name in LabelScales._fields)),
            networks=networks,
            conformal=Conformal(
                Cells(arrays["cell_axes"], arrays["cell_values"], config.cell_depth), arrays["factors"]
            ),
            volume=LabelledVolume(*(arrays[f"volume_{name}"] for name in LabelledVolume._fields)),
            settings=config.settings,
            model_digest=config.model,
            n_stars=config.n_stars,
        )
    except (RuntimeError, LookupError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: its arrays do not fit {CONFIG}: {error}") from error


def _networks(model: Checkpoint, config: _Config, stored: StoredTensors) -> tuple[LabelNetwork, ...]:
    n_held = len(stored.arrays)
    if config.n_networks > n_held or config.n_blocks > n_held:
        raise CheckpointError(
            f"{stored.path}: {n_held} tensors, too few for its settings; do not fit each other"
        )
    return tuple(
        with_weights(
            lambda: LabelNetwork(model.network, len(config.names), config.n_blocks),
            stored.under(f"{index}."),
            stored.path,
        )
        for index in range(config.n_networks)
    )
