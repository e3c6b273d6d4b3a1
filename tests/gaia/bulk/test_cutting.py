"""A line is cut as the csv module cuts it, or not at all."""

import csv

from hypothesis import given
from hypothesis import strategies as st

from scattervae.gaia.bulk.blocks import Layout

LAYOUT = Layout(n_columns=5, quoted=(1, 2, 4), wanted=(1, 4))
CUT = LAYOUT.cutter()


def test_regular_line():
    line = b'7,"[1,2]","[3]",x,"[4,5]"'
    cells = CUT(b"before\n" + line + b"\nafter", 7, 7 + len(line))
    assert cells.plain[0] == b"7"
    assert cells.plain[3] == b"x"
    assert cells.quoted == [b"[1,2]", b"[4,5]"]


@given(text=st.text(alphabet='7x,"[]\r', max_size=30))
def test_what_is_cut_is_what_csv_says(text):
    cells = CUT(text.encode(), 0, len(text))
    if cells is None:
        return
    (expected,) = csv.reader([text], strict=True)
    assert [expected[1], expected[4]] == [cell.decode() for cell in cells.quoted]
    assert [expected[0], expected[3]] == [cells.plain[0].decode(), cells.plain[3].decode()]


@given(cells=st.lists(st.text(alphabet="7x,[] ", max_size=6), min_size=5, max_size=5))
def test_every_line_of_the_layout_is_cut(cells):
    plain = {0: cells[0].replace(",", ""), 3: cells[3].replace(",", "")}
    line = ",".join(plain.get(i, f'"{cell}"') for i, cell in enumerate(cells))
    cut = CUT(line.encode(), 0, len(line))
    assert [cell.decode() for cell in cut.quoted] == [cells[1], cells[4]]


def test_layout_is_learned_from_the_first_line_that_has_all_arrays():
    lines = [b'1,,"[2]",x,', b'1,"[1],"[2]",x,y', b'1,"[1]","[2]",x,"a note"', b'1,"[1]","[2]",x,y']
    assert Layout.learn(5, [1, 2], [1], lines) == Layout(5, (1, 2, 4), (1,))
    assert Layout.learn(5, [2, 1], [1], lines[:2]) == Layout(5, (1, 2), (1,))
