"""The catalogue: one row a star, with its latents and how well the model predicts it.

A row's bits depend on the star and the model alone, not on the stars that come with it, nor on how they came.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from scattervae.arrays import StarArray
from scattervae.model.checkpoint import BATCH, Checkpoint, Prediction
from scattervae.model.network import Posterior, gaussian_terms
from scattervae.parallel import in_threads
from scattervae.science.calibration.calibrated import has_score, is_calibrated, refined_law
from scattervae.science.calibration.score import score_inputs_of
from scattervae.science.catalogue.training_flags import (
    FOLD,
    TRAINING_FLAGS,
    UNLIKE,
    TrainingFlag,
    file_flags,
    fold_numbers,
    training_flags,
)
from scattervae.science.labels.model import LabelModel
from scattervae.science.labels.prediction import LabelPrediction
from scattervae.science.outliers import REASONS, SCORE, SCORE_FIELDS
from scattervae.science.star_parts import CATALOGUE_COLUMNS, StarParts
from scattervae.science.trained import labels_of, outlier_reference_of
from scattervae.spectra.columns import StoredSpectra, described, flag_legend, stored_of
from scattervae.spectra.normalization import Inputs
from scattervae.spectra.spectra import FLAGS, Flag, Spectra, flag_counts, rechunk, repeats
from scattervae.spectra.staging import SeenIds
from scattervae.spectra.star_tables import LABEL_UNITS
from scattervae.spectra.store import SpectrumStore
from scattervae.spectra.tables import CATALOGUE_NOTE, TableFace, result_schema

_ROWS_A_CHUNK = 4 * BATCH


@dataclass(frozen=True)
class CatalogueSummary:
    """What was written."""

    path: Path  # the file or folder
    n_stars: int  # rows
    n_encoded: int  # rows with latents; the others say why in their flags
    flags: dict[str, int]  # stars with each flag, by the flag's name
    training: dict[str, int]  # stars with each bit of `TrainingFlag`, by its name
    n_unlike: int  # stars that are in some way unlike the training stars
    n_resumed: int  # rows that an earlier, stopped run had written

    @staticmethod
    def of(path: Path, tables: Iterable[pa.Table], *, n_resumed: int) -> "CatalogueSummary":
        """The summary of these rows, counted as they pass; their columns `COUNTED` are enough."""
        n_stars = n_encoded = n_unlike = 0
        flags: Counter[str] = Counter()
        training: Counter[str] = Counter()
        for table in tables:
            n_stars += len(table)
            n_encoded += int(np.isfinite(table["latent_1_mean"].to_numpy()).sum())
            flags.update(flag_counts(table[FLAGS].to_numpy().astype(np.uint16)))
            bits = table[TRAINING_FLAGS].to_numpy()
            training.update(flag_counts(bits, TrainingFlag))
            n_unlike += int(((bits & UNLIKE) > 0).sum())
        return CatalogueSummary(path, n_stars, n_encoded, dict(flags), dict(training), n_unlike, n_resumed)


COUNTED = ["latent_1_mean", FLAGS, TRAINING_FLAGS]


class Chunk(NamedTuple):
    """Stars to encode together: how many, and what reads them, in one of several threads."""

    n_rows: int
    read: Callable[[], StoredSpectra]
    shared: int = 0  # what is known of all of them


def catalogue_schema(checkpoint: Checkpoint) -> pa.Schema:
    """Names, units and descriptions of the catalogue's columns, and what model they are of."""
    unit, reference = "training standard deviations", outlier_reference_of(checkpoint)
    latents = [
        field
        for k in range(1, checkpoint.n_latent + 1)
        for field in (
            _float(f"latent_{k}_mean", "", f"posterior mean of latent {k}"),
            _float(f"latent_{k}_sd", "", f"posterior standard deviation of latent {k}"),
        )
    ]
    correlated = checkpoint.recipe.network.posterior == "correlated" or refined_law(checkpoint) is not None
    pairs = _pairs(checkpoint.n_latent) if correlated else ()
    fields = [
        described("source_id", pa.int64(), "", "Gaia source identifier"),
        *latents,
        *(_float(name, "", f"posterior correlation of latents {j + 1} and {k + 1}") for name, j, k in pairs),
        _float(
            "log_likelihood",
            "nat",
            f"log-likelihood of the coefficients at the posterior mean, in {unit}; the constant with "
            "ln 2 pi is left out",
        ),
        _float("reduced_chi2", "", "mean squared residual over error and scatter in quadrature"),
        _float("reduced_chi2_without_scatter", "", "mean squared residual over the error alone"),
        _float("kl", "nat", "Kullback-Leibler divergence of the posterior from the prior"),
        _float("mean_log10_scatter_bp", f"dex({unit})", "mean log10 of the scatter of the BP coefficients"),
        _float("mean_log10_scatter_rp", f"dex({unit})", "mean log10 of the scatter of the RP coefficients"),
        *([_score_field()] if has_score(checkpoint) else []),
        *([] if reference is None else [_float(SCORE, *SCORE_FIELDS[SCORE])]),
        *([] if reference is None else [described(REASONS, pa.string(), *SCORE_FIELDS[REASONS])]),
        *([] if reference is None else [_float(name, *about) for name, about in CATALOGUE_COLUMNS.items()]),
        *_label_fields(labels_of(checkpoint)),
        described(FOLD, pa.int16(), "", "0 test, 1 validation, 2 train, by a hash of the source_id"),
        described(TRAINING_FLAGS, pa.int32(), "", flag_legend(TrainingFlag)),
        described(FLAGS, pa.int32(), "", flag_legend()),
    ]
    about = checkpoint.about | {"calibrated": is_calibrated(checkpoint)}
    about |= {} if reference is None else {"outlier_reference": reference.digest}
    return result_schema(fields, {CATALOGUE_NOTE: json.dumps(about)})


def label_columns(checkpoint: Checkpoint) -> list[str]:
    """Names of the columns about labels, where the model predicts some."""
    return [field.name for field in _label_fields(labels_of(checkpoint))]


def _score_field() -> pa.Field:
    text = (
        "share of real stars outside training of its G, with published or inferred coefficients as it has, that fit "
        "worse (where the calibration knew too few: of stars of this model); near 0 for a spectrum that the model does "
        "not reproduce"
    )
    return _float("spectrum_score", "", text)


def _label_fields(labels: LabelModel | None) -> list[pa.Field]:
    """The columns of labels, where the model predicts some."""
    if labels is None:
        return []
    found = []
    for name in labels.names:
        unit = LABEL_UNITS[name]
        found.append(_float(name, unit, f"{name} predicted from the spectrum: median"))
        for percent in (68, 95):
            for end in ("low", "high"):
                text = f"{end} end of the interval that holds the true {name} in {percent} %"
                found.append(_float(f"{name}_{end}_{percent}", unit, text))
        text = f"how ordinary the star is among stars with known {name}, from 0 to 1; believe above 0.01"
        found.append(_float(f"{name}_reliability", "", text))
    if labels.conformal.correlations.size:
        text = "correlation of the errors of both labels, of stars like this one"
        found.extend(_float(name, "", text) for name in LabelPrediction.pair_names(labels.names))
    rank = "share of labelled stars whose latents are no better known than this star's"
    return [
        *found,
        _float("width_rank", "", rank),
        described("label_flags", pa.int32(), "", LabelPrediction.flag_legend(labels.names)),
    ]


def catalogue(checkpoint: Checkpoint, stars: Spectra | StoredSpectra) -> pa.Table:
    """The catalogue of stars in memory; rows in their order, NaN where a star cannot be encoded.

    Raises:
        DataError: The spectra are of another basis than the model's.

    Example:
        >>> import scattervae as sv
        >>> sv.catalogue(sv.load_model("model"), sv.read("stars.csv.gz").spectra).num_rows
        220
    """
    chunks = chunks_of(checkpoint, [stars]) if isinstance(stars, Spectra) else _cut(stars)
    rows = [batch for _, batch in rows_of(checkpoint, chunks, threads=torch.get_num_threads())]
    return pa.Table.from_batches(rows, catalogue_schema(checkpoint))


class EncodedStars(TableFace, Posterior):
    """The latent posterior of stars, and all that the catalogue says of them, by the same names.

    It is the `Posterior` itself, so that what takes one takes this. ``len`` counts stars; columns, frames, tables and
    files hold the numbers that `scattervae encode` writes, and are made when they are first asked for.
    """

    checkpoint: Checkpoint
    stars: Spectra

    @staticmethod
    def of(checkpoint: Checkpoint, stars: Spectra, posterior: Posterior) -> "EncodedStars":
        """The stars with the posterior that this model has of them."""
        found = EncodedStars(*posterior)
        found.checkpoint, found.stars = checkpoint, stars
        return found

    @cached_property
    def table(self) -> pa.Table:
        """Their catalogue."""
        return catalogue(self.checkpoint, self.stars)

    def __len__(self) -> int:
        return len(self.stars)

    @property
    def latents(self) -> Float32[np.ndarray, "star latent"]:
        """Posterior mean of each latent, a row a star; NaN for a star that cannot be encoded."""
        return self._of_latents("mean")

    @property
    def latent_sd(self) -> Float32[np.ndarray, "star latent"]:
        """One standard deviation of each."""
        return self._of_latents("sd")

    def _of_latents(self, what: str) -> Float32[np.ndarray, "star latent"]:
        names = [f"latent_{k}_{what}" for k in range(1, self.checkpoint.n_latent + 1)]
        return np.stack([self.column(name) for name in names], axis=1)


def chunks_of(
    checkpoint: Checkpoint, stars: SpectrumStore | Iterable[Spectra], *, known: int = 0
) -> Iterator[Chunk]:
    """The stars of a store, or of chunks, in their order and ready to be encoded.

    Args:
        known: What is known of all of them, beyond what their file or store says.

    Raises:
        DataError: They are of another basis than the model's.
    """
    if isinstance(stars, SpectrumStore):
        checkpoint.normalization.require_basis(stars.basis)
        shared = known | file_flags(checkpoint, stars.basis, stars.release)
        for row_group in stars.row_groups:
            yield Chunk(row_group.n_rows, partial(stars.read_row_group, row_group), shared)
    else:
        for spectra in rechunk(stars, _ROWS_A_CHUNK):
            checkpoint.normalization.require_basis(spectra.basis)
            shared = known | file_flags(checkpoint, spectra.basis)
            yield Chunk(len(spectra), partial(stored_of, spectra), shared)


def once_each(chunks: Iterable[Chunk]) -> Iterator[Chunk]:
    """The same chunks, of rows of one star all but the first flagged ``DUPLICATE``, wherever in them they are.

    Rows that carry the flag already do not count. Each chunk is read once more, and its source_ids stay in memory.
    """
    seen = SeenIds()
    for chunk in chunks:
        spectra = chunk.read()
        rows = np.flatnonzero((spectra.flags & np.uint16(Flag.DUPLICATE)) == 0)
        source_id = spectra.source_id[rows]
        again = seen.holds(source_id) | repeats(source_id)
        seen.add(source_id[~again])
        yield chunk._replace(read=partial(_flagged, chunk.read, rows[again])) if again.any() else chunk


def _flagged(read: Callable[[], StoredSpectra], rows: Int64[np.ndarray, " row"]) -> StoredSpectra:
    spectra = read()
    flags = spectra.flags.copy()
    flags[rows] |= np.uint16(Flag.DUPLICATE)
    return replace(spectra, flags=flags)


def rows_of(
    checkpoint: Checkpoint, chunks: Iterable[Chunk], *, threads: int
) -> Iterator[tuple[Chunk, pa.RecordBatch]]:
    """The catalogue's rows of each chunk, in order; reading and computing are shared out to threads."""
    schema = catalogue_schema(checkpoint)
    return in_threads(
        lambda chunk: encode_chunk(checkpoint, chunk.read(), schema, shared=chunk.shared),
        chunks,
        threads=threads,
    )


def encode_chunk(
    checkpoint: Checkpoint,
    spectra: StoredSpectra,
    schema: pa.Schema,
    *,
    shared: int = 0,
) -> pa.RecordBatch:
    """The catalogue's rows of these stars, as `catalogue_schema` has them."""
    names = [field.name for field in schema if field.type == pa.float32()]
    values = torch.empty(len(names), len(spectra))
    labels, doubts = labels_of(checkpoint), np.zeros(len(spectra), dtype=np.uint16)
    reference, reasons = outlier_reference_of(checkpoint), np.full(len(spectra), "", dtype=object)
    with torch.inference_mode():
        for start in range(0, len(spectra), BATCH):
            stars = _rows(spectra, slice(start, start + BATCH))
            inputs = checkpoint.normalization.apply(stars, quick=True, gaps=checkpoint.sees_errors)
            inputs = inputs.to(checkpoint.device)
            predicted = checkpoint.predict(inputs)
            found = _columns(checkpoint, stars, inputs, predicted)
            if labels is not None:
                chi2 = found["reduced_chi2"].double().cpu().numpy()
                prediction = _labels(labels, stars, inputs, predicted.posterior, chi2=chi2)
                found |= {name: torch.from_numpy(column) for name, column in prediction.columns().items()}
                doubts[start : start + len(stars)] = prediction.flags
            if reference is not None:
                parts = StarParts.of_batch(checkpoint, stars, inputs, predicted)
                rows = np.flatnonzero(predicted.posterior.mean[:, 0].isfinite().cpu().numpy())
                scores = reference.score(parts)
                reasons[start + rows] = scores.reasons()
                for name, column in {SCORE: scores.score, **parts.catalogue_columns()}.items():
                    found[name] = torch.full((len(stars),), torch.nan)
                    found[name][rows] = torch.from_numpy(column).float()
            batch = torch.stack([found[name].cpu() for name in names])
            batch.masked_fill_(inputs.x[:, 0].isnan().cpu(), torch.nan)  # a star that cannot be encoded
            values[:, start : start + len(stars)] = batch
    columns = dict(zip(names, values.numpy(), strict=True))
    columns |= {"source_id": spectra.source_id, FLAGS: spectra.flags, "label_flags": doubts, REASONS: reasons}
    columns |= {FOLD: fold_numbers(spectra.source_id)}
    columns |= {TRAINING_FLAGS: training_flags(checkpoint, spectra, shared)}
    return pa.record_batch([columns[field.name] for field in schema], schema=schema)


def _columns(
    checkpoint: Checkpoint, stars: StoredSpectra, inputs: Inputs, predicted: Prediction
) -> dict[str, Tensor]:
    """What the catalogue says of these stars, by column.

    Each line passes over all coefficients, in place where it can: new memory costs as much as the arithmetic.
    """
    posterior, reconstruction = predicted
    variance = inputs.errors.square()
    without_scatter = (inputs.x - reconstruction.mean).square_().div_(variance).sum(dim=1)
    variance.addcmul_(reconstruction.scatter, reconstruction.scatter)
    terms = gaussian_terms(inputs.x, reconstruction.mean, variance)
    log_scatter, bands = reconstruction.scatter.log10(), checkpoint.normalization
    values = {
        "log_likelihood": -terms.nll,
        "reduced_chi2": terms.chi2 / terms.n_known,
        "reduced_chi2_without_scatter": without_scatter / terms.n_known,
        "kl": posterior.kl().sum(dim=1),
        "mean_log10_scatter_bp": log_scatter[:, bands.bp].mean(dim=1),
        "mean_log10_scatter_rp": log_scatter[:, bands.rp].mean(dim=1),
    }
    if has_score(checkpoint):
        fit = score_inputs_of(terms, log_scatter, posterior, bands)
        values["spectrum_score"] = torch.from_numpy(checkpoint.spectrum_score(fit, stars)).float()
    for k, (mean, sd) in enumerate(zip(posterior.mean.T, posterior.sd.T, strict=True), start=1):
        values |= {f"latent_{k}_mean": mean, f"latent_{k}_sd": sd}
    return values | _correlations(posterior)


def _labels(
    labels: LabelModel, stars: StoredSpectra, inputs: Inputs, posterior: Posterior, *, chi2: StarArray
) -> LabelPrediction:
    """Labels of at most `BATCH` stars, padded to as many: other numbers of rows round differently."""
    missing = BATCH - len(inputs)
    rows = torch.arange(len(inputs) + missing).clamp(max=len(inputs) - 1)
    padded = inputs.to(torch.device("cpu")).take(rows)
    latents = posterior.each(lambda values: values.cpu()[rows])
    chi2, g_flux, flags = (values[rows.numpy()] for values in (chi2, stars.g_flux, stars.flags))
    return labels.predict(padded, latents, chi2, g_flux=g_flux, flags=flags).take(slice(0, len(inputs)))


def _correlations(posterior: Posterior) -> dict[str, Tensor]:
    if posterior.coupling is None:
        return {}
    unit = torch.nn.functional.normalize(posterior.root, dim=-1)
    correlations = unit @ unit.mT
    return {name: correlations[:, j, k] for name, j, k in _pairs(posterior.mean.shape[1])}


def _pairs(n_latent: int) -> Iterator[tuple[str, int, int]]:
    """Names of the correlations' columns, with the latents that they are of, counted from 0."""
    for j in range(1, n_latent):
        for k in range(j):
            yield f"latent_{j + 1}_{k + 1}_corr", j, k


def _cut(spectra: StoredSpectra) -> Iterator[Chunk]:
    for start in range(0, len(spectra), _ROWS_A_CHUNK):
        rows = slice(start, start + _ROWS_A_CHUNK)
        yield Chunk(len(spectra.source_id[rows]), partial(_rows, spectra, rows))


def _rows(spectra: StoredSpectra, rows: slice) -> StoredSpectra:
    """The stars of these rows, without a copy."""
    return StoredSpectra(**{name: values[rows] for name, values in vars(spectra).items()})


def _float(name: str, unit: str, description: str) -> pa.Field:
    return described(name, pa.float32(), unit, description)
