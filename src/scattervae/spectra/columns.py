"""The columns of a store: names of the archive, units, descriptions, and the way to arrow and back."""

from typing import Any

import numpy as np
import pyarrow as pa

from scattervae.spectra.flags import Flag
from scattervae.spectra.labels import LABEL_NAMES, LABEL_UNITS, StellarLabels
from scattervae.spectra.spectra import Basis, Correlations, Spectra

_COEFFICIENT_UNIT = "electron/s in the basis"
_BANDS = ("bp", "rp")
_LABEL_DESCRIPTIONS = {
    "teff": "effective temperature",
    "logg": "surface gravity",
    "fe_h": "[Fe/H]",
    "alpha_m": "[alpha/M]",
}


def described(name: str, kind: pa.DataType, unit: str, description: str) -> pa.Field:
    """An arrow field that says what it holds, for whoever opens the file."""
    return pa.field(name, kind, metadata={"unit": unit, "description": description})


def flag_legend() -> str:
    """All bits of the ``flags`` column with their meanings, on one line."""
    return "; ".join(f"{flag.value} {flag.name}: {flag.meaning}" for flag in Flag)


def store_schema(*, correlations: bool) -> pa.Schema:
    """The schema of a store's parts; labels are null where a star has none."""
    fields = [described("source_id", pa.int64(), "", "Gaia source identifier")]
    for band in _BANDS:
        fields += [
            _list_field(f"{band}_coefficients", _COEFFICIENT_UNIT, f"{band.upper()} coefficients"),
            _list_field(
                f"{band}_coefficient_errors",
                _COEFFICIENT_UNIT,
                f"one standard deviation of the {band.upper()} coefficients",
            ),
            described(
                f"{band}_n_relevant_bases",
                pa.int16(),
                "",
                f"recommended truncation of the {band.upper()} coefficients",
            ),
        ]
        if correlations:
            fields.append(
                _list_field(
                    f"{band}_coefficient_correlations",
                    "",
                    f"correlations of the {band.upper()} coefficients: strict lower triangle, row by row",
                )
            )
    fields += [
        described("phot_g_mean_flux", pa.float64(), "electron/s", "mean flux in the G band"),
        described(
            "phot_g_mean_flux_source", pa.uint16(), "", "0 unknown, 1 from a table, 2 from the coefficients"
        ),
        described("flags", pa.uint16(), "", flag_legend()),
    ]
    for name in LABEL_NAMES:
        text = _LABEL_DESCRIPTIONS[name]
        fields += [
            described(name, pa.float64(), LABEL_UNITS[name], text),
            described(f"{name}_err", pa.float64(), LABEL_UNITS[name], f"one standard deviation of {text}"),
        ]
    return pa.schema(fields)


def table_of(spectra: Spectra, labels: StellarLabels) -> pa.Table:
    """Stars and their labels, row by row, as an arrow table of `store_schema`.

    Args:
        spectra: The stars.
        labels: Labels of the same stars in the same order; NaN becomes null.
    """
    schema = store_schema(correlations=spectra.correlations is not None)
    basis = spectra.basis
    columns: dict[str, Any] = {
        "source_id": spectra.source_id,
        "phot_g_mean_flux": pa.array(spectra.g_flux, from_pandas=True),
        "phot_g_mean_flux_source": spectra.g_flux_source,
        "flags": spectra.flags,
    }
    for index, (band, where) in enumerate(zip(_BANDS, (basis.bp, basis.rp), strict=True)):
        n_relevant = spectra.n_relevant_bases[:, index]
        columns[f"{band}_coefficients"] = list_array(spectra.coeffs[:, where])
        columns[f"{band}_coefficient_errors"] = list_array(spectra.errors[:, where])
        columns[f"{band}_n_relevant_bases"] = pa.array(n_relevant, mask=n_relevant < 0)
        if spectra.correlations is not None:
            columns[f"{band}_coefficient_correlations"] = list_array(getattr(spectra.correlations, band))
    for index, name in enumerate(LABEL_NAMES):
        columns[name] = pa.array(labels.values[:, index], from_pandas=True)
        columns[f"{name}_err"] = pa.array(labels.errors[:, index], from_pandas=True)
    return pa.table([columns[field.name] for field in schema], schema=schema)


def spectra_from(table: pa.Table, basis: Basis) -> Spectra:
    """The stars of an arrow table that `table_of` made; correlations where it has their columns."""

    def lists(name: str, widths: tuple[int, int]) -> list[np.ndarray]:
        return [_array(table[f"{band}_{name}"], width) for band, width in zip(_BANDS, widths, strict=True)]

    sizes = (basis.n_bp, basis.n_rp)
    correlations = None
    if "bp_coefficient_correlations" in table.column_names:
        bp, rp = lists("coefficient_correlations", tuple(n * (n - 1) // 2 for n in sizes))  # type: ignore[arg-type]
        correlations = Correlations(bp=bp, rp=rp)
    n_relevant = [table[f"{band}_n_relevant_bases"].fill_null(-1).to_numpy() for band in _BANDS]
    return Spectra(
        source_id=table["source_id"].to_numpy(),
        coeffs=np.hstack(lists("coefficients", sizes)).astype(np.float64),
        errors=np.hstack(lists("coefficient_errors", sizes)).astype(np.float64),
        basis=basis,
        flags=table["flags"].to_numpy(),
        g_flux=table["phot_g_mean_flux"].fill_null(np.nan).to_numpy(),
        g_flux_source=table["phot_g_mean_flux_source"].to_numpy(),
        n_relevant_bases=np.stack(n_relevant, axis=1),
        correlations=correlations,
    )


def labels_from(table: pa.Table) -> StellarLabels:
    """The labels of an arrow table that `table_of` made, NaN where null."""
    values, errors = (
        np.stack([table[name + end].fill_null(np.nan).to_numpy() for name in LABEL_NAMES], axis=1)
        for end in ("", "_err")
    )
    return StellarLabels(source_id=table["source_id"].to_numpy(), values=values, errors=errors)


def label_columns() -> list[str]:
    """Names of the label columns and of their errors."""
    return [name + end for name in LABEL_NAMES for end in ("", "_err")]


def _list_field(name: str, unit: str, description: str) -> pa.Field:
    return described(name, pa.list_(pa.float32()), unit, description)


def list_array(values: np.ndarray) -> pa.ListArray:
    """Each row as a float32 list; a row that is all NaN is null, as the archive leaves a missing band."""
    missing = np.isnan(values).all(axis=1)
    lengths = np.where(missing, 0, values.shape[1])
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    flat = pa.array(values[~missing].astype(np.float32).ravel())
    return pa.ListArray.from_arrays(offsets, flat, mask=pa.array(missing))


def _array(column: pa.ChunkedArray, width: int) -> np.ndarray:
    lists = column.combine_chunks()
    if isinstance(lists, pa.ChunkedArray):  # a table without rows keeps no chunk to combine
        return np.empty((0, width), dtype=np.float32)
    values = np.full((len(lists), width), np.nan, dtype=np.float32)
    values[lists.is_valid().to_numpy(zero_copy_only=False)] = lists.flatten().to_numpy().reshape(-1, width)
    return values
