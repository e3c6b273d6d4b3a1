import itertools
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scattervae.errors import DataError, StoreError
from scattervae.spectra import staging
from scattervae.spectra.columns import labels_from, spectra_from, table_of
from scattervae.spectra.hats import Positions
from scattervae.spectra.spectra import Basis, Correlations, Flag
from scattervae.spectra.staging import SeenIds, stage, without_seen
from scattervae.spectra.star_tables import SourceColumns
from spectra.stores import NO_LABELS, scattered
from toy import SMALL, spoiled, toy_sky

SKY = toy_sky(40)
NOWHERE = SourceColumns.empty()


def staged(path, *chunks, labels=NO_LABELS, sources=NOWHERE, correlations=False):
    return stage(path, [(c, labels, sources) for c in chunks], correlations=correlations, name="stars.csv")


def cut_at(*bounds):
    return [SKY.spectra.take(slice(a, b)) for a, b in itertools.pairwise(bounds)]


def by_source_id(table):
    return table.take(np.argsort(table["source_id"].to_numpy()))


def test_a_part_holds_the_stars_of_all_chunks(tmp_path):
    sources = scattered(SKY.spectra.source_id, ruwe=np.linspace(0.8, 2.0, 40))
    stars = staged(tmp_path / "new" / "a.parquet", *cut_at(0, 15, 15, 40), labels=SKY.labels, sources=sources)
    assert (stars.n_kept, stars.n_duplicates, stars.flags) == (40, 0, {})
    assert (stars.basis, stars.positions) == (SMALL, Positions.MEASURED)
    expected = table_of(SKY.spectra, SKY.labels, sources)
    assert by_source_id(pq.read_table(stars.path)).equals(by_source_id(expected))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.parquet"]


def test_labels_and_source_columns_are_joined_by_source_id(tmp_path):
    turned = np.arange(40)[::-1]
    sources = scattered(SKY.spectra.source_id)
    stars = staged(
        tmp_path / "a.parquet", SKY.spectra, labels=SKY.labels.take(turned[:30]), sources=sources.take(turned)
    )
    table = pq.read_table(stars.path)
    stars, labels = spectra_from(table, SMALL), labels_from(table)
    known = np.isin(stars.source_id, SKY.labels.source_id[10:])
    np.testing.assert_array_equal(np.isnan(labels.values).all(axis=1), ~known)
    expected = sources.aligned_to(stars.source_id)
    np.testing.assert_array_equal(table["ra"], expected.values["ra"])


def test_each_row_group_is_in_the_skys_order(tmp_path, monkeypatch):
    monkeypatch.setattr(staging, "_ROWS_SORTED", 9)
    stars = staged(tmp_path / "a.parquet", SKY.spectra)
    file = pq.ParquetFile(stars.path)
    assert file.num_row_groups == 5
    for group in range(5):
        index = file.read_row_group(group)["_healpix_29"].to_numpy()
        assert (np.diff(index) >= 0).all()


def test_a_star_is_kept_once_within_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(staging, "_ROWS_SORTED", 7)
    stars = staged(tmp_path / "a.parquet", spoiled(SKY.spectra), *cut_at(30, 40))
    assert (stars.n_kept, stars.n_duplicates) == (39, 11)
    ids = pq.read_table(stars.path)["source_id"].to_numpy()
    assert sorted(ids) == sorted(np.delete(SKY.spectra.source_id, 6))
    assert stars.flags == dict.fromkeys(
        ("MISSING_BP", "MISSING_RP", "BAD_COEFFS", "BAD_ERRORS", "NO_G_FLUX"), 1
    )


def test_correlations_are_kept_where_they_are_asked_for(tmp_path):
    pairs = np.random.default_rng(0).uniform(-1, 1, (40, 25)).astype(np.float32)
    stars = replace(SKY.spectra, correlations=Correlations(bp=pairs[:, :15], rp=pairs[:, 15:]))
    with_them = staged(tmp_path / "a.parquet", stars, correlations=True)
    back = spectra_from(pq.read_table(with_them.path), SMALL)
    order = np.argsort(stars.source_id)
    np.testing.assert_array_equal(back.correlations.bp[np.argsort(back.source_id)], pairs[order, :15])
    without_them = staged(tmp_path / "b.parquet", stars)
    assert spectra_from(pq.read_table(without_them.path), SMALL).correlations is None
    nothing_to_keep = staged(tmp_path / "c.parquet", SKY.spectra, correlations=True)
    assert spectra_from(pq.read_table(nothing_to_keep.path), SMALL).correlations is None


@pytest.mark.parametrize("chunks", [(), (SKY.spectra.take(slice(0, 0)),)])
def test_a_file_without_a_star_leaves_no_part(tmp_path, chunks):
    stars = staged(tmp_path / "a.parquet", *chunks)
    assert (stars.n_kept, stars.basis, stars.positions) == (0, None, None)
    assert not list(tmp_path.iterdir())


def test_stars_that_are_all_duplicates_leave_no_part(tmp_path):
    again = SKY.spectra.with_flags(np.full(40, Flag.DUPLICATE, dtype=np.uint16))
    stars = staged(tmp_path / "a.parquet", again)
    assert (stars.n_kept, stars.n_duplicates, stars.basis) == (0, 40, None)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("known", ["absent", "null"])
def test_a_star_without_a_position_is_named(tmp_path, known):
    sources = scattered(SKY.spectra.source_id)
    lost = SKY.spectra.source_id[[3, 8]]
    if known == "absent":
        sources = sources.take(~np.isin(sources.source_id, lost))
    else:
        sources.values["dec"][[3, 8]] = np.nan
    with pytest.raises(
        StoreError, match=rf"stars\.csv: 2 of 40 stars, {lost[0]} first, have no ra and dec"
    ) as caught:
        staged(tmp_path / "a.parquet", SKY.spectra, sources=sources)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_chunks_of_another_basis_are_refused(tmp_path):
    other = toy_sky(3, basis=Basis(6, 6)).spectra
    with pytest.raises(DataError, match=r"stars\.csv: stars of 6 BP \+ 6 RP .* after stars of 6 BP \+ 5 RP"):
        staged(tmp_path / "a.parquet", SKY.spectra, other)
    assert not list(tmp_path.iterdir())


def test_the_id_of_a_band_that_only_a_later_chunk_has_is_kept(tmp_path):
    first, later = cut_at(0, 20, 40)
    first, later = replace(first, basis=replace(SMALL, rp_id=8)), replace(later, basis=Basis(6, 5, 7, 8))
    assert staged(tmp_path / "a.parquet", first, later).basis == Basis(6, 5, 7, 8)


def test_chunks_that_differ_in_what_is_known_are_a_slip(tmp_path):
    first, second = cut_at(0, 20, 40)
    chunks = [(first, NO_LABELS, scattered(first.source_id)), (second, NO_LABELS, NOWHERE)]
    with pytest.raises(ValueError, match="differ"):
        stage(tmp_path / "a.parquet", chunks, correlations=False)


class FullDiskError(OSError):
    pass


@pytest.mark.parametrize("n_written", [0, 1])
def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch, n_written):
    plain, calls = pq.ParquetWriter.write_table, []

    def write_table(writer, *args, **kwargs):
        calls.append(1)
        if len(calls) > n_written:
            raise FullDiskError(28, "No space left on device")
        plain(writer, *args, **kwargs)

    monkeypatch.setattr(pq.ParquetWriter, "write_table", write_table)
    with pytest.raises(FullDiskError):
        staged(tmp_path / "a.parquet", *cut_at(0, 20, 40))
    assert not list(tmp_path.iterdir())


def test_an_interrupted_file_leaves_what_was_there(tmp_path):
    def chunks():
        yield SKY.spectra.take(slice(0, 20)), NO_LABELS, NOWHERE
        raise KeyboardInterrupt

    (tmp_path / "a.parquet").write_bytes(b"before")
    with pytest.raises(KeyboardInterrupt):
        stage(tmp_path / "a.parquet", chunks(), correlations=False)
    assert (tmp_path / "a.parquet").read_bytes() == b"before"
    assert len(list(tmp_path.iterdir())) == 1


def test_known_stars_are_taken_out_of_a_part(tmp_path, monkeypatch):
    monkeypatch.setattr(staging, "_ROWS_SORTED", 9)
    stars = staged(tmp_path / "a.parquet", spoiled(SKY.spectra))
    known = SeenIds()
    assert without_seen(stars, known) == stars
    known.add(SKY.spectra.source_id[[0, 1, *range(20, 40)]])
    fewer = without_seen(stars, known)
    assert (fewer.n_kept, fewer.n_duplicates) == (17, 23)
    assert fewer.flags == {"BAD_COEFFS": 1, "BAD_ERRORS": 1, "NO_G_FLUX": 1}
    left = pq.read_table(stars.path)["source_id"].to_numpy()
    assert sorted(left) == sorted(SKY.spectra.source_id[[2, 3, 4, 5, *range(7, 20)]])
    file = pq.ParquetFile(stars.path)
    for group in range(file.num_row_groups):
        assert (np.diff(file.read_row_group(group)["_healpix_29"].to_numpy()) >= 0).all()


def test_a_part_of_which_every_star_is_known_is_removed(tmp_path):
    stars = staged(tmp_path / "a.parquet", SKY.spectra)
    known = SeenIds()
    known.add(SKY.spectra.source_id)
    fewer = without_seen(stars, known)
    assert (fewer.n_kept, fewer.n_duplicates, fewer.flags) == (0, 40, {})
    assert not stars.path.exists()


IDS = st.lists(st.integers(0, 60), max_size=15)


def write(path, ids):
    """In two row groups, not in order."""
    pq.write_table(
        pa.table({"quality_flags": np.zeros(len(ids)), "source_id": ids}),
        path,
        row_group_size=max(1, len(ids) // 2),
    )


@given(st.lists(IDS, max_size=4), IDS, st.booleans())
def test_stars_are_known_whether_in_memory_or_in_files(tmp_path_factory, runs, asked, on_disk):
    folder = tmp_path_factory.mktemp("known")
    stars = SeenIds()
    for number, run in enumerate(runs):
        ids = np.array(run, dtype=np.int64)
        if on_disk and run:
            write(folder / f"{number}.parquet", ids)
            stars.add_file(folder / f"{number}.parquet")
        else:
            stars.add(ids)
    found = stars.holds(np.array(asked, dtype=np.int64))
    assert found.tolist() == [any(star in ids for ids in runs) for star in asked]


def test_files_of_other_stars_are_not_read(tmp_path, monkeypatch):
    stars = SeenIds()
    for number in range(3):
        write(tmp_path / f"{number}.parquet", np.arange(10) + 100 * number)
        stars.add_file(tmp_path / f"{number}.parquet")
    opened = []
    monkeypatch.setattr(staging, "open_parquet", opened.append)
    assert not stars.holds(np.array([50, 90])).any()
    assert not stars.holds(np.array([1000])).any()
    assert opened == []


def test_a_file_that_is_gone_is_missed(tmp_path):
    with pytest.raises(StoreError, match=r"a\.parquet: is gone"):
        SeenIds().add_file(tmp_path / "a.parquet")
