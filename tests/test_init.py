"""What importing the package settles: threads that wait give their core to other programs, unless a user wants else."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import sys
import scattervae
assert "torch" not in sys.modules, "it must be settled before OpenMP is loaded"
import torch
"""
WORKER_SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from test_init import load_torch
from scattervae.parallel import in_processes

if __name__ == "__main__":
    assert list(in_processes(load_torch, [1], workers=2)) == [(1, 1)]
    assert "torch" not in sys.modules
"""


def load_torch(job):
    import torch

    return int(torch.tensor(job))


def waiting_policies(*script: str, **given: str) -> set[str]:
    """What OpenMP says of itself, in every process of a script that loads it."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run(
        [sys.executable, *script],
        env={**environment, "OMP_DISPLAY_ENV": "true", **given},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line for line in done.stderr.splitlines() if "OMP_WAIT_POLICY" in line]
    if not lines:
        pytest.skip("this OpenMP does not show its settings")
    return {line.partition("=")[2].strip(" '") for line in lines}


def test_threads_wait_without_spinning():
    assert waiting_policies("-c", SCRIPT) == {"PASSIVE"}


def test_a_users_own_policy_wins():
    assert waiting_policies("-c", SCRIPT, OMP_WAIT_POLICY="active") == {"ACTIVE"}


def test_worker_processes_wait_the_same_way(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(WORKER_SCRIPT.format(tests=os.path.dirname(__file__)))
    assert waiting_policies(str(script)) == {"PASSIVE"}
