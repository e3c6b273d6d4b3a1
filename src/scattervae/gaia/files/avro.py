"""DPAC's avro: one nested record a star, with covariances in place of errors and correlations."""

import bz2
import lzma
import zlib
from collections.abc import Iterator
from io import BufferedIOBase, BytesIO
from typing import IO, Any, NamedTuple, cast

import fastavro
import numpy as np
from jaxtyping import Float

from scattervae.errors import DataError
from scattervae.gaia.facts import BANDS
from scattervae.gaia.files.columns import Columns, object_array
from scattervae.opening import Budget, budget_of

_FIELDS = ("sourceId", "bpSpec", "rpSpec")


def read_avro(stream: BufferedIOBase, wanted: frozenset[str]) -> Columns:
    """All records, with the archive's names for what they hold."""
    reader = fastavro.reader(cast(IO[bytes], stream))
    schema, codec = reader.writer_schema, str(reader.codec)
    names = (
        tuple(str(field["name"]) for field in schema.get("fields", ())) if isinstance(schema, dict) else ()
    )
    if not set(_FIELDS) <= set(names):
        raise DataError(f"is avro with fields {', '.join(names[:8])}; expected {', '.join(_FIELDS)}")
    correlations = "bp_coefficient_correlations" in wanted
    if codec not in ("null", "deflate", "bzip2", "xz"):
        raise DataError(f"is avro packed as {codec[:20]}; expected null, deflate, bzip2 or xz")
    _require_lists_of_numbers(schema)
    rows = [_row(record, correlations=correlations) for record in _records(stream, schema, codec)]
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


_SYNC_BYTES = 16
_RECORD_BYTES = 2000  # what reading one more record takes, however small it is
_GROWTH = 18  # of lists of numbers: an integer of two bytes is an object of 28, and 8 that point to it
_MOST_BYTES = 10  # of a number of variable length
_NUMBERS = ("int", "long", "float", "double")


def _records(stream: BufferedIOBase, schema: Any, codec: str) -> Iterator[dict[str, Any]]:
    """All records behind the header of a file."""
    budget = budget_of(stream)
    while (count := _long(stream)) is not None:
        content = _read(stream, _long(stream) or 0)
        _read(stream, _SYNC_BYTES)
        block = _unpacked(codec, content, budget)
        if not 0 <= count <= len(block):
            raise DataError(f"has a block of {count} records in {len(block)} bytes; download it again")
        budget.spend(_RECORD_BYTES * count + _GROWTH * len(block))
        records = BytesIO(block)
        for _ in range(count):
            yield cast(dict[str, Any], fastavro.schemaless_reader(records, schema, None))


def _read(stream: BufferedIOBase, size: int) -> bytes:
    content = stream.read(size) if size >= 0 else b""
    if len(content) != size:
        raise EOFError
    return content


def _long(stream: BufferedIOBase) -> int | None:
    """A number of variable length, None at the end of the file.

    Source:
        Avro 1.12 specification, binary encoding: zig-zag, seven bits a byte, the lowest first.
    """
    value = 0
    for k in range(_MOST_BYTES):
        byte = stream.read(1)
        if not byte:
            if k == 0:
                return None
            raise EOFError
        value |= (byte[0] & 127) << (7 * k)
        if byte[0] < 128:
            return (value >> 1) ^ -(value & 1)
    raise DataError("is avro with a number that does not end; download it again")


def _unpacked(codec: str, content: bytes, budget: Budget) -> bytes:
    if codec == "null":
        return content
    try:
        most = budget.left + 1
        if codec == "deflate":
            block = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, most)
        else:
            unpacker = bz2.BZ2Decompressor() if codec == "bzip2" else lzma.LZMADecompressor()
            block = unpacker.decompress(content, most)
    except lzma.LZMAError as error:
        raise DataError("is damaged; download it again") from error
    budget.spend(len(block))
    return block


def _require_lists_of_numbers(schema: Any, within: tuple[str, ...] = ()) -> None:
    """Refuse lists of anything else, of which a few bytes may have no end, and records in themselves."""
    kind = schema["type"] if isinstance(schema, dict) else schema
    if isinstance(kind, list):
        for option in kind:
            _require_lists_of_numbers(option, within)
    elif isinstance(kind, dict):
        _require_lists_of_numbers(kind, within)
    elif kind in within:
        raise DataError(f"is avro with records {kind[:60]} in themselves; expected spectra")
    elif kind in ("record", "error"):
        for field in schema["fields"]:
            _require_lists_of_numbers(field["type"], (*within, schema["name"]))
    elif kind in ("array", "map"):
        items = schema.get("items")
        numbers = items if isinstance(items, list) else [items]
        if not set(map(str, numbers)) <= {*_NUMBERS, *(["null"] if len(numbers) > 1 else [])}:
            raise DataError("is avro with lists of something else than numbers; expected spectra")
