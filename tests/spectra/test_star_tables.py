from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scattervae.errors import DataError
from scattervae.spectra.spectra import Basis
from scattervae.spectra.star_tables import (
    LABEL_NAMES,
    SOURCE_COLUMNS,
    SeveralBasesError,
    SourceColumns,
    StatedBand,
    StellarLabels,
    by_ids,
    check_taken,
    is_of,
    parse_ids,
    rows_of,
    sort_by_basis,
)

THREE = SourceColumns(
    np.array([30, 10, 20]), {"ra": np.array([3.0, 1.0, 2.0]), "dec": np.array([-3.0, np.nan, -2.0])}
)


@given(st.lists(st.integers(1, 50), max_size=10))
def test_columns_are_found_by_source_id(wanted):
    wanted = np.array(wanted, dtype=np.int64)
    aligned = THREE.aligned_to(wanted)
    np.testing.assert_array_equal(aligned.source_id, wanted)
    expected = [{10: 1.0, 20: 2.0, 30: 3.0}.get(star, np.nan) for star in wanted.tolist()]
    np.testing.assert_array_equal(aligned.values["ra"], expected)


def test_a_star_is_located_where_both_coordinates_are_known():
    assert THREE.located.tolist() == [True, False, True]


def test_of_two_rows_of_a_star_the_first_is_taken():
    twice = SourceColumns(np.array([7, 5, 7]), {"ra": np.array([1.0, 2.0, 3.0]), "dec": np.zeros(3)})
    assert twice.aligned_to(np.array([7])).values["ra"].tolist() == [1.0]


def test_nothing_known_stays_nothing():
    assert SourceColumns.empty().aligned_to(np.array([1, 2])).values == {}
    none = THREE.take(np.zeros(3, dtype=bool)).aligned_to(np.array([10]))
    assert np.isnan(none.values["ra"]).all()


@pytest.mark.parametrize("rows", [slice(0, 2), np.array([True, True, False])])
def test_rows_are_taken_together(rows):
    assert THREE.take(rows).source_id.tolist() == [30, 10]
    assert THREE.take(rows).values["ra"].tolist() == [3.0, 1.0]


def test_units_are_those_of_the_archive():
    units = {name: unit for name, (_, unit, _) in SOURCE_COLUMNS.items()}
    assert (units["ra"], units["parallax"], units["phot_g_mean_flux"]) == ("deg", "mas", "electron/s")


IDS = st.lists(st.integers(-5, 5), max_size=12)


@given(IDS, IDS.filter(len), st.booleans())
def test_each_star_is_found_where_it_first_stands(wanted, among, in_order):
    among = sorted(among) if in_order else among
    row, known = rows_of(np.array(wanted, dtype=np.int64), among=np.array(among, dtype=np.int64))
    assert known.tolist() == [star in among for star in wanted]
    assert row[known].tolist() == [among.index(star) for star in wanted if star in among]


def test_labels_are_aligned_to_stars_and_missing_where_there_are_none():
    values = np.arange(12.0).reshape(3, 4)
    labels = StellarLabels(source_id=np.array([7, 2**62, 7]), values=values, errors=values / 10)
    aligned = labels.aligned_to(np.array([2**62, 1, 7, 2**63 - 1, 2**62]))
    np.testing.assert_array_equal(aligned["teff"], [4.0, np.nan, 0.0, np.nan, 4.0])
    np.testing.assert_array_equal(aligned.errors[:, 3], [0.7, np.nan, 0.3, np.nan, 0.7])
    assert LABEL_NAMES.index("alpha_m") == 3


def test_no_labels_align_to_missing_ones():
    none = StellarLabels(
        source_id=np.empty(0, dtype=np.int64), values=np.empty((0, 4)), errors=np.empty((0, 4))
    )
    aligned = none.aligned_to(THREE.source_id)
    assert len(aligned) == 3
    assert np.isnan(aligned.values).all()
    assert np.isnan(aligned.errors).all()


@given(st.lists(st.integers(0, 20), max_size=15), st.lists(st.integers(0, 20), max_size=15))
def test_alignment_is_a_lookup_of_the_first_row(have, want):
    values = np.arange(len(have) * 4.0).reshape(-1, 4)
    labels = StellarLabels(source_id=np.array(have, dtype=np.int64), values=values, errors=values)
    teff = labels.aligned_to(np.array(want, dtype=np.int64))["teff"]
    expected = [4.0 * have.index(star) if star in have else np.nan for star in want]
    np.testing.assert_array_equal(teff, expected)


DR3, OTHER, UNNAMED = Basis(55, 55, 56, 57), Basis(51, 55, 66, 67), Basis(55, 55)


def stated(*groups: tuple[int, Basis], without: str = "") -> tuple[StatedBand, StatedBand]:
    """What rows of these bases say, in this order; those of `without` have no such band."""

    def band(name: str) -> StatedBand:
        rows = [(getattr(b, f"n_{name}"), getattr(b, f"{name}_id")) for n, b in groups for _ in range(n)]
        if name == without:
            rows = [(0, None)] * len(rows)
        return StatedBand(np.array([n for n, _ in rows]), np.array([-1 if i is None else i for _, i in rows]))

    return band("bp"), band("rp")


def counted(found) -> list[tuple[Basis, int]]:
    return [(basis, int(rows.sum())) for basis, rows in found]


def test_most_rows_decide_and_the_others_are_sorted_out_whatever_their_order():
    assert counted(sort_by_basis(*stated((2, OTHER), (4, DR3), (1, OTHER)))) == [(DR3, 4), (OTHER, 3)]
    assert counted(sort_by_basis(*stated((3, DR3), (4, OTHER)))) == [(OTHER, 4), (DR3, 3)]


def test_the_ids_of_both_bands_are_voted_on_together():
    """By themselves BP 56 and RP 40 have the smaller ids of equally many: a basis that no row is of."""
    one, other = Basis(5, 5, 56, 58), Basis(5, 5, 57, 40)
    assert counted(sort_by_basis(*stated((2, one), (2, other)))) == [(one, 2), (other, 2)]


def test_rows_without_ids_are_of_any_basis_of_their_sizes():
    assert counted(sort_by_basis(*stated((5, UNNAMED), (2, DR3)))) == [(DR3, 7)]
    assert counted(sort_by_basis(*stated((5, UNNAMED), (2, OTHER)))) == [(UNNAMED, 5), (OTHER, 2)]
    twin = Basis(55, 55, 76, 77)
    assert counted(sort_by_basis(*stated((9, UNNAMED), (1, twin), (2, DR3)))) == [(DR3, 11), (twin, 1)]


@pytest.mark.parametrize("lacking", ["bp", "rp"])
def test_rows_with_one_band_count_for_the_basis_of_that_band(lacking):
    complete, partial = stated((2, DR3), (1, OTHER)), stated((3, OTHER), without=lacking)
    bands = [
        StatedBand(*map(np.concatenate, zip(*pair, strict=True)))
        for pair in zip(complete, partial, strict=True)
    ]
    found = counted(sort_by_basis(*bands))
    # DR3's RP has the size, not the id, of the other's
    assert found == [(OTHER, 4), (DR3, 2)]


def test_a_file_of_one_band_has_no_size_for_the_other():
    assert counted(sort_by_basis(*stated((3, DR3), without="bp"))) == [(Basis(0, 55, None, 57), 3)]
    assert sort_by_basis(*stated()) == []


def test_what_is_wanted_is_taken_though_it_is_rare_or_absent():
    rows = stated((9, DR3), (1, OTHER))
    assert counted(sort_by_basis(*rows, OTHER)) == [(OTHER, 1), (DR3, 9)]
    assert counted(sort_by_basis(*rows, (66, 67))) == [(OTHER, 1), (DR3, 9)]
    absent = Basis(51, 55, 76, 77)
    assert counted(sort_by_basis(*rows, absent))[0] == (absent, 0)
    assert counted(sort_by_basis(*rows, (76, 77)))[0] == (Basis(0, 0, 76, 77), 0)
    assert counted(sort_by_basis(*stated((2, UNNAMED)), (56, 57))) == [(DR3, 2)]
    assert counted(sort_by_basis(*stated((2, UNNAMED)), OTHER)) == [(OTHER, 0), (UNNAMED, 2)]


rows_of_bands = st.lists(st.tuples(*[st.integers(0, 3), st.integers(-1, 2)] * 2), max_size=40)


@given(rows_of_bands, st.sampled_from([None, Basis(2, 2, 1, 1), Basis(1, 2), (1, 2)]))
def test_each_row_with_a_band_is_of_one_basis(rows, wanted):
    table = np.array(rows, dtype=np.int64).reshape(-1, 4)
    bp, rp = StatedBand(table[:, 0], table[:, 1]), StatedBand(table[:, 2], table[:, 3])
    found = sort_by_basis(bp, rp, wanted)
    times = sum((of.rows.astype(int) for of in found), np.zeros(len(table), dtype=int))
    np.testing.assert_array_equal(times, (bp.sizes > 0) | (rp.sizes > 0))


def test_a_tie_needs_a_choice_and_names_it():
    with pytest.raises(
        SeveralBasesError, match=r"200 stars of basis 56\+57 and 200 stars of basis 66\+67"
    ) as caught:
        check_taken(DR3, 200, Counter({OTHER: 200}))
    assert "choose with --basis 56+57 or --basis 66+67" in str(caught.value)
    assert caught.value.counts == {"56+57": 200, "66+67": 200}
    check_taken(DR3, 201, Counter({OTHER: 200}))
    check_taken(OTHER, 1, Counter({DR3: 200}), OTHER)
    with pytest.raises(SeveralBasesError, match=r"200 stars of 55 BP \(basis 56\).*, none of basis 66\+67"):
        check_taken(OTHER, 0, Counter({DR3: 200}), (66, 67))


def test_sizes_that_no_id_separates_are_no_other_basis_to_choose():
    assert by_ids(Counter({Basis(54, 55, 56, 57): 3, OTHER: 2}), DR3) == {"66+67": 2}


def test_ids_as_they_are_written():
    assert parse_ids(" 56 +57") == (56, 57)
    for text in ("56", "56+", "a+b", "56+57+58", "-1+57"):
        with pytest.raises(DataError, match=r"expected the ids of BP and RP, as in 56\+57"):
            parse_ids(text)
    assert [is_of(DR3, (56, 57)), is_of(UNNAMED, DR3), is_of(DR3, OTHER)] == [True, True, False]
