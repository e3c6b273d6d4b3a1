"""DPAC's avro: one nested record a star, with covariances instead of errors and correlations."""

from io import BufferedIOBase
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from scattervae.errors import DataError
from scattervae.gaia.facts import BANDS
from scattervae.gaia.files.avro_blocks import AvroFile
from scattervae.gaia.files.columns import Columns, object_array

_FIELDS = ("sourceId", "bpSpec", "rpSpec")


def read_avro(stream: BufferedIOBase, wanted: frozenset[str]) -> Columns:
    """All records, with the archive's names for what they hold.

    Raises:
        DataError: The records are not mean spectra.
    """
    records = AvroFile(stream)
    schema = records.schema
    names = (
        tuple(str(field["name"]) for field in schema.get("fields", ())) if isinstance(schema, dict) else ()
    )
    if not set(_FIELDS) <= set(names):
        raise DataError(f"is avro with fields {', '.join(names[:8])}; expected {', '.join(_FIELDS)}")
    correlations = "bp_coefficient_correlations" in wanted
    rows = [_row(record, correlations=correlations) for record in records]
    columns = ["source_id", *(f"{band}_{name}" for band in BANDS for name in _BAND_COLUMNS)]
    cells = {name: object_array([row.get(name) for row in rows]) for name in columns if name in wanted}
    return Columns.of("DPAC avro", cells, names)


_BAND_COLUMNS = (
    "basis_function_id",
    "n_parameters",
    "n_relevant_bases",
    "coefficients",
    "coefficient_errors",
    "coefficient_correlations",
    "standard_deviation",
    "chi_squared",
    "degrees_of_freedom",
)


def _row(record: dict[str, Any], *, correlations: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"source_id": record["sourceId"]}
    for band in BANDS:
        spectrum = record[f"{band}Spec"]
        if spectrum is None or spectrum.get("solution") is None:
            continue
        solution = spectrum["solution"]
        published = errors_and_correlations(
            solution.get("covariance"), float(solution["standardDeviation"]), correlations=correlations
        )
        values = (
            spectrum["basisFunctionSetDefId"],
            solution["numberOfParameters"],
            spectrum["NRelevantBases"],
            solution["parameters"],
            published.errors,
            published.correlations,
            solution["standardDeviation"],
            solution.get("chiSquared"),
            solution.get("degreesOfFreedom"),
        )
        row |= {f"{band}_{name}": value for name, value in zip(_BAND_COLUMNS, values, strict=True)}
    return row


class Published(NamedTuple):
    """What the archive publishes of a covariance, None where there is none or it is not asked for."""

    errors: Float[np.ndarray, " coeff"] | None
    correlations: Float[np.ndarray, " pair"] | None


def errors_and_correlations(
    covariance: list[float] | None, standard_deviation: float, *, correlations: bool
) -> Published:
    r"""Errors and, if asked for, correlations as the archive publishes them, from a formal covariance.

    .. math:: \sigma_i = s \sqrt{C_{ii}}, \qquad \rho_{ij} = C_{ij} / \sqrt{C_{ii} C_{jj}}

    Args:
        covariance: Lower triangle of C with the diagonal, row by row.
        standard_deviation: s, the square root of chi squared over the degrees of freedom.
        correlations: Also give the strict lower triangle row by row.

    Source:
        Gaia DR3 data model, xp_continuous_mean_spectrum, ``bp_coefficient_errors``. The factor s was found on
        two stars that are published both as avro and in the archive: they agree to 1e-7 with it alone.
    """
    if covariance is None:
        return Published(None, None)
    triangle = np.asarray(covariance, dtype=np.float64)
    n = int((np.sqrt(8 * len(triangle) + 1) - 1) / 2)
    row, column = np.tril_indices(n)
    if len(triangle) != len(row):
        return Published(None, None)
    with np.errstate(all="ignore"):
        formal = np.sqrt(triangle[row == column])
        pairs = (triangle / (formal[row] * formal[column]))[row != column] if correlations else None
        return Published(standard_deviation * formal, pairs)
