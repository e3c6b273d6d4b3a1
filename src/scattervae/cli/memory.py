"""How much memory training stars may take: as given, or half of what the machine, or the batch job, has free."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from scattervae.errors import RecipeError

if TYPE_CHECKING:
    import torch

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_WHERE_NOBODY_SAYS = 8 * 10**9
_LIMIT_FILES = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))


def settle_memory(size: str, device: "torch.device") -> int:
    """Bytes that training stars may take on this machine.

    Args:
        size: A number with a unit, as ``4GB``, or ``auto``.
        device: Where they are kept; the memory of a GPU counts too.

    Raises:
        RecipeError: The size cannot be understood.
    """
    if size != "auto":
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)b?", size.strip().lower())
        if found is None:
            raise RecipeError(f"--memory {size}: not a size; give a number with a unit, as 4GB, or auto")
        return int(float(found[1]) * _UNITS[found[2]])
    free = free_memory()
    if device.type == "cuda":
        import torch

        free = min(free, torch.cuda.mem_get_info(device)[0])
    return free // 2


def free_memory(root: Path = Path("/")) -> int:
    """Bytes that this process may still take before the machine swaps or a batch system ends it.

    Args:
        root: Where the system's ``proc`` and ``sys`` are.
    """
    return min([_free_on_machine(root), *_free_in_groups(root)])


def _free_on_machine(root: Path) -> int:
    try:
        said = re.search(r"^MemAvailable:\s+(\d+) kB", (root / "proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        said = None
    if said is not None:
        return int(said[1]) * 1024
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return _WHERE_NOBODY_SAYS


def _free_in_groups(root: Path) -> Iterator[int]:
    """What each limited control group that the process is in leaves it; containers and batch jobs set them."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        top = root / "sys/fs/cgroup" / controllers
        own = top / path.lstrip("/")
        for group in (own, *own.parents):
            for limit, used in _LIMIT_FILES:
                try:
                    free = int((group / limit).read_text()) - int((group / used).read_text())
                except (OSError, ValueError):  # no such file, or "max"
                    continue
                yield max(0, free + _reclaimable(group))
            if group == top:
                break


def _reclaimable(group: Path) -> int:
    """Files kept in memory, which the system lets go of where memory is asked for."""
    try:
        stat = (group / "memory.stat").read_text()
    except OSError:
        return 0
    found = re.search(r"^(?:total_)?inactive_file (\d+)$", stat, re.MULTILINE)
    return 0 if found is None else int(found[1])
