"""A catalogue in one file: the same bytes however the stars come, and however often the run is stopped."""

from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy.table import Table
from hypothesis import given, settings
from hypothesis import strategies as st

from scattervae.errors import BusyError, DataError, StoreError
from scattervae.model import checkpoint
from scattervae.science.catalogue import encoding, one_file
from scattervae.science.catalogue.encoding import Chunk
from scattervae.science.catalogue.one_file import write_catalogue, write_chunks
from scattervae.spectra.columns import stored_of
from scattervae.spectra.spectra import Flag
from scattervae.spectra.store import SpectrumStore
from spectra.stores import write_store
from toy import SPOILED, spoiled, toy_sky, untrained_model

SKY = toy_sky(300)
MODEL = untrained_model(SKY.spectra)


def in_chunks(spectra, rows):
    return [spectra.take(slice(start, start + rows)) for start in range(0, len(spectra), rows)]


@pytest.fixture(autouse=True)
def small_groups(monkeypatch):
    """Row groups of 32 stars, ten of 300 stars, and chunks that do not fit into them."""
    monkeypatch.setattr(one_file, "ROWS_A_GROUP", 32)
    monkeypatch.setattr(encoding, "_ROWS_A_CHUNK", 50)


def stop_after(n_stars):
    def progress(n_done):
        if n_done >= n_stars:
            raise KeyboardInterrupt

    return progress


def test_same_bytes_whatever_the_chunks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("catalogues")
    write_catalogue(MODEL, [SKY.spectra], folder / "whole.parquet")
    whole = (folder / "whole.parquet").read_bytes()
    assert pq.read_metadata(folder / "whole.parquet").num_row_groups == 10

    @settings(max_examples=8, deadline=None)
    @given(st.integers(1, 320))
    def check(rows):
        write_catalogue(MODEL, in_chunks(SKY.spectra, rows), folder / "row_groups.parquet")
        assert (folder / "row_groups.parquet").read_bytes() == whole

    check()


def test_a_store_gives_the_bytes_of_its_stars_in_its_order(tmp_path):
    write_store(tmp_path / "store", SKY.spectra, rows_a_partition=40)
    store = SpectrumStore(tmp_path / "store")
    write_catalogue(MODEL, store, tmp_path / "row_groups.parquet")
    write_catalogue(MODEL, store.chunks(77), tmp_path / "chunks.parquet")
    assert (tmp_path / "row_groups.parquet").read_bytes() == (tmp_path / "chunks.parquet").read_bytes()
    assert (
        pq.read_table(tmp_path / "row_groups.parquet")["source_id"].to_pylist()
        == store.read().source_id.tolist()
    )


@pytest.mark.parametrize("n_stars", [1, 64, 129, 300])
def test_a_stopped_run_goes_on_and_gives_the_same_bytes(tmp_path, n_stars):
    write_catalogue(MODEL, [SKY.spectra], tmp_path / "whole.parquet", stars_digest="s")
    out = tmp_path / "stopped.parquet"
    with pytest.raises(KeyboardInterrupt):
        write_catalogue(MODEL, [SKY.spectra], out, stars_digest="s", progress=stop_after(n_stars))
    assert not out.exists()
    summary = write_catalogue(MODEL, [SKY.spectra], out, stars_digest="s")
    assert summary.n_resumed == min(-(-n_stars // 32) * 32, 288)  # the last group is not a whole one
    assert summary.n_stars == 300
    assert out.read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert not (tmp_path / "stopped.parquet.parts").exists()


def test_what_is_done_is_not_read_again(tmp_path):
    """Groups of 32 over chunks of 50: after two groups the second chunk is read again, the first is not."""
    read = []

    def chunks():
        for index, spectra in enumerate(in_chunks(SKY.spectra, 50)):
            yield Chunk(len(spectra), partial(remember, index, spectra))

    def remember(index, spectra):
        read.append(index)
        return stored_of(spectra)

    with pytest.raises(KeyboardInterrupt):
        write_chunks(MODEL, chunks(), tmp_path / "c.parquet", stars_digest="s", progress=stop_after(64))
    read.clear()
    write_chunks(MODEL, chunks(), tmp_path / "c.parquet", stars_digest="s")
    assert sorted(read) == [1, 2, 3, 4, 5]


def test_a_partial_catalogue_of_other_stars_is_not_gone_on_with(tmp_path):
    out = tmp_path / "c.parquet"
    with pytest.raises(KeyboardInterrupt):
        write_catalogue(MODEL, [SKY.spectra], out, stars_digest="these", progress=stop_after(1))
    assert write_catalogue(MODEL, [SKY.spectra], out, stars_digest="others").n_resumed == 0


def test_a_partial_catalogue_of_stars_that_nothing_identifies_is_not_gone_on_with(tmp_path):
    out, others = tmp_path / "c.parquet", toy_sky(300, seed=5).spectra
    with pytest.raises(KeyboardInterrupt):
        write_catalogue(MODEL, [others], out, progress=stop_after(64))
    assert write_catalogue(MODEL, [SKY.spectra], out).n_resumed == 0
    assert pq.read_table(out)["source_id"].to_pylist() == SKY.spectra.source_id.tolist()


def test_a_partial_catalogue_with_other_columns_is_not_gone_on_with(tmp_path, monkeypatch):
    out = tmp_path / "c.parquet"
    with pytest.raises(KeyboardInterrupt):
        write_catalogue(MODEL, [SKY.spectra], out, stars_digest="s", progress=stop_after(64))
    monkeypatch.setattr(checkpoint, "software_versions", lambda: {"scattervae": "a later one"})
    assert write_catalogue(MODEL, [SKY.spectra], out, stars_digest="s").n_resumed == 0


def test_two_runs_do_not_write_one_catalogue(tmp_path):
    """The second, begun in the middle of the first, ends with one line; the first is as if it were alone."""
    write_catalogue(MODEL, [SKY.spectra], tmp_path / "alone.parquet")
    out, met = tmp_path / "c.parquet", []

    def second(_):
        with pytest.raises(BusyError, match=r"c\.parquet: another run is writing to it"):
            write_catalogue(MODEL, [SKY.spectra], out)
        met.append(True)

    write_catalogue(MODEL, [SKY.spectra], out, progress=second)
    assert met
    assert out.read_bytes() == (tmp_path / "alone.parquet").read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["alone.parquet", "c.parquet"]


def test_an_input_at_fault_leaves_no_parts(tmp_path):
    def stars():
        yield SKY.spectra.take(slice(0, 200))
        raise DataError("b.csv: broken")

    with pytest.raises(DataError, match="broken"):
        write_catalogue(MODEL, stars(), tmp_path / "c.parquet", stars_digest="s")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".fits", ".vot", ".ecsv", ".csv"])
def test_every_form_holds_the_same_catalogue(tmp_path, suffix):
    write_catalogue(MODEL, [spoiled(SKY.spectra)], tmp_path / "c.parquet")
    summary = write_catalogue(MODEL, [spoiled(SKY.spectra)], tmp_path / f"c{suffix}")
    assert (summary.n_stars, summary.n_encoded) == (300, 295)
    forms = {".vot": "votable", ".ecsv": "ascii.ecsv", ".csv": "ascii.csv"}
    table, expected = (
        Table.read(summary.path, format=forms.get(suffix, "fits")),
        pq.read_table(tmp_path / "c.parquet"),
    )
    assert table.colnames == expected.column_names
    assert list(table["source_id"]) == expected["source_id"].to_pylist()
    assert list(table["quality_flags"]) == expected["quality_flags"].to_pylist()
    for name in ("latent_1_mean", "log_likelihood", "mean_log10_scatter_rp"):
        values = np.ma.filled(np.ma.asarray(table[name]).astype("f4"), np.nan)
        np.testing.assert_array_equal(values, expected[name].to_numpy())


def test_a_name_that_says_no_form_is_refused_before_any_work(tmp_path):
    def unread():
        raise AssertionError
        yield

    for name in ("c.txt", "c"):
        with pytest.raises(DataError, match="no form of table"):
            write_catalogue(MODEL, unread(), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full to play a full disk")
def test_a_full_disk_is_said_in_one_line_and_the_run_goes_on(tmp_path):
    write_catalogue(MODEL, [SKY.spectra], tmp_path / "whole.parquet")
    out, parts = tmp_path / "c.parquet", tmp_path / "c.parquet.parts"
    with pytest.raises(KeyboardInterrupt):
        write_catalogue(MODEL, [SKY.spectra], out, stars_digest="s", progress=stop_after(64))
    (parts / "part-00003.parquet.partial").symlink_to("/dev/full")
    with pytest.raises(StoreError, match=r"the disk is full; .* the same command resumes") as caught:
        write_catalogue(MODEL, [SKY.spectra], out, stars_digest="s")
    assert str(parts) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (parts / "part-00003.parquet.partial").is_symlink()  # what was begun is removed
    assert write_catalogue(MODEL, [SKY.spectra], out, stars_digest="s").n_resumed == 96
    assert out.read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_summary_counts_stars_and_flags(tmp_path):
    summary = write_catalogue(MODEL, [spoiled(SKY.spectra)], tmp_path / "c.parquet")
    assert (summary.n_stars, summary.n_encoded) == (300, 295)
    assert summary.flags == {str(flag.name): 1 for flag in SPOILED if flag != Flag(0)}


def test_no_stars_give_an_empty_catalogue(tmp_path):
    assert write_catalogue(MODEL, [], tmp_path / "c.parquet").n_stars == 0
    assert pq.read_table(tmp_path / "c.parquet").num_rows == 0


def test_astropy_reads_it_as_a_user_would(tmp_path):
    write_catalogue(MODEL, [SKY.spectra], tmp_path / "c.parquet")
    read = Table.read(tmp_path / "c.parquet", format="parquet")
    assert len(read) == 300
    assert read["source_id"].dtype == np.int64
    np.testing.assert_array_equal(read["source_id"], SKY.spectra.source_id)
