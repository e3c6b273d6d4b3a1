"""The labels' model: networks, intervals and volume together, fitted to labelled stars, and as a folder.

The folder has ``labels.json``, ``networks.safetensors`` and ``calibration.safetensors``. It belongs to one model of
spectra, whose digest it holds, and cannot be read with another.
"""

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int64
from pydantic import Field, NonNegativeInt, PositiveInt

from scattervae.arrays import LabelArray, StarArray, StarFlags
from scattervae.errors import CheckpointError, DataError, counted
from scattervae.files import (
    DIGESTS,
    StoredTensors,
    read_json,
    read_tensors,
    software_versions,
    verified_folder,
    write_json,
    write_tensors,
    written_folder,
)
from scattervae.model.checkpoint import Checkpoint, on_cpu, require_finite, with_weights
from scattervae.model.network import Posterior
from scattervae.model.recipe import trained_on
from scattervae.science.labels.prediction import (
    BY_CHI2,
    BY_DISTANCE,
    Cells,
    Conformal,
    LabelPrediction,
    cell_axes,
    scores_of,
)
from scattervae.science.labels.support import (
    RELIABLE_ABOVE,
    LabelledVolume,
    LabelSupport,
    SurveyStars,
    reduced_chi2,
)
from scattervae.science.labels.targets import LabelScales, TargetLabels
from scattervae.science.labels.training import (
    LabelledBatches,
    LabelNetwork,
    LabelSettings,
    Schedule,
    predict,
    train_network,
)
from scattervae.seeds import numpy_stream
from scattervae.settings import Settings
from scattervae.spectra.normalization import Inputs
from scattervae.spectra.spectra import Flag, Spectra

logger = logging.getLogger(__name__)

FEWEST_STARS = 40


@dataclass(frozen=True)
class LabelModel:
    """What predicts labels, for stars that one model of spectra encodes."""

    names: tuple[str, ...]  # the labels it predicts
    scales: LabelScales  # from their units to the networks'
    networks: tuple[LabelNetwork, ...]  # whose predictions are averaged
    conformal: Conformal  # how wide intervals must be
    volume: LabelledVolume  # where labelled stars lie
    support: LabelSupport  # which stars of the survey are of the labelled kinds
    settings: LabelSettings  # how it was fitted
    model_digest: str  # of the model of spectra
    n_stars: int  # labelled stars it was fitted to, those of the intervals included

    @property
    def digest(self) -> str:
        """Of networks, scales, intervals, volume and the model of spectra."""
        sha = hashlib.sha256(self.model_digest.encode())
        for network in (*self.networks, *self.support.networks):
            for name, weights in sorted(network.state_dict().items()):
                sha.update(name.encode() + weights.numpy().tobytes())
        cells, factors, correlations = self.conformal
        for values in (
            *self.scales,
            cells.axes,
            cells.values,
            factors,
            correlations,
            *self.volume,
            *self.support[1:],
        ):
            sha.update(np.ascontiguousarray(values).tobytes())
        return sha.hexdigest()[:32]

    def predict(
        self, inputs: Inputs, posterior: Posterior, chi2: StarArray, *, g_flux: StarArray, flags: StarFlags
    ) -> LabelPrediction:
        """Labels of stars that the model of spectra has encoded.

        Args:
            inputs: What that model saw; a missing coefficient is 0 with an infinite error.
            chi2: Reduced, at the posterior mean.
            flags: What is known against them, of which `Flag.BLENDED` matters here.
        """
        mean, sd = _averaged(self.networks, inputs)
        chi2_rank = self.support.chi2_rank(chi2)
        supported = self.support.judge(inputs)
        sd_widened = sd * supported.widening
        along_axes = cell_axes(mean, g_flux)
        half = self.conformal.half_widths(along_axes) * sd_widened[:, :, None]
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
            reliability=self._reliability(supported.rank, posterior, chi2_rank),
            width_rank=self.volume.width_rank(posterior),
            chi2_rank=chi2_rank,
            correlations=self.conformal.correlations[self.conformal.cells.of(along_axes)],
            blended=(flags & np.uint16(Flag.BLENDED)) > 0,
        )

    def _reliability(self, survey_rank: LabelArray, posterior: Posterior, chi2_rank: StarArray) -> LabelArray:
        """By survey, chi^2 and distance together: below any p for a share p of the labelled stars at most.

        Source:
            Bonferroni's inequality with weights: Holm (1979), Scand. J. Statist. 6, 65.
        """
        fewest = 1.0 / (RELIABLE_ABOVE * len(self.volume.latents))  # a smaller share of few stars is none
        by_distance = min(max(BY_DISTANCE, fewest), 1.0 - BY_CHI2) if self.support.networks else 1.0 - BY_CHI2
        near = self.volume.reliability(posterior) / by_distance
        reliability: LabelArray = np.minimum(near, np.minimum(chi2_rank / BY_CHI2, 1.0)[:, None])
        if by_distance + BY_CHI2 < 1.0:
            by_survey = survey_rank / (1.0 - by_distance - BY_CHI2)
            reliability = np.minimum(reliability, by_survey)
        return reliability


def fit_labels(
    model: Checkpoint,
    spectra: Spectra,
    labels: TargetLabels,
    settings: LabelSettings | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> LabelModel:
    """A label model, trained on the labelled stars among those that the model of spectra was trained on.

    Stars of the test fold are left out, and of the validation fold where that model left it out.

    Args:
        model: Knows what spectra look like, from stars with and without labels.
        labels: Labels of any stars, joined by source_id.
        progress: Called after each network with how many are done, and of how many.

    Raises:
        DataError: Too few labelled stars, or a label that cannot be predicted.
    """
    settings = settings or LabelSettings()
    rows = np.flatnonzero(trained_on(spectra, model.recipe))
    known = labels.aligned_to(spectra.source_id[rows])
    survey, labelled = SurveyStars.of(model, spectra, rows, known, seed=settings.seed), known.any_known
    stars, known = spectra.take(rows[labelled]), known.take(labelled)
    if len(stars) < FEWEST_STARS:
        raise DataError(
            f"{counted(len(stars), 'usable star')} with labels outside the folds held out; "
            f"at least {FEWEST_STARS} are needed to learn from and to calibrate intervals: give more labels"
        )
    scales = LabelScales.fit(known)
    inputs = survey.inputs.take(torch.from_numpy(np.flatnonzero(labelled)))
    batches = LabelledBatches(inputs, scales.apply(known), stars.g_flux, survey.bands)
    schedule = Schedule.of(len(stars), settings)
    fold = np.empty(len(labelled), dtype=np.int64)
    for name, some in (("label folds", labelled), ("support folds", ~labelled)):
        fold[some] = numpy_stream(settings.seed, name).permutation(int(some.sum())) % settings.folds
    support, widening = LabelSupport.fit(
        model.network, survey, settings, fold=fold, n_unseen=schedule.networks
    )
    unseen = Unseen(fold[labelled], widening[labelled])
    networks, conformal = _trained(model, batches, settings, unseen, schedule=schedule, progress=progress)
    return LabelModel(
        names=known.names,
        scales=scales,
        networks=networks,
        conformal=conformal,
        volume=LabelledVolume.of(model.encode(stars), np.isfinite(known.values), seed=settings.seed),
        support=support,
        settings=settings,
        model_digest=model.latent_digest,
        n_stars=len(stars),
    )


def label_stars(model: Checkpoint, label_model: LabelModel, spectra: Spectra) -> LabelPrediction:
    """Labels of these stars; NaN for those that cannot be encoded."""
    predictions = []
    for encoded in model.encode_batches([spectra]):
        g_flux, flags = encoded.spectra.g_flux, encoded.spectra.flags
        chi2 = reduced_chi2(encoded)
        predictions.append(
            label_model.predict(encoded.inputs, encoded.posterior, chi2, g_flux=g_flux, flags=flags)
        )
    if not predictions:
        inputs, posterior = model.normalization.apply(spectra), model.encode(spectra)
        g_flux, flags = spectra.g_flux, spectra.flags
        return label_model.predict(inputs, posterior, np.empty(0), g_flux=g_flux, flags=flags)
    return LabelPrediction.concatenate(predictions)


class Unseen(NamedTuple):
    """Which stars a network does not learn from, and how wide intervals of those are made."""

    fold: Int64[np.ndarray, " star"]  # the network of that number does not see the star
    widening: LabelArray  # of its intervals, by a network of the survey that has not seen it either


def _trained(
    model: Checkpoint,
    stars: LabelledBatches,
    settings: LabelSettings,
    unseen: Unseen,
    *,
    schedule: Schedule,
    progress: Callable[[int, int], None] | None,
) -> tuple[tuple[LabelNetwork, ...], Conformal]:
    """The networks, and intervals from what each predicts of the fold it did not learn from."""
    networks, along_axes, scores, standardised = [], [], [], []
    for index in range(schedule.networks):
        here = unseen.fold == index
        network = train_network(
            model.network, stars.take(torch.from_numpy(~here)), settings, schedule, index=index
        )
        rest = stars.take(torch.from_numpy(here))
        mean, sd = _averaged([network], rest.inputs)
        values, errors = (part.double().numpy() for part in rest.targets[:2])
        networks.append(network)
        along_axes.append(cell_axes(mean, rest.g_flux))
        off = np.where(rest.targets.known.numpy(), values - mean, np.nan)
        scores.append(scores_of(off, sd * unseen.widening[here], errors))
        standardised.append(off / np.hypot(sd, errors))
        logger.info("label network %d of %d: %d steps", index + 1, schedule.networks, schedule.steps)
        if progress is not None:
            progress(index + 1, schedule.networks)
    calibration = (np.concatenate(parts) for parts in (along_axes, scores, standardised))
    return tuple(networks), Conformal.fit(*calibration)


def _averaged(networks: Sequence[LabelNetwork], inputs: Inputs) -> tuple[LabelArray, LabelArray]:
    """Mean and standard deviation of scaled labels, mean and variance averaged over the networks.

    How far networks differ is not added to the variance: intervals are calibrated on what each predicts alone.
    """
    predicted = [predict(network, inputs.x, inputs.errors) for network in networks]
    mean, variance = (
        np.mean([part.double().numpy() for part in parts], axis=0) for parts in zip(*predicted, strict=True)
    )
    return mean, np.sqrt(variance)


CONFIG = "labels.json"
NETWORKS = "networks.safetensors"
CALIBRATION = "calibration.safetensors"
_KNOWS_SURVEY = 3
_FORMAT = 4  # 1 had no digests, 2 and 1 knew nothing of the survey, 3 had no correlations


class _Config(Settings):
    """``labels.json``."""

    format: int
    names: tuple[str, ...] = Field(min_length=1, max_length=1000)
    model: str
    n_stars: NonNegativeInt
    n_networks: PositiveInt
    n_blocks: NonNegativeInt
    n_support: NonNegativeInt = 0
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
        "n_support": len(label_model.support.networks),
        "cell_depth": label_model.conformal.cells.depth,
        "settings": label_model.settings.model_dump(mode="json"),
        "software": software_versions(),
    }
    weights = {
        f"{index}.{name}": values
        for index, network in enumerate((*label_model.networks, *label_model.support.networks))
        for name, values in on_cpu(network).items()
    }
    cells, factors, correlations = label_model.conformal
    arrays = {
        **label_model.scales._asdict(),
        "cell_axes": cells.axes,
        "cell_values": cells.values,
        "factors": factors,
        "correlations": correlations,
        **{f"volume_{name}": values for name, values in label_model.volume._asdict().items()},
        "support_log_odds": label_model.support.log_odds,
        "support_chi2": label_model.support.chi2,
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
    config = read_json(folder / CONFIG, _Config.model_validate, formats=range(1, _FORMAT + 1))
    if config.format > 1 and not (folder / DIGESTS).is_file():
        raise CheckpointError(f"{folder}: no {DIGESTS}; copy the folder again")
    if config.model != model.latent_digest:
        raise CheckpointError(
            f"{folder}: its labels belong to the model {config.model}, not to {model.latent_digest}; give that "
            "model, or fit labels to this one"
        )
    networks = _networks(model, config, read_tensors(folder / NETWORKS))
    path, arrays, _ = read_tensors(folder / CALIBRATION)
    weights = {} if config.format >= _FORMAT else {"spread_power": 0.0}  # all stars counted alike
    try:
        require_finite({name: arrays[name] for name in LabelScales._fields}, path)
        n_labels = {len(arrays[name]) for name in LabelScales._fields} | {len(config.names)}
        if len(n_labels) > 1:
            raise LookupError(f"{counted(len(config.names), 'label')}, but its scales are of others")
        return LabelModel(
            names=config.names,
            scales=LabelScales(*(arrays[name] for name in LabelScales._fields)),
            networks=networks[: config.n_networks],
            conformal=Conformal(
                Cells(arrays["cell_axes"], arrays["cell_values"], config.cell_depth),
                arrays["factors"],
                arrays.get("correlations", np.empty((len(arrays["factors"]), 0))),
            ),
            volume=LabelledVolume(*(arrays[f"volume_{name}"] for name in LabelledVolume._fields)),
            support=_stored_support(config, networks[config.n_networks :], arrays),
            settings=config.settings.model_copy(update=weights),
            model_digest=config.model,
            n_stars=config.n_stars,
        )
    except (RuntimeError, LookupError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: its arrays do not fit {CONFIG}: {error}") from error


def _networks(model: Checkpoint, config: _Config, stored: StoredTensors) -> tuple[LabelNetwork, ...]:
    n_held, n_networks = len(stored.arrays), config.n_networks + config.n_support
    if n_networks > n_held or config.n_blocks > n_held:
        raise CheckpointError(
            f"{stored.path}: {n_held} tensors, too few for its settings; do not fit each other"
        )
    return tuple(
        with_weights(
            lambda: LabelNetwork(model.network, len(config.names), config.n_blocks),
            stored.under(f"{index}."),
            stored.path,
        )
        for index in range(n_networks)
    )


def _stored_support(
    config: _Config, networks: tuple[LabelNetwork, ...], arrays: Mapping[str, np.ndarray]
) -> LabelSupport:
    if config.format < _KNOWS_SURVEY:
        return LabelSupport((), np.empty((0, len(config.names))), np.empty(0))
    return LabelSupport(networks, arrays["support_log_odds"], arrays["support_chi2"])
