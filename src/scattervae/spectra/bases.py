"""Which basis the stars of a file are of, and which of them are of another: nothing is mixed, nothing lost unsaid."""

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Int64

from scattervae.arrays import StarMask
from scattervae.errors import DataError, counted
from scattervae.spectra.spectra import Basis

logger = logging.getLogger(__name__)

BasisIds: TypeAlias = tuple[int, int]
"""The ids of the basis functions of BP and RP."""

_Rows: TypeAlias = Int64[np.ndarray, "star 4"]
_MOST_BASES = 16  # looked for in one file; a damaged one may seem to have thousands


class StatedBand(NamedTuple):
    """What each row of a file names as the basis of one band.

    Attributes:
        sizes: Number of coefficients, 0 where the band is missing.
        ids: Identifier of the basis functions, -1 where the row names none.
    """

    sizes: Int64[np.ndarray, " star"]
    ids: Int64[np.ndarray, " star"]


class OfBasis(NamedTuple):
    """The rows of one basis; a size is 0 where none of them has the band."""

    basis: Basis
    rows: StarMask


class SeveralBasesError(DataError):
    """A file holds stars of other bases than the one to take.

    Attributes:
        counts: Stars of each basis, by its ids.
    """

    def __init__(self, message: str, counts: dict[str, int]) -> None:
        super().__init__(message)
        self.counts = counts

    def located(self, where: object) -> "SeveralBasesError":
        """The same error of a file or table of this name."""
        return SeveralBasesError(f"{where}: {self}", self.counts)


def parse_ids(text: str) -> BasisIds:
    """The ids that ``56+57`` names.

    Raises:
        DataError: It names none.
    """
    parts = text.split("+")
    if len(parts) != 2 or not all(part.strip().isdecimal() for part in parts):
        raise DataError(f"--basis {text!r}: expected the ids of BP and RP, as in 56+57 of Gaia DR3")
    return int(parts[0]), int(parts[1])


def sort_by_basis(bp: StatedBand, rp: StatedBand, wanted: Basis | BasisIds | None = None) -> list[OfBasis]:
    """The bases of a file's rows: first the one that is wanted, or else that of most rows; each with its rows.

    A row without ids is taken for one of any basis of its sizes that is wanted or that others name, and a row with one
    band for one of any whose band it has. Rows without coefficients are of none.

    Args:
        bp: What the rows say of BP.
        rp: What they say of RP.
        wanted: The basis to take, though no row may be of it; where only its ids are given, the rows give its sizes.
    """
    rows = np.stack([bp.sizes, bp.ids, rp.sizes, rp.ids], axis=1)
    left = (bp.sizes > 0) | (rp.sizes > 0)
    found: list[OfBasis] = []
    if wanted is not None:
        basis = _with_sizes(wanted, rows[left & _fits(rows, wanted)])
        found.append(OfBasis(basis, left & _fits(rows, basis)))
        left &= ~found[0].rows
    while left.any():
        basis = _common_basis(rows[left])
        found.append(OfBasis(basis, left & _fits(rows, basis) if len(found) < _MOST_BASES else left))
        left &= ~found[-1].rows
    return found


def check_taken(
    taken: Basis, n_taken: int, others: Counter[Basis], wanted: Basis | BasisIds | None = None
) -> None:
    """Refuse a file of which no star is of the basis that was asked for, or, where none was, of which not most are.

    Args:
        taken: The basis of the stars that were taken.
        n_taken: Their number.
        others: Stars of other bases.
        wanted: What was asked for.

    Raises:
        SeveralBasesError: So it is.
    """
    if wanted is not None and n_taken == 0 and others:
        most, n_most = others.most_common(1)[0]
        asked = f"basis {wanted[0]}+{wanted[1]}" if isinstance(wanted, tuple) else str(wanted)
        raise SeveralBasesError(
            f"holds {n_most:,} stars of {most}, none of {asked}; `encode --transport` expresses them in a model's",
            by_ids(others, taken),
        )
    counts = by_ids(others, taken)
    if wanted is None and max(counts.values(), default=0) >= max(n_taken, 1):
        counts = {taken.ids: n_taken, **counts}
        found = " and ".join(f"{counted(n, 'star')} of basis {ids}" for ids, n in counts.items())
        options = " or ".join(f"--basis {ids}" for ids in counts if "?" not in ids)
        raise SeveralBasesError(
            f"holds {found}, and none has most of them; choose with {options} of `ingest`", counts
        )


def is_of(basis: Basis, wanted: Basis | BasisIds) -> bool:
    """True where nothing speaks against the one basis being the other."""
    return bool(_fits(np.array([_row_of(basis)]), wanted)[0])


def by_ids(others: Counter[Basis], taken: Basis) -> dict[str, int]:
    """Stars of other bases by their ids, those that only differ in size left out: no id separates them."""
    return dict(sum((Counter({one.ids: n}) for one, n in others.items() if one.ids != taken.ids), Counter()))


def warn_if_unnamed(where: str, basis: Basis, *, is_named: bool) -> None:
    """Say that stars are taken for this basis though they name none, or though it names none and they do."""
    if basis.is_named and not is_named:
        logger.warning("%s: names no basis functions; its stars are taken for %s", where, basis)
    elif is_named and not basis.is_named:
        logger.warning("%s: its stars are taken for %s, of which no ids are known", where, basis)


def _fits(rows: _Rows, basis: Basis | BasisIds) -> StarMask:
    """True for rows of which nothing speaks against their being of this basis."""
    expected = (0, basis[0], 0, basis[1]) if isinstance(basis, tuple) else _row_of(basis)
    fits = np.ones(len(rows), dtype=bool)
    for first in (0, 2):
        size, basis_id = expected[first : first + 2]
        sizes, ids = rows[:, first], rows[:, first + 1]
        fits &= (sizes == 0) | (
            ((size == 0) | (sizes == size)) & ((ids < 0) | (basis_id < 0) | (ids == basis_id))
        )
    return fits


def _row_of(basis: Basis) -> tuple[int, int, int, int]:
    bp_id, rp_id = (-1 if one is None else one for one in (basis.bp_id, basis.rp_id))
    return basis.n_bp, bp_id, basis.n_rp, rp_id


def _with_sizes(wanted: Basis | BasisIds, rows: _Rows) -> Basis:
    if isinstance(wanted, Basis):
        return wanted
    return replace(_common_basis(rows), bp_id=wanted[0], rp_id=wanted[1])


def _common_basis(rows: _Rows) -> Basis:
    """The basis that most of these rows may be of; of equals the one that comes first."""
    named = (rows[:, 1] >= 0) | (rows[:, 3] >= 0)

    def n_rows(basis: Basis) -> int:
        return int((_fits(rows, basis) & (basis.is_named | ~named)).sum())

    return max(_candidates(rows), key=n_rows)


def _candidates(rows: _Rows) -> Iterator[Basis]:
    """The bases of rows with both bands, the most frequent first; else that of each band by itself."""
    complete = rows[(rows[:, 0] > 0) & (rows[:, 2] > 0)]
    if not len(complete):
        nothing = np.array([[0, -1]])
        bands = [_most_common(rows[rows[:, first] > 0, first : first + 2]) for first in (0, 2)]
        complete = np.hstack([nothing if band is None else band[None] for band in bands])
    distinct, first, counts = np.unique(complete, axis=0, return_index=True, return_counts=True)
    for index in np.lexsort((first, -counts))[:_MOST_BASES]:
        n_bp, bp_id, n_rp, rp_id = distinct[index].tolist()
        yield Basis(n_bp, n_rp, None if bp_id < 0 else bp_id, None if rp_id < 0 else rp_id)


def _most_common(rows: Int64[np.ndarray, "star 2"]) -> Int64[np.ndarray, " 2"] | None:
    if not len(rows):
        return None
    distinct, counts = np.unique(rows, axis=0, return_counts=True)
    return np.asarray(distinct[counts.argmax()])
