import pytest
import torch

from scattervae.cli.memory import free_memory, settle_memory
from scattervae.errors import RecipeError

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("size", "expected"),
    [("0", 0), ("512", 512), ("4GB", 4e9), ("4 gb", 4e9), ("1.5T", 1.5e12), ("200M", 2e8), ("3kb", 3000)],
)
def test_sizes_with_units(size, expected):
    assert settle_memory(size, CPU) == expected


@pytest.mark.parametrize("size", ["", "much", "-1", "4PB", "GB", "4GB or so"])
def test_what_is_no_size_is_refused(size):
    with pytest.raises(
        RecipeError, match=r"--memory .*: not a size; give a number with a unit, as 4GB"
    ) as caught:
        settle_memory(size, CPU)
    assert "\n" not in str(caught.value)


def test_auto_is_half_of_what_is_free():
    assert 0 < settle_memory("auto", CPU) <= free_memory() * 0.75  # others take and give while this runs


def machine(root, free_kb, groups, own=""):
    """The files in which Linux tells of memory; `groups` gives (limit, used, stat) by a group's path."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(f"MemTotal: 99999999 kB\nMemAvailable:   {free_kb} kB\n")
    (root / "proc/self/cgroup").write_text(own)
    for path, files in groups.items():
        folder = root / "sys/fs/cgroup" / path
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text)
    return root


def test_a_machine_without_limits(tmp_path):
    assert free_memory(machine(tmp_path, 1000, {})) == 1000 * 1024


def test_the_tightest_group_counts(tmp_path):
    """Version 2: one tree, each group within its parents' limits; files kept in memory can be let go of."""
    groups = {
        "job": {"memory.max": "500000", "memory.current": "100000", "memory.stat": "inactive_file 30000\n"},
        "job/step": {"memory.max": "max", "memory.current": "100000"},
    }
    root = machine(tmp_path, 1000, groups, own="0::/job/step\n")
    assert free_memory(root) == 430_000


def test_groups_of_the_first_version(tmp_path):
    files = {"memory.limit_in_bytes": "700000", "memory.usage_in_bytes": "300000"}
    stat = {"memory.stat": "cache 5\ntotal_inactive_file 1000\n"}
    root = machine(
        tmp_path,
        1000,
        {"memory/job": files | stat, "cpu/job": files},
        own="7:cpu:/job\n4:memory:/job\n",
    )
    assert free_memory(root) == 401_000


def test_more_used_than_allowed_is_nothing_free(tmp_path):
    groups = {"": {"memory.max": "10", "memory.current": "20"}}
    assert free_memory(machine(tmp_path, 1000, groups, own="0::/\n")) == 0


def test_a_system_that_tells_nothing_of_itself(tmp_path):
    assert free_memory(tmp_path) > 0
