"""Arrays are read as Python reads JSON, and a regular file never goes row by row."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulk.toys import BulkToy, read_whole, write
from scattervae.gaia.bulk import reading
from scattervae.gaia.bulk.reading import RegularRows, open_table


@pytest.fixture(scope="module")
def regular(tmp_path_factory):
    path = write(tmp_path_factory.mktemp("bulk"), BulkToy().text())
    return RegularRows(open_table(path, correlations=True)[0], capacity=10)


NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**70), 2**70)


@given(numbers=st.lists(NUMBERS, min_size=1, max_size=8))
def test_numbers_are_those_of_python(regular, numbers):
    text = json.dumps(numbers)
    read = regular._read(text.encode(), len(numbers))
    if read is None:  # integers beyond 64 bits are left to the careful reader
        assert any(abs(number) >= 2**63 for number in numbers if isinstance(number, int))
        return
    expected = np.array([float(number) for number in json.loads(text)])
    np.testing.assert_array_equal(np.frombuffer(read).view(np.int64), expected.view(np.int64))


@given(value=st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_single_precision_in_the_spelling_of_the_archive(regular, value):
    # Java writes 5.565606E-4 where Python writes 0.0005565606
    python = np.format_float_scientific(np.float32(value), exp_digits=1)
    java = python.replace("e+", "E").replace("e", "E").replace(".E", ".0E")
    (read,) = np.frombuffer(regular._read(f"[{java}]".encode(), 1))
    assert np.float32(read) == np.float32(value)


@given(text=st.text(alphabet="0123456789.,-+eE[]naulN \t\n", max_size=20).map(lambda text: f"[{text}]"))
def test_what_python_does_not_read_is_not_read(regular, text):
    try:
        expected = json.loads(text)
    except ValueError:
        expected = None
    size = len(expected) if isinstance(expected, list) else 1
    read = regular._read(text.encode(), size)
    if read is not None:
        assert isinstance(expected, list)
        np.testing.assert_array_equal(np.frombuffer(read), np.array(expected, dtype=np.float64))


@pytest.fixture
def row_by_row(monkeypatch):
    """Numbers of the lines that went row by row; those that a basis is looked for in have none."""
    careful, seen = reading.read_rows, list[int]()

    def noted(header, lines, numbers, **options):
        seen.extend(filter(None, numbers))
        return careful(header, lines, numbers, **options)

    monkeypatch.setattr(reading, "read_rows", noted)
    return seen


def test_regular_lines_never_go_row_by_row(tmp_path, row_by_row):
    toy = BulkToy(n=200)
    path = write(tmp_path, toy.text(newline="\r\n"))
    assert len(read_whole(path, correlations=True)[0]) == 200
    assert row_by_row == []


def test_only_the_irregular_lines_of_a_block_go_row_by_row(tmp_path, row_by_row):
    toy = BulkToy(n=200)
    toy.without_band(17, "bp")
    toy.cells[90]["rp_coefficients"] = '"[1,nan,2,3]"'
    toy.cells[150]["source_id"] = "x"
    path = write(tmp_path, toy.text())
    assert len(read_whole(path)[0]) == 199
    assert row_by_row == [17 + 7, 90 + 7, 150 + 7]  # after five comments and the header, counted from 1
