"""A model with its calibration: the same decoder, an encoder whose widths hold the truth, scatter, a score.

It is kept in the trained folder as ``calibration.safetensors`` beside the model's own files, which stay as they are.
"""

import copy
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TypeGuard

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from scattervae.arrays import Coeffs, Latents, StarArray
from scattervae.errors import CheckpointError
from scattervae.files import read_tensors, tensors_digest, write_tensors
from scattervae.model.checkpoint import Checkpoint, on_cpu, read_checkpoint, require_finite, with_weights
from scattervae.model.network import NetworkShape, Posterior, Reconstruction, ScatterVAE
from scattervae.science.calibration.score import ObservedScores, ScoreInputs, ScoreMap, brightness_and_kind
from scattervae.science.calibration.widths import NO_LAW, WidthLaw, kinds_of
from scattervae.science.exact_posterior import refine_cheaply
from scattervae.spectra.columns import StoredSpectra
from scattervae.spectra.normalization import Inputs
from scattervae.spectra.spectra import Spectra

CALIBRATION = "calibration.safetensors"
_SCORE = "score."
_OBSERVED = "observed."
_LAW = "refined."
_ENCODER = "encoder."
_FACTORS = ("scatter_factor", "width_offset", "width_slope")


class CalibratedNetwork(ScatterVAE):
    """The network with factors on the scatter of its coefficients and on the widths of its latents; 1 at first.

    Args:
        n_bp: How many of them are BP's: widths may have a law of their own where a band is missing.
    """

    def __init__(self, n_coeffs: int, shape: NetworkShape, n_bp: int, *, n_laws: int = 1) -> None:
        super().__init__(n_coeffs, shape)
        self.n_bp = n_bp
        self.scatter_factor = nn.Buffer(torch.ones(n_coeffs))
        self.width_offset = nn.Buffer(torch.zeros(n_laws, shape.n_latent))
        self.width_slope = nn.Buffer(torch.zeros(n_laws, shape.n_latent))

    def encode(self, x: Coeffs, errors: Coeffs) -> Posterior:
        kinds = kinds_of(errors, self.n_bp)
        return WidthLaw(self.width_offset, self.width_slope).apply(super().encode(x, errors), kinds)

    def decode(self, z: Latents) -> Reconstruction:
        mean, scatter = super().decode(z)
        return Reconstruction(mean, scatter * self.scatter_factor)


@dataclass(frozen=True, repr=False)
class CalibratedModel(Checkpoint):
    """A trained model with its calibration."""

    # from chi^2 to a score that is uniform under the model; None before it is fitted
    score: ScoreMap | None = None
    base: str = ""  # `Checkpoint.digest` of the model that was calibrated
    # how scores of real stars differ from those of stars that the model makes; None where too few were known
    observed: ObservedScores | None = None
    # of posteriors that are refined from the encoder's answer; None in calibrations of old, whose encoder answers alone
    refined: WidthLaw | None = None

    def _posterior(self, inputs: Inputs, batch: int) -> Posterior:
        """As the model's own, each posterior refined (`refine_cheaply`) and its widths corrected."""
        encoded = super()._posterior(inputs, batch)
        if self.refined is None or len(inputs) == 0:
            return encoded
        kinds = kinds_of(inputs.errors.to(self.device), self.normalization.bp.stop)
        return self.refined.apply(refine_cheaply(self, inputs, encoded), kinds)

    @property
    def scatter_factor(self) -> Float[Tensor, " coeff"]:
        """What the scatter of each coefficient is multiplied by."""
        assert isinstance(self.network, CalibratedNetwork)
        return self.network.scatter_factor

    def to(self, device: torch.device) -> "CalibratedModel":
        """The same model, computing on this device."""
        return replace(
            self,
            network=copy.deepcopy(self.network).to(device),
            refined=None if self.refined is None else self.refined.to(device),
            score=None if self.score is None else self.score.to(device),
        )

    @property
    def latent_digest(self) -> str:
        """As the model's own, the calibration included, but for how real stars' scores differ."""
        arrays = {} if self.score is None else self.score.arrays()
        arrays |= {} if self.refined is None else self.refined.arrays(_LAW)
        return tensors_digest(arrays, super().digest)[:32] if arrays else super().digest

    @property
    def digest(self) -> str:
        """As the model's own, the whole calibration included."""
        own = self.latent_digest
        return own if self.observed is None else tensors_digest(self.observed._asdict(), own)[:32]

    def spectrum_score(self, found: ScoreInputs, stars: Spectra | StoredSpectra) -> StarArray:
        """The share of stars that the model reproduces worse: of real stars outside training, of such G and kind.

        Where a calibration knows too few real stars whose coefficients are of this kind, published or inferred, the
        share of stars that the model makes.
        """
        assert self.score is not None
        u = self.score.standardised(found)
        scores: StarArray = self.score.share_above(u).cpu().double().numpy()
        if self.observed is None:
            return scores
        return self.observed(u.cpu().double().numpy(), *brightness_and_kind(stars), scores)


def with_scatter_factor(checkpoint: Checkpoint, factor: Float[Tensor, " coeff"]) -> CalibratedModel:
    """The model with its scatter multiplied; encoder and decoder as they were, no score."""
    return _changed(checkpoint, {"scatter_factor": factor.float()})


def with_widths(checkpoint: Checkpoint, law: WidthLaw = NO_LAW) -> CalibratedModel:
    """The model with its posteriors refined, star by star, and their widths changed by a law; no score."""
    return replace(_changed(checkpoint, {}), refined=law)


def _changed(checkpoint: Checkpoint, tensors: dict[str, Tensor]) -> CalibratedModel:
    plain, n_bp = checkpoint.network, checkpoint.normalization.bp.stop
    weights = plain.state_dict() | tensors
    n_laws = len(weights.get("width_offset", (0,)))
    network = CalibratedNetwork(plain.n_coeffs, plain.shape, n_bp, n_laws=n_laws)
    network.load_state_dict(network.state_dict() | weights)
    return _of(checkpoint, network.to(checkpoint.device).eval())


def _of(checkpoint: Checkpoint, network: CalibratedNetwork) -> CalibratedModel:
    own = {field.name: getattr(checkpoint, field.name) for field in fields(Checkpoint)}
    base = checkpoint.base if is_calibrated(checkpoint) else checkpoint.digest
    return CalibratedModel(**own | {"network": network}, base=base)


def is_calibrated(checkpoint: Checkpoint) -> TypeGuard[CalibratedModel]:
    """True for a model with its calibration."""
    return isinstance(checkpoint.network, CalibratedNetwork)


def save_calibration(model: CalibratedModel, folder: Path) -> Path:
    """Write the calibration beside the files of the model it belongs to, whole or not at all.

    Raises:
        CheckpointError: The folder holds another model.
    """
    held = read_checkpoint(folder).digest
    if held != model.base:
        raise CheckpointError(
            f"{folder}: holds the model {held}, but the calibration is of {model.base}; give the folder of that model"
        )
    tensors = {n: w for n, w in on_cpu(model.network).items() if n.startswith(_ENCODER) or n in _FACTORS}
    if model.refined is not None:
        tensors |= model.refined.arrays(_LAW)
    if model.score is not None:
        tensors |= {_SCORE + name: values for name, values in model.score.arrays().items()}
    if model.observed is not None:
        tensors |= {_OBSERVED + name: values for name, values in model.observed._asdict().items()}
    write_tensors(folder / CALIBRATION, tensors, {"model": held})
    return folder / CALIBRATION


def with_saved_calibration(checkpoint: Checkpoint, folder: Path) -> Checkpoint:
    """The model with the calibration in its folder; as it is where there is none.

    Raises:
        CheckpointError: The calibration is broken, or of another model.
    """
    path = folder / CALIBRATION
    if not path.is_file():
        return checkpoint
    stored = read_tensors(path)
    belongs_to = stored.notes.get("model")
    if belongs_to != checkpoint.digest:
        raise CheckpointError(
            f"{path}: the calibration of another model ({belongs_to}, this one is {checkpoint.digest}); "
            "remove it, or calibrate again"
        )
    own = {name: w for name, w in stored.arrays.items() if not name.startswith((_SCORE, _LAW, _OBSERVED))}
    kept = {
        name: w.numpy() for name, w in on_cpu(checkpoint.network).items() if not name.startswith(_ENCODER)
    }
    n_laws, n_bp = np.atleast_2d(own.get(_FACTORS[1], 0.0)).shape[0], checkpoint.normalization.bp.stop
    network = with_weights(
        lambda: CalibratedNetwork(checkpoint.network.n_coeffs, checkpoint.network.shape, n_bp, n_laws=n_laws),
        kept | own,
        path,
    )
    parts = {
        ScoreMap: stored.under(_SCORE),
        WidthLaw: stored.under(_LAW),
        ObservedScores: stored.under(_OBSERVED),
    }
    for fitted in (ScoreMap, WidthLaw):  # NaN in the third is a kind of stars that it does not know
        require_finite(parts[fitted], path)
    try:
        score, refined, observed = (
            kind(**{name: torch.from_numpy(w) for name, w in part.items()}) if part else None
            for kind, part in parts.items()
        )
    except TypeError as error:
        raise CheckpointError(f"{path}: does not fit the model: {error}; calibrate again") from error
    return replace(_of(checkpoint, network), score=score, observed=observed, refined=refined)


def refined_law(checkpoint: Checkpoint) -> WidthLaw | None:
    """The law of a calibrated model whose posteriors are refined, star by star."""
    return checkpoint.refined if isinstance(checkpoint, CalibratedModel) else None


def has_score(checkpoint: Checkpoint) -> TypeGuard[CalibratedModel]:
    """True for a model that says how well it reproduces a star: one calibrated with a score."""
    return isinstance(checkpoint, CalibratedModel) and checkpoint.score is not None
