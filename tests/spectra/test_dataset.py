import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scattervae.spectra.dataset import DatasetFolder
from scattervae.spectra.hats import Partition, partition_name
from spectra.stores import all_bytes

PLAN = {"journal": "abc", "rows_a_partition": 5}


def fill(folder, order=0, pixel=3, rows=2):
    path = folder / partition_name(order, pixel)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"n": list(range(rows))}), path)


def old_store(store):
    dataset = DatasetFolder(store)
    fill(dataset.build({"journal": "first"}))
    dataset.replace()
    dataset.settle()
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
    dataset.go_back()
    assert all_bytes(tmp_path) == before
    dataset.replace()
    assert list(dataset.partitions()) == [Partition(1, 13, 4)]
    dataset.go_back()
    assert all_bytes(tmp_path) == before


def test_stopped_between_its_steps_it_is_undone_too(tmp_path):
    dataset = old_store(tmp_path)
    fill(dataset.build(PLAN), 1, 13)
    before = all_bytes(tmp_path)
    (tmp_path / "dataset").rename(tmp_path / "dataset.old")
    dataset.go_back()
    assert all_bytes(tmp_path) == before
    dataset.replace()
    (tmp_path / "dataset").rename(tmp_path / "dataset.partial")  # the first step back
    dataset.go_back()
    assert all_bytes(tmp_path) == before


def test_settled_only_the_new_partitions_are_left(tmp_path):
    dataset = old_store(tmp_path)
    fill(dataset.build(PLAN), 1, 13, rows=4)
    dataset.replace()
    dataset.settle()
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]
    assert list(dataset.partitions()) == [Partition(1, 13, 4)]
    before = all_bytes(tmp_path)
    dataset.go_back()
    dataset.settle()
    assert all_bytes(tmp_path) == before
