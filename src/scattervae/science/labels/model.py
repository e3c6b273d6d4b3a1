"""The labels' model: networks, intervals and volume together, fitted to labelled stars, and as a folder.

The folder has ``labels.json``, ``networks.safetensors`` and ``calibration.safetensors``. It belongs to one model of
spectra, whose digest it holds, and cannot be read with another.
"""

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import Field, NonNegativeInt, PositiveInt

from scattervae.arrays import LabelArray, StarArray
from scattervae.errors import CheckpointError, DataError, counted
from scattervae.files import (
    DIGESTS,
    StoredTensors,
    read_json,
    read_tensors,
    verified_folder,
    write_json,
    write_tensors,
    written_folder,
)
from scattervae.gaia.facts import g_mag_of
from scattervae.model.checkpoint import Checkpoint, on_cpu, require_finite, with_weights
from scattervae.model.posterior import Posterior
from scattervae.model.training_stars import training_stars
from scattervae.provenance import software_versions
from scattervae.science.calibration.calibrated import spectrum_score
from scattervae.science.labels.conformal import Cells, Conformal, Places, scores_of
from scattervae.science.labels.network import LabelNetwork, predict
from scattervae.science.labels.prediction import LabelPrediction
from scattervae.science.labels.targets import LabelScales, TargetLabels
from scattervae.science.labels.training import LabelledBatches, LabelSettings, Schedule, train_network
from scattervae.science.labels.volume import LabelledVolume
from scattervae.seeds import numpy_stream
from scattervae.settings import Settings
from scattervae.spectra.normalization import Inputs
from scattervae.spectra.spectra import Spectra

logger = logging.getLogger(__name__)

FEWEST_STARS = 40
_AXES = 2


@dataclass(frozen=True)
class LabelModel:
    """What has been learnt of labels, for stars that one model of spectra encodes."""

    names: tuple[str, ...]  # the labels it predicts
    scales: LabelScales  # from their units to the networks'
    networks: tuple[LabelNetwork, ...]  # whose predictions are averaged
    conformal: Conformal  # how wide intervals must be
    volume: LabelledVolume  # where labelled stars lie
    settings: LabelSettings  # how it was fitted
    model_digest: str  # of the model of spectra
    n_stars: int  # labelled stars it was fitted to, those of the intervals included

    @property
    def digest(self) -> str:
        """Of networks, scales, intervals, volume and the model of spectra."""
        sha = hashlib.sha256(self.model_digest.encode())
        for network in self.networks:
            for name, weights in sorted(network.state_dict().items()):
                sha.update(name.encode() + weights.numpy().tobytes())
        cells, factors = self.conformal
        for values in (*self.scales, cells.axes, cells.values, factors, *self.volume):
            sha.update(np.ascontiguousarray(values).tobytes())
        return sha.hexdigest()[:32]

    def predict(
        self, inputs: Inputs, posterior: Posterior, g_flux: StarArray, *, score: StarArray | None = None
    ) -> LabelPrediction:
        """Labels of stars that the model of spectra has encoded.

        Args:
            inputs: What that model saw; a missing coefficient is 0 with an infinite error.
            score: How well it reproduces them, where it has been calibrated.
        """
        mean, sd = _averaged(self.networks, inputs)
        half = self.conformal.half_widths(_places(mean, g_flux)) * sd[:, :, None]
        unusable = ~np.isfinite(mean)
        bounds = {}
        for level, name in enumerate(("68", "95")):
            for side, sign in (("low", -1), ("high", 1)):
                bound = self.scales.invert(mean + sign * half[:, :, level])
                bounds[f"{side}_{name}"] = np.where(unusable, np.nan, bound)
        return LabelPrediction(
            names=self.names,
            values=self.scales.invert(mean),
            **bounds,
            reliability=self.volume.reliability(posterior),
            width_rank=self.volume.width_rank(posterior),
            score=np.full(len(g_flux), np.nan) if score is None else score,
        )


def fit_labels(
    model: Checkpoint,
    spectra: Spectra,
    labels: TargetLabels,
    settings: LabelSettings | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> LabelModel:
    """A label model, learnt from the labelled stars among those that the model of spectra was trained on.

    Stars of the test fold are left out, and of the validation fold where that model left it out.

    Args:
        model: Knows what spectra look like, from stars with and without labels.
        labels: Labels of any stars, joined by source_id.
        progress: Called after each network with how many are done, and of how many.

    Raises:
        DataError: Too few labelled stars, or a label that nothing can be learnt of.
    """
    settings = settings or LabelSettings()
    stars = training_stars(spectra, model.recipe)
    known = labels.aligned_to(stars.source_id)
    stars, known = stars.take(known.any_known), known.take(known.any_known)
    if len(stars) < FEWEST_STARS:
        raise DataError(
            f"{counted(len(stars), 'usable star')} with labels outside the folds held out; "
            f"at least {FEWEST_STARS} are needed to learn from and to calibrate intervals: give more labels"
        )
    scales = LabelScales.fit(known)
    inputs = model.normalization.apply(stars, gaps=model.recipe.trains_on_one_band)
    bp, rp = model.normalization.bp, model.normalization.rp
    bands = (bp.stop, rp.stop - rp.start)
    batches = LabelledBatches(inputs, scales.apply(known), stars.g_flux, bands)
    networks, conformal = _trained(model, batches, settings, progress)
    volume = LabelledVolume.of(model.encode(stars), np.isfinite(known.values), seed=settings.seed)
    return LabelModel(
        known.names, scales, networks, conformal, volume, settings, model.latent_digest, n_stars=len(stars)
    )


def label_stars(model: Checkpoint, label_model: LabelModel, spectra: Spectra) -> LabelPrediction:
    """Labels of these stars; NaN for those that cannot be encoded."""
    predictions = []
    for encoded in model.encode_batches([spectra]):
        inputs, posterior = encoded.inputs, encoded.posterior
        score = spectrum_score(model, inputs, posterior, encoded.reconstruction)
        predictions.append(label_model.predict(inputs, posterior, encoded.spectra.g_flux, score=score))
    if not predictions:
        inputs = model.normalization.apply(spectra)
        return label_model.predict(inputs, model.encode(spectra), spectra.g_flux)
    return LabelPrediction.concatenate(predictions)


def _trained(
    model: Checkpoint,
    stars: LabelledBatches,
    settings: LabelSettings,
    progress: Callable[[int, int], None] | None,
) -> tuple[tuple[LabelNetwork, ...], Conformal]:
    """The networks, and intervals from what each predicts of the fold it did not learn from."""
    schedule = Schedule.of(len(stars), settings)
    fold = numpy_stream(settings.seed, "label folds").permutation(len(stars)) % settings.folds
    networks, places, scores = [], [], []
    for index in range(schedule.networks):
        unseen = torch.from_numpy(fold == index)
        network = train_network(model.network, stars.take(~unseen), settings, schedule, index=index)
        rest = stars.take(unseen)
        mean, sd = _averaged([network], rest.inputs)
        values, errors = (part.double().numpy() for part in rest.targets[:2])
        networks.append(network)
        places.append(_places(mean, rest.g_flux))
        scores.append(scores_of(np.where(rest.targets.known.numpy(), values - mean, np.nan), sd, errors))
        logger.info("label network %d of %d: %d steps", index + 1, schedule.networks, schedule.steps)
        if progress is not None:
            progress(index + 1, schedule.networks)
    return tuple(networks), Conformal.fit(np.concatenate(places), np.concatenate(scores))


def _averaged(networks: Sequence[LabelNetwork], inputs: Inputs) -> tuple[LabelArray, LabelArray]:
    """Mean and standard deviation of scaled labels, mean and variance averaged over the networks.

    How far networks differ is not added to the variance: intervals are calibrated on what each predicts alone.
    """
    predicted = [predict(network, inputs.x, inputs.errors) for network in networks]
    mean, variance = (
        np.mean([part.double().numpy() for part in parts], axis=0) for parts in zip(*predicted, strict=True)
    )
    return mean, np.sqrt(variance)


def _places(mean: LabelArray, g_flux: StarArray) -> Places:
    """Where intervals may differ: brightness, and the first predicted labels (Teff and log g)."""
    return np.column_stack([g_mag_of(g_flux), mean[:, :_AXES]])


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
            raise LookupError(f"{counted(len(config.names), 'label')}, but its scales are of others")
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
