"""Stars find their rows in files of ``gaia_source``, however these are cut up, named and ordered."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest_toys import LEVEL8, SOURCE_NAMES, bulk_name, source_columns, source_text, write_zipped
from scattervae.errors import DataError
from scattervae.gaia import source_join
from scattervae.gaia.source_join import SourceFiles

PIXELS = np.array([3, 4, 9])


def stars_in(pixels, n, seed=0):
    rng = np.random.default_rng(seed)
    return np.repeat(np.asarray(pixels), n) * LEVEL8 + rng.integers(1, LEVEL8, n * len(pixels))


@settings(max_examples=15)
@given(
    seed=st.integers(0, 1000),
    ranged=st.lists(st.tuples(st.integers(0, 4), st.integers(4, 12)), max_size=3),
    n_tables=st.integers(0, 2),
)
def test_every_row_that_is_somewhere_is_found(tmp_path_factory, seed, ranged, n_tables):
    folder = tmp_path_factory.mktemp("sources")
    rng = np.random.default_rng(seed)
    known = stars_in(PIXELS, 8, seed)
    files, found = [], set()
    for index, (first, last) in enumerate(ranged):
        pixels = known // LEVEL8
        own = known[(pixels >= first) & (pixels <= last) & (rng.random(len(known)) < 0.7)]
        files.append(
            write_zipped(folder / f"{index}" / bulk_name("GaiaSource", first, last), source_text(own))
        )
        found |= set(own.tolist())
    for index in range(n_tables):
        own = rng.permutation(known)[:10]
        (path := folder / f"table{index}.csv").write_text(source_text(own, top=""))
        files.append(path)
        found |= set(own.tolist())
    asked = rng.permutation(np.concatenate([known, stars_in(PIXELS, 2, seed + 1)]))
    pixels = asked // LEVEL8
    covered = np.zeros(len(asked), dtype=bool) | (n_tables > 0)
    for first, last in ranged:
        covered |= (pixels >= first) & (pixels <= last)
    sources = SourceFiles.of([files[i] for i in rng.permutation(len(files))], folder / "scratch")
    if not covered.all():
        with pytest.raises(DataError, match="are in no gaia_source file given"):
            sources.of_stars(asked)
        asked = asked[covered]
    columns = sources.of_stars(asked)
    np.testing.assert_array_equal(columns.source_id, asked)
    np.testing.assert_array_equal(columns.located, [star in found for star in asked.tolist()])
    expected = source_columns(asked)
    for name in SOURCE_NAMES:
        np.testing.assert_array_equal(
            columns.values[name], np.where(columns.located, expected[name], np.nan), err_msg=name
        )


def test_of_several_rows_of_one_star_the_first_is_taken(tmp_path):
    star = stars_in([3], 1)
    header, row = source_text(star, top="").splitlines()
    ra = repr(float(source_columns(star)["ra"][0]))
    for index, value in enumerate(("10.5", "20.5", "30.5")):
        (tmp_path / f"{index}.csv").write_text(f"{header}\n{row.replace(ra, value)}\n{row}\n")
    files = [tmp_path / f"{index}.csv" for index in (1, 0, 2)]
    assert SourceFiles.of(files, tmp_path / "scratch").of_stars(star).values["ra"].tolist() == [20.5]


def test_a_file_is_read_once_for_the_chunks_that_need_it(tmp_path, monkeypatch):
    pixels = list(range(8))
    stars = stars_in(pixels, 5)
    files = [
        write_zipped(tmp_path / bulk_name("GaiaSource", pixel), source_text(stars[stars // LEVEL8 == pixel]))
        for pixel in pixels
    ]
    read = []
    real = source_join.read_sources
    monkeypatch.setattr(source_join, "read_sources", lambda path: read.append(path) or real(path))
    sources = SourceFiles.of(files, tmp_path / "scratch")
    assert read == []
    for pixel in pixels:
        own = stars[stars // LEVEL8 == pixel]
        for chunk in (own[:2], own[2:]):
            assert sources.of_stars(chunk).located.all()
    assert read == files
    assert len(sources._open) < len(files)


def test_tables_without_a_star(tmp_path):
    (tmp_path / "empty.csv").write_text(source_text(np.empty(0, dtype=np.int64), top=""))
    with pytest.raises(DataError, match=r"empty\.csv: "):
        SourceFiles.of([tmp_path / "empty.csv"], tmp_path / "scratch")
