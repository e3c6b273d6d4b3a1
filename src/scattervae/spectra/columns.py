"""The columns of a store: names of the archive, units, descriptions, and row groups from arrow and back."""

from collections.abc import Collection
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Int64

from scattervae.arrays import CoeffArray, CoeffArray32, SourceIds, StarArray, StarFlags, StarMask
from scattervae.spectra.hats import SPATIAL_INDEX, Positions, pixel_centres, spatial_index
from scattervae.spectra.spectra import (
    FLAGS,
    Basis,
    Correlations,
    Flag,
    MeaningfulFlag,
    Spectra,
    usable_stars,
)
from scattervae.spectra.star_tables import (
    G_FLUX_COLUMN,
    LABEL_NAMES,
    LABEL_UNITS,
    POSITION_COLUMNS,
    SOURCE_COLUMNS,
    SourceColumns,
    StellarLabels,
)


class RowGroup(NamedTuple):
    """One row group of one file of a store."""

    path: Path
    group: int
    n_rows: int


@dataclass(frozen=True)
class StoredSpectra:
    """Stars of one row group, in its order."""

    source_id: SourceIds  # Gaia's identifier
    # coefficients as published, BP then RP, NaN where missing [electron/s in the store's basis]
    coeffs: CoeffArray32
    errors: CoeffArray32  # one standard deviation of each, same units
    g_flux: StarArray  # mean flux in the G band [electron/s], NaN where unknown
    g_flux_source: StarFlags  # `scattervae.spectra.spectra.GFluxSource` of each star
    flags: StarFlags  # Bits of `scattervae.spectra.spectra.Flag`

    def __len__(self) -> int:
        return len(self.source_id)

    @property
    def usable(self) -> StarMask:
        return usable_stars(self.flags)

    @property
    def usable_with_one_band(self) -> StarMask:
        return usable_stars(self.flags, one_band=True)

    def take(self, rows: Int64[np.ndarray, " row"]) -> "StoredSpectra":
        """The stars of these rows."""
        return StoredSpectra(*(np.take(getattr(self, field.name), rows, axis=0) for field in fields(self)))


_LABEL_ENDS = ("", "_err")
_COEFFICIENT_UNIT = "electron/s in the basis"
BANDS = ("bp", "rp")
FLOATS = pa.list_(
    pa.field("element", pa.float32(), nullable=False)
)  # no null within: a quarter faster to read
_LABEL_DESCRIPTIONS = {
    "teff": "effective temperature",
    "logg": "surface gravity",
    "fe_h": "[Fe/H]",
    "alpha_m": "[alpha/M]",
    "a_k": "extinction in K",
}
_APPROXIMATE = "approximate: of the centre of the order-12 HEALPix pixel in source_id"
QUALITY_COLUMNS = tuple(name for name in SOURCE_COLUMNS if name not in (*POSITION_COLUMNS, G_FLUX_COLUMN))


def described(name: str, kind: pa.DataType, unit: str, description: str) -> pa.Field:
    """An arrow field that says what it holds, for whoever opens the file."""
    return pa.field(name, kind, metadata={"unit": unit, "description": description})


def unit_and_description(field: pa.Field) -> dict[str, str]:
    """Both by these words, as `described` noted them; empty where a field has none."""
    metadata = field.metadata or {}
    return {key: str(metadata.get(key.encode(), b""), "utf-8", "replace") for key in ("unit", "description")}


def flag_legend(flags: type[MeaningfulFlag] = Flag) -> str:
    """All bits of a column of flags, `FLAGS` where not said otherwise, with their meanings, on one line."""
    return "; ".join(f"{flag.value} {flag.name}: {flag.meaning}" for flag in flags)


def store_schema(
    *, correlations: bool, positions: Positions = Positions.PIXEL_CENTRES, quality: Collection[str] = ()
) -> pa.Schema:
    """The schema of a store's partitions; labels and quality columns are null where a star has none."""
    fields = [
        described(SPATIAL_INDEX, pa.int64(), "", "HEALPix pixel of order 29 (nested) of ra and dec"),
        described("source_id", pa.int64(), "", "Gaia source identifier"),
    ]
    for name in POSITION_COLUMNS:
        kind, unit, text = SOURCE_COLUMNS[name]
        fields.append(described(name, kind, unit, text if positions is Positions.MEASURED else _APPROXIMATE))
    for band in BANDS:
        fields += _band_fields(band, correlations=correlations)
    fields += [
        described(G_FLUX_COLUMN, *SOURCE_COLUMNS[G_FLUX_COLUMN]),
        described(
            f"{G_FLUX_COLUMN}_source", pa.uint16(), "", "0 unknown, 1 from a table, 2 from the coefficients"
        ),
        described(FLAGS, pa.uint16(), "", flag_legend()),
    ]
    fields += [described(name, *SOURCE_COLUMNS[name]) for name in QUALITY_COLUMNS if name in quality]
    for name in LABEL_NAMES:
        text = _LABEL_DESCRIPTIONS[name]
        fields += [
            described(name, pa.float64(), LABEL_UNITS[name], text),
            described(f"{name}_err", pa.float64(), LABEL_UNITS[name], f"one standard deviation of {text}"),
        ]
    return pa.schema(fields)


def holds_all_columns(schema: pa.Schema) -> bool:
    """True for tables with every column that each store has, whoever wrote them."""
    return set(store_schema(correlations=False).names) <= set(schema.names)


def _band_fields(band: str, *, correlations: bool) -> list[pa.Field]:
    name = band.upper()
    unit, of = _COEFFICIENT_UNIT, f"of the {name} coefficients"
    columns = [
        ("coefficients", FLOATS, unit, f"{name} coefficients"),
        ("coefficient_errors", FLOATS, unit, f"one standard deviation {of}"),
        ("n_relevant_bases", pa.int16(), "", f"recommended truncation {of}"),
        ("basis_function_id", pa.int16(), "", f"set of basis functions {of}"),
        ("coefficient_correlations", FLOATS, "", f"correlations {of}: strict lower triangle, row by row"),
    ]
    return [described(f"{band}_{column}", *rest) for column, *rest in columns[: 5 if correlations else 4]]


def table_of(spectra: Spectra, labels: StellarLabels, sources: SourceColumns) -> pa.Table:
    """Stars with their labels and source columns, row by row, as an arrow table of `store_schema`.

    Args:
        spectra: The stars; their g_flux is written, whatever the source columns say.
        labels: Labels of the same stars in the same order; NaN becomes null.
        sources: The same of source columns, every star with a position; or none at all, where positions are the
            centres of the pixels in the source_ids.
    """
    located = "ra" in sources.values
    schema = store_schema(
        correlations=spectra.correlations is not None,
        positions=Positions.MEASURED if located else Positions.PIXEL_CENTRES,
        quality=sources.values,
    )
    ra, dec = (
        [sources.values[name] for name in POSITION_COLUMNS] if located else pixel_centres(spectra.source_id)
    )
    basis = spectra.basis
    columns: dict[str, Any] = {
        SPATIAL_INDEX: spatial_index(ra, dec),
        "source_id": spectra.source_id,
        "ra": ra,
        "dec": dec,
        G_FLUX_COLUMN: pa.array(spectra.g_flux, from_pandas=True),
        f"{G_FLUX_COLUMN}_source": spectra.g_flux_source,
        FLAGS: spectra.flags,
    }
    for index, (band, where) in enumerate(zip(BANDS, (basis.bp, basis.rp), strict=True)):
        n_relevant = spectra.n_relevant_bases[:, index]
        columns[f"{band}_coefficients"] = list_array(spectra.coeffs[:, where], FLOATS)
        columns[f"{band}_coefficient_errors"] = list_array(spectra.errors[:, where], FLOATS)
        columns[f"{band}_n_relevant_bases"] = pa.array(n_relevant, mask=n_relevant < 0)
        columns[f"{band}_basis_function_id"] = pa.repeat(
            pa.scalar((basis.bp_id, basis.rp_id)[index], pa.int16()), len(spectra)
        )
        if spectra.correlations is not None:
            columns[f"{band}_coefficient_correlations"] = list_array(
                getattr(spectra.correlations, band), FLOATS
            )
    for name in QUALITY_COLUMNS:
        if name in sources.values:
            columns[name] = pa.array(sources.values[name], SOURCE_COLUMNS[name][0], from_pandas=True)
    for index, name in enumerate(LABEL_NAMES):
        columns[name] = pa.array(labels.values[:, index], from_pandas=True)
        columns[f"{name}_err"] = pa.array(labels.errors[:, index], from_pandas=True)
    return pa.table([columns[field.name] for field in schema], schema=schema)


def is_approximate(schema: pa.Schema) -> bool:
    """True where the positions in a table of `store_schema` are centres of pixels."""
    return unit_and_description(schema.field("ra"))["description"] == _APPROXIMATE


def in_sky_order(table: pa.Table) -> pa.Table:
    """The rows of a table of `store_schema` by ``_healpix_29``, stars of one pixel by source_id."""
    keys = table["source_id"].to_numpy(), table[SPATIAL_INDEX].to_numpy()
    order = np.lexsort(keys)
    return table if (order[1:] > order[:-1]).all() else table.take(order)


def conformed(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The same rows with all columns of a schema, null where the table has none."""
    columns = [
        table[field.name] if field.name in table.column_names else pa.nulls(len(table), field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def joint_schema(schemas: Collection[pa.Schema], positions: Positions) -> pa.Schema:
    """The schema of a store that holds all columns of these."""
    names = {name for schema in schemas for name in schema.names}
    return store_schema(
        correlations="bp_coefficient_correlations" in names, positions=positions, quality=names
    )


def stored_columns() -> list[str]:
    """The columns that `stored_from` reads."""
    bands = [f"{band}_{name}" for band in BANDS for name in ("coefficients", "coefficient_errors")]
    return ["source_id", *bands, G_FLUX_COLUMN, f"{G_FLUX_COLUMN}_source", FLAGS]


def spectra_columns(*, correlations: bool) -> list[str]:
    """The columns that `spectra_from` reads."""
    more = ["n_relevant_bases", *(["coefficient_correlations"] if correlations else [])]
    return [*stored_columns(), *(f"{band}_{name}" for band in BANDS for name in more)]


def spectra_from(table: pa.Table, basis: Basis) -> Spectra:
    """The stars of an arrow table that `table_of` made; correlations where it has their columns."""
    correlations = None
    if "bp_coefficient_correlations" in table.column_names:
        bp, rp = (
            list_matrix(table[f"{band}_coefficient_correlations"], n * (n - 1) // 2)
            for band, n in zip(BANDS, (basis.n_bp, basis.n_rp), strict=True)
        )
        correlations = Correlations(bp=bp, rp=rp)
    n_relevant = [table[f"{band}_n_relevant_bases"].fill_null(-1).to_numpy() for band in BANDS]
    columns = vars(stored_from(table, basis))
    in_double = {name: columns[name].astype(np.float64) for name in ("coeffs", "errors")}
    return Spectra(
        **{**columns, **in_double},
        basis=basis,
        n_relevant_bases=np.stack(n_relevant, axis=1),
        correlations=correlations,
    )


def stored_from(table: pa.Table, basis: Basis) -> StoredSpectra:
    """The stars of an arrow table that `table_of` made, in float32."""
    return StoredSpectra(
        source_id=table["source_id"].to_numpy(),
        coeffs=_both_bands(table, "coefficients", basis),
        errors=_both_bands(table, "coefficient_errors", basis),
        g_flux=table[G_FLUX_COLUMN].fill_null(np.nan).to_numpy(),
        g_flux_source=table[f"{G_FLUX_COLUMN}_source"].to_numpy(),
        flags=table[FLAGS].to_numpy(),
    )


def stored_of(spectra: Spectra) -> StoredSpectra:
    """The same stars in float32."""
    coeffs, errors = spectra.coeffs.astype(np.float32), spectra.errors.astype(np.float32)
    return StoredSpectra(
        spectra.source_id, coeffs, errors, spectra.g_flux, spectra.g_flux_source, spectra.flags
    )


def labels_from(table: pa.Table) -> StellarLabels:
    """The labels of an arrow table that `table_of` made, NaN where null."""
    values, errors = (
        np.stack([table[name + end].fill_null(np.nan).to_numpy() for name in LABEL_NAMES], axis=1)
        for end in _LABEL_ENDS
    )
    return StellarLabels(source_id=table["source_id"].to_numpy(), values=values, errors=errors)


def label_columns() -> list[str]:
    """Names of the label columns and of their errors."""
    return [name + end for name in LABEL_NAMES for end in _LABEL_ENDS]


def list_array(values: np.ndarray, kind: pa.DataType | None = None) -> pa.ListArray:
    """Each row as a float32 list; a row that is all NaN is null, as the archive leaves a missing band."""
    missing = np.isnan(values).all(axis=1)
    lengths = np.where(missing, 0, values.shape[1])
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    flat = pa.array(values[~missing].astype(np.float32).ravel())
    return pa.ListArray.from_arrays(
        offsets, flat, type=kind or pa.list_(pa.float32()), mask=pa.array(missing)
    )


def list_matrix(column: pa.ChunkedArray, width: int) -> Float32[np.ndarray, "row element"]:
    """Lists of one width as rows of a matrix, without a copy where no list is null; NaN where one is."""
    if column.num_chunks == 0:  # a table without rows
        return np.empty((0, width), dtype=np.float32)
    lists = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    rows: Float32[np.ndarray, "row element"] = lists.flatten().to_numpy().reshape(-1, width)
    if lists.null_count == 0:
        return rows
    values = np.full((len(lists), width), np.nan, dtype=np.float32)
    values[lists.is_valid().to_numpy(zero_copy_only=False)] = rows
    return values


def _both_bands(table: pa.Table, name: str, basis: Basis) -> CoeffArray32:
    values = np.empty((len(table), basis.n_coeffs), dtype=np.float32)
    values[:, basis.bp] = list_matrix(table[f"bp_{name}"], basis.n_bp)
    values[:, basis.rp] = list_matrix(table[f"rp_{name}"], basis.n_rp)
    return values


def leaves(schema: pa.Schema) -> list[str]:
    """Dotted names of all columns below structs, in the schema's order."""
    names: list[str] = []
    pending = [(field.name, field.type) for field in reversed(schema)]
    while pending:
        name, kind = pending.pop()
        if pa.types.is_struct(kind):
            pending += [(f"{name}.{field.name}", field.type) for field in reversed(list(kind))]
        else:
            names.append(name)
    return names


def flattened(table: pa.Table) -> pa.Table:
    """The same table with every struct's fields as columns of their own, by their dotted names."""
    while any(pa.types.is_struct(field.type) for field in table.schema):
        table = table.flatten()
    return table


def xp_colour(coeffs: CoeffArray | CoeffArray32, n_bp: int) -> StarArray:
    """Minus 2.5 times the decimal logarithm of the first BP over the first RP coefficient; NaN where not defined.

    These two hold most of each band's flux. Coefficients are rounded to float32, as stores have them.
    """
    first_bp, first_rp = (coeffs[:, column].astype(np.float32).astype(np.float64) for column in (0, n_bp))
    ratio = np.divide(first_bp, first_rp, out=np.full(len(coeffs), np.nan), where=first_rp != 0)
    return np.asarray(-2.5 * np.log10(np.where(ratio > 0, ratio, np.nan)))
