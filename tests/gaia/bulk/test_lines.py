"""Bytes of files, whole and broken: every line before the damage arrives, and none that was not written."""

import csv
import gzip
import pickle
import zlib
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bulk.toys import BulkToy, assert_same, read_whole, write
from scattervae.errors import DataError
from scattervae.gaia.bulk.lines import BrokenFileError, Layout, read_lines
from scattervae.gaia.bulk.reading import read_bulk


def lines_of(path: Path) -> list[bytes]:
    return [lines.line(row) for lines in read_lines(path) for row in range(len(lines.spans))]


def rows_and_error(path: Path, **options) -> tuple[int, BrokenFileError]:
    """How many stars came before the file turned out to be broken, and what was said."""
    n_stars: list[int] = []
    with pytest.raises(BrokenFileError) as caught:
        n_stars.extend(len(chunk.spectra) for chunk in read_bulk(path, **options))
    return sum(n_stars), caught.value


@given(
    lines=st.lists(st.binary(max_size=30).map(lambda line: line.replace(b"\n", b"").replace(b"\r", b""))),
    newline=st.sampled_from([b"\n", b"\r\n"]),
    cuts=st.lists(st.integers(0, 400), max_size=3),
    sizes=st.tuples(st.integers(1, 60), st.integers(1, 60)),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_lines_survive_any_division_into_blocks_and_members(tmp_path, lines, newline, cuts, sizes):
    content = b"".join(line + newline for line in lines)
    edges = sorted({0, len(content), *(cut for cut in cuts if cut < len(content))})
    members = [gzip.compress(content[a:b]) for a, b in pairwise(edges)]
    path = tmp_path / "spectra"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scattervae.gaia.bulk.lines._PACKED_BYTES", sizes[0])
        patch.setattr("scattervae.gaia.bulk.lines._TEXT_BYTES", sizes[1])
        for packed in (b"".join(members) or gzip.compress(b""), b"\0\0\0".join([*members, b""])):
            path.write_bytes(packed or gzip.compress(b"") + bytes(100))
            assert lines_of(path) == lines
        path.write_bytes(b"#" + content)
        assert lines_of(path) == (b"#" + content).replace(b"\r", b"").splitlines()
        number = 1
        for block in read_lines(path):
            assert block.first == number
            number += len(block.spans)


def test_file_that_ends_without_a_line_end(tmp_path):
    assert lines_of(write(tmp_path, b"a\r\n\r\nb")) == [b"a", b"", b"b"]
    assert lines_of(write(tmp_path, b"a\r\n\r\nb", "plain.csv")) == [b"a", b"", b"b"]
    assert lines_of(write(tmp_path, b"", "plain.csv")) == []


@pytest.mark.parametrize("part", [0.3, 0.6, 0.9, 0.9999])
@pytest.mark.parametrize("rows", [7, 1000])
def test_all_rows_before_the_cut_are_read(tmp_path, part, rows):
    toy = BulkToy(n=60)
    packed = gzip.compress(toy.text())
    packed = packed[: int(part * len(packed))]
    path = tmp_path / "spectra.csv.gz"
    path.write_bytes(packed)
    there = zlib.decompressobj(31).decompress(packed)
    whole = there.count(b"\n") - 6  # comments and header
    n_stars, error = rows_and_error(path, rows=rows)
    assert (n_stars, error.n_rows, error.trusted) == (whole, whole, True)
    assert str(error) == (
        f"{path}: is cut off at byte {len(packed)}, after {whole} whole rows; download it again"
    )
    stars = [chunk.spectra for chunk, _ in zip(read_bulk(path, rows=7), range(whole // 7), strict=False)]
    for index, part_of in enumerate(stars):
        assert_same(
            part_of, read_whole(write(tmp_path, toy.text()), rows=60)[0].take(slice(7 * index, 7 * index + 7))
        )


def test_file_cut_off_in_its_header(tmp_path):
    packed = gzip.compress(BulkToy().text())
    for size in (2, 12, 60):
        path = tmp_path / "spectra.csv.gz"
        path.write_bytes(packed[:size])
        n_stars, error = rows_and_error(path)
        assert n_stars == error.n_rows == 0
        assert f"is cut off at byte {size}, after 0 whole rows" in str(error)


def test_damage_is_found_and_no_row_of_the_file_is_vouched_for(tmp_path):
    content = BulkToy(n=60).text()
    packed = bytearray(gzip.compress(content))
    path = tmp_path / "spectra.csv.gz"
    for place in range(30, len(packed), 97):
        damaged = packed.copy()
        damaged[place] ^= 0x55
        path.write_bytes(damaged)
        error = rows_and_error(path)[1]
        assert not error.trusted or "cut off" in str(error)
        assert error.trusted or "of which any may be wrong" in str(error)


def test_wrong_checksum_and_what_follows_the_end(tmp_path):
    packed = gzip.compress(BulkToy(n=5).text())
    path = tmp_path / "spectra.csv.gz"
    path.write_bytes(packed[:-8] + bytes(4) + packed[-4:])
    n_stars, error = rows_and_error(path)
    assert n_stars == error.n_rows
    assert not error.trusted
    assert "checksum" in str(error)
    path.write_bytes(packed + b"<html>a proxy's opinion</html>")
    n_stars, error = rows_and_error(path)
    assert (n_stars, error.trusted) == (5, False)


def test_disk_that_fails(tmp_path, monkeypatch):
    path = write(tmp_path, BulkToy(n=5).text(), "spectra.csv")
    monkeypatch.setattr("scattervae.gaia.bulk.lines._TEXT_BYTES", 4000)
    real_open = Path.open

    class Failing:
        def __init__(self, file):
            self._file, self._n = file, 0

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self._file.close()

        def seek(self, place):
            self._file.seek(place)

        def read(self, size):
            self._n += 1
            if self._n > 2:
                raise OSError(5, "Input/output error")
            return self._file.read(size)

    monkeypatch.setattr(Path, "open", lambda self, mode: Failing(real_open(self, mode)))
    _, error = rows_and_error(path)
    assert "cannot be read on (Input/output error)" in str(error)
    assert error.trusted


def test_error_reaches_another_process(tmp_path):
    error = BrokenFileError(tmp_path / "x", "is cut off at byte 5", trusted=False, n_rows=3).after(7)
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error)
    assert (copy.n_rows, copy.trusted) == (7, False)
    assert isinstance(copy, DataError)


def test_line_that_does_not_end(tmp_path, monkeypatch):
    monkeypatch.setattr("scattervae.gaia.bulk.lines.LONGEST_LINE", 1000)
    monkeypatch.setattr("scattervae.gaia.bulk.lines._TEXT_BYTES", 300)
    path = write(tmp_path, b"x" * 5000)
    with pytest.raises(DataError, match="a line of more than 1000 bytes"):
        lines_of(path)


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
    assert Layout.of_lines(5, [1, 2], [1], lines) == Layout(5, (1, 2, 4), (1,))
    assert Layout.of_lines(5, [2, 1], [1], lines[:2]) == Layout(5, (1, 2), (1,))
