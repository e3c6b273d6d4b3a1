"""Every part of the harness in short, two minutes in all, in processes of their own: it forks, which threads forbid."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

SHORT = {
    "readers": ("--mutations", "1", "--every", "8"),
    "server": ("--every", "5"),
    "corruption": ("--flips", "1", "--only", "trained folder"),
    "kills": ("--kills", "4", "--only", "to a file"),
}


@pytest.mark.parametrize("part", SHORT)
def test_a_part_in_short(part, tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    done = subprocess.run(
        [sys.executable, "-m", "torture", part, *SHORT[part]],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert done.stdout.startswith("| part | what | tried | as it should |")
