"""The catalogue: one row a star, with its latents and how well the model tells it.

Rows come in the stars' order; the bytes of the file do not depend on how the stars arrived.
"""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from scattervae.folders import write_json, written_aside
from scattervae.model.checkpoint import BATCH, Checkpoint, Encoded, software_versions
from scattervae.model.loss import loss_terms
from scattervae.spectra.chunks import rechunk
from scattervae.spectra.columns import described, flag_legend
from scattervae.spectra.flags import flag_counts
from scattervae.spectra.spectra import Spectra

ROWS_A_GROUP = 16 * BATCH
_IDENTITY = "identity.json"


@dataclass(frozen=True)
class CatalogueSummary:
    """What was written.

    Attributes:
        path: The file.
        n_stars: Rows.
        n_encoded: Rows with latents; the others say why in their flags.
        flags: Stars with each flag, by the flag's name.
        n_resumed: Rows that an earlier, stopped run had written.
    """

    path: Path
    n_stars: int
    n_encoded: int
    flags: dict[str, int]
    n_resumed: int


def catalogue_schema(checkpoint: Checkpoint) -> pa.Schema:
    """Names, units and descriptions of the catalogue's columns, and what model they are of."""
    unit = "training standard deviations"
    latents = [
        field
        for k in range(1, checkpoint.n_latent + 1)
        for field in (
            _float(f"latent_{k}_mean", "", f"posterior mean of latent {k}"),
            _float(f"latent_{k}_sd", "", f"posterior standard deviation of latent {k}"),
        )
    ]
    fields = [
        described("source_id", pa.int64(), "", "Gaia source identifier"),
        *latents,
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
        described("flags", pa.uint16(), "", flag_legend()),
    ]
    about = {
        "model": checkpoint.digest,
        "recipe": checkpoint.recipe.name,
        "versions": software_versions(),
        "credit": "ESA/Gaia/DPAC",
    }
    return pa.schema(fields, metadata={"scattervae.catalogue": json.dumps(about)})


def catalogue(checkpoint: Checkpoint, spectra: Spectra) -> pa.Table:
    """The catalogue of stars in memory; rows in their order, NaN where a star cannot be encoded.

    Raises:
        DataError: The spectra are of another basis than the model's.
    """
    return pa.Table.from_batches(_batches(checkpoint, [spectra]), catalogue_schema(checkpoint))


def write_catalogue(
    checkpoint: Checkpoint,
    chunks: Iterable[Spectra],
    out: str | Path,
    *,
    stars_digest: str = "",
    progress: Callable[[int], None] | None = None,
) -> CatalogueSummary:
    """Write the catalogue of any number of stars to one parquet file.

    A run that is stopped leaves ``OUT.parts/``; the same call again goes on where it was.

    Args:
        checkpoint: The model.
        chunks: The stars, chunk by chunk.
        out: The file.
        stars_digest: What identifies the stars; a partial catalogue of others is not gone on with.
        progress: Called with the number of stars done so far.

    Raises:
        DataError: The spectra are of another basis than the model's.
    """
    out = Path(out)
    parts = out.with_name(out.name + ".parts")
    identity = {"model": checkpoint.digest, "stars": stars_digest}
    n_done = _resume(parts, identity)
    schema = catalogue_schema(checkpoint)
    groups = rechunk(chunks, ROWS_A_GROUP)
    for index, group in enumerate(islice(groups, n_done, None), start=n_done):
        if index == 0:
            write_json(parts / _IDENTITY, identity)
        with written_aside(parts / f"part-{index:05d}.parquet") as partial:
            pq.write_table(pa.Table.from_batches(_batches(checkpoint, [group]), schema), partial)
        if progress is not None:
            progress(index * ROWS_A_GROUP + len(group))
    summary = _join(sorted(parts.glob("part-*.parquet")), schema, out, n_resumed=n_done * ROWS_A_GROUP)
    shutil.rmtree(parts, ignore_errors=True)
    return summary


def _resume(parts: Path, identity: dict[str, str]) -> int:
    """How many whole groups an earlier run of the same stars and model left; starts afresh otherwise."""
    note = parts / _IDENTITY
    if note.is_file() and json.loads(note.read_text(encoding="utf-8")) == identity:
        done = sorted(parts.glob("part-*.parquet"))
        whole = [part for part in done if pq.read_metadata(part).num_rows == ROWS_A_GROUP]
        for part in done[len(whole) :]:
            part.unlink()
        return len(whole)
    shutil.rmtree(parts, ignore_errors=True)
    return 0


def _join(parts: list[Path], schema: pa.Schema, out: Path, *, n_resumed: int) -> CatalogueSummary:
    """Copy the parts into one file, a row group each, counting stars and flags on the way."""
    n_stars = n_encoded = 0
    flags: Counter[str] = Counter()
    with written_aside(out) as partial, pq.ParquetWriter(partial, schema, compression="zstd") as writer:
        for part in parts:
            table = pq.read_table(part, schema=schema)
            writer.write_table(table, row_group_size=ROWS_A_GROUP)
            n_stars += len(table)
            n_encoded += int(np.isfinite(table["latent_1_mean"].to_numpy()).sum())
            flags.update(flag_counts(table["flags"].to_numpy()))
    return CatalogueSummary(out, n_stars, n_encoded, dict(flags), n_resumed)


def _batches(checkpoint: Checkpoint, chunks: Iterable[Spectra]) -> Iterator[pa.RecordBatch]:
    schema = catalogue_schema(checkpoint)
    for encoded in checkpoint.encode_batches(chunks):
        columns = _columns(encoded, checkpoint)
        yield pa.record_batch([columns[field.name] for field in schema], schema=schema)


def _columns(encoded: Encoded, checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    x, errors = encoded.inputs.x, encoded.inputs.errors
    reconstruction = encoded.reconstruction
    terms = loss_terms(x, errors, encoded.posterior, reconstruction)
    log_scatter = reconstruction.scatter.log10()
    bands = checkpoint.normalization
    missing = x.isnan().any(dim=1)
    values = {
        "log_likelihood": -terms.nll,
        "reduced_chi2": 2.0 * terms.chi2 / x.shape[1],
        "reduced_chi2_without_scatter": ((x - reconstruction.mean) / errors).square().mean(dim=1),
        "kl": terms.kl,
        "mean_log10_scatter_bp": log_scatter[:, bands.bp].mean(dim=1),
        "mean_log10_scatter_rp": log_scatter[:, bands.rp].mean(dim=1),
    }
    for k in range(checkpoint.n_latent):
        values[f"latent_{k + 1}_mean"] = encoded.posterior.mean[:, k]
        values[f"latent_{k + 1}_sd"] = encoded.posterior.sd[:, k]
    columns = {name: value.masked_fill(missing, float("nan")).numpy() for name, value in values.items()}
    return {"source_id": encoded.spectra.source_id, "flags": encoded.spectra.flags, **columns}


def _float(name: str, unit: str, description: str) -> pa.Field:
    return described(name, pa.float32(), unit, description)
