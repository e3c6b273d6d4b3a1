import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scattervae.errors import StoreError
from scattervae.spectra import known
from scattervae.spectra.known import KnownStars

IDS = st.lists(st.integers(0, 60), max_size=15)


def write(path, ids):
    """In two row groups, not in order."""
    pq.write_table(
        pa.table({"flags": np.zeros(len(ids)), "source_id": ids}), path, row_group_size=max(1, len(ids) // 2)
    )


@given(st.lists(IDS, max_size=4), IDS, st.booleans())
def test_stars_are_known_whether_in_memory_or_in_files(tmp_path_factory, runs, asked, on_disk):
    folder = tmp_path_factory.mktemp("known")
    stars = KnownStars()
    for number, run in enumerate(runs):
        ids = np.array(run, dtype=np.int64)
        if on_disk and run:
            write(folder / f"{number}.parquet", ids)
            stars.learn_file(folder / f"{number}.parquet")
        else:
            stars.learn(ids)
    found = stars.among(np.array(asked, dtype=np.int64))
    assert found.tolist() == [any(star in ids for ids in runs) for star in asked]


def test_files_of_other_stars_are_not_read(tmp_path, monkeypatch):
    stars = KnownStars()
    for number in range(3):
        write(tmp_path / f"{number}.parquet", np.arange(10) + 100 * number)
        stars.learn_file(tmp_path / f"{number}.parquet")
    opened = []
    monkeypatch.setattr(known, "open_parquet", opened.append)
    assert not stars.among(np.array([50, 90])).any()
    assert not stars.among(np.array([1000])).any()
    assert opened == []


def test_a_file_that_is_gone_is_missed(tmp_path):
    with pytest.raises(StoreError, match=r"a\.parquet: is gone"):
        KnownStars().learn_file(tmp_path / "a.parquet")
