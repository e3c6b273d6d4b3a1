import itertools
import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hats.io.validation import is_valid_catalog
from hypothesis import given, settings
from hypothesis import strategies as st

from scattervae.errors import StoreError
from scattervae.spectra import store_writer
from scattervae.spectra.hats import Partition, Positions, partition_name
from scattervae.spectra.spectra import Basis, Correlations, Spectra
from scattervae.spectra.star_tables import SourceColumns
from scattervae.spectra.store import SpectrumStore
from scattervae.spectra.store_writer import DatasetFolder, StoreWriter
from spectra.stores import NO_LABELS, add, all_bytes, entry, scattered, write_store
from toy import SMALL, spoiled, toy_sky

SKY = toy_sky(60)


def cut(*bounds):
    return [SKY.spectra.take(slice(a, b)) for a, b in itertools.pairwise(bounds)]


def check_one_line(error, path):
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


NOTES = {"manifest.json", "digests.json"}


def dataset(path):
    return {name: content for name, content in all_bytes(path).items() if name not in NOTES}


@pytest.mark.parametrize("rows_a_partition", [4, 1000])
def test_a_finished_store_is_a_valid_hats_catalogue(tmp_path, rows_a_partition):
    write_store(tmp_path, *cut(0, 30, 60), rows_a_partition=rows_a_partition)
    assert is_valid_catalog(tmp_path, strict=True)
    assert {path.name for path in tmp_path.iterdir()} == {
        "dataset",
        "digests.json",
        "hats.properties",
        "manifest.json",
        "partition_info.csv",
    }
    sizes = [partition.n_rows for partition in SpectrumStore(tmp_path).partitions]
    assert (sum(sizes), max(sizes) <= rows_a_partition) == (60, True)


def test_the_manifest_says_what_became_of_each_file(tmp_path):
    writer = StoreWriter(tmp_path)
    part = store_writer_part(writer, spoiled(SKY.spectra))
    noted = writer.add(entry("a.csv", n_rows=61, skipped=("row 3: no",)), part)
    writer.add_failed(entry("b.csv", kind=None, error="not a table"))
    writer.finish()
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    good, bad = manifest["files"]
    flags = {"MISSING_BP": 1, "MISSING_RP": 1, "BAD_COEFFS": 1, "BAD_ERRORS": 1, "NO_G_FLUX": 1}
    assert good == {
        "name": "a.csv",
        "digest": "digest of a.csv",
        "kind": "toy",
        "note": None,
        "n_rows": 61,
        "n_kept": 59,
        "n_duplicates": 1,
        "flags": flags,
        "skipped": ["row 3: no"],
        "error": None,
        "other_bases": {},
    }
    assert list(good["flags"]) == list(flags)
    assert (bad["name"], bad["error"], bad["n_kept"]) == ("b.csv", "not a table", 0)
    assert SpectrumStore(tmp_path).entries == writer.manifest.entries == (noted, writer.manifest.entries[1])


def store_writer_part(writer, stars):
    from scattervae.spectra.staging import stage

    chunks = [(stars, NO_LABELS, SourceColumns.empty())]
    return stage(writer.staged_path(0), chunks, correlations=False)


def test_a_star_is_kept_once_across_files(tmp_path):
    noted = write_store(tmp_path, *cut(0, 20), *cut(15, 40), spoiled(SKY.spectra).take(slice(0, 40)))
    assert [(e.n_kept, e.n_duplicates) for e in noted] == [(20, 0), (20, 5), (0, 40)]
    assert sorted(SpectrumStore(tmp_path).read().source_id) == sorted(SKY.spectra.source_id[:40])


@settings(max_examples=15)
@given(st.lists(st.lists(st.integers(0, 12), max_size=8), max_size=4), st.booleans(), st.booleans())
def test_whatever_the_files_hold_each_star_is_kept_where_it_comes_first(
    tmp_path_factory, files, reopened, finished
):
    path = tmp_path_factory.mktemp("stores")
    writer = StoreWriter(path)
    seen = set()
    for name, ids in enumerate(files):
        source_id = np.array(ids, dtype=np.int64) << 50
        given_stars = SKY.spectra.take(slice(0, len(ids)))
        stars = Spectra.of(
            source_id, given_stars.coeffs, given_stars.errors, basis=SMALL, g_flux=given_stars.g_flux
        )
        noted = add(writer, str(name), stars, number=0 if reopened or finished else name)
        assert noted.n_kept == len(set(ids) - seen)
        assert noted.n_kept + noted.n_duplicates == len(ids)
        seen |= set(ids)
        if finished:
            writer.finish()
        if finished or reopened:
            writer = StoreWriter(path)
    writer.finish()
    if seen:
        assert (SpectrumStore(path).read().source_id >> 50).tolist() == sorted(seen)


def test_a_file_is_known_by_its_digest_once_it_was_read(tmp_path):
    write_store(tmp_path, SKY.spectra)
    writer = StoreWriter(tmp_path)
    writer.add_failed(entry("bad.csv", error="torn"))
    again = StoreWriter(tmp_path)
    assert again.entry_of("digest of 0.csv") == again.manifest.entries[0]
    assert again.entry_of("digest of bad.csv") is None
    assert again.entry_of("digest of another") is None
    assert [e.error for e in again.manifest.entries] == [None, "torn"]


def test_files_may_come_in_any_order_and_in_several_ingests(tmp_path):
    """Sources give some files quality columns that others lack, so all partitions change."""
    files = cut(0, 20, 40, 60)
    rich = [
        scattered(f.source_id, seed=i, **({"ruwe": np.full(20, 1.1)} if i == 1 else {}))
        for i, f in enumerate(files)
    ]

    def write(path, *sittings):
        for sitting in sittings:
            writer = StoreWriter(path, rows_a_partition=7)
            for number, i in enumerate(sitting):
                add(writer, f"{i}", files[i], number=number, sources=rich[i])
            writer.finish()
        return dataset(path)

    at_once = write(tmp_path / "a", (0, 1, 2))
    assert write(tmp_path / "b", (2, 0, 1)) == at_once
    assert write(tmp_path / "c", (1,), (2,), (0,)) == at_once
    assert write(tmp_path / "d", (0, 2), (1,)) == at_once


def test_partitions_that_gain_no_star_are_not_written_again(tmp_path):
    order = np.argsort(SKY.spectra.source_id)
    north, south = SKY.spectra.take(order[:50]), SKY.spectra.take(order[50:])
    write_store(tmp_path, north, rows_a_partition=8)
    before = {p: SpectrumStore(tmp_path).path_of(p).stat().st_ino for p in SpectrumStore(tmp_path).partitions}
    writer = StoreWriter(tmp_path, rows_a_partition=8)
    add(writer, "south", south)
    writer.finish()
    store = SpectrumStore(tmp_path)
    after = {p: store.path_of(p).stat().st_ino for p in store.partitions}
    kept = set(before) & set(after)
    assert len(kept) >= len(before) - 2
    assert all(before[partition] == after[partition] for partition in kept)
    assert len(store) == 60


def test_correlations_of_some_files_are_null_in_others(tmp_path):
    pairs = np.random.default_rng(0).uniform(-1, 1, (60, 25)).astype(np.float32)
    rich = replace(SKY.spectra, correlations=Correlations(bp=pairs[:, :15], rp=pairs[:, 15:]))
    writer = StoreWriter(tmp_path)
    add(writer, "plain", SKY.spectra.take(slice(0, 20)), number=0)
    add(writer, "rich", rich.take(slice(20, 60)), number=1, correlations=True)
    writer.finish()
    stars = SpectrumStore(tmp_path).read()
    plain = np.isin(stars.source_id, SKY.spectra.source_id[:20])
    np.testing.assert_array_equal(np.isnan(stars.correlations.bp).all(axis=1), plain)
    assert SpectrumStore(tmp_path).read(correlations=False).correlations is None


def test_partitions_with_correlations_are_smaller(tmp_path, monkeypatch):
    monkeypatch.setattr(store_writer, "ROWS_A_PARTITION_WITH_CORRELATIONS", 10)
    pairs = np.ones((60, 25), dtype=np.float32)
    rich = replace(SKY.spectra, correlations=Correlations(bp=pairs[:, :15], rp=pairs[:, 15:]))
    write_store(tmp_path / "rich", rich, correlations=True)
    write_store(tmp_path / "plain", SKY.spectra)
    assert max(p.n_rows for p in SpectrumStore(tmp_path / "rich").partitions) <= 10
    assert max(p.n_rows for p in SpectrumStore(tmp_path / "plain").partitions) <= 60


def test_another_basis_is_refused_and_nothing_changes(tmp_path):
    writer = StoreWriter(tmp_path)
    add(writer, "a.csv", SKY.spectra)
    before = all_bytes(tmp_path)
    with pytest.raises(StoreError, match=r"b.csv: 6 BP \+ 6 RP .* holds 6 BP \+ 5 RP") as caught:
        add(writer, "b.csv", toy_sky(5, basis=Basis(6, 6)).spectra, number=1)
    check_one_line(caught, tmp_path)
    assert all_bytes(tmp_path) == before


@pytest.mark.parametrize("first", [None, 1])
def test_stars_without_ids_join_no_store_of_a_named_basis_nor_the_other_way_round(tmp_path, first):
    bases = [Basis(6, 5, bp_id=one) for one in ((None, 1) if first is None else (1, None))]
    one, other = (toy_sky(10, basis=basis, seed=seed).spectra for seed, basis in enumerate(bases))
    writer = StoreWriter(tmp_path)
    add(writer, "a.csv", one)
    with pytest.raises(StoreError, match=r"ingest it into a store of its own") as caught:
        add(writer, "b.csv", other, number=1)
    assert ("--basis 1+? takes stars that name no basis" in str(caught.value)) == (first == 1)
    assert writer.manifest.basis == bases[0]


@pytest.mark.parametrize("first", ["measured", "pixels"])
def test_one_source_of_positions_a_store(tmp_path, first):
    one, other = cut(0, 30, 60)
    sources = {"measured": scattered(one.source_id), "pixels": None}[first]
    others = {"measured": None, "pixels": scattered(other.source_id)}[first]
    writer = StoreWriter(tmp_path)
    assert writer.manifest.positions is None
    add(writer, "a.csv", one, sources=sources)
    expected = {"measured": Positions.MEASURED, "pixels": Positions.PIXEL_CENTRES}[first]
    assert writer.manifest.positions is StoreWriter(tmp_path).manifest.positions is expected
    with pytest.raises(StoreError, match=r"b\.csv: positions are .* but those in") as caught:
        add(writer, "b.csv", other, number=1, sources=others)
    check_one_line(caught, tmp_path)
    writer.finish()
    assert SpectrumStore(tmp_path).positions is expected
    assert len(SpectrumStore(tmp_path)) == 30


def test_staged_files_of_two_runs_do_not_meet(tmp_path):
    writer = StoreWriter(tmp_path)
    add(writer, "a", SKY.spectra.take(slice(0, 30)), number=0)
    again = StoreWriter(tmp_path)
    add(again, "b", SKY.spectra.take(slice(30, 60)), number=0)
    again.finish()
    assert len(SpectrumStore(tmp_path)) == 60


def test_a_run_of_nothing_but_broken_files_makes_a_store_without_a_star(tmp_path):
    writer = StoreWriter(tmp_path)
    writer.add_failed(entry("a.csv", error="torn"))
    add(writer, "b.csv", SKY.spectra.take(slice(0, 0)))
    writer.finish()
    assert {path.name for path in tmp_path.iterdir()} == {"manifest.json"}
    again = StoreWriter(tmp_path)
    add(again, "c.csv", SKY.spectra)
    again.finish()
    assert [e.error for e in SpectrumStore(tmp_path).entries] == ["torn", None, None]


@pytest.mark.parametrize("n_written", [0, 3])
def test_a_disk_that_fills_up_at_the_end_loses_nothing(tmp_path, monkeypatch, n_written):
    write_store(tmp_path / "whole", SKY.spectra, rows_a_partition=5)
    writer = StoreWriter(tmp_path / "full", rows_a_partition=5)
    add(writer, "0.csv", SKY.spectra)
    plain, calls = pq.ParquetWriter.write_table, []

    def write_table(*args, **kwargs):
        calls.append(1)
        if len(calls) > n_written:
            raise OSError(28, "No space left on device")
        plain(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(pq.ParquetWriter, "write_table", write_table)
        with pytest.raises(OSError, match="No space"):
            writer.finish()
    calls.clear()
    StoreWriter(tmp_path / "full", rows_a_partition=5).finish()
    assert all_bytes(tmp_path / "full") == all_bytes(tmp_path / "whole")


def test_finishing_nothing_changes_nothing(tmp_path):
    write_store(tmp_path, SKY.spectra)
    before = all_bytes(tmp_path)
    StoreWriter(tmp_path).finish()
    assert all_bytes(tmp_path) == before
    writer = StoreWriter(tmp_path)
    writer.add_failed(entry("bad", error="torn"))
    writer.finish()
    noted = all_bytes(tmp_path)
    assert {name for name in noted if noted[name] != before.get(name)} == NOTES
    writer = StoreWriter(tmp_path)
    writer.add_failed(entry("bad", error="torn"))  # broken as before
    writer.finish()
    assert all_bytes(tmp_path) == noted


def test_a_folder_that_is_no_store_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(StoreError, match="exists and is no store") as caught:
        StoreWriter(tmp_path)
    check_one_line(caught, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_where_a_store_should_be_is_refused(tmp_path):
    (tmp_path / "file.parquet").write_text("a file")
    with pytest.raises(StoreError, match="exists and is no store"):
        StoreWriter(tmp_path / "file.parquet")
    assert (tmp_path / "file.parquet").read_text() == "a file"


def test_somebodys_folder_named_staging_keeps_its_files(tmp_path):
    (tmp_path / "staging").mkdir()
    (tmp_path / "staging" / "notes.txt").write_text("mine")
    write_store(tmp_path, SKY.spectra)
    assert (tmp_path / "staging" / "notes.txt").read_text() == "mine"
    assert len(SpectrumStore(tmp_path)) == 60


def test_a_partition_that_is_gone_is_missed(tmp_path):
    write_store(tmp_path, SKY.spectra)
    store = SpectrumStore(tmp_path)
    store.path_of(store.partitions[0]).unlink()
    n_left = 60 - store.partitions[0].n_rows
    with pytest.raises(StoreError, match=rf"holds {n_left} stars, but manifest.json says 60") as caught:
        StoreWriter(tmp_path)
    check_one_line(caught, tmp_path)


def test_an_old_store_is_refused(tmp_path):
    (tmp_path / "manifest.json").write_text('{"format": 1, "basis": null, "files": []}')
    with pytest.raises(StoreError, match=r"format 1, this version reads 2; .*ingest again") as caught:
        StoreWriter(tmp_path)
    check_one_line(caught, tmp_path)


PLAN = {"journal": "abc", "rows_a_partition": 5}


def fill(folder, order=0, pixel=3, rows=2):
    path = folder / partition_name(order, pixel)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"n": list(range(rows))}), path)


def old_store(store):
    dataset = DatasetFolder(store)
    fill(dataset.build({"journal": "first"}))
    dataset.replace()
    dataset.commit()
    return dataset


def test_partitions_are_found_with_their_rows(tmp_path):
    dataset = DatasetFolder(tmp_path)
    assert dataset.partitions() == {}
    folder = dataset.build(PLAN)
    fill(folder, 1, 13, rows=4)
    fill(folder, 0, 2, rows=1)
    fill(folder, 9, 1_234_567, rows=7)
    dataset.replace()
    found = dataset.partitions()
    assert list(found) == [Partition(0, 2, 1), Partition(1, 13, 4), Partition(9, 1_234_567, 7)]
    assert all(path.is_file() for path in found.values())


def test_what_the_same_plan_had_built_is_kept_what_another_had_is_not(tmp_path):
    dataset = DatasetFolder(tmp_path)
    fill(dataset.build(PLAN))
    before = all_bytes(tmp_path)
    dataset.build(PLAN)
    assert all_bytes(tmp_path) == before
    folder = dataset.build({**PLAN, "rows_a_partition": 6})
    assert [path.name for path in folder.iterdir()] == ["_plan.json"]


@pytest.mark.parametrize("first", [True, False])
def test_a_replacement_that_is_not_final_is_undone(tmp_path, first):
    dataset = DatasetFolder(tmp_path) if first else old_store(tmp_path)
    folder = dataset.build(PLAN)
    fill(folder, 1, 13, rows=4)
    before = all_bytes(tmp_path)
    dataset.roll_back()
    assert all_bytes(tmp_path) == before
    dataset.replace()
    assert list(dataset.partitions()) == [Partition(1, 13, 4)]
    dataset.roll_back()
    assert all_bytes(tmp_path) == before


def test_stopped_between_its_steps_it_is_undone_too(tmp_path):
    dataset = old_store(tmp_path)
    fill(dataset.build(PLAN), 1, 13)
    before = all_bytes(tmp_path)
    (tmp_path / "dataset").rename(tmp_path / "dataset.old")
    dataset.roll_back()
    assert all_bytes(tmp_path) == before
    dataset.replace()
    (tmp_path / "dataset").rename(tmp_path / "dataset.partial")  # the first step back
    dataset.roll_back()
    assert all_bytes(tmp_path) == before


def test_after_finishing_only_the_new_partitions_are_left(tmp_path):
    dataset = old_store(tmp_path)
    fill(dataset.build(PLAN), 1, 13, rows=4)
    dataset.replace()
    dataset.commit()
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]
    assert list(dataset.partitions()) == [Partition(1, 13, 4)]
    before = all_bytes(tmp_path)
    dataset.roll_back()
    dataset.commit()
    assert all_bytes(tmp_path) == before
