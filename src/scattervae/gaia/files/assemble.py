"""From columns of any file to stars: the one place where rows are checked, skipped or flagged."""

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int64

from scattervae.arrays import SourceIds, StarArray, StarFlags, StarMask
from scattervae.errors import DataError, counted, shortened
from scattervae.gaia.facts import (
    ANY_SOURCE_ID,
    BANDS,
    DR3_BASIS,
    INDEX_NAMES,
    JOINED_COLUMNS,
    LABEL_COLUMNS,
    NO_LABEL,
    SNR_NAME,
    SOURCE_ID_NAMES,
)
from scattervae.gaia.files.bands import Bands, read_bands
from scattervae.gaia.files.cells import arrays, floats, identifiers
from scattervae.gaia.files.columns import (
    CONTINUOUS_COLUMNS,
    SAMPLED_COLUMNS,
    Columns,
    SkippedRow,
    Skips,
    in_archive_units,
    read_g_flux,
)
from scattervae.gaia.files.sampled import SampledSpectra, one_row_per_star, read_sampled
from scattervae.spectra.spectra import Basis, Correlations, Flag, Spectra, repeats
from scattervae.spectra.star_tables import (
    A_K_RANGE,
    POSITION_COLUMNS,
    SOURCE_COLUMNS,
    BasisIds,
    SourceColumns,
    StellarLabels,
    check_taken,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FileContents:
    """What a file or table holds; of labels and source columns one row for each star that is no duplicate."""

    kind: str  # for people, as in ``bulk csv`` or ``sampled FITS``
    stars: Spectra | SampledSpectra  # in the order of the file
    labels: StellarLabels  # empty where the file has no label columns
    sources: SourceColumns  # what the file has of ``gaia_source``; empty where it has no ra and dec
    skipped: tuple[SkippedRow, ...]
    is_named: bool = True  # false where no star names the ids of its basis


@dataclass(frozen=True)
class ReadRows:
    """What some rows of a file hold; which of them repeat a star is left to whoever has them all."""

    spectra: Spectra  # their stars
    row_numbers: Int64[np.ndarray, " star"]  # the row of each star, as `SkippedRow.row` has it
    skipped: tuple[SkippedRow, ...]
    n_known_bands: int = len(BANDS)  # bands whose size and id some of these rows give
    is_named: bool = True  # false where no star names the ids of its basis


def assemble(columns: Columns, basis: Basis | BasisIds | None = None) -> FileContents:
    """The stars of a file; of several rows of one star all but the best are flagged as duplicates."""
    _check_columns(columns)
    columns = one_row_per_star(in_archive_units(_with_bands_apart(columns)))
    skips = Skips(len(columns))
    source_id = read_source_ids(columns, skips)
    stars: Spectra | SampledSpectra
    if columns.holds_coeffs:
        bands = read_bands(columns, skips, basis)
        stars, is_named = _continuous(columns, source_id, skips, bands), bands.is_named
    else:
        stars, is_named = read_sampled(columns, source_id, skips), True
    skipped = skips.named(columns)
    _check_rows(stars, skipped, basis)
    flags = flag_duplicates(stars.source_id, stars.flags, snr_of(columns)[skips.kept])
    stars = replace(stars, flags=flags)
    rows = np.flatnonzero(skips.kept)[(flags & np.uint16(Flag.DUPLICATE)) == 0]
    form = columns.form if isinstance(stars, Spectra) else columns.form.removeprefix("archive ")
    return FileContents(
        kind=f"{'' if isinstance(stars, Spectra) else 'sampled '}{form}",
        stars=stars,
        labels=read_labels(columns, source_id, rows=rows),
        sources=read_source_columns(columns, source_id, rows=rows),
        skipped=skipped,
        is_named=is_named,
    )


def bases_of(skipped: Iterable[SkippedRow]) -> Counter[Basis]:
    """How many of the skipped rows are of each other basis."""
    return Counter(row.basis for row in skipped if row.basis is not None)


def assemble_rows(columns: Columns, basis: Basis | BasisIds | None) -> ReadRows:
    """The stars of some rows of a file with the archive's columns of coefficients."""
    skips = Skips(len(columns))
    source_id = read_source_ids(columns, skips)
    bands = read_bands(columns, skips, basis)
    return ReadRows(
        spectra=_continuous(columns, source_id, skips, bands),
        row_numbers=columns.row_numbers[skips.kept],
        skipped=skips.named(columns),
        n_known_bands=bands.bp.is_known + bands.rp.is_known,
        is_named=bands.is_named,
    )


def assemble_sources(columns: Columns) -> SourceColumns:
    """What a table has of ``gaia_source``, one row a star; it need not hold spectra."""
    there = all(name in columns for name in POSITION_COLUMNS)
    require_columns(columns, "is no gaia_source table", there=there, more=f", {', '.join(POSITION_COLUMNS)}")
    columns = in_archive_units(columns)
    skips = Skips(len(columns))
    source_id = read_source_ids(columns, skips)
    rows = np.flatnonzero(skips.kept)
    return read_source_columns(columns, source_id, rows=rows[~repeats(source_id[rows])])


def _check_columns(columns: Columns) -> None:
    if columns.source_id_name and (columns.holds_coeffs or columns.holds_flux):
        return
    lacking = [name for name in CONTINUOUS_COLUMNS if name not in columns]
    if not columns.source_id_name:
        lacking.insert(0, ANY_SOURCE_ID)
    raise DataError(
        f"holds no spectra: columns {shortened(columns.names)}; lacks {', '.join(lacking)} "
        f"(or {' and '.join(SAMPLED_COLUMNS)} for sampled spectra){_hint(columns)}"
    )


def require_columns(columns: Columns, lack: str, *, there: bool = True, more: str = "") -> None:
    """Refuse a table without an identifier, or without what else is needed."""
    if not columns.source_id_name or not there:
        found = shortened(columns.names)
        raise DataError(f"{lack}: columns {found}; expected {ANY_SOURCE_ID}{more}{_hint(columns)}")


def _hint(columns: Columns) -> str:
    """Where the identifiers seem to be, if no column is called like them."""
    index = [name for name in columns.names if name.strip().lower() in INDEX_NAMES]
    if columns.source_id_name or not index:
        return ""
    return "; they seem to be in the index, which has no name: call it source_id (frame.index.name) and write again"


def _check_rows(
    stars: Spectra | SampledSpectra, skipped: tuple[SkippedRow, ...], wanted: Basis | BasisIds | None
) -> None:
    if isinstance(stars, Spectra):
        check_taken(stars.basis, len(stars), bases_of(skipped), wanted)
    if not len(stars):
        raise no_stars(len(skipped), next(iter(skipped), None))


def no_stars(n_rows: int, first: SkippedRow | None) -> DataError:
    """What is wrong with a file of which no row could be used, by the first."""
    if first is None:
        return DataError("has columns of spectra but no rows; expected a row for each star")
    return DataError(
        f"none of {counted(n_rows, 'row')} can be used; the first, row {first.row}: {first.reason}"
    )


def _with_bands_apart(columns: Columns) -> Columns:
    """The same columns where BP and RP share an array, with the archive's names and the sizes of a known basis."""
    if all(name in columns for name in CONTINUOUS_COLUMNS):
        return columns
    for coeffs, errors in JOINED_COLUMNS.items():
        if coeffs in columns and errors in columns:
            cells = dict(columns.cells)
            read = arrays(columns.cells[coeffs]), arrays(columns.cells[errors])
            basis = _joined_basis(read[0].lengths, coeffs)
            for name, joined in zip(("coefficients", "coefficient_errors"), read, strict=True):
                matrix = joined.matrix(basis.n_coeffs)
                cells |= {f"bp_{name}": matrix[:, basis.bp], f"rp_{name}": matrix[:, basis.rp]}
            return replace(columns, cells=cells)
    return columns


def _joined_basis(lengths: Int64[np.ndarray, " star"], name: str) -> Basis:
    """The known basis with as many coefficients as such an array: DR3's, or the only one that GaiaXPy has."""
    present = lengths[lengths > 0]
    if not len(present) or (present == DR3_BASIS.n_coeffs).any():
        return DR3_BASIS
    from scattervae.gaia.basis import known_bases

    known = list(known_bases())
    fitting = [basis for basis in known if (present == basis.n_coeffs).any()]
    if len(fitting) != 1:
        sizes = " or ".join(str(basis.n_coeffs) for basis in known)
        raise DataError(
            f"column {name} holds arrays of {counted(present[0], 'number')}; expected {sizes}, since only the bands of "
            f"{' or '.join(map(str, known))} can be separated"
        )
    return fitting[0]


def _continuous(columns: Columns, source_id: SourceIds, skips: Skips, bands: Bands) -> Spectra:
    bp, rp = bands.bp, bands.rp
    kept = skips.kept
    spectra = Spectra.of(
        source_id[kept],
        np.concatenate([bp.coeffs, rp.coeffs], axis=1)[kept],
        np.concatenate([bp.errors, rp.errors], axis=1)[kept],
        basis=Basis(n_bp=bp.size, n_rp=rp.size, bp_id=bp.basis_id, rp_id=rp.basis_id),
        g_flux=read_g_flux(columns)[kept],
        n_relevant_bases=np.stack([bp.n_relevant_bases, rp.n_relevant_bases], axis=1)[kept],
        correlations=_correlations(bands, kept),
    )
    contradicted = (bp.contradicted | rp.contradicted)[kept]
    return spectra.with_flags(np.where(contradicted, Flag.BAD_COEFFS, 0).astype(np.uint16))


def _correlations(bands: Bands, kept: StarMask) -> Correlations | None:
    """Those of the rows that are used, NaN for a band of which the file has none."""
    read = [band.correlations for band in (bands.bp, bands.rp)]
    if read[0] is None and read[1] is None:
        return None
    absent = [
        np.full((len(kept), n * (n - 1) // 2), np.nan, dtype=np.float32)
        for n in (bands.bp.size, bands.rp.size)
    ]
    return Correlations(
        *((pairs if one is None else one)[kept] for one, pairs in zip(read, absent, strict=True))
    )


def snr_of(columns: Columns) -> StarArray:
    """Signal to noise of each row's labels, -1 where missing, 0 for all where there is no such column."""
    if SNR_NAME not in columns:
        return np.zeros(len(columns))
    return np.asarray(np.nan_to_num(floats(columns.cells[SNR_NAME]), nan=-1.0))


_ROUNDED_BITS = 40  # one of 1e12 tables would be refused by chance
_BROKEN = np.uint16(Flag.MISSING_BP | Flag.MISSING_RP | Flag.BAD_COEFFS | Flag.BAD_ERRORS)


def read_source_ids(columns: Columns, skips: Skips) -> SourceIds:
    """The source_id of each row; rows without one are skipped."""
    name = columns.source_id_name
    assert name is not None, "checked before"
    cells = columns.cells[name]
    if cells.dtype.kind == "f" and len(cells):
        raise DataError(
            f"column {name} is {cells.dtype.name}, which cannot hold Gaia's identifiers; read it as int64"
        )
    if cells.dtype.kind in "iu" and cells.dtype.itemsize < 8 and len(cells):
        raise DataError(
            f"column {name} is {cells.dtype.name}, which cannot hold Gaia's identifiers (they begin above 2**32): they "
            "were cut to 32 bits; read it as int64"
        )
    read = identifiers(cells, release=columns.release.name)
    _require_whole(name, read.values[read.known])
    _check_join(columns, name, read.values)
    skips.add_unreadable(name, read)
    if read.why and not (columns.holds_coeffs or columns.holds_flux):  # of spectra every skipped row is named
        row, why = next(iter(read.why.items()))
        where = f"{columns.form}: {len(read.why)} of {counted(len(columns), 'row')} left out"
        logger.warning("%s; row %d: %s %s", where, columns.row_numbers[row], name, why)
    skips.add(~read.known, f"no {name}")
    skips.add(read.values <= 0, f"{name} is {{}}, not an identifier", read.values)
    return read.values


def _require_whole(name: str, ids: SourceIds) -> None:
    """Refuse identifiers that were cut to 32 bits, or went through a float64, before they became integers again.

    Source:
        Gaia DR3 documentation, sect. 20.1.1, source_id: bits 36 to 63 a HEALPix pixel, 33 to 35 a code from 1, 8 to 32
        a number that counts, 1 to 7 zero but for a few. Above 2**60 a float64 holds every second multiple of 128,
        above 2**61 every fourth, above 2**62 every eighth: so are not all of many identifiers by chance.
    """
    if len(ids) and (np.abs(ids) < 2**32).all() and np.abs(ids).max() >= 2**24:
        raise DataError(
            f"{name} is below 2**32 in all rows, where Gaia has no identifiers: they were cut to 32 bits; "
            "read it as int64"
        )
    large = ids[ids >= 2**60]
    halvings = np.floor(np.log2(large.astype(np.float64))) - 59
    if halvings.sum() >= _ROUNDED_BITS and (large.astype(np.float64).astype(np.int64) == large).all():
        raise DataError(
            f"{name} was rounded: all {len(large)} identifiers above 2**60 are numbers that a float64 holds; read "
            "it as int64 from the start"
        )


def _check_join(columns: Columns, name: str, ids: SourceIds) -> None:
    """Refuse a join whose two tables name different stars: nothing says which of them a spectrum is of."""
    stem, _, side = name.rpartition("_")
    for other in (f"{stem}_{end}" for end in "12xy" if stem == SOURCE_ID_NAMES[0] and end != side):
        if other in columns and (
            n := int((identifiers(columns.cells[other], release=columns.release.name).values != ids).sum())
        ):
            raise DataError(
                f"{name} and {other} differ in {counted(n, 'row')}; rename that of the spectra to {SOURCE_ID_NAMES[0]}"
            )


def flag_duplicates(source_id: SourceIds, flags: StarFlags, snr: StarArray) -> StarFlags:
    """The flags with `Flag.DUPLICATE` for all rows of a star but its best.

    That is, of rows that are not broken, the one with the highest signal to noise, among equals the first.
    """
    repeated = repeats(source_id, np.where((flags & _BROKEN) > 0, -np.inf, snr))
    bit = np.uint16(Flag.DUPLICATE)
    return np.where(repeated, flags | bit, flags & ~bit).astype(np.uint16)


_POSITION_LIMITS = {"ra": (0.0, 360.0), "dec": (-90.0, 90.0)}


def read_labels(columns: Columns, source_id: SourceIds, *, rows: Int64[np.ndarray, " used"]) -> StellarLabels:
    """Labels of these rows, no row where the file has no column of labels."""
    if not any(name in columns for name, _ in LABEL_COLUMNS):
        rows = rows[:0]
    values, errors = (
        np.stack([_label(columns, name)[rows] for name in names], axis=1)
        for names in zip(*LABEL_COLUMNS, strict=True)
    )
    missing = np.isnan(values)
    return StellarLabels(source_id[rows], values, np.where(missing, np.nan, errors))


def _label(columns: Columns, name: str) -> StarArray:
    values = columns.numbers(name)
    low, high = A_K_RANGE if name == "a_k" else (NO_LABEL, np.inf)
    return np.where((values > low) & (values < high), values, np.nan)


def read_source_columns(
    columns: Columns, source_id: SourceIds, *, rows: Int64[np.ndarray, " used"]
) -> SourceColumns:
    """What the file has of ``gaia_source`` for these rows, nothing where it lacks ra or dec."""
    if not all(name in columns for name in POSITION_COLUMNS):
        return SourceColumns.empty()
    values = {name: columns.numbers(name)[rows] for name in SOURCE_COLUMNS if name in columns}
    for name, (low, high) in _POSITION_LIMITS.items():
        values[name] = np.where((values[name] >= low) & (values[name] <= high), values[name], np.nan)
    return SourceColumns(source_id[rows], values)
