"""Toy stars as files a user would bring, and one way to run a command."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from scattervae.spectra.spectra import Spectra
from scattervae.spectra.star_tables import LABEL_NAMES, StellarLabels

RECIPE = """
base = "elbo"
name = "toy"
[network]
n_latent = 3
hidden = [24, 16]
[training]
epochs = 50
batch_size = 64
learning_rate = 5e-3
"""


@dataclass(frozen=True)
class Run:
    """What a command left: its exit code and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)

    @property
    def error(self):
        """The one line that an unsuccessful command says."""
        assert self.code != 0
        assert self.out == ""
        (line,) = self.err.splitlines()
        assert line.startswith("scattervae: error: ")
        return line.removeprefix("scattervae: error: ")


def archive_columns(spectra: Spectra, labels: StellarLabels | None = None, *, g_flux: bool = True):
    """Columns by the archive's names; arrays as lists, None where a band is missing."""
    basis = spectra.basis
    columns = {"source_id": spectra.source_id.tolist()}
    for band, where, basis_id in (("bp", basis.bp, basis.bp_id), ("rp", basis.rp, basis.rp_id)):
        if basis_id is not None:
            columns[f"{band}_basis_function_id"] = [basis_id] * len(spectra)
        columns[f"{band}_n_parameters"] = [where.stop - where.start] * len(spectra)
        for name, values in (("coefficients", spectra.coeffs), ("coefficient_errors", spectra.errors)):
            rows = values[:, where]
            columns[f"{band}_{name}"] = [None if np.isnan(row).all() else row.tolist() for row in rows]
    if g_flux:
        columns["phot_g_mean_flux"] = [None if np.isnan(g) else g for g in spectra.g_flux.tolist()]
    if labels is not None:
        labels = labels.aligned_to(spectra.source_id)
        for index, name in enumerate(LABEL_NAMES):
            columns[name] = labels.values[:, index].tolist()
            columns[f"{name}_err"] = labels.errors[:, index].tolist()
    return columns


def write_csv(path: Path, spectra: Spectra, labels: StellarLabels | None = None, *, g_flux: bool = True):
    """The archive's csv: a plain header, arrays in quotes and round brackets, empty cells."""

    def text(value):
        if value is None:
            return ""
        return '"(' + ", ".join(map(repr, value)) + ')"' if isinstance(value, list) else repr(value)

    columns = archive_columns(spectra, labels, g_flux=g_flux)
    rows = [",".join(map(text, row)) for row in zip(*columns.values(), strict=True)]
    path.write_text("\n".join([",".join(columns), *rows]) + "\n")
    return path


def write_parquet(path: Path, spectra: Spectra, labels: StellarLabels | None = None, *, g_flux: bool = True):
    """List columns by the archive's names."""
    pq.write_table(pa.table(archive_columns(spectra, labels, g_flux=g_flux)), path)
    return path


def with_ids(spectra: Spectra, source_id):
    """The same stars under other names."""
    return Spectra.of(
        np.asarray(source_id, dtype=np.int64),
        spectra.coeffs,
        spectra.errors,
        basis=spectra.basis,
        g_flux=spectra.g_flux,
    )
