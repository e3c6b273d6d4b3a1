import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from scattervae.spectra.matching import rows_of

IDS = st.lists(st.integers(-5, 5), max_size=12)


@given(IDS, IDS.filter(len), st.booleans())
def test_each_star_is_found_where_it_first_stands(wanted, among, in_order):
    among = sorted(among) if in_order else among
    row, known = rows_of(np.array(wanted, dtype=np.int64), among=np.array(among, dtype=np.int64))
    assert known.tolist() == [star in among for star in wanted]
    assert row[known].tolist() == [among.index(star) for star in wanted if star in among]
