"""From columns of any file to stars: the one place where rows are checked, skipped or flagged."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int64

from scattervae.arrays import SourceIds, StarArray, StarMask
from scattervae.errors import DataError, counted
from scattervae.gaia.facts import (
    ANY_SOURCE_ID,
    BANDS,
    DR3_BASIS,
    INDEX_NAMES,
    JOINED_COLUMNS,
    LABEL_COLUMNS,
    SNR_NAME,
)
from scattervae.gaia.files.bands import Bands, read_bands
from scattervae.gaia.files.cells import arrays, floats
from scattervae.gaia.files.columns import (
    CONTINUOUS_COLUMNS,
    SAMPLED_COLUMNS,
    Columns,
    SkippedRow,
    in_archive_units,
)
from scattervae.gaia.files.rows import (
    Skips,
    allstar_of,
    duplicates,
    flag_duplicates,
    read_g_flux,
    read_labels,
    read_source_columns,
    read_source_ids,
)
from scattervae.gaia.files.sampled import SampledSpectra, one_row_per_star, read_sampled
from scattervae.spectra.bases import BasisIds, check_taken
from scattervae.spectra.spectra import Basis, Correlations, Flag, Spectra
from scattervae.spectra.star_tables import POSITION_COLUMNS, SourceColumns, StellarLabels


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
    flags = flag_duplicates(stars.source_id, stars.flags, _snr(columns)[skips.kept])
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


def assemble_labels(columns: Columns) -> StellarLabels:
    """The labels of a table that need not hold spectra, one row a star, the best where it has several.

    Of APOGEE's own tables only rows that pass their makers' cuts are taken (`scattervae.gaia.files.rows`).
    """
    names = [name for name, _ in LABEL_COLUMNS]
    there = any(name in columns for name in names)
    _require(columns, "holds no labels", there=there, more=f" and some of {', '.join(names)}")
    columns = in_archive_units(columns)
    skips = Skips(len(columns))
    source_id = read_source_ids(columns, skips)
    kept, worth = skips.kept, _snr(columns)
    allstar = allstar_of(columns.names)
    if allstar is not None:
        kept, worth = kept & allstar.trusted(columns), allstar.worth(columns)
    rows = np.flatnonzero(kept)
    return read_labels(columns, source_id, rows=rows[~duplicates(source_id[rows], worth[rows])])


def assemble_ids(columns: Columns) -> SourceIds:
    """The source_ids of a table, as often as they are in it."""
    _require(columns, "holds no identifiers")
    skips = Skips(len(columns))
    source_id: SourceIds = read_source_ids(columns, skips)[skips.kept]
    return source_id


def assemble_sources(columns: Columns) -> SourceColumns:
    """What a table has of ``gaia_source``, one row a star; it need not hold spectra."""
    there = all(name in columns for name in POSITION_COLUMNS)
    _require(columns, "is no gaia_source table", there=there, more=f", {', '.join(POSITION_COLUMNS)}")
    columns = in_archive_units(columns)
    skips = Skips(len(columns))
    source_id = read_source_ids(columns, skips)
    rows = np.flatnonzero(skips.kept)
    return read_source_columns(columns, source_id, rows=rows[~duplicates(source_id[rows])])


def _check_columns(columns: Columns) -> None:
    if columns.source_id_name and (columns.holds_coeffs or columns.holds_flux):
        return
    lacking = [name for name in CONTINUOUS_COLUMNS if name not in columns]
    if not columns.source_id_name:
        lacking.insert(0, ANY_SOURCE_ID)
    raise DataError(
        f"holds no spectra: columns {_shortened(columns.names)}; lacks {', '.join(lacking)} "
        f"(or {' and '.join(SAMPLED_COLUMNS)} for sampled spectra){_hint(columns)}"
    )


def _require(columns: Columns, lack: str, *, there: bool = True, more: str = "") -> None:
    """Refuse a table without an identifier, or without what else is needed."""
    if not columns.source_id_name or not there:
        found = _shortened(columns.names)
        raise DataError(f"{lack}: columns {found}; expected {ANY_SOURCE_ID}{more}{_hint(columns)}")


def _hint(columns: Columns) -> str:
    """Where the identifiers seem to be, if no column is called like them."""
    index = [name for name in columns.names if name.strip().lower() in INDEX_NAMES]
    if columns.source_id_name or not index:
        return ""
    return "; they seem to be in the index, which has no name: call it source_id (frame.index.name) and write again"


def _shortened(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    found = ", ".join(name[:40] for name in names[:8]) or "none"
    return f"{' '.join(found.split())}{more}"


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

    known = [one.basis for one in known_bases()]
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


def _snr(columns: Columns) -> StarArray:
    """Signal to noise of each row's labels, -1 where missing, 0 for all where there is no such column."""
    if SNR_NAME not in columns:
        return np.zeros(len(columns))
    return np.asarray(np.nan_to_num(floats(columns.cells[SNR_NAME]), nan=-1.0))
