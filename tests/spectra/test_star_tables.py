import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scattervae.spectra.star_tables import LABEL_NAMES, SOURCE_COLUMNS, SourceColumns, StellarLabels, rows_of

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
